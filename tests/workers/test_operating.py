"""
What operators and monitoring see of several workers.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import DeferralsError
from deferrals.operator.control import Partial
from deferrals.web.metrics import QueueFigures
from deferrals.workers.line import BEAT_SECONDS, WorkerLine
from deferrals.workers.operating import ANSWER_SECONDS, WorkersOperator, figuresJSON
from deferrals.workers.reports import Reporter, Reports
from tests.workers.test_reports import report
from tests.workers.wires import Wire, settle


class OperatingTests(SynchronousTestCase):
    """
    L{WorkersOperator}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.reports = Reports()
        self.wires: list[Wire] = []
        self.others: list[WorkerLine] = []
        self.found: dict[int, Any] = {}
        self.lines: dict[int, WorkerLine | None] = {}
        self.takers = [0, 1]
        for worker in range(2):
            figures = QueueFigures({("mx", "queued"): worker + 1}, {"mx": worker + 5.0})
            handlers: dict[str, Any] = {
                "figures": lambda figures=figures: figuresJSON(figures),
                "call": lambda spool, name, *args: self.called(spool, name),
            }
            self.lines[worker] = line = WorkerLine(self.clock)
            other = WorkerLine(self.clock, handlers)
            self.others.append(other)
            Reporter(self.clock, other, lambda: report(2, rates={"accepted": 1.0}))
            self.reports.attach(worker, line)
            self.wires.append(Wire(self.clock, line, other))
        self.operator = WorkersOperator(
            self.clock,
            lambda: self.lines,
            lambda: {"config": "mx.toml", "workers": [{"worker": 0}, {"worker": 1}]},
            lambda: self.takers,
            self.reports,
            lambda: succeed(["hostname changes at the next start"]),
        )

    def called(self, worker: int, name: str) -> Any:
        if worker in self.found:
            return self.found[worker]
        if name == "show" and worker == 1:
            return {"gone": False}
        if name == "aside":
            raise DeferralsError("no disk")
        return None

    def wait(self, seconds: float) -> None:
        settle(self.clock, *self.wires)
        for _ in range(int(seconds / BEAT_SECONDS)):
            self.clock.advance(BEAT_SECONDS)
            settle(self.clock, *self.wires)

    def got(self, d: Deferred[Any], seconds: float = 0) -> Any:
        self.wait(seconds)
        return self.successResultOf(d)

    def test_status(self) -> None:
        """It is asked for now, and added up."""
        self.wait(100)
        said = self.got(self.operator.call("status"))
        self.assertEqual(said["counters"], {"transactions": {"single": 4}})
        self.assertEqual((said["rates"], said["uptime_seconds"]), ({"accepted": 2.0}, 100))
        self.assertEqual((said["ready"], said["reasons"]), (True, []))
        self.assertEqual([one["worker"] for one in said["workers"]], [0, 1])
        self.assertEqual(said["config"], "mx.toml")

    def test_missing(self) -> None:
        """One that is stopped is named, and counts with what it has told before."""
        self.got(self.operator.call("status"))
        self.wires[1].stopped = True
        said = self.got(self.operator.call("status"), ANSWER_SECONDS + BEAT_SECONDS)
        assert isinstance(said, Partial)
        self.assertEqual(said.missing, {1: "does not answer"})
        assert isinstance(said.result, dict)
        self.assertEqual(said.result["counters"], {"transactions": {"single": 4}})
        again = self.got(self.operator.call("status"))
        self.assertEqual(again.missing, said.missing)
        self.lines[1] = None
        again = self.got(self.operator.call("status"))
        self.assertEqual(again.missing, {1: "does not answer"})

    def test_diesMeanwhile(self) -> None:
        """One that has answered, and dies before the others have, is counted once."""
        self.got(self.operator.call("status"))
        self.wires[1].stopped = True
        d = self.operator.call("status")
        self.wait(1)
        self.reports.detach(0)
        said = self.got(d, ANSWER_SECONDS)
        assert isinstance(said, Partial) and isinstance(said.result, dict)
        self.assertEqual(said.result["counters"], {"transactions": {"single": 4}})

    def test_called(self) -> None:
        """What operators call goes to all, and so do the workers' own words back."""
        self.assertEqual(self.got(self.operator.call("show", "X")), {"gone": False})
        d = self.operator.call("aside")
        settle(self.clock, *self.wires)
        self.assertEqual(str(self.failureResultOf(d, DeferralsError).value), "no disk")

    def test_left(self) -> None:
        """The spool of a worker that there is no longer is asked for at the one that has it."""
        self.reports.keep(0, report(left=[3]))
        self.found = {3: {"gone": False, "left": True}, 1: None}
        self.assertEqual(self.got(self.operator.call("show", "X")), self.found[3])
        self.lines[0] = None
        said = self.got(self.operator.call("show", "X"))
        self.assertEqual(said.missing, dict.fromkeys((0, 3), "does not answer"))

    def test_reload(self) -> None:
        """A reload is the parent's."""
        found = self.got(self.operator.call("reload"))
        self.assertEqual(found, ["hostname changes at the next start"])

    def test_ready(self) -> None:
        """Without a worker that takes mail none is taken, whatever was said before."""
        self.got(self.operator.call("status"))
        self.assertEqual(self.operator.reasons(), [])
        self.takers = []
        self.assertEqual(self.operator.reasons(), ["workers"])

    def figures(self, seconds: float = 0) -> QueueFigures:
        found: QueueFigures = self.got(Deferred.fromCoroutine(self.operator.figures()), seconds)
        return found

    def test_figures(self) -> None:
        """What is in all queues, for monitoring."""
        self.assertEqual(self.figures(), QueueFigures({("mx", "queued"): 3}, {"mx": 6.0}, []))

    def test_oneQueue(self) -> None:
        """Where all have one queue, each has said the same."""
        self.operator._isOneQueue = True
        found = self.figures()
        self.assertIn(sum(found.recipients.values()), (1, 2))
        self.lines[0] = None
        self.assertEqual(sum(self.figures().recipients.values()), 2)

    def test_missingFigures(self) -> None:
        """What a silent worker, or a dead one, has in its queue counts as it was; it is named."""
        self.wires[1].stopped = True
        late = ANSWER_SECONDS + BEAT_SECONDS
        only = QueueFigures({("mx", "queued"): 1}, {"mx": 5.0}, [1])  # it has never said any
        self.assertEqual(self.figures(late), only)
        self.wires[1].stopped = False
        self.wait(1)
        whole = self.figures()
        self.assertEqual((whole.recipients, whole.missing), ({("mx", "queued"): 3}, []))
        self.wires[1].stopped = True
        self.assertEqual(self.figures(late), attrs.evolve(whole, missing=[1]))
        self.lines[1] = None
        self.assertEqual(self.figures(), attrs.evolve(whole, missing=[1]))

    def test_missingLeft(self) -> None:
        """A worker names the left queues that it cannot open."""
        away = figuresJSON(QueueFigures({("mx", "queued"): 1}, {"mx": 5.0}, [5, 3]))
        self.others[0].handle("figures", lambda: away)
        self.assertEqual(self.figures().missing, [3, 5])
