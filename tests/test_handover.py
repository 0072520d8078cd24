"""
Deliveries to other servers, against servers without sockets: what is sent,
what an answer comes to, and what is offered to whom again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Recipient
from deferrals.model.settings import BadSetting
from deferrals.model.verdict import Delivered, Failed, Marks, Retry
from deferrals.smtp.client.pool import NextHops
from deferrals.stages.delivery.lmtp import LMTPDelivery, LMTPSettings
from deferrals.stages.delivery.remote import RemoteDelivery, hostOf, isLoopback
from deferrals.stages.delivery.smtp import SMTPDelivery, SMTPSettings
from deferrals.testing import (
    DeliveryStageContract,
    FakeServices,
    makeAddressees,
    makeEnvelope,
    makeMessage,
)
from tests.peer import EHLO, Network, Peer

HOP = "tcp:hop.example:25"
BODY = b"Subject: x\r\n\r\n.dot\r\n"


class HandoverCase(SynchronousTestCase):
    """
    A delivery, and one server.
    """

    keywords: tuple[str, ...] = EHLO
    lmtp = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.network = Network(self.clock)
        self.peer = self.network.peers[HOP] = Peer(*self.keywords, lmtp=self.lmtp)
        self.services = FakeServices("/etc", self.clock)
        self.services.connect = self.network.connect  # type: ignore[method-assign]
        self.services.nextHops = NextHops(
            self.clock, "mx.example.net", self.network.connect, maybeDeferred
        )

    def makeStage(self, **settings: Any) -> Any:
        if self.lmtp:
            return LMTPDelivery(LMTPSettings(endpoint=HOP, **settings), self.services)
        return SMTPDelivery(SMTPSettings(endpoint=HOP, **settings), self.services)

    def successResultOf(self, deferred: Any) -> Any:
        self.network.run()
        return super().successResultOf(deferred)

    def start(
        self,
        addressees: Sequence[Addressee],
        message: Any = None,
        envelope: Any = None,
        stage: Any = None,
    ) -> Deferred[Any]:
        message = message or makeMessage(BODY)
        d: Deferred[Any] = maybeDeferred(
            (stage or self.makeStage()).deliver, message, envelope or makeEnvelope(), addressees
        )
        self.network.run()
        return d

    def outcomes(self, addressees: Sequence[Addressee], **more: Any) -> list[Any]:
        found = self.successResultOf(self.start(addressees, **more))
        self.assertEqual(set(found), set(addressees))
        return [found[addressee] for addressee in addressees]


class SMTPContractTests(HandoverCase, DeliveryStageContract):
    """
    L{SMTPDelivery} as a delivery stage.
    """


class LMTPContractTests(HandoverCase, DeliveryStageContract):
    """
    L{LMTPDelivery} as a delivery stage.
    """

    keywords = ("PIPELINING",)
    lmtp = True


class LMTPTests(HandoverCase):
    """
    L{LMTPDelivery}.
    """

    keywords = ("PIPELINING", "8BITMIME")
    lmtp = True

    def test_each(self) -> None:
        """2xx delivered, 4xx retried, 5xx failed; one session for all (RFC 2033, S-5)."""
        self.peer.rcpt = {"d@x.example": "550 5.1.1 who"}
        self.peer.block = {"b@x.example": "552 5.2.2 full", "c@x.example": "451 4.2.0 later"}
        a, b, c, d = self.outcomes(makeAddressees(*(f"{x}@x.example" for x in "abcd")))
        self.assertEqual((type(a), a.action, a.reply.code), (Delivered, "delivered", 250))
        self.assertEqual((type(b), b.reply.enhanced), (Failed, "5.2.2"))
        self.assertEqual((type(c), c.reply.enhanced), (Retry, "4.2.0"))
        self.assertEqual((type(d), d.reply.enhanced, d.host), (Failed, "5.1.1", "hop.example"))
        self.assertEqual(self.peer.connections, 1)
        self.assertEqual(sum(line.startswith("MAIL") for line in self.peer.commands), 1)

    def test_onlyWhatWasOffered(self) -> None:
        """A store that offers neither SIZE nor DSN is sent neither (Dovecot says 555)."""
        recipient = Recipient(Mailbox.parse("a@x.example"), frozenset({"NEVER"}), "rfc822;a")
        envelope = makeEnvelope(ret="HDRS", envid="e", size=99)
        self.outcomes([Addressee(recipient)], envelope=envelope)
        self.assertEqual(
            self.peer.commands[1:3], ["MAIL FROM:<sender@example.com>", "RCPT TO:<a@x.example>"]
        )

    def test_endpoint(self) -> None:
        """An endpoint that is none is an error of the configuration."""
        with self.assertRaisesRegex(ValueError, "a client endpoint such as"):
            LMTPDelivery(LMTPSettings(endpoint="nonsense"), FakeServices())


class SMTPTests(HandoverCase):
    """
    L{SMTPDelivery}.
    """

    def test_each(self) -> None:
        """
        Each recipient keeps its own code, and only who was refused for now is
        to be tried again (D-11, P-11).
        """
        self.peer.rcpt = {"d@x.example": "550 5.1.1 who"}
        self.peer.block = {"b@x.example": "550 5.6.0 no", "c@x.example": "450 4.7.1 later"}
        self.peer.keywords = ["PIPELINING", "PRDR"]
        a, b, c, d = self.outcomes(makeAddressees(*(f"{x}@x.example" for x in "abcd")))
        self.assertEqual((type(a), a.action), (Delivered, "relayed"))
        self.assertEqual((type(b), b.reply.enhanced), (Failed, "5.6.0"))
        self.assertEqual((type(c), c.reply.enhanced), (Retry, "4.7.1"))
        self.assertEqual((type(d), d.reply.enhanced), (Failed, "5.1.1"))

    def test_finalRefusal(self) -> None:
        """A final refusal overrides all that the block said (P-10, P-11)."""
        for final, kind in (("554 5.6.0 no", Failed), ("451 4.3.0 later", Retry)):
            self.peer.final, self.peer.block = final, {"b@x.example": "550 5.6.0 no"}
            found = self.outcomes(makeAddressees("a@x.example", "b@x.example"))
            self.assertEqual([type(one) for one in found], [kind, kind])
            self.assertEqual(self.peer.accepted, [])

    def test_nobody(self) -> None:
        """No connection: a reason, and another attempt."""
        self.network.peers.clear()
        (outcome,) = self.outcomes(makeAddressees("a@x.example"))
        self.assertIsInstance(outcome, Retry)
        self.assertEqual((outcome.reply.code, outcome.reply.enhanced), (451, "4.4.1"))
        self.assertIn("hop.example", outcome.reply.text)

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

    def test_eightBit(self) -> None:
        """8-bit text asks for 8BITMIME (RFC 6152)."""
        self.peer.keywords = ["8BITMIME"]
        self.outcomes(makeAddressees("a@x.example"), message=makeMessage(b"\r\n\xe4\r\n"))
        self.assertIn("MAIL FROM:<sender@example.com> BODY=8BITMIME", self.peer.commands)

    def test_copies(self) -> None:
        """Who has other marks gets another copy; a shared one names nobody."""
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
        """Who waits no longer has no connection left."""
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


class NextTests(HandoverCase):
    """
    Several servers, one after the other.
    """

    def inTurn(self, *addresses: str) -> list[Any]:
        hops = [self.makeStage(ask=()) for _ in "12"]
        hops[1]._hop = hops[1]._hop.__class__("two", "two", "two.example", forms=())
        addressees = makeAddressees(*addresses)
        remote = RemoteDelivery(self.services, 30, "relayed")
        hopsInTurn = [stage._hop for stage in hops]
        d = Deferred.fromCoroutine(
            remote.deliver(makeMessage(BODY), makeEnvelope(), addressees, hopsInTurn)
        )
        self.network.run()
        found = self.successResultOf(d)
        return [found[one] for one in addressees]

    def test_temporarily(self) -> None:
        """Who was refused for now, and nobody else, is offered to the next one."""
        two = self.network.peers["two"] = Peer()
        self.peer.rcpt = {"b@x.example": "451 4.7.1 grey", "c@x.example": "550 5.1.1 who"}
        a, b, c = self.inTurn("a@x.example", "b@x.example", "c@x.example")
        self.assertEqual([type(one) for one in (a, b, c)], [Delivered, Delivered, Failed])
        self.assertEqual((b.host, two.delivered), ("two.example", ["b@x.example"]))
        self.assertEqual(self.peer.delivered, ["a@x.example"])

    def test_noConnection(self) -> None:
        """Nor does it matter that the first one is not there."""
        self.network.peers["two"] = Peer()
        del self.network.peers[HOP]
        (a,) = self.inTurn("a@x.example")
        self.assertEqual((type(a), a.host), (Delivered, "two.example"))

    def test_nobody(self) -> None:
        """Nobody is there: the last reason stands, and there is another attempt."""
        self.network.peers.clear()
        (a,) = self.inTurn("a@x.example")
        self.assertEqual((type(a), a.reply.enhanced), (Retry, "4.4.1"))

    def test_nobodyKnows(self) -> None:
        """Whose message may have been taken is not offered to another one at once (D-21)."""
        two = self.network.peers["two"] = Peer()
        self.peer.drop = lambda sender: 0
        (a,) = self.inTurn("a@x.example")
        self.assertEqual((type(a), two.connections), (Retry, 0))


class DropTests(HandoverCase):
    """
    A next hop that drops the connection after each possible octet of what it
    says to the data: nobody is lost, nobody gets a second copy, nobody gets
    another's outcome.
    """

    people = ("good@x.example", "bad@x.example", "later@x.example", "best@x.example")

    def everyOctet(self, *keywords: str, lmtp: bool = False) -> None:
        self.lmtp, self.keywords = lmtp, keywords
        end = longest = 0
        while end <= longest:
            self.setUp()
            drops = iter([end])
            self.peer.drop = lambda sender, drops=drops: next(drops, None)
            self.peer.block = {"bad@x.example": "550 5.6.0 bad", "later@x.example": "450 4.7.1 no"}
            if "DEFERRALS" in keywords:
                self.peer.rcpt = dict.fromkeys(self.people[:3], "352 wait")
            outcomes = self.untilDone()
            kinds = {address: type(outcome) for address, outcome in outcomes.items()}
            self.assertEqual(kinds, self.expected(), end)
            taken = [a for a, kind in self.expected().items() if kind is Delivered]
            self.assertEqual(Counter(self.peer.delivered), Counter(taken), end)
            end, longest = end + 1, max(longest, len(self.first))
        self.assertGreater(longest, 10)

    def untilDone(self) -> dict[str, Any]:
        """
        As a queue does it: whoever is to be retried comes again.
        """
        waiting, done = makeAddressees(*self.people), {}
        message, envelope = makeMessage(BODY), makeEnvelope()
        self.first = b""
        for _ in range(4):
            found = self.outcomes(waiting, message=message, envelope=envelope)
            self.first = self.first or self.peer.answer
            outcomes = dict(zip(waiting, found, strict=True))
            waiting = [a for a, outcome in outcomes.items() if isinstance(outcome, Retry)]
            done.update({str(a): o for a, o in outcomes.items() if a not in waiting})
            if not waiting:
                break
            if len(waiting) == 1:
                self.peer.block.pop(str(waiting[0]), None)
        return done

    def expected(self) -> dict[str, Any]:
        kinds: dict[str, Any] = dict.fromkeys(self.people, Delivered)
        if self.lmtp or {"DEFERRALS", "PRDR"} & set(self.keywords):
            kinds["bad@x.example"] = Failed
        return kinds

    def test_deferrals(self) -> None:
        """DEFERRALS (D-21, P-10)."""
        self.everyOctet("PIPELINING", "DEFERRALS")

    def test_prdr(self) -> None:
        """PRDR (P-10, P-11)."""
        self.everyOctet("PIPELINING", "PRDR")

    def test_lmtp(self) -> None:
        """LMTP: whoever was answered before the drop stays answered."""
        self.everyOctet("PIPELINING", lmtp=True)

    def test_plain(self) -> None:
        """One reply for all."""
        self.everyOctet("PIPELINING")


class NameTests(SynchronousTestCase):
    """
    Hosts in endpoint strings.
    """

    def test_hostOf(self) -> None:
        """The host, where there is one."""
        for endpoint, host in (
            ("tcp:mx.example:25", "mx.example"),
            ("tcp:host=mx.example:port=25", "mx.example"),
            ("tcp:port=25:host=mx.example", "mx.example"),
            ("tls:mx.example:465:timeout=3", "mx.example"),
            ("tcp:host=2001\\:db8\\:\\:1:port=25", "2001:db8::1"),
            ("unix:/run/lmtp", ""),
        ):
            self.assertEqual(hostOf(endpoint), host)

    def test_isLoopback(self) -> None:
        """This machine."""
        self.assertEqual(
            [isLoopback(h) for h in ("127.0.0.1", "::1", "localhost", "mx.example", "192.0.2.1")],
            [True, True, True, False, False],
        )
