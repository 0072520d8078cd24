"""
When due work is claimed, and how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.interfaces import Work
from deferrals.relay.destinations import Destinations
from deferrals.relay.duework import PAUSE_SECONDS, SHARE, DueWork
from deferrals.spool.memory import MemorySpool
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage


class DueWorkTests(SynchronousTestCase):
    """
    L{DueWork}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock)
        self.destinations = Destinations(self.clock, 10)
        self.claims: list[tuple[int, int]] = []
        self.answers: list[Deferred[list[Work]]] = []
        self.patch(self.spool, "claim", self.claim)
        self.taken: list[Work] = []
        self.begins = True
        self.due = DueWork(self.spool, self.clock, self.destinations, self.take)

    def claim(self, limit: int, shares: Mapping[str, int], share: int) -> Deferred[list[Work]]:
        self.claims.append((limit, share))
        self.answers.append(Deferred())
        return self.answers[-1]

    def take(self, works: Sequence[Work]) -> bool:
        self.taken += works
        self.due.isMore = bool(works)
        return self.begins

    def work(self) -> Work:
        return Work(makeEnvelope(), makeMessage(), tuple(makeAddressees("a@x.example")))

    def test_noPause(self) -> None:
        """While work is due, and begins, the next claim follows in the next turn."""
        for number in range(1, 5):
            self.due.wake()
            self.clock.advance(0)
            self.assertEqual(self.claims, [(10, SHARE)] * number)
            self.answers[-1].callback([self.work()])
        self.assertEqual(len(self.taken), 4)

    def test_pause(self) -> None:
        """Where nothing of it begins, there is a pause."""
        self.begins = False
        self.due.claim()
        self.answers[-1].callback([self.work()])
        self.clock.advance(PAUSE_SECONDS / 2)
        self.assertEqual(len(self.claims), 1)
        self.clock.advance(PAUSE_SECONDS / 2)
        self.assertEqual(len(self.claims), 2)

    def test_hidden(self) -> None:
        """
        What is not claimed since its destination has all that it may have is claimed
        when one of these has ended, and not some seconds later.
        """
        while self.destinations.begin("x", 10, "kind"):
            self.assertGreater(self.destinations.room, 0)
        self.due.claim()
        self.answers[-1].callback([])
        self.due.wake()
        self.clock.advance(PAUSE_SECONDS)
        self.assertEqual(len(self.claims), 1)
        self.due.lessBlocked()
        self.due.wake()
        self.clock.advance(PAUSE_SECONDS)
        self.assertEqual(len(self.claims), 2)

    def test_oneAtATime(self) -> None:
        """While a claim is under way, nothing else is claimed; nor without room."""
        self.due.claim()
        self.due.claim()
        self.assertEqual(len(self.claims), 1)
        self.answers[-1].callback([])
        self.destinations.limit = 0
        self.due.claim()
        self.assertEqual(len(self.claims), 1)

    def test_nothing(self) -> None:
        """Where nothing is due, nothing is claimed before there is a reason to."""
        self.due.claim()
        self.answers[-1].callback([])
        self.due.wake()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_blocked(self) -> None:
        """What others are in the way of is claimed one by one, when there is room for its sort."""
        for _ in range(8):
            self.destinations.begin("x", 20, "kind", isLocal=True)
        sort = self.destinations.sort("x", "kind", isLocal=True)
        self.due.isMore = False
        self.due.waits(sort)
        self.assertFalse(self.due.isMore)
        self.due.claim()
        self.assertEqual(self.claims, [(2, 1)])
        self.destinations.ended("x", None, "kind")
        self.due.lessBlocked()
        self.assertTrue(self.due.isMore)

    def test_fails(self) -> None:
        """A queue that cannot be read is claimed from again."""
        self.patch(self.spool, "claim", lambda *args: fail(SpoolError("the disk")))
        with capturedLogs() as logged:
            self.due.claim()
        self.assertIn("the disk", formatEvent(logged[0]) or "")
        self.patch(self.spool, "claim", self.claim)
        self.due.claim()
        self.assertEqual(len(self.claims), 1)

    def test_stopped(self) -> None:
        """After a stop nothing is claimed."""
        self.due.wake()
        self.due.stop()
        self.due.claim()
        self.assertEqual((self.claims, self.clock.getDelayedCalls()), ([], []))
