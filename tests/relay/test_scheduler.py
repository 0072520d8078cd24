"""
Deliveries: fresh ones, due ones, and what becomes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, execute, fail, succeed
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides, implementer

from deferrals.errors import StageError
from deferrals.interfaces import ILocalDelivery, IReportingDelivery, ISharingDelivery, Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import Remove, Reschedule
from deferrals.model.envelope import Recipient
from deferrals.model.json import JSON
from deferrals.model.portion import WHOLE, Portion
from deferrals.model.reply import R250_EXPANDED, R451_LOCAL_ERROR, Reply
from deferrals.model.schedule import Schedule, parseSteps
from deferrals.model.settings import Seconds
from deferrals.model.verdict import ACCEPT, Delivered, Details, Failed, Outcome, Retry, Route
from deferrals.relay.attempts import Deliveries
from deferrals.relay.fresh import ASKED
from deferrals.relay.scheduler import (
    DELIVERY_SECONDS,
    RENEW_SECONDS,
    REPORTED_SECONDS,
    STOP_SECONDS,
    Scheduler,
)
from deferrals.spool.memory import MemorySpool
from deferrals.spool.sqlite.spool import SqliteSpool
from deferrals.testing import makeAddressees, makeEnvelope, makeMessage
from tests.reactors import PumpedReactor
from tests.requirements import requirement

LATER = Retry(Reply(451, "4.2.0", "later"))
SCHEDULE = Schedule(parseSteps("60s 5m"), Seconds(1000.0), Seconds(0.0))


class FakeDelivery:
    """
    Remembers what it was to deliver, and says what it is told to say.
    """

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked: list[list[str]] = []

    def destination(self, recipient: Any) -> str:
        return str(recipient.address.domain)

    def deliver(self, message: Any, envelope: Any, recipients: Any) -> Any:
        self.asked.append([str(recipient) for recipient in recipients])
        if callable(self.answer):
            return self.answer(recipients)
        return {r: self.answer or Delivered() for r in recipients}


class Spy:
    """
    A function whose calls are remembered.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> Any:
        self.calls.append(args)
        return self._function(*args)


class FakeNotifier:
    """
    Remembers which messages' senders are to be told.

    @ivar notices: what the next sender is told with.
    """

    def __init__(self) -> None:
        self.told: list[int] = []
        self.notices: list[Work] = []

    def tell(self, number: int) -> Deferred[list[Work]]:
        self.told.append(number)
        notices, self.notices = self.notices, []
        return succeed(notices)

    def sweep(self) -> Deferred[list[Work]]:
        return succeed([])

    def stop(self) -> Deferred[None]:
        return succeed(None)


class SchedulerCase(SynchronousTestCase):
    """
    A L{Scheduler} with one delivery.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock)
        self.delivery = FakeDelivery()
        self.stages: dict[str, Any] = {"box": self.delivery}
        self.notifier = FakeNotifier()
        self.told = self.notifier.told
        self.scheduler = self.newScheduler()

    def newScheduler(self, isShared: bool = False) -> Scheduler:
        return Scheduler(
            self.spool,
            self.clock,
            Deliveries(stage=self.stages.get, schedule=lambda name: SCHEDULE),
            self.notifier,  # type: ignore[arg-type]
            concurrency=2,
            chance=lambda: 0.5,
            isShared=isShared,
        )

    def stage(self, *addresses: str) -> Work:
        addressees = makeAddressees(*addresses)
        work: Work = self.successResultOf(
            self.spool.stage(makeEnvelope(), makeMessage(), addressees)
        )
        return work

    def left(self) -> tuple[int, int]:
        waiting: tuple[int, int] = self.successResultOf(self.spool.waiting())
        return waiting


class SchedulerTests(SchedulerCase):
    """
    L{Scheduler}.
    """

    def test_logged(self) -> None:
        """
        The log has the whole story: the final reply with the next hop's id, where
        it was found, over which TLS, how long it took, and why not (D12).
        """
        final = Reply(250, "2.0.0", "queued as 4711")
        details = Details("why", final, "192.0.2.1", 25, "TLSv1.3 X", True)
        waiting: Deferred[Any] = Deferred()
        self.delivery.answer = lambda recipients: waiting
        with capturedLogs() as logged:
            work = self.stage("a@x.example")
            self.scheduler.release(work)
            self.clock.advance(2.5)
            own = Reply(250, "2.1.5", "ok")
            waiting.callback({work.addressees[0]: Delivered(own, "mx.test", details=details)})
        (event,) = [one for one in logged if one.get("event") == "delivery"]
        for key, value in (
            ("outcome", "delivered"),
            ("reply", "250 2.1.5 ok"),
            ("final", "250 2.0.0 queued as 4711"),
            ("address", "192.0.2.1"),
            ("port", 25),
            ("tls", "TLSv1.3 X"),
            ("verified", True),
            ("seconds", 2.5),
            ("cause", "why"),
            ("host", "mx.test"),
        ):
            self.assertEqual(event[key], value)
        for part in ("queued as 4711", "[192.0.2.1]:25", "TLSv1.3 X verified", "why", "2.5 s"):
            self.assertIn(part, formatEvent(event))

    def test_unrecorded(self) -> None:
        """An outcome of which nothing can be made, at once or late, ends its attempt, no more."""

        class Unusable(Delivered):
            @property
            def details(self) -> Any:
                raise SystemExit(1)

            @details.setter
            def details(self, given: Any) -> None: ...

        late: Deferred[Any] = Deferred()
        for answer in (lambda one: {one: made(Unusable, None, "", "delivered")}, lambda one: late):
            self.delivery.answer = lambda recipients, answer=answer: answer(recipients[0])
            work = self.stage("a@x.example")
            self.scheduler.release(work)
        late.callback({work.addressees[0]: made(Unusable, None, "", "delivered")})
        self.assertEqual(self.left(), (2, 2))
        self.successResultOf(self.scheduler.stop())
        self.flushLoggedErrors()

    def test_fresh(self) -> None:
        """What is released is delivered at once, and leaves the spool."""
        self.scheduler.release(self.stage("a@x.example", "b@x.example"))
        self.assertEqual(self.delivery.asked, [["a@x.example", "b@x.example"]])
        self.assertEqual(self.left(), (0, 0))

    def test_retried(self) -> None:
        """Recipients to be retried are tried again on the timer, and no others."""
        self.delivery.answer = lambda recipients: {
            recipients[0]: Delivered(),
            recipients[-1]: LATER,
        }
        self.scheduler.start()
        self.scheduler.release(self.stage("a@x.example", "b@x.example"))
        self.assertEqual(self.left(), (1, 1))
        self.delivery.answer = None
        self.clock.advance(59)
        self.clock.advance(6)
        self.assertEqual(self.delivery.asked[1:], [["b@x.example"]])
        self.assertEqual(self.left(), (0, 0))

    def test_atStart(self) -> None:
        """What was left in the spool is delivered at the start."""
        self.stage("a@x.example")
        self.successResultOf(self.spool.open())
        self.scheduler.start()
        self.assertEqual(self.delivery.asked, [["a@x.example"]])

    def test_raises(self) -> None:
        """A delivery that raises, or forgets somebody, is tried again for them."""

        def broken(recipients: Any) -> Any:
            raise ValueError("on purpose")

        for answer in (broken, lambda recipients: {}, lambda recipients: {recipients[0]: "yes"}):
            self.setUp()
            self.delivery.answer = answer
            self.scheduler.release(self.stage("a@x.example"))
            self.assertEqual(self.left(), (1, 1))

    def test_hangs(self) -> None:
        """A delivery that hangs is cancelled and tried again."""
        cancelled: list[Any] = []
        self.delivery.answer = lambda recipients: Deferred(cancelled.append)
        self.scheduler.release(self.stage("a@x.example"))
        self.clock.advance(DELIVERY_SECONDS)
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.left(), (1, 1))

    def test_unknownDelivery(self) -> None:
        """A delivery that the configuration does not have any longer is waited for."""
        del self.stages["box"]
        self.scheduler.start()
        self.scheduler.release(self.stage("a@x.example"))
        self.assertEqual((self.left(), self.told), ((1, 1), []))
        self.stages["box"] = self.delivery
        self.clock.pump([1] * 70)
        self.assertEqual((self.left(), self.told), ((0, 0), []))

    def test_putBack(self) -> None:
        """What was claimed and finds no room is free at once, and not when its lease is over."""
        self.delivery.answer = lambda recipients: Deferred()
        for name in "ab":
            self.scheduler.release(self.stage(f"{name}@x.example"))
        work = self.stage("c@y.example")
        self.spool.release(work, {})
        self.scheduler.take(work)
        (again,) = self.successResultOf(self.spool.claim(10, {}, 10))
        self.assertEqual(again.envelope, work.envelope)

    def test_claimedApart(self) -> None:
        """
        A recipient that was claimed has its turn while another one of its message waits in
        memory; what is here already is left where it is.
        """
        self.delivery.answer = lambda recipients: Deferred()
        for name in "ab":
            self.scheduler.release(self.stage(f"{name}@x.example"))
        work = self.stage("c@x.example", "d@y.example")
        memory, queue = work.addressees
        self.scheduler.release(attrs.evolve(work, addressees=(memory,), whole=False))
        self.spool.record(work, {queue: Reschedule("y.example", 0.0, 1000.0, 0.0)})
        (claimed,) = self.successResultOf(self.spool.claim(10, {}, 10))
        both = attrs.evolve(claimed, addressees=(memory, *claimed.addressees))
        for found in (claimed, both):
            self.scheduler._takeDue([found])  # there is no room, so it is put back
            (again,) = self.successResultOf(self.spool.claim(10, {}, 10))
            self.assertEqual([one.seq for one in again.addressees], [queue.seq])

    def test_toldTogether(self) -> None:
        """A sender is told once, when the last recipient's outcome is known."""
        last: Deferred[Any] = Deferred()
        self.delivery.answer = lambda recipients: (
            last if str(recipients[0]) == "b@y.example" else {recipients[0]: NEVER}
        )
        work = self.stage("a@x.example", "b@y.example")
        self.scheduler.release(work)
        self.assertEqual(self.told, [])
        last.callback({work.addressees[1]: NEVER})
        self.assertEqual(self.told, [work.envelope.transaction])

    def test_noticeDelivered(self) -> None:
        """The notice that tells a sender is delivered."""
        notice = self.stage("sender@z.example")
        self.spool.release(notice, {})
        self.notifier.notices = [notice]
        self.delivery.answer = lambda recipients: {
            r: Delivered() if str(r) == "sender@z.example" else NEVER for r in recipients
        }
        self.scheduler.release(self.stage("a@x.example"))
        self.assertEqual(self.delivery.asked, [["a@x.example"], ["sender@z.example"]])

    def test_backOff(self) -> None:
        """The spool knows which destinations are left alone, and when that ends."""
        told: list[tuple[str, bool]] = []
        self.patch(self.spool, "backOff", lambda name, seconds: told.append((name, seconds > 0)))
        self.delivery.answer = Retry(Reply(451, "4.4.1", "no answer"))
        self.scheduler.start()
        for _ in range(3):
            self.scheduler.release(self.stage("a@x.example"))
        self.assertEqual(told, [("x.example", True)])
        self.delivery.answer = None
        self.clock.pump([1] * 130)
        self.assertEqual(told[-1], ("x.example", False))

    def test_bounded(self) -> None:
        """What cannot be delivered now is left to the queue, and follows when there is room."""
        held: list[Deferred[Any]] = []

        def hold(recipients: Any) -> Deferred[Any]:
            d: Deferred[Any] = Deferred()
            held.append(d.addCallback(lambda _: {r: Delivered() for r in recipients}))
            return d

        self.delivery.answer = hold
        self.scheduler.start()
        for number in range(4):
            self.scheduler.release(self.stage(f"r{number}@x.example"))
        self.assertEqual(len(self.delivery.asked), 2)
        for d in held[:2]:
            d.callback(None)
        self.clock.advance(5)
        self.assertEqual(len(self.delivery.asked), 4)

    def hold(self) -> list[Deferred[Any]]:
        """
        Let deliveries wait.

        @return: fire them, and they are over.
        """
        held: list[Deferred[Any]] = []

        def answer(recipients: Any) -> Deferred[Any]:
            held.append(Deferred())
            return held[-1].addCallback(lambda _: {r: Delivered() for r in recipients})

        self.delivery.answer = answer
        return held

    def claimed(self) -> list[Any]:
        """
        @return: the claims that bring something, as they come.
        """
        found: list[Any] = []
        claim = self.spool.claim

        def noting(*args: Any) -> Any:
            return claim(*args).addCallback(lambda works: found.extend(works) or works)

        self.patch(self.spool, "claim", noting)
        return found

    def test_fromMemory(self) -> None:
        """
        Fresh mail that finds no room is delivered from memory when there is some, in its
        order, and nothing of it is put into the queue, claimed or recorded but its end.
        """
        held, claimed = self.hold(), self.claimed()
        self.scheduler.start()
        self.patch(self.spool, "record", spied := Spy(self.spool.record))
        for number in range(5):
            self.scheduler.release(self.stage(f"r{number}@x.example"))
        for number in range(5):
            held[number].callback(None)
            self.clock.advance(0)
        self.assertEqual(self.delivery.asked, [[f"r{number}@x.example"] for number in range(5)])
        self.assertEqual((self.left(), claimed), ((0, 0), []))
        self.assertEqual(len(spied.calls), 5)

    def test_notForLong(self) -> None:
        """What has waited in memory for its time goes into the queue, before its lease ends."""
        held, claimed = self.hold(), self.claimed()
        self.scheduler.start()
        for number in range(4):
            self.scheduler.release(self.stage(f"r{number}@x.example"))
        self.clock.pump([RENEW_SECONDS] * 2)
        for d in held[:2]:
            d.callback(None)
        self.clock.advance(5)
        self.assertEqual(len(claimed), 2)
        self.assertEqual(len(self.delivery.asked), 4)

    def test_memoryAtStop(self) -> None:
        """At a stop, what waits in memory is in the queue, and due."""
        self.hold()
        for number in range(3):
            self.scheduler.release(self.stage(f"r{number}@x.example"))
        self.scheduler.stop()
        self.assertEqual(len(self.successResultOf(self.spool.claim(10, {}, 10))), 1)

    def test_heardOfTrouble(self) -> None:
        """What another process is known to leave alone is not claimed again and again."""
        claims = Spy(self.spool.claim)
        self.patch(self.spool, "claim", claims)
        self.scheduler.start()
        trouble: JSON = {"failures": 5, "seconds": 600.0, "reply": None, "host": ""}
        self.scheduler.destinations.heard("destinations", "x.example", trouble)
        self.scheduler.release(self.stage("a@x.example"))
        self.clock.pump([0.05] * 1000)
        self.assertLess(len(claims.calls), 15)  # each five seconds
        self.assertEqual(self.delivery.asked, [])
        self.clock.pump([5] * 80)
        self.assertEqual(self.delivery.asked, [["a@x.example"]])

    def test_openedElsewhere(self) -> None:
        """
        What a queue hands out that others have, too, is tried: it is not shut for them.  If
        that fails, it is left alone for as long as it would have been.
        """
        self.scheduler = self.newScheduler(isShared=True)
        shut = Spy(self.spool.backOff)
        self.patch(self.spool, "backOff", shut)
        self.delivery.answer = Retry(Reply(451, "4.4.1", "no answer"))
        self.scheduler.start()
        trouble: JSON = {"failures": 5, "seconds": 600.0, "reply": None, "host": ""}
        self.scheduler.destinations.heard("destinations", "x.example", trouble)
        self.scheduler.release(self.stage("a@x.example"))
        self.clock.pump([0.05] * 220)
        self.assertEqual(self.delivery.asked, [["a@x.example"]])
        self.assertEqual([seconds for _, seconds in shut.calls], [600.0])

    def test_memoryChanged(self) -> None:
        """What an operator is about to change does not wait in memory, but in the queue."""
        self.hold()
        works = [self.stage(f"r{number}@x.example") for number in range(4)]
        for work in works:
            self.scheduler.release(work)
        self.scheduler.putBack({works[0].envelope.transaction, works[3].envelope.transaction})
        (waits,) = self.successResultOf(self.spool.claim(10, {}, 10))
        self.assertEqual(waits.addressees, works[3].addressees)

    def test_memoryAtReload(self) -> None:
        """What waits in memory goes by the new configuration."""
        held = self.hold()
        self.scheduler.start()
        for number in range(3):
            self.scheduler.release(self.stage(f"r{number}@x.example"))
        other = self.stages["box"] = FakeDelivery()
        self.scheduler.reloaded(2)
        held[0].callback(None)
        self.clock.advance(5)
        self.assertEqual(other.asked, [["r2@x.example"]])

    def test_shared(self) -> None:
        """
        Where others deliver, too, it has its part of all slots, after a reload as well; when
        they are gone it goes on with all.
        """
        self.scheduler.reloaded(8)
        self.scheduler.shareWith(Portion(1, 4))
        alsoProvides(self.delivery, ILocalDelivery)
        held = self.hold()
        self.successResultOf(self.spool.open())
        self.scheduler.start()
        for number in range(6):
            self.scheduler.release(self.stage(f"r{number}@x{number}.example"))
        self.assertEqual(len(held), 2)
        self.scheduler.reloaded(12)
        self.clock.advance(5)
        self.assertEqual(len(held), 3)
        self.scheduler.shareWith(WHOLE)
        self.clock.advance(5)
        self.assertEqual(len(held), 6)

    def test_memoryShares(self) -> None:
        """While work is found in the queue, fresh mail leaves half of the slots to it."""
        self.scheduler.reloaded(8)
        self.spool.release(self.stage("old@y.example"), {})
        self.successResultOf(self.spool.open())
        alsoProvides(self.delivery, ILocalDelivery)
        held = self.hold()
        for number in range(20):
            self.scheduler.release(self.stage(f"r{number}@x{number}.example"))
        self.scheduler.start()
        self.assertNotIn(["old@y.example"], self.delivery.asked)
        for number in range(4):
            held[number].callback(None)
            self.clock.advance(0)
        self.assertIn(["old@y.example"], self.delivery.asked)

    def test_toldWithMemory(self) -> None:
        """A sender is told when nothing of the message waits in memory any longer."""
        self.scheduler.reloaded(1)
        self.delivery.answer = NEVER
        work = self.stage("a@x.example", "b@y.example")
        self.scheduler.release(work)
        self.assertEqual(self.told, [work.envelope.transaction])
        self.assertEqual(len(self.delivery.asked), 2)

    def test_manyDestinations(self) -> None:
        """
        What one attempt makes room for is begun, however many destinations are asked in
        vain before the one that has it.
        """
        self.scheduler.reloaded(3)
        held = self.hold()
        names = [f"r{number}@x{number}.example" for number in range(2 * ASKED)]
        for name in names:
            self.scheduler.release(self.stage(name))
        for number in range(len(names)):
            held[number].callback(None)
            self.clock.advance(0)
        self.assertEqual(sorted(self.delivery.asked), sorted([name] for name in names))

    def test_manyAtOnce(self) -> None:
        """However many wait in memory, those that end at once follow each other."""
        held = self.hold()
        alsoProvides(self.delivery, ILocalDelivery)
        for number in range(1000):
            self.scheduler.release(self.stage(f"r{number}@x.example"))
        self.delivery.answer = None
        held[0].callback(None)
        self.assertEqual(self.left(), (1, 1))

    def test_sharing(self) -> None:
        """
        A delivery that shares its costs has as many at once as there may be, unless the
        configuration says how many; all others have 20.
        """
        for interfaces, concurrency, wanted in (
            ([], None, 20),
            ([ISharingDelivery], None, 60),
            ([ISharingDelivery], 7, 7),
        ):
            schedule = attrs.evolve(SCHEDULE, concurrency=concurrency)
            self.setUp()
            alsoProvides(self.delivery, ILocalDelivery, *interfaces)
            deliveries = Deliveries(stage=self.stages.get, schedule=lambda name, s=schedule: s)
            scheduler = Scheduler(
                self.spool,
                self.clock,
                deliveries,
                self.notifier,  # type: ignore[arg-type]
                concurrency=80,
            )
            self.hold()
            for number in range(80):
                scheduler.release(self.stage(f"r{number}@x.example"))
            self.assertEqual(len(self.delivery.asked), wanted)

    def test_kinds(self) -> None:
        """Notices to servers that hang let other mail pass, and one another where one ends."""
        held: dict[str, Deferred[Any]] = {}

        def hold(recipients: Any) -> Any:
            outcomes = {r: Delivered() for r in recipients}
            (name,) = map(str, recipients)
            if not name.startswith("stranger"):
                return outcomes
            held[name] = Deferred()
            return held[name].addCallback(lambda _: outcomes)

        self.delivery.answer = hold
        self.scheduler.destinations.limit = 8
        self.scheduler.start()
        for number in range(20):
            notice = makeEnvelope(sender=None)
            addressees = makeAddressees(f"stranger@x{number}.example")
            work = self.successResultOf(self.spool.stage(notice, makeMessage(), addressees))
            self.scheduler.release(work)
        self.assertEqual(len(held), 3)
        claims: list[Any] = []
        self.patch(self.spool, "claim", lambda *args: claims.append(args) or claim(*args))
        claim = type(self.spool).claim.__get__(self.spool)
        for number in range(50):
            self.scheduler.release(self.stage(f"honest{number}@y.example"))
            self.clock.advance(0.1)
        self.assertEqual(self.left(), (20, 20))
        self.assertLess(len(claims), 5)  # the queue, full of the same, is left alone
        for name in list(held)[:2]:
            held[name].callback(None)
            self.clock.advance(0.1)
        self.assertEqual(len(held), 5)
        self.assertEqual(self.left(), (18, 18))

    def test_stop(self) -> None:
        """Stopping begins nothing more, and waits for what was begun."""
        d: Deferred[Any] = Deferred()
        self.delivery.answer = lambda recipients: d.addCallback(
            lambda _: {recipients[0]: Delivered()}
        )
        self.scheduler.start()
        self.scheduler.release(self.stage("a@x.example"))
        stopped = self.scheduler.stop()
        self.scheduler.release(self.stage("b@x.example"))
        self.assertNoResult(stopped)
        d.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.delivery.asked, [["a@x.example"]])
        self.assertEqual(self.left(), (1, 1))

    @requirement("D-24")
    def test_patience(self) -> None:
        """
        A server may answer each of a hundred recipients in the last of its ten
        minutes; a stage that hangs is not waited for without end.
        """
        cancelled: list[Any] = []
        self.delivery.answer = lambda recipients: Deferred(cancelled.append)
        self.scheduler.start()
        self.scheduler.release(self.stage("a@x.example"))
        self.clock.pump([600] * 101)
        self.assertEqual(cancelled, [])
        self.delivery.answer = Delivered()
        self.clock.pump([600] * 50)
        self.assertEqual(len(cancelled), 1)

    def test_stoppedBefore(self) -> None:
        """A server that is stopped while it starts takes nothing out of the queue."""
        claims: list[tuple[Any, ...]] = []
        self.patch(self.spool, "claim", lambda *args: claims.append(args) or succeed([]))
        self.successResultOf(self.scheduler.stop())
        self.scheduler.start()
        self.assertEqual((claims, self.clock.getDelayedCalls()), ([], []))

    def test_stopInTime(self) -> None:
        """A delivery that does not end does not keep the server from stopping: it stays queued."""
        self.delivery.answer = lambda recipients: Deferred()
        self.scheduler.start()
        self.scheduler.release(self.stage("a@x.example"))
        stopped = self.scheduler.stop()
        self.clock.advance(STOP_SECONDS - 1)
        self.assertNoResult(stopped)
        self.clock.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(self.left(), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopChecking(self) -> None:
        """Nor is a delivery begun whose message was looked at, or is for too long."""
        for isLate in (False, True):
            self.setUp()
            check: Deferred[None] = Deferred()
            self.spool.check = lambda work, check=check: check
            self.scheduler.start()
            self.scheduler.release(self.stage("a@x.example"))
            stopped = self.scheduler.stop()
            if isLate:
                self.clock.advance(STOP_SECONDS)
                self.successResultOf(stopped)
            check.callback(None)
            self.successResultOf(stopped)
            self.assertEqual((self.delivery.asked, self.left()), ([], (1, 1)))
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failed(self) -> None:
        """A recipient that failed is not tried again, and the sender is to be told."""
        self.delivery.answer = Failed(Reply(550, "5.1.1", "gone"))
        self.scheduler.start()
        work = self.stage("a@x.example")
        self.scheduler.release(work)
        self.assertEqual(self.told, [work.envelope.transaction])
        self.clock.advance(10000)
        self.assertEqual(len(self.delivery.asked), 1)
        self.assertEqual(self.left(), (1, 1))

    def test_nobodyToTell(self) -> None:
        """Where nobody is or wants to be told, a failure just ends (RFC 3461 §4.1)."""
        self.delivery.answer = Failed(Reply(550, "5.1.1", "gone"))
        addressees = makeAddressees("a@x.example")
        never = attrs.evolve(addressees[0].recipient, notify=frozenset({"NEVER"}))
        for sender, one in (
            ("", addressees[0]),
            ("s@x.example", attrs.evolve(addressees[0], recipient=never)),
        ):
            d = self.spool.stage(makeEnvelope(sender), makeMessage(), [one])
            self.scheduler.release(self.successResultOf(d))
            self.assertEqual((self.told, self.left()), ([], (0, 0)))

    @requirement("P-11")
    def test_refusal(self) -> None:
        """
        A recipient that refuses what was accepted for all is not delivered: the
        sender is told.
        """
        reply = Reply(550, "5.6.0", "refuses the content")
        one, two = makeAddressees("a@x.example", "b@x.example")
        work = self.successResultOf(
            self.spool.stage(makeEnvelope(), makeMessage(), [one, attrs.evolve(two, refusal=reply)])
        )
        self.scheduler.release(work)
        self.assertEqual(self.delivery.asked, [["a@x.example"]])
        (telling,) = self.successResultOf(self.spool.notices(1, self.told[0]))
        (addressee,) = telling.addressees
        self.assertEqual((str(addressee), addressee.action), ("b@x.example", "failed"))
        self.assertEqual((addressee.reply, addressee.host), (reply, ""))

    def test_expanded(self) -> None:
        """An alias goes nowhere: who asked for it is told that it was expanded."""
        one, two = makeAddressees("a@x.example", "all@x.example")
        named = attrs.evolve(two.recipient, notify=frozenset({"SUCCESS"}))
        two = attrs.evolve(two, recipient=named, refusal=R250_EXPANDED)
        work = self.successResultOf(self.spool.stage(makeEnvelope(), makeMessage(), [one, two]))
        self.scheduler.release(work)
        self.assertEqual(self.delivery.asked, [["a@x.example"]])
        (telling,) = self.successResultOf(self.spool.notices(1, self.told[0]))
        (addressee,) = telling.addressees
        self.assertEqual((str(addressee), addressee.action), ("all@x.example", "expanded"))

    def test_expired(self) -> None:
        """The schedule's last step repeats; who is too old at an attempt is given up after it."""
        self.delivery.answer = LATER
        self.scheduler.start()
        self.scheduler.release(self.stage("a@x.example"))
        for _ in range(400):
            self.clock.advance(5)
        self.assertEqual(len(self.delivery.asked), 6)  # at 0, 60, 360, 660, 960, 1260
        works = self.successResultOf(self.spool.notices(1))
        self.assertEqual([a.action for w in works for a in w.addressees], ["expired"])

    def test_deadDestination(self) -> None:
        """A dead destination is probed by one message, and does not keep a slot from others."""
        dead = Retry(Reply(451, "4.4.1", "no answer"))
        self.delivery.answer = lambda recipients: {
            r: dead if str(r).endswith("dead.example") else Delivered() for r in recipients
        }
        self.scheduler.start()
        for number in range(20):
            self.scheduler.release(self.stage(f"{number}@dead.example"))
        self.assertEqual(len(self.delivery.asked), 3)
        self.scheduler.release(self.stage("a@live.example"))
        self.assertEqual(self.delivery.asked[-1], ["a@live.example"])
        self.clock.pump([1] * 59)
        self.assertEqual(len(self.delivery.asked), 4)
        self.clock.pump([1] * 10)
        self.assertEqual(len(self.delivery.asked), 5)
        self.delivery.answer = None
        self.clock.pump([1] * 400)
        self.assertEqual(self.left(), (0, 0))

    def test_brokenTogether(self) -> None:
        """
        Connections that one restart breaks, some before others are done, close no
        destination that works: the others are tried at once.
        """
        self.scheduler.reloaded(20)
        waiting: list[Deferred[Any]] = []

        def begin(recipients: Any) -> Any:
            d: Deferred[Any] = Deferred()
            waiting.append(d)
            return d.addCallback(lambda outcome: dict.fromkeys(recipients, outcome))

        self.delivery.answer = begin
        for _ in range(10):
            self.scheduler.release(self.stage("a@x.example"))
        self.clock.advance(1)
        for number, d in enumerate(list(waiting)):
            broken = Retry(Reply(421, "4.3.2", "restarting"))
            d.callback(broken if number < 4 else Delivered())
        self.assertEqual(self.scheduler.destinations.troubles(), {})
        self.scheduler.release(self.stage("b@x.example"))
        self.assertEqual(self.delivery.asked[-1], ["b@x.example"])

    def test_notRecorded(self) -> None:
        """An outcome that cannot be recorded is recorded later, and not delivered again."""
        record = self.spool.record
        self.spool.record = lambda *args: succeed(None).addCallback(  # type: ignore[method-assign]
            lambda _: 1 // 0
        )
        self.scheduler.start()
        self.scheduler.release(self.stage("a@x.example"))
        self.assertEqual(self.left(), (1, 1))
        self.clock.pump([1] * 5)
        self.spool.record = record  # type: ignore[method-assign]
        self.clock.pump([1] * 70)
        self.assertEqual((len(self.delivery.asked), self.left()), (1, (0, 0)))
        self.assertEqual(len(self.flushLoggedErrors()), 0)


@implementer(IReportingDelivery)
class Reporting(FakeDelivery):
    """
    Reports what it is told to, and ends when it is told to.

    @ivar report: of the last delivery.
    @ivar end: fires with its answer.
    """

    def deliverReporting(self, message: Any, envelope: Any, recipients: Any, report: Any) -> Any:
        self.recipients = recipients
        self.asked.append([str(recipient) for recipient in recipients])
        self.report = report
        self.last: Any = None
        self.end: Deferred[Any] = Deferred(self.cancelled)
        return self.end

    def cancelled(self, end: Any) -> None:
        if self.last is not None:
            self.report(self.last, Delivered())


class ReportedTests(SchedulerCase):
    """
    Outcomes that are known before a delivery has ended.
    """

    def setUp(self) -> None:
        super().setUp()
        self.reporting = Reporting()
        self.stages["box"] = self.reporting

    def begin(self, *outcomes: Outcome, of: int = 3) -> list[Addressee]:
        """
        A message, of whose recipients some are reported.
        """
        self.scheduler.release(self.stage(*(f"{x}@x.example" for x in "abcd"[:of])))
        addressees: list[Addressee] = list(self.reporting.recipients)
        for addressee, outcome in zip(addressees, outcomes, strict=False):
            self.reporting.report(addressee, outcome)
        return addressees

    def queued(self) -> set[str]:
        """
        Who is tried again.
        """
        self.scheduler.start()
        self.clock.pump([1] * 70)
        (again,) = self.reporting.asked[1:]
        return set(again)

    def test_whileUnderWay(self) -> None:
        """They are recorded while it goes on."""
        self.begin(Delivered(), LATER)
        self.clock.advance(REPORTED_SECONDS)
        self.assertEqual(self.left(), (1, 2))
        self.assertNoResult(self.reporting.end)
        self.assertEqual(self.scheduler.destinations.room, 1)

    def test_together(self) -> None:
        """What is known at its end is recorded at once."""
        records: list[int] = []
        record = self.spool.record
        self.spool.record = lambda work, known: records.append(len(known)) or record(work, known)  # type: ignore[method-assign, func-returns-value]
        a, b, c = self.begin(Delivered(), Delivered())
        self.reporting.end.callback({a: Delivered(), b: Delivered(), c: Delivered()})
        self.clock.advance(REPORTED_SECONDS)
        self.assertEqual((records, self.left()), ([3], (0, 0)))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_parts(self) -> None:
        """Each is recorded once, and the attempt ends with the last."""
        _, b, c = self.begin(Delivered())
        self.clock.advance(REPORTED_SECONDS)
        self.reporting.report(b, Delivered())
        self.clock.advance(REPORTED_SECONDS)
        self.assertEqual(self.left(), (1, 1))
        self.reporting.report(c, NEVER)
        self.clock.advance(REPORTED_SECONDS)
        self.assertEqual((self.scheduler.destinations.room, self.told), (1, []))
        self.reporting.end.callback({})
        self.assertEqual((self.scheduler.destinations.room, len(self.told)), (2, 1))

    def test_raises(self) -> None:
        """What was reported stands when it raises afterwards; others are tried again."""
        self.begin(Delivered(), NEVER)
        self.reporting.end.errback(ValueError("on purpose"))
        self.assertEqual((self.queued(), len(self.told)), ({"c@x.example"}, 1))

    def test_late(self) -> None:
        """And when it takes too long."""
        self.begin(Delivered(), Delivered())
        self.clock.advance(DELIVERY_SECONDS)
        self.assertEqual((self.left(), len(self.told)), ((1, 1), 1))

    def test_stopped(self) -> None:
        """
        And when the server stops: what is known then is recorded at once, and what is
        said to the cancellation before the server has stopped.
        """
        for answered in (False, True):
            self.setUp()
            _, b, c, _ = self.begin(Delivered(), of=4)
            stopped = self.scheduler.stop()
            self.assertEqual(self.left(), (1, 3))
            self.reporting.report(b, Delivered())
            if answered:
                self.reporting.last = c
            self.clock.advance(STOP_SECONDS)
            self.successResultOf(stopped)
            self.assertEqual(self.left()[1], 1 if answered else 2)

    def test_notRecordedYet(self) -> None:
        """
        While it cannot be recorded its recipients stay leased, and the attempt keeps
        its slot.
        """
        record = self.spool.record
        self.spool.record = lambda *args: fail(StageError("full"))  # type: ignore[method-assign]
        renewed: list[Work] = []
        self.spool.renew = renewed.extend  # type: ignore[method-assign]
        self.scheduler.start()
        a, b, c = self.begin(Delivered())
        self.clock.pump([REPORTED_SECONDS, 60, 60])
        self.assertEqual({one for work in renewed for one in work.addressees}, {a, b, c})
        self.reporting.end.callback({a: Delivered(), b: Delivered(), c: Delivered()})
        self.assertEqual((self.left(), self.scheduler.destinations.room), ((1, 3), 1))
        self.spool.record = record  # type: ignore[method-assign]
        self.clock.pump([1] * 130)
        self.assertEqual((self.left(), self.scheduler.destinations.room), ((0, 0), 2))

    def test_nonsense(self) -> None:
        """What is no report is logged, and counts for nothing; the first one counts."""
        a, b, c = self.begin(Delivered())
        (foreign,) = makeAddressees("f@x.example")
        reports: list[tuple[Any, Any]] = [
            (a, NEVER),
            (b, "yes"),
            (b, None),
            (foreign, Delivered()),
            ("b@x.example", Delivered()),
            ([], Delivered()),
        ]
        with capturedLogs() as logged:
            for report in reports:
                self.reporting.report(*report)
            self.reporting.end.callback({b: LATER, c: LATER, a: NEVER})
            self.reporting.report(b, Delivered())
        said = [formatEvent(one) for one in logged if one.get("stage") == "Reporting"]
        self.assertEqual(len(said), len(reports) + 1)
        self.assertEqual(self.queued(), {"b@x.example", "c@x.example"})

    def test_waited(self) -> None:
        """A session that waits is told of all of them together, and hands them back."""
        addressees = makeAddressees("a@x.example", "b@x.example")
        d = self.spool.stage(makeEnvelope(), makeMessage(), addressees)
        waiting = self.scheduler.releaseAndWait(self.successResultOf(d), True)
        self.reporting.report(addressees[0], NEVER)
        self.clock.pump([REPORTED_SECONDS] * 3)
        self.assertEqual(self.left(), (1, 2))
        self.reporting.end.errback(ValueError("on purpose"))
        self.assertEqual(self.successResultOf(waiting), {0: NEVER})
        self.assertEqual((self.left(), self.told), ((1, 1), []))

    def test_notWaitedAnyLonger(self) -> None:
        """Once it does not wait, what is known goes its usual way."""
        addressees = makeAddressees("a@x.example", "b@x.example")
        d = self.spool.stage(makeEnvelope(), makeMessage(), addressees)
        waiting = self.scheduler.releaseAndWait(self.successResultOf(d), True)
        self.reporting.report(addressees[0], Delivered())
        waiting.cancel()
        self.clock.pump([REPORTED_SECONDS] * 3)
        self.assertEqual(self.left(), (1, 1))


FULL = Retry(Reply(452, "4.2.2", "the mailbox is full"))
NEVER = Failed(Reply(550, "5.6.0", "no such content"))


class Stage:
    """
    A delivery that comes to what it is told, in turn.
    """

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def destination(self, recipient: Recipient) -> str:
        return str(recipient.address.domain)

    def deliver(self, message: Any, envelope: Any, recipients: Sequence[Addressee]) -> Any:
        answer = self.answers.pop(0)
        return answer(recipients) if callable(answer) else answer


class SlowSpool(MemorySpool):
    """
    One whose disk is slow.

    @ivar written: fire it to have outcomes recorded.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.written: Deferred[None] = Deferred()

    def record(self, *args: Any) -> Any:
        return self.written.addCallback(lambda _: super(SlowSpool, self).record(*args))


class WaitingTests(SynchronousTestCase):
    """
    L{Scheduler.releaseAndWait}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = MemorySpool(self.clock)
        self.notifier = FakeNotifier()

    def wait(
        self,
        *answers: Any,
        handsBack: bool = False,
        addressees: Sequence[Addressee] = (),
    ) -> Deferred[dict[int, Outcome]]:
        stage = Stage(*answers)
        self.scheduler = Scheduler(
            self.spool,
            self.clock,
            Deliveries(stage=lambda name: stage, schedule=lambda name: Schedule()),
            self.notifier,  # type: ignore[arg-type]
        )
        people = addressees or makeAddressees("a@x.example")
        d = self.spool.stage(makeEnvelope(), makeMessage(), people)
        return self.scheduler.releaseAndWait(self.successResultOf(d), handsBack)

    def left(self) -> int:
        return int(self.successResultOf(self.spool.waiting())[1])

    def answers(self, *outcomes: Any) -> Any:
        return lambda recipients: succeed(dict(zip(recipients, outcomes, strict=True)))

    def test_known(self) -> None:
        """What is known is told; the queue has it as it is (SMTP)."""
        people = makeAddressees("a@x.example", "b@x.example", "c@x.example")
        d = self.wait(self.answers(Delivered(), FULL, NEVER), addressees=people)
        self.assertEqual(self.successResultOf(d), {0: Delivered(), 1: FULL, 2: NEVER})
        self.assertEqual((self.left(), len(self.notifier.told)), (2, 1))

    def test_handedBack(self) -> None:
        """A recipient refused over LMTP is the client's: no retry, no notice (RFC 2033)."""
        people = makeAddressees("a@x.example", "b@x.example", "c@x.example")
        d = self.wait(self.answers(Delivered(), FULL, NEVER), handsBack=True, addressees=people)
        self.assertEqual(self.successResultOf(d), {0: Delivered(), 1: FULL, 2: NEVER})
        self.assertEqual((self.left(), self.notifier.told), (0, []))

    def test_groups(self) -> None:
        """Several deliveries of one message: it ends with the last one."""
        first: Deferred[Any] = Deferred()
        second: Deferred[Any] = Deferred()
        d = self.wait(
            lambda people: first.addCallback(lambda _: {people[0]: Delivered()}),
            lambda people: second.addCallback(lambda _: {people[0]: FULL}),
            handsBack=True,
            addressees=makeAddressees("a@x.example", "b@y.example"),
        )
        first.callback(None)
        self.assertNoResult(d)
        second.callback(None)
        self.assertEqual(self.successResultOf(d), {0: Delivered(), 1: FULL})

    def test_refused(self) -> None:
        """A recipient that refuses what was accepted for all is not waited for (P-11)."""
        one, two = makeAddressees("a@x.example", "b@x.example")
        addressees = [one, attrs.evolve(two, refusal=NEVER.reply)]
        d = self.wait(self.answers(Delivered()), addressees=addressees)
        self.assertEqual(self.successResultOf(d), {0: Delivered(), 1: NEVER})
        self.assertEqual((self.left(), len(self.notifier.told)), (1, 1))

    def test_tooLate(self) -> None:
        """Once the session does not wait, a refusal goes its usual way."""
        result: Deferred[Any] = Deferred()
        d = self.wait(
            lambda people: result.addCallback(lambda _: {people[0]: FULL}), handsBack=True
        )
        d.cancel()
        self.assertEqual(self.successResultOf(d), {})
        result.callback(None)
        self.assertEqual(self.left(), 1)

    def test_recordedFirst(self) -> None:
        """A client keeps who is refused: it is told when the queue has them no longer."""
        slow = self.spool = SlowSpool(self.clock)
        d = self.wait(self.answers(FULL), handsBack=True)
        self.assertNoResult(d)
        slow.written.callback(None)
        self.assertEqual((self.successResultOf(d), self.left()), ({0: FULL}, 0))

    def test_recordedAfterwards(self) -> None:
        """Who does not wait so long is told what is being recorded, and nothing else."""
        slow = self.spool = SlowSpool(self.clock)
        d = self.wait(self.answers(FULL), handsBack=True)
        d.cancel()
        self.assertEqual(self.successResultOf(d), {0: FULL})
        slow.written.callback(None)
        self.assertEqual(self.left(), 0)

    def test_unknown(self) -> None:
        """A stage that fails, or answers nonsense, leaves its recipients in the queue."""
        for answer in (fail(StageError("broken")), succeed(None), succeed({"a": FULL})):
            self.setUp()
            d = self.wait(answer, handsBack=True)
            self.assertEqual(self.successResultOf(d), {})
            self.assertEqual((self.left(), self.notifier.told), (1, []))


class Odd:
    """
    A delivery stage that says whatever it is told to say, in one of several ways.

    @ivar give: makes what it says, of the recipients.
    @ivar way: how it says that.
    """

    def __init__(self, clock: Clock, give: Callable[[Any], Any], way: str) -> None:
        self.clock = clock
        self.give = give
        self.way = way

    def destination(self, recipient: Recipient) -> str:
        return "odd"

    def deliver(self, message: Any, envelope: Any, recipients: Any) -> Any:
        if self.way == "late":
            return deferLater(self.clock, 10.0, self.give, recipients)
        if self.way == "never":
            return Deferred()
        if self.way == "coroutine":
            return self.later(recipients)
        if self.way == "cancelled":
            return Deferred(lambda d: d.callback(self.give(recipients)))
        return self.give(recipients)

    async def later(self, recipients: Any) -> Any:
        await deferLater(self.clock, 10.0, lambda: None)
        return self.give(recipients)


class UnreadableMapping(Mapping[Any, Any]):
    """
    A mapping that raises when it is read.
    """

    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError("unreadable")

    def __iter__(self) -> Any:
        raise RuntimeError("unreadable")

    def __len__(self) -> int:
        return 1


class Unshowable:
    """
    A value that cannot even be shown.
    """

    def __repr__(self) -> str:
        raise RuntimeError("unshowable")


def made(kind: Any, *fields: Any) -> Any:
    """
    @return: a value whose constructor did not look at its fields.
    """
    value = object.__new__(kind)
    names = [one.name for one in attrs.fields(kind)]
    defaults = {one.name: one.default for one in attrs.fields(kind)}
    for name, field in {**defaults, **dict(zip(names, fields, strict=False))}.items():
        object.__setattr__(value, name, field)
    return value


def forAll(outcome: Any) -> Callable[[Any], Any]:
    return lambda recipients: dict.fromkeys(recipients, outcome)


def raising(error: BaseException) -> Callable[[Any], Any]:
    def give(recipients: Any) -> Any:
        raise error

    return give


NO = Reply(550, "5.1.1", "no")

#: What a stage can say that is no answer.
NONSENSE: dict[str, Callable[[Any], Any]] = {
    "text as a reply": forAll(made(Failed, "550 no")),
    "text as a reply, again": forAll(made(Retry, "451 later")),
    "a number as a reply": forAll(made(Delivered, 250)),
    "no reply": forAll(made(Failed, None)),
    "a reply without a code": forAll(made(Failed, made(Reply, None, None, "no"))),
    "a reply of a code that there is not": forAll(made(Failed, made(Reply, 10**30, None, "no"))),
    "a reply of octets": forAll(made(Failed, made(Reply, 550, None, b"no"))),
    "a host of octets": forAll(made(Failed, NO, b"mx")),
    "a host that cannot be stored": forAll(made(Delivered, None, "mx\ud800")),
    "an action that there is not": forAll(made(Delivered, None, "", "eaten")),
    "a time that is none": forAll(made(Retry, LATER.reply, "", "soon")),
    "no number for a time": forAll(made(Retry, LATER.reply, "", float("nan"))),
    "a class": forAll(Delivered),
    "a verdict": forAll(ACCEPT),
    "nothing": lambda recipients: None,
    "a list": lambda recipients: [Delivered()],
    "one outcome": lambda recipients: Delivered(),
    "an empty mapping": lambda recipients: {},
    "a mapping by address": lambda recipients: {str(one): Delivered() for one in recipients},
    "a foreign addressee": lambda recipients: {
        makeAddressees("z@z.example", "y@z.example", "x@z.example")[2]: Delivered()
    },
    "a mapping that cannot be read": lambda recipients: UnreadableMapping(),
    "what cannot be shown": lambda recipients: Unshowable(),
    "what cannot be shown, for each": forAll(Unshowable()),
    "an exception": raising(ValueError("on purpose")),
    "an exception as an answer": lambda recipients: ValueError("on purpose"),
    "a stage's error": raising(StageError("broken")),
    "the end of the process": raising(SystemExit(1)),
    "a cancellation": raising(CancelledError()),
    "a Deferred for each": lambda recipients: {one: Deferred() for one in recipients},
}

#: Longer than the longest attempt.
PATIENT = attrs.evolve(SCHEDULE, expire=Seconds(2 * DELIVERY_SECONDS))

WAYS = ("at once", "late", "never", "coroutine", "cancelled")


class NonsenseTests(SynchronousTestCase):
    """
    Whatever a delivery stage answers, its recipients have an outcome.
    """

    def memory(self) -> MemorySpool:
        self.clock = Clock()
        return MemorySpool(self.clock)

    def sqlite(self) -> SqliteSpool:
        self.clock = PumpedReactor()
        spool = SqliteSpool(self.mktemp(), self.clock, self.inThread)  # type: ignore[arg-type]
        self.clock.wait(spool.open())
        return spool

    def inThread(self, function: Any, *args: Any) -> Deferred[Any]:
        return execute(function, *args)

    def resultOf(self, d: Deferred[Any]) -> Any:
        if isinstance(self.clock, PumpedReactor):
            return self.clock.wait(d)
        return self.successResultOf(d)

    def start(self, spool: Any) -> None:
        """
        One spool serves many messages, each of another stage.
        """
        self.spool = spool
        self.good = FakeDelivery()
        self.stages: dict[str, Any] = {"box": self.good}
        notifier = FakeNotifier()
        self.scheduler = Scheduler(
            self.spool,
            self.clock,
            Deliveries(stage=self.stages.get, schedule=lambda name: PATIENT),
            notifier,  # type: ignore[arg-type]
            concurrency=2,
            chance=lambda: 0.5,
        )

    def deliver(self, give: Callable[[Any], Any], way: str) -> Work:
        """
        A message to a stage that answers nonsense and to one that does not.
        """
        self.stages["odd"] = Odd(self.clock, give, way)
        odd, good = makeAddressees("a@x.example", "b@y.example")
        route = Route("strict", "odd")
        odd = attrs.evolve(odd, recipient=odd.recipient.routed(route))
        envelope = makeEnvelope()
        writer = self.spool.newBody(envelope.transaction)
        writer.write(b"Subject: x\r\n\r\nhello\r\n")
        message = self.resultOf(writer.finish())
        work: Work = self.resultOf(self.spool.stage(envelope, message, [odd, good]))
        self.scheduler.release(work)
        self.resultOf(self.spool.waiting())
        if way in ("late", "coroutine"):
            self.clock.advance(10)
        elif way != "at once":
            self.clock.advance(DELIVERY_SECONDS)
        self.resultOf(self.spool.waiting())
        self.clock.advance(1)  # there is room again, and nothing is due yet
        self.resultOf(self.spool.waiting())
        return work

    def check(self, name: str, way: str) -> None:
        # One destination would be left alone soon, for reasons of its own.
        self.scheduler.destinations.forget()
        with capturedLogs() as logged:
            work = self.deliver(NONSENSE[name], way)
        if way == "cancelled":
            self.flushLoggedErrors()  # of cancellers that raise
        what = f"{name}, {way}"
        self.assertEqual(self.scheduler.destinations.room, 2, what)
        self.assertEqual(self.good.asked.pop(), ["b@y.example"], what)
        self.assertEqual(self.resultOf(self.spool.waiting()), (1, 1), what)
        said = [formatEvent(one) for one in logged if one.get("stage") == "Odd"]
        self.assertTrue(said, what)
        for text in said:
            self.assertIn(work.envelope.id, text)
            self.assertIn("(Odd) of <a@x.example> ", text)
        outcomes = {
            one["recipient"]: one["outcome"] for one in logged if one.get("event") == "delivery"
        }
        self.assertEqual(outcomes, {"a@x.example": "retry", "b@y.example": "delivered"}, what)
        self.spool.backOff("odd", 0)
        self.clock.advance(61)
        (again,) = self.resultOf(self.spool.claim(10, {}, 10))
        (addressee,) = again.addressees
        self.assertEqual((str(addressee), addressee.attempts), ("a@x.example", 1), what)
        self.assertEqual(addressee.reply, R451_LOCAL_ERROR, what)
        self.resultOf(self.spool.record(again, {addressee: Remove()}))
        self.assertEqual(self.resultOf(self.spool.waiting()), (0, 0), what)

    def test_memory(self) -> None:
        """Each kind of nonsense, in each way, with the spool without a disk."""
        self.start(self.memory())
        for name in NONSENSE:
            for way in WAYS:
                self.check(name, way)

    def test_sqlite(self) -> None:
        """The same, with the embedded spool."""
        self.start(self.sqlite())
        for name in NONSENSE:
            for way in WAYS:
                self.check(name, way)
        self.clock.wait(self.spool.close())

    def test_stop(self) -> None:
        """A server stops in time, and its stages' recipients stay queued."""
        for name in NONSENSE:
            self.start(self.memory())
            self.stages["box"] = Odd(self.clock, NONSENSE[name], "cancelled")
            work = self.resultOf(
                self.spool.stage(makeEnvelope(), makeMessage(), makeAddressees("a@x.example"))
            )
            self.scheduler.release(work)
            stopped = self.scheduler.stop()
            self.clock.advance(STOP_SECONDS)
            self.successResultOf(stopped)
            self.assertEqual(self.resultOf(self.spool.waiting()), (1, 1), name)
            self.assertEqual(self.clock.getDelayedCalls(), [], name)
        self.flushLoggedErrors()

    def test_some(self) -> None:
        """The recipients of which a stage does say an outcome have it."""
        self.start(self.memory())
        self.stages["box"] = Odd(
            self.clock,
            lambda recipients: {recipients[0]: Delivered(), recipients[1]: made(Failed, "550 no")},
            "at once",
        )
        addressees = makeAddressees("a@x.example", "b@x.example", "c@x.example")
        work = self.resultOf(self.spool.stage(makeEnvelope(), makeMessage(), addressees))
        with capturedLogs() as logged:
            self.scheduler.release(work)
        outcomes = [one["outcome"] for one in logged if one.get("event") == "delivery"]
        self.assertEqual(outcomes, ["delivered", "retry", "retry"])
        self.assertEqual(self.resultOf(self.spool.waiting()), (1, 2))

    def test_destination(self) -> None:
        """A destination is text, at once; a stage that has none still delivers."""

        async def waits(recipient: Recipient) -> str:
            return "there"

        for destination in (
            waits,
            lambda recipient: Deferred(),
            lambda recipient: None,
            lambda recipient: b"octets",
            lambda recipient: "half a pair \ud800",
            lambda recipient: 1 // 0,
        ):
            self.start(self.memory())
            self.good.destination = destination  # type: ignore[method-assign, assignment]
            work = self.resultOf(
                self.spool.stage(makeEnvelope(), makeMessage(), makeAddressees("a@x.example"))
            )
            with capturedLogs() as logged:
                self.scheduler.release(work)
            self.assertEqual(self.resultOf(self.spool.waiting()), (0, 0))
            (said,) = [formatEvent(one) for one in logged if one.get("stage") == "FakeDelivery"]
            self.assertIn(f"{work.envelope.id}: delivery box (FakeDelivery) has no", said)
            self.assertIn("<a@x.example>", said)
            (found,) = [one for one in logged if one.get("event") == "delivery"]
            self.assertEqual(found["destination"], "delivery box")

    def test_noMethod(self) -> None:
        """A stage that cannot deliver at all is no worse."""
        self.start(self.memory())
        self.stages["box"] = object()
        work = self.resultOf(
            self.spool.stage(makeEnvelope(), makeMessage(), makeAddressees("a@x.example"))
        )
        self.scheduler.release(work)
        self.assertEqual(self.resultOf(self.spool.waiting()), (1, 1))
        self.assertEqual(self.scheduler.destinations.room, 2)

    def test_deliverFirst(self) -> None:
        """A session that waits is not kept waiting by nonsense (S-6)."""
        for name in NONSENSE:
            self.start(self.memory())
            self.stages["box"] = Odd(self.clock, NONSENSE[name], "at once")
            work = self.resultOf(
                self.spool.stage(makeEnvelope(), makeMessage(), makeAddressees("a@x.example"))
            )
            known = self.scheduler.releaseAndWait(work, handsBack=True)
            self.assertEqual(self.successResultOf(known), {}, name)
            self.assertEqual(self.resultOf(self.spool.waiting()), (1, 1), name)
