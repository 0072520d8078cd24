"""
Asking the server behind, at RCPT TO.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import HopError
from deferrals.interfaces import IAskableDelivery
from deferrals.model.envelope import Recipient
from deferrals.model.outgoing import Hop
from deferrals.model.reply import Reply
from deferrals.model.settings import BadSetting
from deferrals.model.verdict import Failed, Refuse, Retry
from deferrals.smtp.client.pool import NextHops
from deferrals.stages.delivery.forward import ForwardDelivery, ForwardSettings
from deferrals.stages.envelope.callout import CalloutSettings, CalloutStage
from deferrals.testing import (
    EnvelopeStageContract,
    FakeDelivery,
    FakeNextHops,
    FakeServices,
    makeEnvelope,
    makeRecipient,
)
from tests.peer import Network, Peer
from tests.requirements import requirement

HOP = "tcp:store.example:24"


class CalloutTests(EnvelopeStageContract, SynchronousTestCase):
    """
    L{CalloutStage}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.network = Network(self.clock)
        self.peer = self.network.peers[HOP] = Peer("PIPELINING", lmtp=True)
        self.services = FakeServices(reactor=self.clock)
        self.services.connect = self.network.connect  # type: ignore[method-assign]
        self.services.nextHops = NextHops(
            self.clock, "mx.example.net", self.network.connect, maybeDeferred
        )
        self.stage = self.makeStage()

    def makeStage(self, **settings: Any) -> CalloutStage:
        return CalloutStage(CalloutSettings(endpoint=HOP, **settings), self.services)

    def resultOf(self, d: Deferred[Any]) -> Any:
        self.network.run()
        return self.successResultOf(d)

    def start(self, address: str) -> Deferred[Any]:
        d: Deferred[Any] = maybeDeferred(
            self.stage.judgeRecipient, makeEnvelope(), makeRecipient(address)
        )
        self.network.run()
        return d

    def ask(self, address: str) -> str:
        verdict = self.successResultOf(self.start(address))
        return str(verdict.reply) if isinstance(verdict, Refuse) else str(verdict)

    def asked(self) -> int:
        return sum(line.startswith("RCPT") for line in self.peer.commands)

    def test_endpointOrThrough(self) -> None:
        """One of both, and not both."""
        for given in ({}, {"endpoint": HOP, "through": "out"}):
            self.assertRaises(BadSetting, CalloutSettings, **given)

    @requirement("S-5")
    def test_answers(self) -> None:
        """
        Taken is no opinion; unknown and full become 550 5.1.1 and 452 4.2.2 for
        that recipient at RCPT, before responsibility is taken.
        """
        self.peer.rcpt = {
            "unknown@x.example": "550 5.1.1 <unknown@x.example> User doesn't exist",
            "full@x.example": "552 5.2.2 Quota exceeded",
            "later@x.example": "451 4.3.0 not now",
            "odd@x.example": "554 no",
            "moved@x.example": "251 2.1.5 ok",
        }
        for local, said in (
            ("fine", "None"),
            ("moved", "None"),
            ("unknown", "550 5.1.1 User doesn't exist"),
            ("full", "452 4.2.2 Quota exceeded"),
            ("later", "451 4.3.0 not now"),
            ("odd", "550 5.0.0 no"),
        ):
            self.assertEqual(self.ask(f"{local}@x.example"), said)
        self.assertEqual(self.peer.connections, 1)
        self.assertEqual(
            {c.split()[0] for c in self.peer.commands}, {"LHLO", "MAIL", "RCPT", "RSET"}
        )
        self.assertEqual(self.peer.commands[1], "MAIL FROM:<>")

    def test_subaddress(self) -> None:
        """
        It is asked as it was named; where there is no such one, without its subaddress.
        """
        self.peer.rcpt = {
            "anna+x@x.example": "550 5.1.1 who",
            "bob+x@x.example": "550 5.7.1 not you",
            "carl+x@x.example": "550 5.1.1 first",
            "carl@x.example": "550 5.1.1 second",
            "dora+x@x.example": "550 5.1.1 who",
            "dora@x.example": "451 4.3.0 not now",
        }
        for local, mark, said, asked in (
            ("eve+x", "+", "None", 1),
            ("anna+x", "+", "None", 2),
            ("anna+x", "", "550 5.1.1 who", 0),  # remembered
            ("bob+x", "+", "550 5.7.1 not you", 1),
            ("carl+x", "+", "550 5.1.1 first", 2),
            ("dora+x", "+", "451 4.3.0 not now", 2),
        ):
            before = self.asked()
            recipient = makeRecipient(f"{local}@x.example", subaddress=mark)
            d = self.stage.judgeRecipient(makeEnvelope(), recipient)
            self.network.run()
            verdict = self.successResultOf(d)
            found = str(verdict.reply) if isinstance(verdict, Refuse) else str(verdict)
            self.assertEqual((found, self.asked() - before), (said, asked), local)

    def test_overQuota(self) -> None:
        """A full mailbox may be an end, too."""
        self.stage = self.makeStage(over_quota="refuse")
        self.peer.rcpt = {"full@x.example": "552 5.2.2 Quota exceeded"}
        self.assertEqual(self.ask("full@x.example"), "552 5.2.2 Quota exceeded")

    def test_remembered(self) -> None:
        """Taken for five minutes, refused for one, temporarily not at all."""
        self.peer.rcpt = {"no@x.example": "550 5.1.1 who", "later@x.example": "451 4.3.0 x"}
        for seconds, asked in ((0, 3), (59, 4), (2, 6), (238, 8), (2, 10)):
            self.clock.advance(seconds)
            for local in ("yes", "no", "later"):
                self.ask(f"{local}@x.example")
            self.assertEqual(self.asked(), asked, seconds)
        self.assertEqual(self.services.status.counted("callouts", "asked"), 10)
        self.assertEqual(self.services.status.counted("callouts", "remembered"), 5)

    def test_shared(self) -> None:
        """One question for all who ask at the same time; who leaves, leaves alone."""
        self.peer.override["RCPT"] = "silence"
        first, second = self.start("a@x.example"), self.start("a@x.example")
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.asked(), 1)
        self.peer.sessions[0].say("250 2.1.0 ok", "250 2.1.5 ok", "250 2.0.0 ok")
        self.network.run()
        self.assertIsNone(self.successResultOf(second))

    def test_cancelled(self) -> None:
        """When nobody waits any longer, nothing is asked."""
        self.peer.override["RCPT"] = "silence"
        d = self.start("a@x.example")
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.network.run()
        self.assertEqual(self.peer.sessions, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_noAnswer(self) -> None:
        """No connection, no sender, no reply in time: on_error, for this recipient, now."""
        for setting, said in (
            ("refuse-temporarily", "451 4.4.1 the recipient cannot be verified now"),
            ("accept", "None"),
        ):
            self.stage = self.makeStage(on_error=setting)
            self.peer.mail = "451 4.3.0 no"
            self.assertEqual(self.ask("a@x.example"), said)
            self.peer.mail = "250 ok"
            self.peer.rcpt = {"b@x.example": "421 4.3.2 bye", "c@x.example": "354 what"}
            self.assertEqual(self.ask("b@x.example"), said)
            self.assertEqual(self.ask("c@x.example"), said)
            self.peer.override["RCPT"] = "silence"
            d = self.start("d@x.example")
            self.clock.advance(10)
            verdict = self.successResultOf(d)
            self.assertEqual(verdict is None, setting == "accept")
            self.peer.override.clear()
        del self.network.peers[HOP]
        self.stage = self.makeStage()
        self.clock.advance(31)
        self.assertIn("451 4.4.1", self.ask("e@x.example"))

    def test_needsUTF8(self) -> None:
        """
        A recipient that cannot be named to the server is refused: the message could
        not be handed over.
        """
        for local in ("a", "\u00e4", "\u00f6", "\u00e4"):
            said = self.ask(f"{local}@x.example")
            self.assertEqual(said[:9], "None" if local == "a" else "553 5.6.7")
        self.assertEqual((self.peer.connections, self.asked()), (1, 1))

    def test_settings(self) -> None:
        """A sender is an address, or none."""
        self.assertRaises(ValueError, CalloutSettings, endpoint=HOP, sender="nobody")
        self.stage = self.makeStage(sender="probe@mx.example.net")
        self.ask("a@x.example")
        self.assertEqual(self.peer.commands[1], "MAIL FROM:<probe@mx.example.net>")


@implementer(IAskableDelivery)
class Onward(FakeDelivery):
    """
    A delivery to servers.
    """

    def __init__(self, hops: Any) -> None:
        super().__init__()
        self._hops = hops

    def hops(self, recipient: Recipient) -> Any:
        return self._hops


class ThroughTests(SynchronousTestCase):
    """
    L{CalloutStage} through a delivery.
    """

    def ask(self, hops: Any, name: str = "out", **more: Any) -> Any:
        self.nextHops = FakeNextHops(
            {"gone@x.example": Reply(550, "5.1.1", "who")},
            {"first": HopError("first: nobody there"), "down": HopError("down: nobody there")},
        )
        deliveries = {"out": Onward(hops), "box": FakeDelivery()}
        services = FakeServices(nextHops=self.nextHops, deliveries=deliveries)
        services._deliveries["fwd"] = ForwardDelivery(ForwardSettings(through="out"), services)
        services._deliveries["odd"] = ForwardDelivery(ForwardSettings(through="box"), services)
        stage = CalloutStage(CalloutSettings(through=name, **more), services)
        found = []
        for local in ("here", "gone"):
            recipient = makeRecipient(f"{local}@x.example")
            d = maybeDeferred(stage.judgeRecipient, makeEnvelope("me@client.example"), recipient)
            verdict = self.successResultOf(d)
            found.append(verdict and str(verdict.reply))
        return found

    def test_asked(self) -> None:
        """The delivery's servers are asked, also where mail is forwarded through it."""
        hop = Hop("tcp:next.example:25", "next", security="required")
        for name in ("out", "fwd"):
            self.assertEqual(self.ask([hop], name, timeout=3), [None, "550 5.1.1 who"])
            asked, sender, recipient = self.nextHops.asked[0]
            self.assertEqual((sender, recipient), ("", "here@x.example"))
            self.assertEqual(
                (asked.endpoint, asked.security, asked.forms), (hop.endpoint, "required", ())
            )
            self.assertEqual(asked.timeouts.command, 3)

    def test_next(self) -> None:
        """One that cannot be reached leaves it to the next one; none, to on_error."""
        first, second, down = (Hop("tcp:x:25", name) for name in ("first", "second", "down"))
        self.assertEqual(self.ask([first, second]), [None, "550 5.1.1 who"])
        later = "451 4.4.1 the recipient cannot be verified now"
        for hops in ([first, down], []):
            self.assertEqual(self.ask(hops), [later] * 2)
            self.assertEqual(self.ask(hops, on_error="accept"), [None] * 2)

    def test_noServer(self) -> None:
        """A domain that takes no mail is refused here; one that DNS does not know now is not."""
        null = Failed(Reply(556, "5.1.10", "no mail"))
        self.assertEqual(self.ask(null), ["550 5.1.10 no mail"] * 2)
        self.assertEqual(self.ask(null, "fwd"), ["550 5.1.10 no mail"] * 2)
        later = "451 4.4.1 the recipient cannot be verified now"
        self.assertEqual(self.ask(Retry(Reply(451, "4.4.3", "no DNS"))), [later] * 2)

    def test_cannotBeAsked(self) -> None:
        """A delivery that has none, or is gone."""
        later = "451 4.4.1 the recipient cannot be verified now"
        for name in ("box", "odd", "gone"):
            self.assertEqual(self.ask([], name), [later] * 2)
