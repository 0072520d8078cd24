"""
A moment by which something is due.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.smtp.server.deadline import Deadline


class DeadlineTests(SynchronousTestCase):
    """
    L{Deadline}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.deadline = Deadline(self.clock)
        self.met: list[tuple[str, float]] = []

    def until(self, due: float, name: str = "met") -> None:
        self.deadline.until(due, lambda: self.met.append((name, self.clock.seconds())))

    def pass_(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)

    def test_met(self) -> None:
        """It is met once, and leaves no timer."""
        self.until(5)
        self.pass_(20)
        self.assertEqual((self.met, self.clock.getDelayedCalls()), ([("met", 5)], []))

    def test_moved(self) -> None:
        """The last one counts, whether it is later or earlier; there is one timer."""
        for due in (7, 3, 9, 4, 12):
            self.until(due, str(due))
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.pass_(20)
        self.assertEqual(self.met, [("12", 12)])

    def test_later(self) -> None:
        """What is only moved on costs no timer."""
        self.until(5)
        timers = self.clock.getDelayedCalls()
        for due in range(6, 100):
            self.until(due)
        self.assertEqual(self.clock.getDelayedCalls(), timers)

    def test_cleared(self) -> None:
        """Where there is none, none is met; until there is one again."""
        self.until(5)
        self.deadline.clear()
        self.pass_(10)
        self.assertEqual((self.met, self.clock.getDelayedCalls()), ([], []))
        self.until(12)
        self.deadline.clear()
        self.until(15)
        self.pass_(10)
        self.assertEqual(self.met, [("met", 15)])

    def test_stopped(self) -> None:
        """At the end no timer is left."""
        self.until(5)
        self.deadline.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.pass_(10)
        self.assertEqual(self.met, [])

    def test_past(self) -> None:
        """What is due already is met at once, in a turn of its own."""
        self.clock.advance(10)
        self.until(3)
        self.assertEqual(self.met, [])
        self.clock.advance(0)
        self.assertEqual(self.met, [("met", 10)])
