"""
What passes a queue that is full of mail for servers that are silent.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred, execute
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.interfaces import ILocalDelivery, Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import Reschedule
from deferrals.model.schedule import Schedule
from deferrals.model.verdict import Delivered, Route
from deferrals.relay.attempts import Deliveries
from deferrals.relay.duework import UNSORTED
from deferrals.relay.scheduler import Scheduler
from deferrals.spool.claims import TURNS
from deferrals.spool.sqlite.spool import SqliteSpool
from deferrals.testing import makeAddressees, makeEnvelope
from deferrals.testing.values import CLIENT
from tests.reactors import PumpedReactor
from tests.relay.test_scheduler import FakeDelivery, FakeNotifier, Spy

#: So many destinations are silent.
SILENT = 2000


class TickingReactor(PumpedReactor):
    """
    Whose time passes while it is asked.
    """

    def seconds(self) -> float:
        self.rightNow += 1e-6
        return super().seconds()


@implementer(ILocalDelivery)
class LocalDelivery(FakeDelivery):
    """
    Delivers on this machine.
    """


class PassingTests(SynchronousTestCase):
    """
    A L{Scheduler} with the embedded spool.

    @ivar looks: the parts of the queue that are looked through.
    @ivar claims: what is claimed.
    """

    def setUp(self) -> None:
        self.clock = TickingReactor()
        self.directory = self.mktemp()
        self.spool = self.opened()
        self.answering: set[str] = set()
        self.remote = FakeDelivery(self.answer)
        self.local = LocalDelivery()
        self.stages: dict[str, Any] = {"mx": self.remote, "box": self.local}

    def opened(self) -> SqliteSpool:
        spool = SqliteSpool(self.directory, self.clock, execute)  # type: ignore[arg-type]
        self.clock.wait(spool.open())
        return spool

    def answer(self, recipients: list[Addressee]) -> Any:
        (one,) = recipients
        return {one: Delivered()} if one.recipient.address.domain in self.answering else Deferred()

    def staged(self, delivery: str, *addresses: str, user: str | None = None) -> list[Work]:
        found: list[Work] = []
        for address in addresses:
            (to,) = makeAddressees(address)
            to = attrs.evolve(to, recipient=to.recipient.routed(Route("", delivery)))
            envelope = makeEnvelope(client=attrs.evolve(CLIENT, user=user))
            writer = self.spool.newBody(envelope.transaction)
            writer.write(b"Subject: x\r\n\r\nx\r\n")
            message = self.clock.wait(writer.finish())
            self.spool.stage(envelope, message, [to]).addCallback(found.append)
        self.clock.wait(self.spool.waiting())
        self.assertEqual(len(found), len(addresses))
        return found

    def queued(self, delivery: str, *addresses: str, user: str | None = None) -> None:
        """
        Mail that waits in the queue for its destination.
        """
        for work in self.staged(delivery, *addresses, user=user):
            (one,) = work.addressees
            waits = Reschedule(str(one.recipient.address.domain), 0.0, 1000.0, 0.0, attempted=False)
            self.spool.release(work, {one: waits})
        self.clock.wait(self.spool.waiting())

    def start(self, concurrency: int = 40) -> None:
        self.looks, self.claims = Spy(self.spool.turns), Spy(self.spool.claim)
        self.patch(self.spool, "turns", self.looks)
        self.patch(self.spool, "claim", self.claims)
        self.scheduler = Scheduler(
            self.spool,
            self.clock,
            Deliveries(stage=self.stages.get, schedule=lambda name: Schedule()),
            FakeNotifier(),  # type: ignore[arg-type]
            concurrency=concurrency,
        )
        self.addCleanup(lambda: self.clock.wait(self.spool.close()))
        self.scheduler.start()

    def turns(self, count: int) -> None:
        """
        So many claims may follow, without a timer that waits for longer.
        """
        for _ in range(count):
            for _ in range(SILENT // TURNS + 3):
                self.clock.wait(self.spool.waiting())
            self.clock.advance(0.02)

    def silent(self) -> list[str]:
        return [f"a@d{number}.example" for number in range(SILENT)]

    def test_local(self) -> None:
        """Mail for this machine passes all destinations that are silent, in the first claims."""
        self.queued("mx", *self.silent())
        self.queued("box", "a@here.example")
        self.start()
        self.turns(2)
        self.assertEqual(self.local.asked, [["a@here.example"]])
        self.assertLess(len(self.looks.calls), SILENT // TURNS + 5)
        before = len(self.looks.calls), len(self.claims.calls)
        for _ in range(5):
            self.clock.advance(5)
            self.turns(1)
        # What is blocked is not claimed, and was looked through for long.
        self.assertLess(len(self.looks.calls), before[0] + 10)
        self.assertEqual(len(self.claims.calls), before[1])
        self.queued("box", "b@here.example")
        self.clock.advance(5)
        self.turns(1)
        self.assertEqual(self.local.asked[1:], [["b@here.example"]])

    def test_killed(self) -> None:
        """The same where all of it was under way when the process died."""
        for work in self.staged("mx", *self.silent()) + self.staged("box", "a@here.example"):
            self.spool.release(work, {})
        self.clock.wait(self.spool.close())
        self.spool = self.opened()
        self.start()
        self.turns(SILENT // UNSORTED + 3)
        self.assertEqual(self.local.asked, [["a@here.example"]])

    def test_answering(self) -> None:
        """Mail for a destination that has answered passes those that are silent."""
        self.answering.add("good.example")
        self.queued("mx", "a@good.example")
        self.start()
        self.turns(2)
        self.queued("mx", *self.silent())
        self.queued("mx", "b@good.example")
        self.clock.advance(5)
        self.turns(2)
        self.assertIn(["b@good.example"], self.remote.asked)

    def test_firstAnswer(self) -> None:
        """The same when it answers for the first time while the others are silent."""
        held: list[Deferred[Any]] = []

        def hold(recipients: list[Addressee]) -> Any:
            d: Deferred[Any] = Deferred()
            if str(recipients[0]).endswith("@good.example"):
                held.append(d)
            return d.addCallback(lambda _: {recipients[0]: Delivered()})

        self.remote.answer = hold
        self.queued("mx", "a@good.example", *self.silent())
        self.start()
        self.turns(2)
        self.queued("mx", "b@good.example")
        self.clock.advance(5)
        self.turns(2)
        self.assertEqual(len(held), 1)
        held[0].callback(None)
        self.turns(2)
        self.assertEqual(len(held), 2)

    def test_logins(self) -> None:
        """What one login sends to silent servers lets the mail of others pass."""
        self.queued("mx", *self.silent(), user="anna")
        self.queued("mx", "a@other.example", user="bert")
        self.start()
        self.turns(2)
        self.assertIn(["a@other.example"], self.remote.asked)

    def test_all(self) -> None:
        """Where servers answer after all, all of it is delivered."""
        self.queued("mx", *self.silent()[:200])
        held: list[Deferred[Any]] = []

        def hold(recipients: list[Addressee]) -> Any:
            held.append(Deferred())
            return held[-1].addCallback(lambda _: {recipients[0]: Delivered()})

        self.remote.answer = hold
        self.start()
        for _ in range(200):
            self.turns(1)
            while held:
                held.pop().callback(None)
        self.assertEqual(self.clock.wait(self.spool.waiting()), (0, 0))
