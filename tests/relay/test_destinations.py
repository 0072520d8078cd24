"""
How many attempts may be under way to a destination, and when it is left alone.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import Reply
from deferrals.model.verdict import Delivered, Details, Failed, Outcome, Retry
from deferrals.relay import destinations
from deferrals.relay.destinations import Destinations, HopReport, hopReport

DEAD = HopReport(
    False,
    Reply(451, "4.4.1", "no answer"),
    "mx.dead.example",
    Details("refused at 192.0.2.1"),
)
ALIVE = HopReport(True)


def retry(code: int, enhanced: str | None) -> Retry:
    return Retry(Reply(code, enhanced, "later"), "mx")


class HopReportTests(SynchronousTestCase):
    """
    L{hopReport}.
    """

    def test_table(self) -> None:
        """A hop works unless all are to be tried again for reasons of its own (RFC 3463)."""
        connection, system = retry(451, "4.4.1"), retry(452, "4.3.1")
        closing, full, plain = retry(421, None), retry(452, "4.2.2"), retry(451, None)
        gone = Failed(Reply(550, "5.1.1", "gone"), "mx")
        table: list[tuple[list[Outcome], bool]] = [
            ([connection], False),
            ([system], False),
            ([closing], False),
            ([connection, system, closing], False),
            ([full], True),
            ([plain], True),
            ([gone], True),
            ([Delivered()], True),
            ([connection, full], True),
            ([connection, gone], True),
        ]
        for outcomes, isAlive in table:
            report = hopReport(outcomes)
            self.assertEqual(report.isAlive, isAlive, outcomes)
            self.assertEqual((report.reply, report.host), (outcomes[0].reply, outcomes[0].host))


class DestinationsTests(SynchronousTestCase):
    """
    L{Destinations}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.destinations = Destinations(self.clock, 10, lambda: 0.5)

    def attempt(self, name: str, report: HopReport | None, limit: int = 2) -> float | None:
        self.assertTrue(self.begin(name, limit))
        return self.destinations.ended(name, report, name)

    def begin(self, name: str, limit: int = 2) -> bool:
        """
        Each destination has mail of a kind of its own.
        """
        return self.destinations.begin(name, limit, name)

    def failing(self, name: str) -> None:
        for _ in range(destinations.FAILURES):
            self.attempt(name, DEAD)

    def test_limits(self) -> None:
        """A destination has its limit, and all have one together."""
        begun = [self.begin("a") for _ in range(3)]
        self.assertEqual(begun, [True, True, False])
        self.assertEqual((self.destinations.room, self.destinations.shares()), (8, {"a": 0}))
        begun = [self.begin(str(number)) for number in range(9)]
        self.assertEqual(begun, [True] * 8 + [False])
        self.destinations.ended("a", ALIVE, "a")
        self.assertEqual(self.destinations.room, 1)
        self.assertTrue(self.begin("b"))

    def test_backOff(self) -> None:
        """After failures in a row nothing begins for a while, then one probe at a time."""
        found = [self.attempt("dead", DEAD) for _ in range(3)]
        self.assertEqual(found, [None, None, 60.0])
        self.assertFalse(self.begin("dead"))
        self.assertEqual(self.destinations.lastReport("dead"), DEAD)
        self.assertEqual(self.destinations.shares(), {})
        self.clock.advance(60)
        self.assertEqual(self.destinations.shares(), {"dead": 1})
        self.assertTrue(self.begin("dead"))
        self.assertFalse(self.begin("dead"))
        self.assertEqual(self.destinations.ended("dead", DEAD, "dead"), 120.0)
        self.clock.advance(120)
        self.assertEqual(self.attempt("dead", ALIVE), 0.0)
        self.assertEqual(self.attempt("dead", ALIVE), None)
        self.assertEqual(self.destinations.lastReport("dead"), ALIVE)

    def test_notSoFar(self) -> None:
        """An attempt that did not come to the next hop says nothing of it."""
        self.attempt("a", DEAD)
        self.attempt("a", DEAD)
        self.assertIsNone(self.attempt("a", None))
        self.assertEqual(self.attempt("a", DEAD), 60.0)

    def test_probes(self) -> None:
        """Destinations in trouble never take more than half of all slots."""
        for number in range(8):
            self.failing(f"dead {number}")
        self.clock.advance(60)
        begun = [self.begin(f"dead {number}") for number in range(8)]
        self.assertEqual(begun, [True] * 5 + [False] * 3)
        self.assertTrue(self.begin("alive"))

    def test_kinds(self) -> None:
        """No kind of mail takes all slots, not even a second one or a third."""
        found = Destinations(self.clock, 100)
        taken = []
        for kind in range(4):
            begun = [found.begin(f"{kind} {number}", 2, kind) for number in range(200)]
            taken.append(sum(begun))
            self.assertTrue(found.isCrowded(kind))
        self.assertEqual(taken, [75, 19, 5, 1])
        self.assertEqual(found.room, 0)
        for number in range(20):
            found.ended(f"0 {number}", ALIVE, 0)
        self.assertFalse(found.isCrowded("honest"))
        self.assertTrue(found.begin("honest", 2, "honest"))

    def test_few(self) -> None:
        """Few slots are for one kind, too."""
        for limit, most in ((1, 1), (2, 2), (3, 3), (4, 3)):
            found = Destinations(self.clock, limit)
            begun = [found.begin(str(number), 2, "kind") for number in range(9)]
            self.assertEqual(sum(begun), most, limit)

    def test_forget(self) -> None:
        """When the configuration has changed, everything may be tried at once."""
        self.failing("dead")
        self.destinations.forget()
        self.assertTrue(self.begin("dead"))
        self.assertEqual(self.destinations.troubles(), {})

    def test_troubles(self) -> None:
        """The operator sees what a destination said, and for how long it is left alone."""
        self.attempt("shaky", DEAD)
        self.failing("dead")
        self.clock.advance(10)
        self.assertEqual(
            self.destinations.troubles(),
            {
                "dead": {
                    "failures": 3,
                    "seconds": 50,
                    "reply": "451 4.4.1 no answer",
                    "host": "mx.dead.example",
                    "cause": "refused at 192.0.2.1",
                }
            },
        )

    def test_remembered(self) -> None:
        """Of very many destinations in trouble the newest are remembered."""
        self.patch(destinations, "REMEMBERED", 5)
        self.destinations.limit = 1
        for number in range(8):
            self.attempt(f"dead {number}", DEAD)
        self.assertEqual(self.destinations.lastReport("dead 0"), ALIVE)
        self.assertEqual(self.destinations.lastReport("dead 7"), DEAD)
