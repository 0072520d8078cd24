"""
The queue, put together.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.disposition import Remove
from deferrals.model.ids import TransactionIds
from deferrals.model.schedule import Schedule
from deferrals.relay.scheduler import Scheduler
from deferrals.server.notes import Notes
from deferrals.server.queue import CAREFUL_SECONDS, Queue
from deferrals.server.services import Services
from deferrals.server.stages import CurrentStages, Stages
from deferrals.spool.memory import MemorySpool
from deferrals.spool.sqlite.queue import CHANGED
from deferrals.spool.sqlite.spool import UNDER_WAY, UNDER_WAY_SECONDS, SqliteSpool
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage
from tests.reactors import PumpedReactor
from tests.server.test_stages import Box, Says


class QueueCase(SynchronousTestCase):
    """
    Makes queues.
    """

    def make(self, spool: Any, isLeft: bool = False, clock: Clock | None = None) -> Queue:
        self.clock = clock or Clock()
        stages = Stages.make(
            envelope=Says(None),
            content=(),
            delivery=Box(),
            schedule=Schedule(),
            notices=None,
            quarantines={},
        )
        self.services = services = Services(self.clock, hostname="mx.test")
        self.ids = TransactionIds(1)
        current = CurrentStages(stages, 10)
        return Queue(spool, services, "mx.test", self.ids, current, 10, 1000, isLeft)


class QueueTests(QueueCase):
    """
    L{Queue}.
    """

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

    def test_left(self) -> None:
        """One that was left says nothing of destinations; its notes are everybody's now."""
        spool = MemorySpool(Clock())
        writer = Notes(Clock())
        self.successResultOf(writer.load(spool))
        self.successResultOf(writer.put("mixed", "a", "b", 7, 3600))
        queue = self.make(spool, isLeft=True)
        own = MemorySpool(Clock())
        self.successResultOf(self.services.notes.load(own))
        self.successResultOf(queue.start())
        self.assertNotIn("destinations", self.services.status.parts())
        ((key, value, _),) = self.services.notes.find("mixed", "a")
        self.assertEqual((key, value), ("b", 7))
        self.assertEqual(len(self.successResultOf(own.notes())), 1)
        self.assertEqual(self.successResultOf(spool.notes()), {})

    def test_empty(self) -> None:
        """It is empty when there is no mail, and nothing set aside."""
        queue = self.make(None)

        def isEmpty() -> Any:
            return self.successResultOf(Deferred.fromCoroutine(queue.isEmpty()))

        self.successResultOf(queue.start())
        self.assertTrue(isEmpty())
        addressees = makeAddressees("a@x.example")
        work = self.successResultOf(queue.spool.stage(makeEnvelope(), makeMessage(), addressees))
        self.assertFalse(isEmpty())
        queue.spool.abandon(work)
        self.assertTrue(isEmpty())

        class View:
            def aside(self) -> Any:
                return succeed([{"name": "something"}])

        view: Any = View()
        queue.view = view
        self.assertFalse(isEmpty())

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


class DeadlyTests(QueueCase):
    """
    A message of which the process dies.
    """

    def setUp(self) -> None:
        self.reactor = PumpedReactor()

    def life(self, directory: str, named: str = "", new: str = "") -> str:
        """
        A process takes all that there is in hand, and dies.

        @param named: what is delivered when it dies, where it is careful.
        @param new: recipients whose message comes in meanwhile.
        @return: the id of that.
        """
        queue = self.make(directory, clock=self.reactor)
        self.reactor.wait(queue.start())
        spool = queue.spool
        assert isinstance(spool, SqliteSpool)
        found = ""
        if new:
            staged = spool.stage(makeEnvelope(), makeMessage(), makeAddressees(*new.split()))
            work = self.reactor.wait(staged)
            spool.release(work, {})
            found = work.envelope.id
        self.reactor.wait(spool.claim(9, {}, 9))
        if named:
            queue.beCareful()
            self.assertEqual(queue._scheduler.destinations.limit, 1)
            spool.note(UNDER_WAY, named if named != "new" else found, UNDER_WAY_SECONDS)
        self.reactor.wait(spool.close())
        return found

    def deaths(self, directory: str) -> tuple[list[Any], set[str]]:
        """
        @return: what the log says of the next start, and the statuses of recipients.
        """
        said: list[Any] = []
        globalLogPublisher.addObserver(said.append)
        self.addCleanup(globalLogPublisher.removeObserver, said.append)
        queue = self.make(directory, clock=self.reactor)
        self.reactor.wait(queue.start())
        assert queue.view is not None
        numbers: Any = self.reactor.wait(queue.view.numbers())
        self.assertIsNone(self.named(queue))
        self.reactor.wait(queue.stop())
        events = [one for one in said if one.get("event") == "deadly"]
        return [(one["transaction"], one["recipients"]) for one in events], set(
            numbers["recipients"]
        )

    def test_deadly(self) -> None:
        """What was in hand at three deaths, and alone at the last, is held at the next start."""
        self.patch(Scheduler, "start", lambda _: None)
        self.patch(Scheduler, "again", lambda _: None)  # nothing is claimed meanwhile
        directory = self.mktemp()
        number = self.life(directory, new="a@x.example")
        self.life(directory, new="b@x.example")
        self.life(directory, named=number)
        self.assertEqual(self.deaths(directory), ([(number, 1)], {"held", "queued"}))
        self.assertEqual(self.deaths(directory), ([], {"held", "queued"}))

    def test_deadlyMany(self) -> None:
        """All of its recipients are held, also more than are changed at once."""
        self.patch(Scheduler, "start", lambda _: None)
        self.patch(Scheduler, "again", lambda _: None)
        directory, count = self.mktemp(), CHANGED + 1
        people = " ".join(f"a{number}@x.example" for number in range(count))
        number = self.life(directory, new=people)
        self.life(directory)
        self.life(directory, named=number)
        self.assertEqual(self.deaths(directory), ([(number, count)], {"held"}))

    def test_byChance(self) -> None:
        """What is delivered when a process is killed, and was not in hand before, goes on."""
        self.patch(Scheduler, "start", lambda _: None)
        directory = self.mktemp()
        for _ in range(2):
            self.life(directory, new="a@x.example")
        self.life(directory, named="new", new="b@x.example")
        self.assertEqual(self.deaths(directory), ([], {"queued"}))

    def test_orderly(self) -> None:
        """An end in order between two deaths says that nothing there is deadly."""
        self.patch(Scheduler, "start", lambda _: None)
        directory = self.mktemp()
        number = self.life(directory, new="a@x.example")
        self.life(directory)
        self.deaths(directory)  # ends in order
        self.life(directory, named=number)
        self.assertEqual(self.deaths(directory), ([], {"queued"}))

    def test_notDeadly(self) -> None:
        """What was delivered is not blamed."""
        queue = self.make(self.mktemp(), clock=self.reactor)
        self.reactor.wait(queue.start())
        queue.beCareful()
        staged = queue.spool.stage(makeEnvelope(), makeMessage(), makeAddressees("a@x.example"))
        work = self.reactor.wait(staged)
        checked: Any = queue.spool.check(work)
        self.reactor.wait(checked)
        queue.spool.record(work, dict.fromkeys(work.addressees, Remove()))
        self.assertIsNone(self.named(queue))
        self.reactor.wait(queue.stop())

    def checking(self) -> Queue:
        """
        @return: one that is careful, with a message under way.
        """
        directory = self.mktemp()
        queue = self.make(directory, clock=self.reactor)
        self.reactor.wait(queue.start())
        queue.beCareful()
        staged = queue.spool.stage(makeEnvelope(), makeMessage(), makeAddressees("a@x.example"))
        checked: Any = queue.spool.check(self.reactor.wait(staged))
        self.reactor.wait(checked)
        self.assertIsNotNone(self.named(queue))
        return queue

    def test_carefree(self) -> None:
        """A process that has lived for a while delivers as before, as it was told last."""
        queue = self.checking()
        queue.replaced(7, None)
        self.assertEqual(queue._scheduler.destinations.limit, 1)
        self.reactor.advance(CAREFUL_SECONDS)
        self.assertEqual(queue._scheduler.destinations.limit, 7)
        self.assertIsNone(self.named(queue))
        self.reactor.wait(queue.stop())

    def test_orderlyEnd(self) -> None:
        """What is under way when the process ends in order is not blamed."""
        queue = self.checking()
        assert isinstance(queue.spool, SqliteSpool)
        forgotten: list[str] = []
        self.patch(queue.spool, "forget", forgotten.append)
        self.reactor.wait(queue.stop())
        self.assertEqual(forgotten, [UNDER_WAY])

    def named(self, queue: Queue) -> str | None:
        return self.reactor.wait(queue.spool.notes()).get(UNDER_WAY)
