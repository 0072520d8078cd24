"""
What tests are given instead of the real things.
"""

from __future__ import annotations

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import Clock
from twisted.names.client import Resolver
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.errors import HopError, SpoolError
from deferrals.interfaces import INextHops, IServices
from deferrals.model.outgoing import Hop, Outgoing
from deferrals.model.reply import Reply
from deferrals.model.verdict import Accept, Delivered, Retry
from deferrals.testing import (
    LATER,
    ContentStageContract,
    DeliveryStageContract,
    EnvelopeStageContract,
    FakeContent,
    FakeDelivery,
    FakeEnvelope,
    FakeNextHops,
    FakeServices,
    FakeSpool,
    SpoolContract,
    makeAddressees,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)

HOP = Hop("tcp:mx:25", "mx:25", "mx.example")


class FakeEnvelopeTests(EnvelopeStageContract, SynchronousTestCase):
    """
    L{FakeEnvelope}.
    """

    def makeStage(self) -> FakeEnvelope:
        return FakeEnvelope()

    def test_waits(self) -> None:
        """It answers when it is told to, or is cancelled."""
        stage = FakeEnvelope()
        stage.waiting = {"a@example.net", "b@example.net"}
        first, second = (
            stage.judgeRecipient(makeEnvelope(), makeRecipient(address))
            for address in sorted(stage.waiting)
        )
        self.assertNoResult(first)
        stage.decide("a@example.net", Accept())
        self.assertEqual(self.successResultOf(first), Accept())
        second.cancel()
        self.assertEqual(stage.cancelled, ["b@example.net"])
        self.failureResultOf(second)


class FakeContentTests(ContentStageContract, SynchronousTestCase):
    """
    L{FakeContent}.
    """

    def makeStage(self) -> FakeContent:
        stage = FakeContent()
        stage.verdicts["somebody@example.net"] = Accept()
        return stage


class FakeDeliveryTests(DeliveryStageContract, SynchronousTestCase):
    """
    L{FakeDelivery}.
    """

    def makeStage(self) -> FakeDelivery:
        return FakeDelivery({"b@example.net": Retry(LATER)})

    def test_delivered(self) -> None:
        """It remembers who has the message, and nobody else."""
        stage = self.makeStage()
        a, b = makeAddressees("a@example.net", "b@example.net")
        outcomes = stage.deliver(makeMessage(), makeEnvelope(), [a, b])
        self.assertEqual(outcomes, {a: Delivered(), b: Retry(LATER)})
        self.assertEqual([one for _, one, _ in stage.delivered], [a])


class FakeSpoolTests(SpoolContract, SynchronousTestCase):
    """
    L{FakeSpool}.
    """

    def makeSpool(self) -> FakeSpool:
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        spool = FakeSpool(self.clock)
        spool.open()
        return spool

    def reopen(self, spool: FakeSpool) -> FakeSpool:
        spool.open()
        return spool

    def test_full(self) -> None:
        """Nothing is stored on a full disk."""
        spool, envelope = FakeSpool(full=True), makeEnvelope()
        d = spool.stage(envelope, makeMessage(), makeAddressees("a@example.net"))
        self.failureResultOf(d, SpoolError)

    def test_slow(self) -> None:
        """On a slow one it takes as long as the test wants."""
        spool, envelope = FakeSpool(slow=True), makeEnvelope()
        d = spool.stage(envelope, makeMessage(), makeAddressees("a@example.net"))
        self.assertNoResult(d)
        spool.go()
        work = self.successResultOf(d)
        spool.abandon(work)
        self.assertEqual(spool.abandoned, [work])


class FakeNextHopsTests(SynchronousTestCase):
    """
    L{FakeNextHops}.
    """

    def outgoing(self) -> Outgoing:
        return Outgoing("a@x.example", ["b@x.example", "c@x.example"], 1, lambda: iter([b"x"]))

    def test_provides(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(INextHops, FakeNextHops()))

    def test_send(self) -> None:
        """Each recipient has its own reply, and the message is remembered."""
        hops = FakeNextHops({"c@x.example": LATER})
        sent = self.successResultOf(hops.send(HOP, self.outgoing()))
        self.assertEqual([one.reply.code for one in sent.answers], [250, 451])
        self.assertEqual([(hop, data) for hop, _, data in hops.sent], [(HOP, b"x")])

    def test_ask(self) -> None:
        """The same without a message."""
        hops = FakeNextHops({"c@x.example": Reply(550, "5.1.1", "no")})
        _, reply = self.successResultOf(hops.ask(HOP, "a@x.example", "c@x.example"))
        self.assertEqual(reply.code, 550)

    def test_errors(self) -> None:
        """A server that cannot be reached."""
        hops = FakeNextHops(errors={"mx:25": HopError("no route")})
        self.failureResultOf(hops.send(HOP, self.outgoing()), HopError)
        self.failureResultOf(hops.ask(HOP, "", "c@x.example"), HopError)


class FakeServicesTests(SynchronousTestCase):
    """
    L{FakeServices}.
    """

    def test_provides(self) -> None:
        """They provide the interface."""
        self.assertTrue(verifyObject(IServices, FakeServices()))

    def test_given(self) -> None:
        """What a test gives them is what a stage gets."""
        endpoint = TCP4ClientEndpoint(Clock(), "127.0.0.1", 25)
        resolver, hops = Resolver(servers=[("127.0.0.1", 53)]), FakeNextHops()
        services = FakeServices(
            "/tmp", resolver=resolver, endpoints={"tcp:a:25": endpoint}, nextHops=hops
        )
        self.assertIs(services.connect("tcp:a:25"), endpoint)
        self.assertIs(services.resolver(), resolver)
        self.assertIs(services.nextHops, hops)

    def test_notGiven(self) -> None:
        """What it does not give is not there."""
        services = FakeServices()
        self.assertRaises(ValueError, services.connect, "tcp:a:25")
        self.assertRaises(ValueError, services.resolver)

    def test_common(self) -> None:
        """One object for each key; threads are none."""
        services = FakeServices()
        self.assertIs(services.common("a", list), services.common("a", list))
        self.assertEqual(self.successResultOf(services.inThread(divmod, 7, 2)), (3, 1))
