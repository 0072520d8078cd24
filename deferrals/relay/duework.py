"""
What is due in the queue, claimed as there is room for it.

It is claimed in the order in which destinations wait for their turn.  Where others are
in the way of some sort of it (L{Destinations.isBlocked}), that stays where it is: the
queue is looked through for what may begin, a part at a time.  So mail for this machine
passes whatever leads away from it, and the mail of a destination that answers passes
that of silent ones, however many there are.

How far the queue was looked through is remembered, since only what has become due
meanwhile, or was put back, stands behind that; as long as what was passed by is still
blocked, and for L{ROUND_SECONDS}.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from deferrals.errors import StoreAway
from deferrals.interfaces import ISpool, Turn, Work
from deferrals.logger import Logger
from deferrals.relay.attempts import Deliveries
from deferrals.relay.destinations import Destinations, Sort

_log = Logger(namespace="deferrals.delivery")

#: So long nothing is claimed where the last claim has brought nothing that could begin.
PAUSE_SECONDS = 0.02

#: So many works of one destination are claimed at once before its own limit is
#: known.
SHARE = 20

#: So many works are claimed at once whose destination is not known yet: of these, most
#: are put back for the destination that they have.
UNSORTED = 100

#: The queue is looked through from its beginning again after so long: of what was passed
#: by, some may have become due that is of another sort.
ROUND_SECONDS = 30.0


@attrs.define
class _Round:
    """
    The queue is looked through.

    @ivar began: when.
    @ivar after: how far.
    @ivar passed: what was passed by.
    """

    began: float
    after: Hashable = None
    passed: set[Sort] = attrs.field(factory=set)


class DueWork:
    """
    One claim at a time: what ends meanwhile makes room for the next one.

    @param spool: the queue.
    @param clock: timers.
    @param destinations: say how much room there is, and for what.
    @param deliveries: what the configuration says of them.
    @param take: delivers what was claimed; returns whether any of it has begun.
    @ivar isMore: whether there may be work in the queue that is due, and could begin.
    @ivar isFound: whether the last claim has brought some.
    """

    def __init__(
        self,
        spool: ISpool,
        clock: IReactorTime,
        destinations: Destinations,
        deliveries: Deliveries,
        take: Callable[[Sequence[Work]], bool],
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._destinations = destinations
        self._deliveries = deliveries
        self._take = take
        self._claiming = False
        self._stopped = False
        self._pause = 0.0
        self._blocked: set[Sort] = set()
        self._isHidden = False
        self._round = _Round(clock.seconds())
        self._full: set[str] = set()
        self._named: dict[str, None] = {}
        self._isNamed = False
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

    def waits(self, name: str, sort: Sort) -> None:
        """
        There is something in the queue that could not begin.  Where others of its
        kind are in the way, or servers that are silent, it is for them to make room:
        the queue may be full of the same, and would be gone through again and again.

        @param name: its destination.
        """
        if self._destinations.room > 0 and self._destinations.isBlocked(sort):
            self._blocked.add(sort)
        else:
            self.isMore = True
            if self._blocked:
                self._named[name] = None

    def lessBlocked(self, name: str, *, hasAnswered: bool = False) -> None:
        """
        An attempt has ended: perhaps others of some sort may begin, or what was not
        claimed since its destination had all that it may have.

        @param name: where that was.
        @param hasAnswered: whether nothing was known of that destination before.
        """
        if name in self._full or (hasAnswered and self._blocked):
            self._full.discard(name)
            self._named[name] = None
        found = {sort for sort in self._blocked if not self._destinations.isBlocked(sort)}
        self._blocked -= found
        isNamed = bool(self._blocked and self._named)
        self.isMore = self.isMore or self._isHidden or isNamed or bool(found)

    def again(self) -> None:
        """
        Whatever was passed by may begin now.
        """
        self._round = _Round(self._clock.seconds())
        self.isMore = True
        self.wake()

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
        self._claiming, self.isMore = True, False
        d: Deferred[list[Work]]
        shares = self._destinations.shares()
        if self._blocked:
            self._isHidden = False
            d = Deferred.fromCoroutine(self._pickOut())
        else:
            self._isHidden = any(free < SHARE for free in shares.values())
            d = self._spool.claim(room, shares, SHARE)
        d.addCallbacks(self._claimed, self._failed)

    def _failed(self, failure: Failure) -> None:
        self._claiming = False
        self.isMore = True
        if not failure.check(StoreAway):  # that was logged
            _log.error("cannot read the queue: {error}", error=failure.getErrorMessage())

    def _claimed(self, works: Sequence[Work]) -> None:
        self._claiming = False
        self.isFound = bool(works)
        self.isMore = self.isMore or self.isFound
        self._pause = 0.0 if self._take(works) else PAUSE_SECONDS
        self.wake()

    # What passes by what is blocked.

    async def _pickOut(self) -> list[Work]:
        """
        Destinations that have room again, and the rest of the queue, take turns.
        """
        self._isNamed = bool(self._named) and not self._isNamed
        if not self._isNamed:
            return await self._search()
        names = list(itertools.islice(self._named, self._destinations.room))
        for name in names:
            del self._named[name]
        self.isMore = True
        return await self._claimOnly({name: self._freeAt(name, SHARE) for name in names})

    async def _search(self) -> list[Work]:
        self._beginRound()
        found: dict[str, int] = {}
        while not found and self._destinations.room > 0 and not self._stopped:
            current = self._round  # an operator may begin another one meanwhile
            turns, after = await self._spool.turns(current.after)
            if not turns or self._destinations.room <= 0:
                break
            found, isWhole = self._passing(turns)
            if isWhole:
                current.after = after
        return await self._claimOnly(found)

    def _beginRound(self) -> None:
        isOld = self._clock.seconds() >= self._round.began + ROUND_SECONDS
        if isOld or not all(map(self._destinations.isBlocked, self._round.passed)):
            self._round = _Round(self._clock.seconds())
            self._full.clear()

    def _passing(self, turns: Sequence[Turn]) -> tuple[dict[str, int], bool]:
        """
        @return: the destinations of which something may begin, as many as there is room
            for, each with how much; and whether these are all.
        """
        found: dict[str, int] = {}
        for turn in turns:
            share = self._shareOf(turn)
            if share and len(found) >= self._destinations.room:
                return found, False
            if share:
                found[turn.destination] = share
        return found, True

    def _shareOf(self, turn: Turn) -> int:
        """
        How much of what waits for a destination may begin, as far as is known.  Where it
        has not answered lately, most of that might only be put back.
        """
        share = 0 if turn.destination else UNSORTED
        for kind in turn.kinds:
            isLocal = self._deliveries.isLocal(kind.delivery, turn.destination)
            sort = self._destinations.sort(turn.destination, kind, isLocal=isLocal)
            if self._destinations.isBlocked(sort):
                self._blocked.add(sort)
                self._round.passed.add(sort)
            else:
                share = max(share, SHARE if sort.isKnown else 1)
        return self._freeAt(turn.destination, share) if share else 0

    def _freeAt(self, name: str, share: int) -> int:
        """
        @param share: how much is claimed for a destination whose own limit is not known.
        """
        free = self._destinations.free(name)
        if free is not None and free <= 0:
            self._full.add(name)
            return 0
        return share if free is None else free

    async def _claimOnly(self, found: Mapping[str, int]) -> list[Work]:
        """
        @param found: destinations, each with how much may begin.
        """
        room = self._destinations.room
        if room <= 0:
            self.isMore = True  # what has begun meanwhile makes room again
        if not found or self._stopped or room <= 0:
            return []
        return await self._spool.claim(max(room, found.get("", 0)), found, 0, list(found))
