"""
Delivery by SMTP, against servers without sockets.
"""

from __future__ import annotations

from unittest import skipIf

from twisted.internet.defer import CancelledError

from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Client, Envelope, Recipient
from deferrals.model.sending import R550_NO_REQUIRETLS
from deferrals.model.settings import BadSetting
from deferrals.model.verdict import Delivered, Failed, Marks, Retry
from deferrals.server.signing import Signer
from deferrals.stages.delivery.smtp import SMTPDelivery, SMTPSettings
from deferrals.testing import (
    ReportingDeliveryContract,
    makeAddressees,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)
from tests import signatures
from tests.remote import HOP, RemoteCase
from tests.requirements import requirement


class SMTPContractTests(RemoteCase, ReportingDeliveryContract):
    """
    L{SMTPDelivery} as a delivery stage, with two copies.
    """

    def makeAddressees(self) -> list[Addressee]:
        a, b = makeAddressees("a@example.net", "b@example.net")
        return [a, Addressee(b.recipient, Marks((("X-Score", "9"),)), b.seq)]

    def makeHalting(self) -> SMTPDelivery:
        self.peer.rcpt = {"b@example.net": "silence"}
        stage: SMTPDelivery = self.makeStage()
        return stage


class SMTPTests(RemoteCase):
    """
    L{SMTPDelivery}.
    """

    @requirement("D-11")
    @requirement("P-11")
    def test_each(self) -> None:
        """
        Each recipient keeps its own code, and only who was refused for now is to be
        tried again.
        """
        self.peer.rcpt = {"d@x.example": "550 5.1.1 who"}
        self.peer.block = {"b@x.example": "550 5.6.0 no", "c@x.example": "450 4.7.1 later"}
        self.peer.keywords = ["PIPELINING", "PRDR"]
        a, b, c, d = self.outcomes(makeAddressees(*(f"{x}@x.example" for x in "abcd")))
        self.assertEqual((type(a), a.action), (Delivered, "relayed"))
        self.assertEqual((type(b), b.reply.enhanced), (Failed, "5.6.0"))
        self.assertEqual((type(c), c.reply.enhanced), (Retry, "4.7.1"))
        self.assertEqual((type(d), d.reply.enhanced), (Failed, "5.1.1"))

    @requirement("P-10")
    @requirement("P-11")
    def test_finalRefusal(self) -> None:
        """A final refusal overrides all that the block said."""
        for final, kind in (("554 5.6.0 no", Failed), ("451 4.3.0 later", Retry)):
            self.peer.final, self.peer.block = final, {"b@x.example": "550 5.6.0 no"}
            found = self.outcomes(makeAddressees("a@x.example", "b@x.example"))
            self.assertEqual([type(one) for one in found], [kind, kind])
            self.assertEqual(self.peer.accepted, [])

    def test_hops(self) -> None:
        """The server can be asked."""
        (hop,) = self.makeStage().hops(makeRecipient("a@x.example"))
        self.assertEqual(hop.endpoint, HOP)

    def test_nobody(self) -> None:
        """No connection: a reason, and another attempt."""
        self.network.peers.clear()
        (outcome,) = self.outcomes(makeAddressees("a@x.example"))
        self.assertIsInstance(outcome, Retry)
        self.assertEqual((outcome.reply.code, outcome.reply.enhanced), (451, "4.4.1"))
        self.assertEqual(outcome.reply.text, "the next server cannot be reached")
        self.assertIn("hop.example", outcome.details.cause)
        self.assertEqual(outcome.host, "")

    def test_tlsRequired(self) -> None:
        """TLS that is required and not offered: nothing is sent in clear."""
        (outcome,) = self.outcomes(
            makeAddressees("a@x.example"), stage=self.makeStage(tls="required")
        )
        self.assertEqual((type(outcome), outcome.reply.enhanced), (Retry, "4.7.4"))
        self.assertEqual([c for c in self.peer.commands if c.startswith("MAIL")], [])

    def test_requireTLS(self) -> None:
        """REQUIRETLS, and no TLS to be had: 550 5.7.30 (RFC 8689 §4.2.1)."""
        (outcome,) = self.outcomes(
            makeAddressees("a@x.example"), envelope=makeEnvelope(requireTLS=True)
        )
        self.assertEqual((type(outcome), outcome.reply.enhanced), (Failed, "5.7.30"))

    def test_refusal(self) -> None:
        """REQUIRETLS where the server can never be verified is refused in the envelope."""
        recipient = makeRecipient("a@x.example")
        for endpoint, isRefused in (
            ("tcp:hop.example:25", False),
            ("tls:hop.example:465", False),
            ("ssl:hop.example:465", True),
            ("unix:/run/hop", True),
        ):
            self.services.connect = lambda endpoint: None  # type: ignore[method-assign]
            stage = SMTPDelivery(SMTPSettings(endpoint=endpoint), self.services)
            self.assertIsNone(stage.refusal(makeEnvelope(), recipient))
            found = stage.refusal(makeEnvelope(requireTLS=True), recipient)
            self.assertEqual(found, R550_NO_REQUIRETLS if isRefused else None)

    def test_dsn(self) -> None:
        """DSN parameters are passed on; a hop that knows them will tell (RFC 3461 §5.2)."""
        self.peer.keywords = ["DSN"]
        recipient = Recipient(
            Mailbox.parse("a@x.example"), frozenset({"SUCCESS", "FAILURE"}), "rfc822;o+x@y.example"
        )
        (outcome,) = self.outcomes(
            [Addressee(recipient)], envelope=makeEnvelope(ret="HDRS", envid="e+1")
        )
        self.assertEqual(
            self.peer.commands[1:3],
            [
                "MAIL FROM:<sender@example.com> RET=HDRS ENVID=e+2B1",
                "RCPT TO:<a@x.example> NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;o+2Bx@y.example",
            ],
        )
        self.assertEqual(outcome.action, "passed")

    def test_utf8(self) -> None:
        """A domain goes as A-labels; only a local part needs SMTPUTF8 (RFC 6531 §3.2)."""
        a, b = self.outcomes(makeAddressees("a@b\u00fccher.example", "\u00e4@x.example"))
        self.assertEqual([type(a), type(b)], [Failed, Failed])  # together they need it
        (a,) = self.outcomes(makeAddressees("a@b\u00fccher.example"))
        self.assertIsInstance(a, Delivered)
        self.assertEqual(self.peer.delivered, ["a@xn--bcher-kva.example"])

    def test_converted(self) -> None:
        """To a server without 8BITMIME it goes in 7-bit, unless it is signed."""
        self.peer.keywords = ["PIPELINING", "SIZE 10000"]
        body = b"Subject: x\r\n\r\nH\xe4llo\r\n"
        people = makeAddressees("a@x.example", "b@x.example")
        for found in self.outcomes(people, message=makeMessage(body)):
            self.assertIsInstance(found, Delivered)
        sent = self.peer.accepted[0][2]
        self.assertIn(b"H=E4llo\r\n", sent)
        self.assertIn(f"MAIL FROM:<sender@example.com> SIZE={len(sent)}", self.peer.commands)
        signed = makeMessage(b"DKIM-Signature: v=1\r\n" + body)
        found, _ = self.outcomes(people, message=signed)
        self.assertEqual((type(found), found.reply.enhanced), (Failed, "5.6.3"))

    def signing(self, *kinds: str) -> Envelope:
        """
        @return: an envelope whose message is signed with keys of these kinds.
        """
        signer = Signer(self.services.inThread, "mx.example.net", self.services.status)
        signer.use([signatures.key(kind) for kind in kinds], lambda client: True)
        self.services.signer = signer
        return makeEnvelope("a@example.net", client=Client("192.0.2.1", user="a@example.net"))

    def verified(self, sent: bytes) -> list[bool]:
        keys = [signatures.key(kind) for kind in ("rsa", "ed25519")]
        return signatures.verified(sent, keys)

    @skipIf(signatures.MISSING, signatures.MISSING)
    def test_signed(self) -> None:
        """
        What leaves is signed with each key, in front of all; its size is told with it,
        and recipients with other marks get a signature of what they get.
        """
        envelope = self.signing("rsa", "ed25519")
        self.peer.keywords = ["PIPELINING", "SIZE 1000000"]
        a, b = makeAddressees("a@x.example", "b@x.example")
        b = Addressee(b.recipient, Marks(subjectPrefix="[x] "), b.seq)
        message = makeMessage(b"From: a@example.net\r\nSubject: y\r\n\r\n" + b".text  \r\n" * 9000)
        self.outcomes([a, b], message=message, envelope=envelope)
        sent = {recipient: octets for _, recipient, octets in self.peer.accepted}
        for subject, recipient in ((b"y", "a@x.example"), (b"[x] y", "b@x.example")):
            octets = sent[recipient]
            self.assertTrue(octets.startswith(b"DKIM-Signature: "))
            self.assertIn(b"Subject: " + subject + b"\r\n", octets)
            self.assertEqual(self.verified(octets), [True, True])
            self.assertIn(f"MAIL FROM:<a@example.net> SIZE={len(octets)}", self.peer.commands)

    @skipIf(signatures.MISSING, signatures.MISSING)
    def test_signedInSevenBits(self) -> None:
        """To a server without 8BITMIME it goes converted, and what is signed is that."""
        envelope = self.signing("rsa")
        self.peer.keywords = ["PIPELINING", "SIZE 10000"]
        message = makeMessage(b"From: a@example.net\r\nSubject: \xc3\xa4\r\n\r\nH\xe4llo\r\n")
        (found,) = self.outcomes(makeAddressees("a@x.example"), message=message, envelope=envelope)
        self.assertIsInstance(found, Delivered)
        sent = self.peer.accepted[0][2]
        self.assertTrue(sent.isascii())
        self.assertEqual(self.verified(sent), [True])
        self.assertIn(f"MAIL FROM:<a@example.net> SIZE={len(sent)}", self.peer.commands)

    def test_eightBit(self) -> None:
        """8-bit text asks for 8BITMIME (RFC 6152)."""
        self.peer.keywords = ["8BITMIME"]
        self.outcomes(makeAddressees("a@x.example"), message=makeMessage(b"\r\n\xe4\r\n"))
        self.assertIn("MAIL FROM:<sender@example.com> BODY=8BITMIME", self.peer.commands)

    def test_copies(self) -> None:
        """A recipient with other marks gets another copy; a shared one names no recipient."""
        a, b, c = makeAddressees("a@x.example", "b@x.example", "c@x.example")
        c = Addressee(c.recipient, Marks((("X-Score", "9"),), junk=True), 2)
        self.outcomes([a, b, c])
        copies = {to: copy for _, to, copy in self.peer.accepted}
        self.assertEqual(copies["a@x.example"], copies["b@x.example"])
        self.assertNotIn(b"@x.example", copies["a@x.example"])
        self.assertTrue(copies["c@x.example"].startswith(b"Received: "))
        self.assertIn(b"X-Spam-Flag: YES\r\n", copies["c@x.example"])
        self.assertNotIn(b"X-Score", copies["a@x.example"])

    def test_loop(self) -> None:
        """Too many Received fields are a loop: 554 5.4.6 (RFC 5321 §6.3)."""
        message = makeMessage(b"Received: x\r\n" * 3 + b"\r\n")
        (outcome,) = self.outcomes(
            makeAddressees("a@x.example"), message=message, stage=self.makeStage(max_hops=2)
        )
        self.assertEqual((type(outcome), outcome.reply.enhanced), (Failed, "5.4.6"))
        self.assertEqual(self.peer.connections, 0)

    def test_cancelled(self) -> None:
        """A caller that waits no longer leaves no connection behind."""
        self.peer.override["RCPT"] = "silence"
        d = self.start(makeAddressees("a@x.example"))
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.network.run()
        self.assertEqual(self.peer.sessions, [])

    def test_settings(self) -> None:
        """A user has one password, which never goes in clear."""
        for settings in (
            {"user": "me"},
            {"password": "x"},
            {"user": "me", "password": "x", "password_file": "y"},
            {"user": "me", "password": "x", "tls": "none"},
            {"user": "me", "password": "x", "tls": "opportunistic"},
        ):
            with self.assertRaises(BadSetting):
                SMTPSettings(endpoint=HOP, **settings)  # type: ignore[arg-type]
        # Twisted's ssl: verifies nobody: what is to be verified would never be sent.
        for settings in ({"user": "me", "password": "x"}, {"tls": "verified"}):
            for endpoint in ("ssl:hop.example:465", "SSL:hop.example:465"):
                with self.assertRaisesRegex(BadSetting, "tls:"):
                    SMTPSettings(endpoint=endpoint, **settings)  # type: ignore[arg-type]
        self.assertEqual(SMTPSettings(endpoint=HOP).security, "opportunistic")
        safe = SMTPSettings(endpoint=HOP, user="me", password="secret")
        self.assertEqual(safe.security, "verified")
        self.assertNotIn("secret", repr(safe))
        with self.assertRaises(ValueError):
            SMTPSettings(endpoint=HOP, ask=("nothing",))
