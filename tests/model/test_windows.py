"""
What is spent within a window that slides.
"""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.windows import STEPS, Windows

HOUR = 3600.0


class WindowsTests(SynchronousTestCase):
    """
    L{Windows}.
    """

    def test_most(self) -> None:
        """There is so much, and no more, until what was spent is an hour old."""
        windows = Windows()
        self.assertTrue(windows.spend("a", 3, 5, HOUR, 100.0))
        self.assertFalse(windows.spend("a", 3, 5, HOUR, 101.0))
        self.assertTrue(windows.spend("a", 2, 5, HOUR, 102.0))
        self.assertFalse(windows.spend("a", 1, 5, HOUR, 100.0 + HOUR - 1))
        self.assertTrue(windows.spend("a", 5, 5, HOUR, 102.0 + HOUR + HOUR / STEPS))
        self.assertTrue(windows.spend("b", 5, 5, HOUR, 103.0 + HOUR))

    def test_nothing(self) -> None:
        """Nothing asks only; less than nothing gives back, and never more than there was."""
        windows = Windows()
        self.assertTrue(windows.spend("a", 0, 1, HOUR, 0.0))
        self.assertTrue(windows.spend("a", -5, 1, HOUR, 0.0))
        self.assertTrue(windows.spend("a", 1, 1, HOUR, 0.0))
        self.assertFalse(windows.spend("a", 0, 1, HOUR, 0.0))
        self.assertTrue(windows.spend("a", -9, 1, HOUR, 1.0))
        self.assertEqual(windows.used("a", 1.0), 0)
        self.assertTrue(windows.spend("a", 1, 1, HOUR, 2.0))
        self.assertFalse(windows.spend("a", 1, 1, HOUR, 2.0))

    def test_givenBack(self) -> None:
        """What is given back makes room once: not again when what it was has expired."""
        windows = Windows()
        self.assertTrue(windows.spend("a", 5, 5, HOUR, 0.0))
        self.assertTrue(windows.spend("a", -5, 5, HOUR, HOUR / STEPS))
        later = HOUR + 1.5 * HOUR / STEPS
        self.assertTrue(windows.spend("a", 5, 5, HOUR, later))
        self.assertFalse(windows.spend("a", 1, 5, HOUR, later))

    @given(st.lists(st.tuples(st.floats(0, 600), st.integers(1, 5)), max_size=80))
    def test_never(self, steps: list[tuple[float, int]]) -> None:
        """In no hour more is spent than there is; and a step later all of it is there again."""
        windows, now, spent = Windows(), 1000.0, []
        for seconds, amount in steps:
            now += seconds
            recent = sum(one for when, one in spent if when > now - HOUR - 2 * HOUR / STEPS)
            if windows.spend("a", amount, 10, HOUR, now):
                spent.append((now, amount))
            else:
                self.assertGreater(recent + amount, 10)
            self.assertLessEqual(sum(one for when, one in spent if when > now - HOUR), 10)

    def test_bounded(self) -> None:
        """A flood of keys drives out its own, not the one that has spent much."""
        windows = Windows(100)
        for _ in range(5):
            windows.spend("victim", 1, 5, HOUR, 0.0)
        for number in range(5000):
            windows.spend(f"flood{number}", 1, 5, HOUR, 1.0 + number / 1000)
        self.assertFalse(windows.spend("victim", 1, 5, HOUR, 10.0))
        self.assertLessEqual(len(list(windows.all(10.0))), 100)

    def test_restart(self) -> None:
        """What was spent counts after a restart, as long as it would have."""
        before, after = Windows(), Windows()
        when = 500.0
        for _ in range(10):
            before.spend("a", 1, 100, HOUR, when)
            when += random.Random(1).uniform(0, 300)
        seconds, spent = before.dump("a", when)
        after.load("a", seconds, spent, 7.0 + HOUR)  # another process, another clock
        for later in (0.0, HOUR / 2, HOUR - 60, HOUR + 2 * HOUR / STEPS):
            self.assertAlmostEqual(
                after.used("a", 7.0 + HOUR + later), before.used("a", when + later), delta=1
            )
        self.assertEqual(before.dump("nobody", when), (0.0, []))
