"""
The queue, put together.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.ids import TransactionIds
from deferrals.model.schedule import Schedule
from deferrals.server.queue import Queue
from deferrals.server.services import Services
from deferrals.server.stages import CurrentStages, Stages
from deferrals.spool.memory import MemorySpool
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage
from tests.server.test_stages import Box, Says


class QueueTests(SynchronousTestCase):
    """
    L{Queue}.
    """

    def make(self, spool: Any) -> Queue:
        self.clock = Clock()
        stages = Stages.make(
            envelope=Says(None),
            content=(),
            delivery=Box(),
            schedule=Schedule(),
            notices=None,
            quarantines={},
        )
        services = Services(self.clock, hostname="mx.test")
        self.ids = TransactionIds(1)
        return Queue(spool, services, "mx.test", self.ids, CurrentStages(stages, 10), 10, 1000)

    def test_memory(self) -> None:
        """A queue in memory has no view for operators."""
        queue = self.make(None)
        self.assertIsInstance(queue.spool, MemorySpool)
        self.assertIsNone(queue.view)

    def test_directory(self) -> None:
        """One in a directory has."""
        self.assertIsNotNone(self.make(self.mktemp()).view)

    def test_nonsense(self) -> None:
        """What is neither a directory nor a spool is refused."""
        self.assertRaises(TypeError, self.make, 5)

    def test_identity(self) -> None:
        """Messages have the spool's own number beside theirs."""
        queue = self.make(None)
        self.successResultOf(queue.start())
        self.assertEqual(self.ids.spool, queue.spool.identity)
        self.successResultOf(queue.stop())

    def test_stoppedMeanwhile(self) -> None:
        """A queue that is stopped while it starts has nothing under way."""
        queue = self.make(None)
        opened: Deferred[None] = Deferred()
        self.patch(queue.spool, "open", lambda: opened)
        started = queue.start()
        self.successResultOf(queue.stop())
        opened.callback(None)
        self.successResultOf(started)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unknown(self) -> None:
        """A delivery that says nothing of a recipient leaves it in the queue."""
        queue = self.make(None)
        self.successResultOf(queue.start())
        addressees = makeAddressees("a@x.example")
        work = self.successResultOf(queue.spool.stage(makeEnvelope(), makeMessage(), addressees))
        queue.release(work)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(queue.spool.waiting()), (1, 1))
        queue.replaced(None, 500)
        self.successResultOf(queue.stop())
