"""
What a process has in hand.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.postgresql.held import Held


class HeldTests(SynchronousTestCase):
    """
    L{Held}.
    """

    def test_life(self) -> None:
        """What was taken is ours until it has an outcome; the last one is known as such."""
        held = Held()
        self.assertFalse(held.isOurs(7, [0], 1))
        held.take(7, [0, 1], 1)
        held.take(7, [2], 1)
        self.assertTrue(held.isOurs(7, [0, 1, 2], 1))
        self.assertFalse(held.leave(7, [0, 1]))
        self.assertFalse(held.isOurs(7, [0], 1))
        self.assertTrue(held.leave(7, [2]))
        self.assertTrue(held.leave(7, [2]))
        self.assertEqual(held._owners, {})

    def test_others(self) -> None:
        """What was taken by the owner that this process was before is its own no longer."""
        held = Held()
        held.take(7, [0], 1)
        self.assertFalse(held.isOurs(7, [0], 2))
        held.take(7, [0], 2)
        self.assertTrue(held.isOurs(7, [0], 2))
        held.forget(7)
        self.assertFalse(held.isOurs(7, [0], 2))
        held.take(8, [0], 2)
        held.clear()
        self.assertFalse(held.isOurs(8, [0], 2))
