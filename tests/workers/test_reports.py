"""
What workers have counted.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.status import Status
from deferrals.workers.line import WorkerLine
from deferrals.workers.reports import REPORT_SECONDS, Reporter, Reports
from tests.workers.wires import Wire, settle


def report(count: int = 0, **more: Any) -> dict[str, Any]:
    status = Status()
    if count:
        status.count("transactions", "single", count)
        status.measure("replies", ("rcpt",), 0.3)
    found = {"parts": {}, "reasons": [], "rates": {}, "sessions": {}, "backed_off": 0, "left": []}
    return {"counts": status.dump(), **found, **more}


class ReportsTests(SynchronousTestCase):
    """
    L{Reports}.
    """

    def setUp(self) -> None:
        self.reports = Reports()

    def count(self) -> int:
        return self.reports.status().counted("transactions", "single")

    def test_sum(self) -> None:
        """All is added up, also what the dead have counted; each report replaces the last."""
        self.assertEqual(self.count(), 0)
        self.reports.keep(0, report(3))
        self.reports.keep(1, report(4))
        self.reports.keep(1, report(5))
        self.assertEqual(self.count(), 8)
        self.reports.detach(1)
        self.reports.detach(1)
        self.assertEqual(self.count(), 8)
        self.reports.keep(1, report(1))
        self.assertEqual(self.count(), 9)
        measured = self.reports.status().measured("replies")[("rcpt",)]
        self.assertEqual((sum(measured.counts), measured.total), (3, 0.3 * 3))

    def test_parts(self) -> None:
        """What each part says is of those that there are."""
        for worker in (0, 1):
            self.reports.keep(worker, report(parts={"x": {"state": "working", "waiting": 1}}))
        said = {"x": {"state": "working", "waiting": 2, "under_way": 0}}
        self.assertEqual(self.reports.status().parts(), said)

    def test_gauges(self) -> None:
        """Sessions are added up; destinations that are left alone are known to all."""
        self.reports.keep(0, report(sessions={"a": 1, "b": 2}, backed_off=3, rates={"x": 1.0}))
        self.reports.keep(1, report(sessions={"b": 5}, backed_off=2, rates={"x": 2.5}))
        self.assertEqual(self.reports.sessions(), {"a": 1, "b": 7})
        self.assertEqual(self.reports.backedOff(), 3)
        self.assertEqual(self.reports.rates(), {"x": 3.5})

    def test_left(self) -> None:
        """Who has which spool of a worker that there is no longer."""
        self.reports.keep(0, report(left=[4, 2]))
        self.reports.keep(1, report(left=[3]))
        self.assertEqual(self.reports.left(), {4: 0, 2: 0, 3: 1})
        self.reports.detach(0)
        self.assertEqual(self.reports.left(), {3: 1})

    def test_reasons(self) -> None:
        """Mail can be taken where one worker takes it."""
        self.assertEqual(self.reports.reasons([]), ["workers"])
        self.assertEqual(self.reports.reasons([0]), [])  # it has not told anything yet
        self.reports.keep(0, report(reasons=["spool"]))
        self.assertEqual(self.reports.reasons([0]), ["spool"])
        self.reports.keep(1, report(reasons=["stopping"]))
        self.assertEqual(self.reports.reasons([0, 1]), ["spool", "stopping"])
        self.reports.keep(1, report())
        self.assertEqual(self.reports.reasons([0, 1]), [])
        self.assertEqual(self.reports.reasons([0]), ["spool"])  # the other one is stopped
        self.assertEqual(self.reports.reasons([]), ["workers"])

    def test_told(self) -> None:
        """A worker tells at its start and every few seconds, and is asked in between."""
        clock = Clock()
        parent, worker = WorkerLine(clock), WorkerLine(clock)
        wire = Wire(clock, parent, worker)
        self.reports.attach(4, parent)
        counts = iter(range(1, 10))
        reporter = Reporter(clock, worker, lambda: report(next(counts)))
        reporter.start()
        settle(clock, wire)
        self.assertEqual(self.count(), 1)
        for wanted in (2, 3):
            clock.advance(REPORT_SECONDS)
            settle(clock, wire)
            self.assertEqual(self.count(), wanted)
        d: Any = parent.ask("report")
        settle(clock, wire)
        self.assertEqual(self.successResultOf(d), None)
        self.assertEqual(self.count(), 4)
        for _ in range(2):
            stopping: Any = Deferred.fromCoroutine(reporter.stop())
            settle(clock, wire)
            self.successResultOf(stopping)
        self.assertEqual(self.count(), 5)
        wire.lose()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_last(self) -> None:
        """The last report does not wait for a parent that there is no longer."""
        clock = Clock()
        worker = WorkerLine(clock)
        wire = Wire(clock, WorkerLine(clock), worker)
        reporter = Reporter(clock, worker, report)
        reporter.start()
        wire.lose()
        self.successResultOf(Deferred.fromCoroutine(reporter.stop()))
