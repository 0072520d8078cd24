"""
Delivery by LMTP, against servers without sockets.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred

from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Recipient
from deferrals.model.sending import R550_NO_REQUIRETLS
from deferrals.model.settings import BadSetting
from deferrals.model.verdict import Delivered, Failed, Retry
from deferrals.smtp.client.pool import OFFERED_SECONDS
from deferrals.stages.delivery.lmtp import LMTPDelivery, LMTPSettings
from deferrals.testing import (
    FakeServices,
    ReportingDeliveryContract,
    makeAddressees,
    makeEnvelope,
    makeMessage,
)
from tests.peer import Peer, Wire
from tests.remote import BODY, RemoteCase
from tests.requirements import requirement


class LMTPContractTests(RemoteCase, ReportingDeliveryContract):
    """
    L{LMTPDelivery} as a delivery stage.
    """

    keywords = ("PIPELINING",)
    lmtp = True

    def makeHalting(self) -> LMTPDelivery:
        self.peer.block = {"b@example.net": "silence"}
        stage: LMTPDelivery = self.makeStage()
        return stage


class LMTPTests(RemoteCase):
    """
    L{LMTPDelivery}.
    """

    keywords = ("PIPELINING", "8BITMIME")
    lmtp = True

    @requirement("S-5")
    def test_each(self) -> None:
        """2xx delivered, 4xx retried, 5xx failed; one session for all (RFC 2033)."""
        self.peer.rcpt = {"d@x.example": "550 5.1.1 who"}
        self.peer.block = {"b@x.example": "552 5.2.2 full", "c@x.example": "451 4.2.0 later"}
        a, b, c, d = self.outcomes(makeAddressees(*(f"{x}@x.example" for x in "abcd")))
        self.assertEqual((type(a), a.action, a.reply.code), (Delivered, "delivered", 250))
        self.assertEqual((type(b), b.reply.enhanced), (Failed, "5.2.2"))
        self.assertEqual((type(c), c.reply.enhanced), (Retry, "4.2.0"))
        self.assertEqual((type(d), d.reply.enhanced, d.host), (Failed, "5.1.1", "peer.example"))
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

    def test_foreseen(self) -> None:
        """
        What the store has not offered in its last session is refused at RCPT: a larger
        message, an address with UTF-8; a minute later nothing is known.
        """
        self.peer.keywords = ["PIPELINING", "8BITMIME", "SIZE 1000"]
        stage = self.makeStage()
        large, fits = makeEnvelope(size=1001), makeEnvelope(size=1000)
        ascii, utf8 = (makeAddressees(f"{x}@x.example")[0].recipient for x in ("a", "\u00fc"))
        sender = makeEnvelope("\u00fc@client.test", smtputf8=True)
        asked = [(large, ascii), (fits, utf8), (sender, ascii), (fits, ascii)]

        def refused() -> list[str]:
            found = [stage.refusal(*one) for one in asked]
            return ["" if one is None else one.enhanced for one in found]

        self.assertEqual(refused(), [""] * 4)
        self.outcomes(makeAddressees("a@x.example"), stage=stage)
        self.assertEqual(refused(), ["5.3.4", "5.6.7", "5.6.7", ""])
        self.clock.advance(OFFERED_SECONDS)
        self.assertEqual(refused(), [""] * 4)

    def test_messageForeseen(self) -> None:
        """
        What shows only in the message is known when it is there: its real size, with the
        trace fields; 8-bit text that must stay as it is, where there is no 8BITMIME.
        """
        signed = b"Subject: x\r\nDKIM-Signature: a=b\r\n\r\n\xc3\xbc\r\n"
        plain = signed.replace(b"DKIM-Signature", b"X-Note")
        large = b"Subject: x\r\n\r\n" + b"x" * 900 + b"\r\n"
        utf8 = "Subject: \u00fc\r\nDKIM-Signature: a=b\r\n\r\nx\r\n".encode()
        grows = b"Subject: x\r\n\r\n" + b"\xff" * 400 + b"\r\n"
        asked = [BODY, large, signed, plain, utf8, grows]
        recipient = makeAddressees("a@x.example")[0].recipient
        for keywords, wanted in (
            (["8BITMIME", "SIZE 1000"], ["", "5.3.4", "", "", "", ""]),
            (["SIZE 2000"], ["", "", "5.6.3", "", "5.6.3", ""]),
            (["SIZE 1000"], ["", "5.3.4", "5.6.3", "", "5.6.3", "5.3.4"]),
            (["SMTPUTF8", "8BITMIME"], [""] * 6),
        ):
            self.setUp()
            self.peer.keywords = ["PIPELINING", *keywords]
            stage = self.makeStage()

            def refused(stage: LMTPDelivery = stage) -> list[str]:
                envelope, found = makeEnvelope(smtputf8=True), []
                for octets in asked:
                    answer = stage.refusalOf(makeMessage(octets), envelope, recipient)
                    found.append(self.successResultOf(Deferred.fromCoroutine(answer)))
                return ["" if one is None else str(one.enhanced) for one in found]

            self.assertEqual(refused(), [""] * 6)
            self.outcomes(makeAddressees("a@x.example"), stage=stage)
            self.assertEqual(refused(), wanted, keywords)
            outcomes = [
                self.outcomes(
                    makeAddressees("a@x.example"),
                    stage=stage,
                    message=makeMessage(octets),
                    envelope=makeEnvelope(smtputf8=True),
                )[0]
                for octets in asked
            ]
            self.assertEqual(
                [type(one) for one in outcomes], [Failed if no else Delivered for no in wanted]
            )

    def test_utf8(self) -> None:
        """
        A store without SMTPUTF8 gets a header with UTF-8 as it gets other 8-bit text,
        where no address needs more; without 8BITMIME, converted.
        """
        envelope = makeEnvelope(smtputf8=True)
        message = makeMessage("Subject: \u00fc\r\n\r\nhello\r\n".encode())
        for keywords, mail, subject in (
            (["8BITMIME"], " BODY=8BITMIME", "\u00fc".encode()),
            (["8BITMIME", "SMTPUTF8"], " BODY=8BITMIME SMTPUTF8", "\u00fc".encode()),
            ([], "", b"=?utf-8?q?=C3=BC?="),
        ):
            self.setUp()
            self.peer.keywords = ["PIPELINING", *keywords]
            people = makeAddressees("a@x.example")
            (found,) = self.outcomes(people, envelope=envelope, message=message)
            self.assertIsInstance(found, Delivered)
            self.assertEqual(self.peer.commands[1], f"MAIL FROM:<sender@example.com>{mail}")
            self.assertIn(b"Subject: " + subject + b"\r\n", self.peer.accepted[0][2])
        self.peer.keywords = ["PIPELINING", "8BITMIME"]
        people = makeAddressees("\u00fc@x.example")
        (found,) = self.outcomes(people, envelope=envelope, message=message)
        self.assertEqual((type(found), found.reply.enhanced), (Failed, "5.6.7"))

    def test_login(self) -> None:
        """A store that asks for a user gets one, once in a session (Cyrus over TCP)."""
        local = "tcp:127.0.0.1:24"
        peer = self.network.peers[local] = Peer("AUTH PLAIN", lmtp=True)
        peer.override["AUTH"] = "235 2.7.0 welcome"
        self.patch(Wire, "getPeer", lambda _: IPv4Address("TCP", "127.0.0.1", 24))
        with open(path := self.mktemp(), "w") as file:
            file.write("secret\n")
        for password in ({"password": "secret"}, {"password_file": os.path.abspath(path)}):
            settings = LMTPSettings(endpoint=local, user="me", **password)
            stage = LMTPDelivery(settings, self.services)
            for _ in range(2):
                (found,) = self.outcomes(makeAddressees("a@x.example"), stage=stage)
                self.assertIsInstance(found, Delivered)
            logins = [line for line in peer.commands if line.startswith("AUTH")]
            self.assertEqual(logins, ["AUTH PLAIN AG1lAHNlY3JldA=="])
            peer.commands.clear()

    def test_noLogin(self) -> None:
        """Nothing is sent where the user is not wanted, nor to another machine in clear."""
        peer = self.network.peers["unix:/run/lmtp"] = Peer("AUTH PLAIN", lmtp=True)
        peer.override["AUTH"] = "535 5.7.8 no"
        settings = LMTPSettings(endpoint="unix:/run/lmtp", user="me", password="x")
        stage = LMTPDelivery(settings, self.services)
        (found,) = self.outcomes(makeAddressees("a@x.example"), stage=stage)
        self.assertIsInstance(found, Retry)
        self.assertNotIn("MAIL", " ".join(peer.commands))
        self.assertNotIn("AUTH", " ".join(peer.commands))  # this transport is no socket's

    def test_settings(self) -> None:
        """A user has one password, which goes in clear to this machine only."""
        good: dict[str, Any] = {"user": "me", "password": "x"}
        for endpoint in ("unix:/run/lmtp", "tcp:localhost:24", "tcp:[::1]:24", "tls:store:24"):
            endpoint = endpoint.replace("[::1]", r"\:\:1")
            self.assertNotIn("'x'", repr(LMTPSettings(endpoint=endpoint, **good)))
        LMTPSettings(endpoint="tcp:store:24", tls="required", **good)
        for endpoint, more in (
            ("tcp:store:24", good),
            ("tcp:store:24", {**good, "tls": "opportunistic"}),
            ("unix:/run/lmtp", {"user": "me"}),
            ("unix:/run/lmtp", {"password": "x"}),
            ("unix:/run/lmtp", {**good, "password_file": "y"}),
        ):
            with self.assertRaises(BadSetting):
                LMTPSettings(endpoint=endpoint, **more)

    def test_refusal(self) -> None:
        """REQUIRETLS is refused in the envelope where another machine reads along."""
        recipient = Recipient(Mailbox.parse("a@x.example"))
        for endpoint, tls, isRefused in (
            ("unix:/run/store", "none", False),
            ("tcp:127.0.0.1:24", "none", False),
            ("tcp:store.example:24", "none", True),
            ("tcp:store.example:24", "required", True),
            ("tcp:store.example:24", "verified", False),
            ("tls:store.example:24", "none", False),
        ):
            self.services.connect = lambda endpoint: None
            stage = LMTPDelivery(LMTPSettings(endpoint=endpoint, tls=tls), self.services)
            self.assertIsNone(stage.refusal(makeEnvelope(), recipient))
            found = stage.refusal(makeEnvelope(requireTLS=True), recipient)
            self.assertEqual(found, R550_NO_REQUIRETLS if isRefused else None, endpoint)

    def test_endpoint(self) -> None:
        """An endpoint that is none is an error of the configuration."""
        with self.assertRaises(ValueError):
            LMTPDelivery(LMTPSettings(endpoint="nonsense"), FakeServices())

    def test_hops(self) -> None:
        """The store can be asked."""
        (hop,) = self.makeStage().hops(Recipient(Mailbox.parse("a@x.example")))
        self.assertTrue(hop.lmtp)
