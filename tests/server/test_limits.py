"""
Limits that hold for all listeners, and outlive a restart.
"""

from __future__ import annotations

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.interfaces import ILimits
from deferrals.server.limits import SAVE_SECONDS, SharedLimits
from deferrals.spool.memory import MemorySpool
from tests.workers import contracts


class OneProcessTests(contracts.LimitsContract):
    """
    The contract, for one process.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.limits = [SharedLimits(self.clock)]


class LimitsTests(SynchronousTestCase):
    """
    L{SharedLimits}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1e9)
        self.spool = MemorySpool(self.clock)

    def kept(self) -> SharedLimits:
        """
        Those of a process that has just started.
        """
        limits = SharedLimits(self.clock)
        limits.keepIn(self.spool)
        self.successResultOf(limits.load())
        return limits

    def spend(self, limits: SharedLimits, amount: int, key: str = "a key") -> bool:
        return self.successResultOf(limits.spend("name", key, amount, 5, 3600))

    def test_interface(self) -> None:
        """It provides what it says."""
        self.assertTrue(verifyObject(ILimits, SharedLimits(self.clock)))

    def test_enter(self) -> None:
        """So many at once; one that leaves makes room."""
        limits = SharedLimits(self.clock)
        entered = [self.successResultOf(limits.enter("n", "k", 2)) for _ in range(3)]
        self.assertEqual(entered, [True, True, False])
        self.assertTrue(self.successResultOf(limits.enter("n", "other", 2)))
        limits.leave("n", "k")
        self.assertTrue(self.successResultOf(limits.enter("n", "k", 2)))
        for _ in range(3):
            limits.leave("n", "k")
        self.assertNotIn(("n", "k"), limits._entered)

    def test_spend(self) -> None:
        """What is spent is spent; what counts can be seen; nothing waits where nothing is kept."""
        limits = SharedLimits(self.clock)
        self.assertEqual([self.spend(limits, 3), self.spend(limits, 3)], [True, False])
        self.assertEqual(limits.used("name"), {"a key": 3})
        self.assertEqual(limits.used("other"), {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_restart(self) -> None:
        """What was spent is spent after a restart, and after a crash but for its last second."""
        first = self.kept()
        self.spend(first, 3)
        first.close()
        second = self.kept()
        self.assertEqual(second.used("name"), {"a key": 3})
        self.assertFalse(self.spend(second, 3))
        self.spend(second, 1)
        self.clock.advance(SAVE_SECONDS)
        self.spend(second, 1)
        self.assertEqual(self.kept().used("name"), {"a key": 4})
        self.clock.advance(3700)
        self.assertEqual(self.kept().used("name"), {})

    def test_givenBack(self) -> None:
        """What was given back is forgotten."""
        first = self.kept()
        self.spend(first, 3)
        self.clock.advance(SAVE_SECONDS)
        self.spend(first, -3)
        first.close()
        self.assertEqual(self.kept().used("name"), {})

    def test_waits(self) -> None:
        """Before it is known what was spent, questions wait; a cancelled one is not answered."""
        first = self.kept()
        self.spend(first, 3)
        first.close()
        second = SharedLimits(self.clock)
        second.keepIn(self.spool)
        waiting = second.spend("name", "a key", 3, 5, 3600)
        other = second.spend("name", "a key", 3, 5, 3600).addErrback(lambda _: None)
        other.cancel()
        self.assertNoResult(waiting)
        self.successResultOf(second.load())
        self.assertFalse(self.successResultOf(waiting))

    def test_unreadable(self) -> None:
        """Notes that are none, and notes that cannot be had, are no end."""
        for value in ("x", "[]", '[1, [["a", 2]]]', "3"):
            self.spool.note("limit name key", value, 60)
            self.assertEqual(self.kept().used("name"), {})
            self.flushLoggedErrors()
        self.patch(self.spool, "notes", lambda: fail(OSError("no disk")))
        self.assertTrue(self.spend(self.kept(), 5))
