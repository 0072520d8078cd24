"""
What an operator can see.
"""

import json

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.status import MOST_KINDS, OTHER, Status
from tests.harness import GREETING, Bench


class StatusTests(SynchronousTestCase):
    """
    L{Status}.
    """

    def test_snapshot(self) -> None:
        """Counters and parts, as JSON."""
        status = Status()
        status.count("transactions", "prdr")
        status.count("transactions", "prdr", 2)
        status.show("queue", lambda: {"messages": 5})
        snapshot = json.loads(json.dumps(status.snapshot()))
        self.assertEqual(
            snapshot,
            {"counters": {"transactions": {"prdr": 3}}, "parts": {"queue": {"messages": 5}}},
        )
        self.assertEqual(status.counted("nothing", "at all"), 0)

    def test_sides(self) -> None:
        """What has several sides is shown in words, and kept apart."""
        status = Status()
        status.count("verdicts", ("content", "strict", "550"))
        status.count("verdicts", ("envelope", "", "550"))
        kinds = {("content", "strict", "550"): 1, ("envelope", "", "550"): 1}
        self.assertEqual(status.kinds("verdicts"), kinds)
        shown = {"content strict 550": 1, "envelope 550": 1}
        self.assertEqual(status.snapshot()["counters"]["verdicts"], shown)

    def test_bounded(self) -> None:
        """There are not more kinds of anything than a table can show; nothing is lost."""
        status = Status()
        for number in range(MOST_KINDS + 5):
            status.count("verdicts", ("content", str(number), "550"))
            status.measure("services", str(number), 1)
        kinds = status.kinds("verdicts")
        self.assertEqual((len(kinds), sum(kinds.values())), (MOST_KINDS + 1, MOST_KINDS + 5))
        self.assertEqual(kinds[OTHER, OTHER, OTHER], 5)
        self.assertEqual(sum(status.measured("services")[OTHER].counts), 5)

    def test_collecting(self) -> None:
        """What stages show is seen as long as they are those in force."""
        status = Status()
        status.show("queue", lambda: 1)
        with status.collecting() as outer:
            status.show("rspamd", lambda: 2)
            with status.collecting() as inner:
                status.show("http", lambda: 3)
        self.assertEqual(status.parts(), {"queue": 1})
        self.assertEqual(([*outer], [*inner]), (["rspamd"], ["http"]))
        status.ofStages = outer
        self.assertEqual(status.parts(), {"queue": 1, "rspamd": 2})
        status.ofStages = {}
        self.assertEqual(status.parts(), {"queue": 1})
        status.show("late", lambda: 4)
        self.assertEqual(status.parts(), {"queue": 1, "late": 4})

    def test_measured(self) -> None:
        """A bucket holds what is as large as its bound, and less."""
        status = Status()
        for amount in (0.0005, 0.001, 0.002, 60):
            status.measure("replies", "final", amount)
        (found,) = status.measured("replies").values()
        self.assertEqual(found.counts, [2, 1, 0, 0, 0, 0, 0, 0, 1])
        self.assertAlmostEqual(found.total, 60.0035)

    def test_use(self) -> None:
        """A stage has the name of a configuration, or else that of its class."""
        status, stage = Status(), Bench()
        self.assertEqual(status.useOf(stage), "Bench")
        status.named(stage, "maildir")
        self.assertEqual(status.useOf(stage), "maildir")
        status.named(5, "number")
        self.assertEqual(status.useOf(5), "int")

    def test_rungs(self) -> None:
        """Transactions are counted by how they were answered."""
        bench = Bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA")
        bench.say("text", ".")
        self.assertEqual(bench.status.counted("transactions", "single"), 1)

    def test_added(self) -> None:
        """What another process has counted is added, however it came over."""
        first, second = Status(), Status()
        for status in (first, second):
            status.count("sessions", ("tcp:25", "mail"), 2)
            status.count("limits", "connections")
            status.measure("replies", "rcpt", 0.3)
        first.later(lambda status, values: status.count("limits", "errors"), {})
        second.add(json.loads(json.dumps(first.dump())))
        self.assertEqual(second.kinds("sessions"), {("tcp:25", "mail"): 4})
        self.assertEqual(second.kinds("limits"), {"connections": 2, "errors": 1})
        (histogram,) = second.measured("replies").values()
        self.assertEqual((sum(histogram.counts), histogram.total), (2, 0.6))
        empty = Status()
        empty.add(Status().dump())
        self.assertEqual(empty.dump(), Status().dump())
