"""
Tests for L{deferrals.model.arrears}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.arrears import Arrears

ONE, OTHER = ("n", "k"), ("n", "m")


class ArrearsTests(SynchronousTestCase):
    """
    L{Arrears}.
    """

    def setUp(self) -> None:
        self.arrears = Arrears(2)

    def test_owed(self) -> None:
        """What is too much is given back once, while it counts."""
        self.arrears.missed(ONE, -1, 60, 0)
        self.arrears.missed(ONE, -2, 60, 10)
        self.arrears.missed(OTHER, -1, 30, 10)
        self.assertEqual(self.arrears.owed(50), [(ONE, -3, 60)])
        self.assertEqual(self.arrears.owed(50), [])

    def test_lacking(self) -> None:
        """What is given back is taken first from what was never told, as long as that counts."""
        self.arrears.missed(ONE, 2, 60, 0)
        self.assertEqual(self.arrears.owed(1), [])
        self.assertEqual(self.arrears.rest(ONE, 3, 60, 1), 3)
        self.assertEqual(self.arrears.rest(OTHER, -3, 60, 1), -3)
        self.assertEqual(self.arrears.rest(ONE, -1, 60, 1), 0)
        self.assertEqual(self.arrears.rest(ONE, -3, 60, 2), -2)
        self.assertEqual(self.arrears.rest(ONE, -3, 60, 2), -3)
        self.arrears.missed(ONE, 2, 60, 10)
        self.assertEqual(self.arrears.rest(ONE, -1, 60, 70), -1)

    def test_both(self) -> None:
        """Of one key both are one number."""
        self.arrears.missed(ONE, 1, 60, 0)
        self.arrears.missed(ONE, -3, 60, 0)
        self.assertEqual(self.arrears.owed(1), [(ONE, -2, 60)])

    def test_most(self) -> None:
        """Not of any number of keys."""
        for key in "abc":
            self.arrears.missed(("n", key), -1, 60, 0)
        self.assertEqual([key for (_, key), _, _ in self.arrears.owed(1)], ["b", "c"])
