"""
What is counted over all connections: how many there are, in total and from one
neighbourhood (an IPv4 address, an IPv6 /64), and from where wrong passwords came.

Nothing here grows without bound: connections are counted while they last, and
failures are forgotten after a while, and earlier where there are too many of
them.
"""

from __future__ import annotations

from cachetools import TLRUCache

from deferrals.model.limits import Limits
from deferrals.model.networks import neighbourhood
from deferrals.model.reply import R421_TOO_MANY_CONNECTIONS, R421_TOO_MANY_FROM_YOU, Reply

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

    @ivar limits: the settings; they may be replaced at any time.
    @ivar total: connections that are open.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self.limits = limits
        self.total = 0
        self._open: dict[str, int] = {}
        # Failures and the time of the first; the time is an argument, so the cache has no clock.
        self._failed: TLRUCache[str, tuple[int, float]] = TLRUCache(
            REMEMBERED, ttu=lambda _, failures, now: failures[1] + MEMORY_SECONDS, timer=lambda: 0.0
        )

    def opened(self) -> Reply | None:
        """
        A connection is there, and is counted until L{closed}.

        @return: why it must end at once, or C{None}.
        """
        self.total += 1
        return R421_TOO_MANY_CONNECTIONS if self.total > self.limits.connections else None

    def closed(self) -> None:
        """
        A connection has ended.
        """
        self.total -= 1

    def identified(self, address: str) -> Reply | None:
        """
        The address of a connection's client is known, and counted until
        L{forgotten}.

        @return: why it must end at once, or C{None}.
        """
        origin = neighbourhood(address)
        count = self._open[origin] = self._open.get(origin, 0) + 1
        return R421_TOO_MANY_FROM_YOU if count > self.limits.connections_per_address else None

    def forgotten(self, address: str) -> None:
        """
        That client is gone, or has another address than it seemed.
        """
        origin = neighbourhood(address)
        self._open[origin] -= 1
        if not self._open[origin]:
            del self._open[origin]

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
