"""
Asking the server behind, at RCPT TO.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.verdict import Refuse
from deferrals.smtp.client.pool import NextHops
from deferrals.stages.envelope.callout import CalloutSettings, CalloutStage
from deferrals.testing import EnvelopeStageContract, FakeServices, makeEnvelope, makeRecipient
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
