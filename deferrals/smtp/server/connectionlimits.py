"""
What is counted over all connections: how many there are, in total and from one
neighbourhood (an IPv4 address, an IPv6 /64), and from where wrong passwords came.

Connections are counted by the server's limits, over all its processes; failures in
this one.  Nothing here grows without bound: connections are counted while they last,
and failures are forgotten after a while, and earlier where there are too many of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from cachetools import TLRUCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from deferrals.deferreds import errorText
from deferrals.interfaces import ILimits
from deferrals.logger import Logger
from deferrals.model.limits import Limits
from deferrals.model.networks import neighbourhood
from deferrals.model.reply import (
    R421_EARLY,
    R421_LOCAL_ERROR,
    R421_TOO_MANY_CONNECTIONS,
    R421_TOO_MANY_FROM_YOU,
    Reply,
)

_log = Logger(namespace="deferrals.session")

#: Why a connection must end, or C{None}: a Deferred of it where that is not known at
#: once, which fails only when it is cancelled.
Refusal: TypeAlias = Reply | Deferred[Reply | None] | None

#: How long a failed password counts, in seconds.
MEMORY_SECONDS = 3600.0

#: Which limit each of its refusals is about.
LIMITS = {
    R421_TOO_MANY_CONNECTIONS: "connections",
    R421_TOO_MANY_FROM_YOU: "connections_per_address",
}

#: How many neighbourhoods with failed passwords are remembered.
REMEMBERED = 10000

#: The longest that the answer to a failed password is held back, in seconds.
MAX_DELAY_SECONDS = 30.0


class ConnectionLimits:
    """
    One for all listeners.

    @param shared: counts.
    @ivar limits: the settings; they may be replaced at any time.
    @ivar total: connections that this process has let in.
    @ivar isEarly: whether mail cannot be taken yet, and nobody is let in.
    """

    def __init__(self, shared: ILimits, limits: Limits = Limits()) -> None:
        self.limits = limits
        self.total = 0
        self.isEarly = False
        self._shared = shared
        # Failures and the time of the first; the time is an argument, so the cache has no clock.
        self._failed: TLRUCache[str, tuple[int, float]] = TLRUCache(
            REMEMBERED, ttu=lambda _, failures, now: failures[1] + MEMORY_SECONDS, timer=lambda: 0.0
        )

    def opened(self) -> Refusal:
        """
        A connection is there.

        @return: why it must end at once, or C{None}: then it is counted until
            L{closed}.
        """
        if self.isEarly:
            return R421_EARLY
        refusal = R421_TOO_MANY_CONNECTIONS
        return self._enter(LIMITS[refusal], "", self.limits.connections, refusal, self._opened)

    def _opened(self) -> None:
        self.total += 1

    def closed(self) -> None:
        """
        A connection that was counted has ended.
        """
        self.total -= 1
        self._shared.leave(LIMITS[R421_TOO_MANY_CONNECTIONS], "")

    def identified(self, address: str) -> Refusal:
        """
        The address of a connection's client is known.

        @return: why it must end at once, or C{None}: then it is counted until
            L{forgotten}.
        """
        most, refusal = self.limits.connections_per_address, R421_TOO_MANY_FROM_YOU
        return self._enter(LIMITS[refusal], neighbourhood(address), most, refusal)

    def forgotten(self, address: str) -> None:
        """
        That client is gone, or has another address than it seemed.
        """
        self._shared.leave(LIMITS[R421_TOO_MANY_FROM_YOU], neighbourhood(address))

    def _enter(
        self,
        limit: str,
        key: str,
        most: int,
        refusal: Reply,
        entered: Callable[[], object] = lambda: None,
    ) -> Refusal:
        def known(isIn: bool) -> Reply | None:
            if isIn:
                entered()
            return None if isIn else refusal

        d = self._shared.enter(limit, key, most)
        if d.called and isinstance(d.result, bool):
            return known(d.result)
        return d.addCallbacks(known, _notKnown)

    def failed(self, address: str, now: float) -> float:
        """
        A client's password was wrong.

        @return: how long to hold the answer back, in seconds.
        """
        origin = neighbourhood(address)
        self._failed.expire(now)
        count, since = self._failed.pop(origin, (0, now))
        self._failed[origin] = count + 1, since
        return float(min(self.limits.auth_delay * 2 ** min(count, 16), MAX_DELAY_SECONDS))


def _notKnown(failure: Failure) -> Reply:
    """
    Whether there is room cannot be said now.
    """
    if failure.check(CancelledError):
        failure.raiseException()
    _log.error("no connection can be counted: {error}", error=errorText(failure))
    return R421_LOCAL_ERROR
