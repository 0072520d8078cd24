"""
Signing what leaves.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IMessage
from deferrals.model.dkim import SigningSettings
from deferrals.model.dkimkeys import privateKey
from deferrals.model.dsn import LISTENER
from deferrals.model.envelope import Client, Envelope
from deferrals.model.status import Status
from deferrals.server import signing
from deferrals.server.signing import Signer, SigningKey, signingKey
from deferrals.testing import makeEnvelope, makeMessage
from tests import signatures
from tests.harness import Bench, Transport
from tests.remote import RemoteCase

KINDS = ("rsa", "ed25519")

LOGIN = Client("192.0.2.1", user="a@example.net")

MAIL = (
    b"From: A <a@example.net>\r\nTo: b@x.example\r\nSubject: hello\r\n there\r\n\r\nBody \r\n\r\n"
)


class SigningCase(SynchronousTestCase):
    """
    Signs with keys of example.net.
    """

    if signatures.MISSING:
        skip = signatures.MISSING

    kinds: tuple[str, ...] = ("rsa",)

    def setUp(self) -> None:
        self.status = Status()
        self.signer = Signer(maybeDeferred, "mx.example.net", self.status)
        self.keys = [signatures.key(kind) for kind in self.kinds]
        self.use(self.keys)

    def use(self, keys: list[SigningKey]) -> None:
        self.signer.use(keys, lambda client: client.address == "10.0.0.1")

    def signed(
        self,
        mail: bytes = MAIL,
        envelope: Envelope | None = None,
        message: IMessage | None = None,
        cut: int = 65536,
    ) -> bytes:
        """
        @return: the message as it leaves.
        """
        envelope = envelope or makeEnvelope("a@example.net", client=LOGIN)

        def chunks() -> Iterator[bytes]:
            return (mail[i : i + cut] for i in range(0, len(mail), cut))

        found: Deferred[bytes] = self.signer.sign(
            message or makeMessage(mail), envelope, "form", chunks
        )
        return self.successResultOf(found) + mail

    def verified(self, octets: bytes) -> list[bool]:
        return signatures.verified(octets, self.keys)


class SignerTests(SigningCase):
    """
    L{Signer}.
    """

    kinds = ("rsa", "ed25519")

    def test_each(self) -> None:
        """Each key of the domain signs, and each signature is right."""
        octets = self.signed()
        self.assertEqual(self.verified(octets), [True, True])
        for algorithm in (b"a=rsa-sha256", b"a=ed25519-sha256"):
            self.assertIn(algorithm, octets)

    def test_long(self) -> None:
        """Long names of domains, keys and fields stay in one line: no receiver joins them."""
        domain, field = f"{'a' * 60}.{'b' * 60}.example.net", "X-" + "c" * 100
        table = SigningSettings(domain, f"{'d' * 60}.{'e' * 60}", "k", headers=("To", field))
        key = signingKey(table, privateKey(signatures.pem("rsa")))
        self.use([key])
        mail = MAIL.replace(b"example.net", domain.encode())
        mail = f"{field}: x\r\n{field}: y\r\n".encode() + mail
        client = Client("192.0.2.1", user=f"a@{domain}")
        octets = self.signed(mail, makeEnvelope("", client=client))
        self.assertEqual(signatures.verified(octets, [key]), [True])
        self.assertEqual(signatures.verified(octets.replace(b": y\r", b": z\r"), [key]), [False])
        header = octets.partition(b"X-")[0].split(b"\r\n")
        self.assertTrue(all(len(line) < 80 for line in header if b" " in line.strip()), header)

    def test_tampering(self) -> None:
        """What is changed is found out: the text, a field, another author."""
        octets = self.signed()
        for old, new in (
            (b"Body", b"Boby"),
            (b"hello", b"hallo"),
            (b"To: b@", b"To: c@"),
            (b"From: A", b"From: z@example.net\r\nFrom: A"),
            (b"\r\n\r\nBody", b"\r\nFrom: z@example.net\r\n\r\nBody"),
        ):
            self.assertIn(old, octets)
            self.assertEqual(self.verified(octets.replace(old, new)), [False, False], new)

    def test_mayChange(self) -> None:
        """Blanks, folding and fields in front, as servers change them, break nothing."""
        octets = self.signed()
        for old, new in (
            (b"Body \r\n\r\n", b"Body\r\n"),
            (b"hello\r\n there", b"hello there"),
            (b"DKIM", b"Received: x\r\nDKIM"),
        ):
            self.assertEqual(self.verified(octets.replace(old, new, 1)), [True, True], new)

    def test_same(self) -> None:
        """A later attempt, or another process, makes the same signature."""
        envelope = makeEnvelope("a@example.net", client=LOGIN)
        first = self.signed(envelope=envelope)
        self.setUp()
        self.assertEqual(self.signed(envelope=envelope, cut=7), first)
        self.assertIn(b"t=1000000000;", first)

    def test_once(self) -> None:
        """Copies of one form are signed once; with other keys, anew."""
        made: list[str] = []
        make = signing.signature

        def counted(key: SigningKey, *rest: Any) -> bytes:
            made.append(key.kind)
            return make(key, *rest)

        self.patch(signing, "signature", counted)
        message = makeMessage(MAIL)
        self.signed(message=message)
        self.signed(message=message)
        self.assertEqual(made, ["rsa", "ed25519"])
        self.use(self.keys[:1])
        self.signed(message=message)
        self.assertEqual(made, ["rsa", "ed25519", "rsa"])

    def test_whose(self) -> None:
        """Users' mail is signed, and that of networks that are let in; none from outside."""
        for client, count in (
            (LOGIN, 2),
            (Client("10.0.0.1"), 2),
            (Client("192.0.2.1"), 0),
        ):
            envelope = makeEnvelope("a@example.net", client=client)
            self.assertEqual(len(self.verified(self.signed(envelope=envelope))), count, client)

    def test_notices(self) -> None:
        """The server's own notices are signed; what only looks like one is not."""
        envelope = makeEnvelope("", client=Client("local"))
        self.assertEqual(self.signed(envelope=envelope), MAIL)
        ours = Envelope(1, 1e9, Client("local"), None, listener=LISTENER)
        self.assertEqual(self.verified(self.signed(envelope=ours)), [True, True])

    def test_purposes(self) -> None:
        """A key signs what it is for."""
        table = SigningSettings("example.net", "s", "k", sign=("notices",))
        self.use([signingKey(table, privateKey(signatures.pem("rsa")))])
        self.assertEqual(self.signed(), MAIL)
        self.assertEqual(self.signer.keysFor("submission", "example.net"), [])
        self.assertEqual(len(self.signer.keysFor("notices", "example.net")), 1)

    def test_domains(self) -> None:
        """Only just the author's domain signs: none above it, and none below."""
        for domain in ("sub.example.net", "net", "x.example"):
            mail = MAIL.replace(b"a@example.net", b"a@" + domain.encode())
            self.assertEqual(self.signed(mail), mail)

    def test_withheld(self) -> None:
        """A login gets no proof for a domain that it may not use, and the log says so."""
        client = Client("192.0.2.1", user="eve@x.example")
        envelope = makeEnvelope("eve@x.example", client=client)
        self.assertEqual(self.signed(envelope=envelope), MAIL)
        self.assertEqual(self.status.kinds("events"), {"unsigned": 1})

    def test_binary(self) -> None:
        """What is binary is not signed: its lines are none."""
        envelope = makeEnvelope("a@example.net", client=LOGIN, body="BINARYMIME")
        self.assertEqual(self.signed(envelope=envelope), MAIL)

    def test_broken(self) -> None:
        """What cannot be signed goes unsigned, and the log has why: no message is lost."""

        def broken(*rest: object) -> bytes:
            raise RuntimeError("no")

        self.patch(signing, "signature", broken)
        self.assertEqual(self.signed(), MAIL)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.status.kinds("events"), {"unsigned": 1})

    def test_unreadable(self) -> None:
        """What cannot be read fails, and is tried again as any delivery."""

        def chunks() -> Iterator[bytes]:
            yield MAIL[:10]
            raise OSError("no disk")

        envelope = makeEnvelope("a@example.net", client=LOGIN)
        self.failureResultOf(self.signer.sign(makeMessage(MAIL), envelope, "form", chunks), OSError)

    def test_longHeader(self) -> None:
        """A header section beyond all measure is not signed, in however many pieces."""
        self.patch(signing, "HEADER_OCTETS", 100)
        mail = MAIL.replace(b"hello", b"hello " * 40)
        for cut in (50, 65536):
            self.assertEqual(self.signed(mail, cut=cut), mail, cut)

    def test_noBody(self) -> None:
        """A message without a text is signed, too."""
        self.assertEqual(
            self.verified(self.signed(MAIL.partition(b"\r\n\r\n")[0] + b"\r\n")), [True] * 2
        )


class KeyTests(SynchronousTestCase):
    """
    L{signingKey}.
    """

    def test_extra(self) -> None:
        """Without the extra that signs, a key is an error that says what is missing."""
        table = SigningSettings("example.net", "s", "k")
        with mock.patch.dict(sys.modules, {"dkim": None}):
            error = self.assertRaises(
                ValueError, signingKey, table, privateKey(signatures.pem("ed25519"))
            )
        self.assertIn("the extra deferrals[dkim]", str(error))


#: What headers and bodies are made of: folding, what other servers add, 8-bit text, dots,
#: lines of all ends and lengths, and no field at all.
PIECES = (
    *(b"Subject: ", b"Cc:", b"To: b@x.example\r\n", b"X-Other:\t", b"Received: x\r\n", b"\r\n"),
    *(b"\r\n ", b"\r\n\t", b"  ", b"\t", b"word", "\u00fc".encode(), b"\xff", b".", b"\r\n.\r\n.."),
    *(b"\n", b"\r", b"y" * 500, b"Bcc: c@x.example\r\n", b"Return-Path: <x>\r\n", b":", b"\x0b"),
    *(b"Delivered-To: x\r\n", b"Authentication-Results: mx.example.net; none\r\n", b"--x"),
    *(b"Content-Type: text/plain; charset=utf-8\r\n", b"From: other@example.net\r\n"),
)
OCTETS = st.lists(st.sampled_from(PIECES), max_size=15).map(b"".join)


class SubmittedTests(RemoteCase):
    """
    Whatever a client submits, its signature is right when it leaves.
    """

    if signatures.MISSING:
        skip = signatures.MISSING

    def sent(self, mail: bytes) -> bytes:
        """
        @return: what the next server gets; nothing, where the message is refused.
        """
        bench = Bench(transport=Transport("10.0.0.1"), protocol="submission", auth="no")
        bench.say("EHLO c", "MAIL FROM:<a@example.net> BODY=8BITMIME")
        bench.say("RCPT TO:<postmaster@x.example>", "DATA")
        bench.send(re.sub(rb"(?m)^\.", b"..", mail) + b"\r\n.\r\n")
        if not bench.works:
            return b""
        work = bench.works[-1]
        self.peer.accepted.clear()
        self.outcomes(work.addressees, message=work.message, envelope=work.envelope)
        return self.peer.accepted[0][2] if self.peer.accepted else b""

    def sign(self) -> None:
        signer = Signer(self.services.inThread, "mx.example.net", self.services.status)
        signer.use([signatures.key(kind) for kind in KINDS], lambda client: True)
        self.services.signer = signer

    def verified(self, octets: bytes) -> list[bool]:
        return signatures.verified(octets, [signatures.key(kind) for kind in KINDS])

    @settings(deadline=None)
    @given(OCTETS, OCTETS, OCTETS, st.booleans())
    def test_any(self, before: bytes, after: bytes, body: bytes, isEightBit: bool) -> None:
        """In 8-bit as it is, and converted, where the next server has no 8BITMIME."""
        self.setUp()
        self.sign()
        self.peer.keywords = ["PIPELINING", "8BITMIME"] if isEightBit else ["PIPELINING"]
        octets = self.sent(before + b"\r\nFrom: a@example.net\r\n" + after + b"\r\n\r\n" + body)
        found = self.verified(octets)
        self.assertEqual(found, [True] * len(found), octets)

    def test_ordinary(self) -> None:
        """An ordinary message has both signatures, over the fields that were added, too."""
        self.sign()
        octets = self.sent(b"From: a@example.net\r\nBcc: c@x.example\r\n\r\n.\r\nx")
        self.assertEqual(self.verified(octets), [True, True])
        for name in (b"Date: ", b"Message-ID: "):
            (line,) = [line for line in octets.split(b"\r\n") if line.startswith(name)]
            broken = octets.replace(line, name + b"other")
            self.assertEqual(self.verified(broken), [False, False])
