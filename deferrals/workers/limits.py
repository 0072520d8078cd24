"""
What clients and users may have of something, over all workers (L{ILimits}): the parent
counts, so that it is exact.

What a worker has entered is left when it ends, in order or not.  What is spent is kept
by the worker that has spent it, in its spool; the parent, which has nothing on a disk,
is told of it when a worker starts for the first time.  Where the parent does not
answer, a question fails: its client is asked to come again.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import errorText
from deferrals.logger import Logger
from deferrals.model.json import JSON
from deferrals.server.limits import SharedLimits, Spending
from deferrals.workers.line import WorkerLine

_log = Logger(namespace="deferrals.workers")

#: How long an answer may take, in seconds.
COUNT_SECONDS = 5.0

#: So many keys go over the line at once.
PIECE = 500

#: The parent has said that there is enough.
_UNLIMITED = 1 << 60


class LimitsRegister:
    """
    The parent's: it counts.

    @param clock: what time it is.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._limits = SharedLimits(clock)
        self._entered: dict[int, dict[int, tuple[str, str]]] = {}
        self._told: dict[int, list[Spending]] = {}
        self._known: set[int] = set()

    def attach(self, worker: int, line: WorkerLine) -> None:
        """
        A worker begins.
        """
        self._entered[worker], self._told[worker] = {}, []
        line.handle("limits.enter", partial(self._enter, worker))
        line.handle("limits.leave", partial(self._leave, worker))
        line.handle("limits.spend", self._limits.spent)
        line.handle("limits.mine", partial(self._tell, worker))
        line.handle("limits.known", partial(self._know, worker))
        line.handle("limits.adopted", self._limits.add)

    def detach(self, worker: int) -> None:
        """
        A worker has ended: what it had entered is left.
        """
        self._told.pop(worker, None)
        for limit, key in self._entered.pop(worker, {}).values():
            self._limits.leave(limit, key)

    def _enter(self, worker: int, number: int, limit: str, key: str, most: int) -> bool:
        isIn = self._limits.entered(limit, key, most)
        if isIn:
            self._entered[worker][number] = limit, key
        return isIn

    def _leave(self, worker: int, number: int) -> None:
        entry = self._entered[worker].pop(number, None)
        if entry is not None:
            self._limits.leave(*entry)

    def _tell(self, worker: int, found: list[Spending]) -> None:
        self._told[worker] += found

    def _know(self, worker: int) -> None:
        """
        A worker has told all.  What it has spent since the parent began was counted
        then.
        """
        told, self._told[worker] = self._told[worker], []
        if worker not in self._known:
            self._known.add(worker)
            for spending in told:
                self._limits.add(spending)


class WorkerLimits(SharedLimits):
    """
    A worker's: it has counted itself what it has spent, and asks the parent for the
    rest.

    @param clock: timers, and the time of day.
    @param line: leads to the parent.
    """

    def __init__(self, clock: IReactorTime, line: WorkerLine) -> None:
        super().__init__(clock)
        self._line = line
        self._numbers = itertools.count(1)
        self._in: defaultdict[tuple[str, str], list[int]] = defaultdict(list)

    def enter(self, limit: str, key: str, most: int) -> Deferred[bool]:
        number = next(self._numbers)

        def known(isIn: JSON) -> bool:
            if isIn:
                self._in[limit, key].append(number)
            return bool(isIn)

        def unknown(failure: Failure) -> Failure:
            self._line.tell("limits.leave", number)  # it may be in, all the same
            return failure

        asked = ("limits.enter", number, limit, key, most)
        return self._line.ask(*asked, seconds=COUNT_SECONDS).addCallbacks(known, unknown)

    def leave(self, limit: str, key: str) -> None:
        numbers = self._in[limit, key]
        if numbers:
            self._line.tell("limits.leave", numbers.pop())
        if not numbers:
            del self._in[limit, key]

    def spend(self, limit: str, key: str, amount: int, most: int, seconds: float) -> Deferred[bool]:
        def known(isThere: JSON) -> bool:
            if isThere and amount:
                self.spent(limit, key, amount, _UNLIMITED, seconds)
            return bool(isThere)

        asked = ("limits.spend", limit, key, amount, most, seconds)
        return (
            self._loaded()
            .addCallback(lambda _: self._line.ask(*asked, seconds=COUNT_SECONDS))
            .addCallback(known)
        )

    def load(self) -> Deferred[None]:
        """
        The same; and let the parent know it.
        """
        d = self._load().addCallback(lambda _: Deferred.fromCoroutine(self._tell()))
        return d.addErrback(_notTold).addCallback(self._ready)

    async def adopted(self, spendings: list[Spending]) -> None:
        for limit, key, seconds, spent in spendings:
            await self._line.ask("limits.adopted", [limit, key, seconds, [*spent]])

    async def _tell(self) -> None:
        found = self.spendings()
        for start in range(0, len(found), PIECE):
            piece: list[JSON] = []
            for limit, key, seconds, spent in found[start : start + PIECE]:
                piece.append([limit, key, seconds, [*spent]])
            await self._line.ask("limits.mine", piece)
        await self._line.ask("limits.known")


def _notTold(failure: Failure) -> None:
    """
    The worker runs all the same: what it had spent before is not counted.
    """
    _log.error("what was spent of limits is not told: {error}", error=errorText(failure))
