"""
What workers have counted: each tells it the parent every few seconds, and where
operators want to know it now.

What a worker has counted is not lost with it: the next one begins anew, and the sum
goes on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial

from twisted.internet.defer import TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from deferrals.errors import LineError
from deferrals.logger import Logger
from deferrals.model.json import JSON, asInteger, asList, asObject
from deferrals.model.status import Status
from deferrals.operator import merging
from deferrals.workers.line import WorkerLine

_log = Logger(namespace="deferrals.workers")

#: How often a worker tells what it has counted, in seconds.
REPORT_SECONDS = 5.0

#: How long a worker that ends waits until its last report is heard, in seconds.
LAST_SECONDS = 2.0


class Reporter:
    """
    A worker's.

    @param clock: timers.
    @param line: leads to the parent.
    @param report: what there is to tell: C{counts} of L{Status.dump}, C{parts},
        C{sessions}, C{backed_off}, C{reasons} and C{rates}.
    """

    def __init__(
        self, clock: IReactorTime, line: WorkerLine, report: Callable[[], dict[str, JSON]]
    ) -> None:
        self._line = line
        self._report = report
        line.handle("report", self._tell)
        self._loop = LoopingCall(self._tell)
        self._loop.clock = clock

    def start(self) -> None:
        """
        Now, and from now on.
        """
        d = self._loop.start(REPORT_SECONDS)
        d.addErrback(lambda failure: _log.failure("nothing is reported", failure))

    async def stop(self) -> None:
        """
        For the last time; until the parent has heard it.
        """
        if self._loop.running:
            self._loop.stop()
            with contextlib.suppress(LineError, TimeoutError):
                await self._line.ask("reported", self._report(), seconds=LAST_SECONDS)

    def _tell(self) -> None:
        self._line.tell("reported", self._report())


class Reports:
    """
    The parent's.

    @ivar own: what the parent counts itself, and what those have counted that have ended.
    """

    def __init__(self) -> None:
        self.own = Status()
        self._last: dict[int, dict[str, JSON]] = {}

    def attach(self, worker: int, line: WorkerLine) -> None:
        """
        A worker begins.
        """
        line.handle("reported", partial(self.keep, worker))

    def detach(self, worker: int) -> None:
        """
        A worker has ended.
        """
        last = self._last.pop(worker, None)
        if last is not None:
            self.own.add(asObject(last["counts"]))

    def keep(self, worker: int, report: dict[str, JSON]) -> None:
        """
        A worker tells what it has counted until now.
        """
        self._last[worker] = report

    def status(self) -> Status:
        """
        What was counted by all that there are and were, and what the parts of those
        say that there are.
        """
        found = Status()
        found.add(self.own.dump())
        for one in self._last.values():
            found.add(asObject(one["counts"]))
        parts = merging.parts({worker: one["parts"] for worker, one in self._last.items()})
        for name, said in parts.items():
            found.show(name, partial(_said, said))
        return found

    def sessions(self) -> dict[str, int]:
        """
        How many sessions are open, by listener.
        """
        found = merging.summed(one["sessions"] for one in self._last.values())
        return {name: int(count) for name, count in found.items()}

    def backedOff(self) -> int:
        """
        How many destinations are left alone: all workers know of them.
        """
        return max((asInteger(one["backed_off"]) for one in self._last.values()), default=0)

    def left(self) -> dict[int, int]:
        """
        By the number of a worker that there is no longer: that which has its spool.
        """
        return {
            asInteger(spool): worker
            for worker, one in self._last.items()
            for spool in asList(one["left"])
        }

    def rates(self) -> dict[str, float]:
        """
        How much happens in a minute.
        """
        return merging.summed(one["rates"] for one in self._last.values())

    def reasons(self, workers: Iterable[int]) -> list[str]:
        """
        Why no mail can be taken: none, where a worker takes it.

        @param workers: those that take any, as far as is known; what others have
            reported does not count.
        """
        found = [asList(self._last[one]["reasons"]) if one in self._last else [] for one in workers]
        if not found:
            return ["workers"]
        return sorted({str(why) for one in found for why in one}) if all(found) else []


def _said(said: JSON) -> JSON:
    return said
