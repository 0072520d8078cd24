"""
When a delivery is tried again.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.schedule import JITTER, LONGEST_SECONDS, Schedule, parseSteps


class StepsTests(SynchronousTestCase):
    """
    L{parseSteps}.
    """

    def test_forms(self) -> None:
        """Time spans in a row, or one."""
        for value, wanted in (("5m 15m 1h", (300, 900, 3600)), ("90s", (90,)), (60, (60,))):
            self.assertEqual(parseSteps(value), wanted)

    def test_nonsense(self) -> None:
        """No time spans, or ones in which nothing would wait."""
        for value in ("", "soon", "5m soon", "0s", "-5m", None, []):
            self.assertRaises(ValueError, parseSteps, value)


class WaitTests(SynchronousTestCase):
    """
    L{Schedule.wait}.
    """

    def test_table(self) -> None:
        """The steps in turn, the last one for ever; or what the next hop asks for, if longer."""
        schedule = Schedule(parseSteps("1m 5m"))
        for attempts, after, wanted in (
            (1, None, 60),
            (2, None, 300),
            (3, None, 300),
            (1000, None, 300),
            (1, 10, 60),
            (1, 3600, 3600),
            (1, 1e9, LONGEST_SECONDS),
        ):
            self.assertEqual(schedule.wait(attempts, after, 0.5), wanted, (attempts, after))

    def test_jitter(self) -> None:
        """Chance makes it shorter or longer, not by much."""
        schedule = Schedule(parseSteps("100s"))
        self.assertAlmostEqual(schedule.wait(1, None, 0), 100 * (1 - JITTER))
        self.assertAlmostEqual(schedule.wait(1, None, 1), 100 * (1 + JITTER))

    def test_never(self) -> None:
        """A schedule that gives up at once, or lets nothing through, is none."""
        self.assertRaises(ValueError, Schedule, expire=0)
        self.assertRaises(ValueError, Schedule, concurrency=0)
