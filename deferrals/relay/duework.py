"""
What is due in the queue, claimed as there is room for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from deferrals.interfaces import ISpool, Work
from deferrals.logger import Logger
from deferrals.relay.destinations import Destinations, Sort

_log = Logger(namespace="deferrals.delivery")

#: So long nothing is claimed where the last claim has brought nothing that could begin.
PAUSE_SECONDS = 0.02

#: So many works of one destination are claimed at once before its own limit is
#: known.
SHARE = 20


class DueWork:
    """
    One claim at a time: what ends meanwhile makes room for the next one.

    @param spool: the queue.
    @param clock: timers.
    @param destinations: say how much room there is.
    @param take: delivers what was claimed; returns whether any of it has begun.
    @ivar isMore: whether there may be work in the queue that is due, and could begin.
    @ivar isFound: whether the last claim has brought some.
    """

    def __init__(
        self,
        spool: ISpool,
        clock: IReactorTime,
        destinations: Destinations,
        take: Callable[[Sequence[Work]], bool],
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._destinations = destinations
        self._take = take
        self._claiming = False
        self._stopped = False
        self._pause = 0.0
        self._blocked: set[Sort] = set()
        self._isHidden = False
        self._next: IDelayedCall | None = None
        self.isMore = True
        self.isFound = False

    def stop(self) -> None:
        """
        Claim nothing more.
        """
        self._stopped = True
        if self._next is not None and self._next.active():
            self._next.cancel()

    def waits(self, sort: Sort) -> None:
        """
        There is something in the queue that could not begin.  Where others of its
        kind are in the way, or servers that are silent, it is for them to make room:
        the queue may be full of the same, and would be gone through again and again.
        """
        if self._destinations.room > 0 and self._destinations.isBlocked(sort):
            self._blocked.add(sort)
        else:
            self.isMore = True

    def lessBlocked(self) -> None:
        """
        An attempt has ended: perhaps others of some sort may begin, or what was not
        claimed since its destination had all that it may have.
        """
        found = {sort for sort in self._blocked if not self._destinations.isBlocked(sort)}
        self._blocked -= found
        self.isMore = self.isMore or self._isHidden or bool(found)

    def wake(self) -> None:
        """
        There is room again: perhaps due work waits for it.
        """
        isComing = self._next is not None and self._next.active()
        if self.isMore and not self._stopped and not isComing:
            self._next = self._clock.callLater(self._pause, self.claim)

    def claim(self) -> None:
        """
        Take as much as there is room for.
        """
        room = self._destinations.room
        if self._stopped or room <= 0 or self._claiming:
            return
        self._claiming = True
        share = 1 if self._blocked else SHARE  # most of it might only be put back
        shares = self._destinations.shares()
        self._isHidden = any(free < SHARE for free in shares.values())
        d = self._spool.claim(room, shares, share)
        d.addCallbacks(self._claimed, self._failed)

    def _failed(self, failure: Failure) -> None:
        self._claiming = False
        _log.error("cannot read the queue: {error}", error=failure.getErrorMessage())

    def _claimed(self, works: Sequence[Work]) -> None:
        self._claiming = self.isMore = False
        self.isFound = bool(works)
        self._pause = 0.0 if self._take(works) else PAUSE_SECONDS
        self.wake()
