"""
Sealing what is forwarded.
"""

from __future__ import annotations

import base64
import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.interfaces import ISealer
from deferrals.model import arc
from deferrals.model.dkim import SigningSettings
from deferrals.model.dkimkeys import privateKey
from deferrals.model.envelope import Client
from deferrals.model.status import Status
from deferrals.server import verifying
from deferrals.server.authentication import Authentications
from deferrals.server.dnsnames import DNSNames
from deferrals.server.sealing import Sealer
from deferrals.server.signing import HEADER_OCTETS, Signer, SigningKey, signingKey
from deferrals.server.spf import SPF
from deferrals.testing import makeEnvelope, makeMessage
from tests import signatures
from tests.resolver import Resolver

MAIL = (
    b"From: A <a@client.example>\r\nTo: b@x.example\r\nSubject: hello\r\n there\r\n"
    b"\r\nBody \r\n\r\n"
)


def fields(value: bytes) -> list[bytes]:
    """
    The names of fields.
    """
    return [line.partition(b":")[0] for line in value.split(b"\r\n") if line[:1].strip()]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """
    Not of interest is what dkimpy would tell a log.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BytesWarning)
        yield


class Broken:
    """
    A message that cannot be had.
    """

    header = MAIL.partition(b"\r\n\r\n")[0]
    size = 10

    def __init__(self, error: Exception) -> None:
        self._error = error

    def shared(self, key: Any, function: Any) -> Any:
        raise self._error


def publicKey(modulus: int, exponent: int) -> bytes:
    """
    An RSA key as it stands in DNS (RFC 8017 §A.1.1, in what RFC 5280 §4.1 wraps it).
    """

    def wrapped(tag: int, octets: bytes) -> bytes:
        size = len(octets).to_bytes(4, "big")
        return bytes((tag, 0x84)) + size + octets

    def number(value: int) -> bytes:
        return wrapped(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    key = wrapped(0x30, number(modulus) + number(exponent))
    return wrapped(0x30, algorithm + wrapped(3, b"\0" + key))


class SealingCase(SynchronousTestCase):
    """
    Seals with keys of example.net, mail that client.example may have signed.
    """

    if signatures.MISSING:
        skip = signatures.MISSING

    def setUp(self) -> None:
        self.clock = Clock()
        self.status = Status()
        self.client = signatures.key("rsa", "client.example")
        self.keys = [signatures.key("rsa"), signatures.key("ed25519")]
        self.other = signatures.key("rsa", "other.example")
        zone = signatures.zone([self.client, *self.keys, self.other])
        self.zone = zone
        records: dict[tuple[str, str], list[Any]] = {
            (name.rstrip("."), "TXT"): [(record,)] for name, record in zone.items()
        }
        records["client.example", "TXT"] = [(b"v=spf1 ip4:192.0.2.0/24 -all",)]
        self.resolver = Resolver(records)
        self.sealer = self.make(self.keys)

    def make(self, keys: list[SigningKey], hostname: str = "mx.example.net") -> Sealer:
        names = DNSNames(lambda: self.resolver, self.clock)
        found = Authentications(
            maybeDeferred, names, SPF(names, self.clock), self.clock, self.status
        )
        sealer = Sealer(maybeDeferred, found, hostname, self.status)
        sealer.use(keys)
        return sealer

    def signed(self, mail: bytes = MAIL) -> bytes:
        """
        As its sender's server has sent it.
        """
        signer = Signer(maybeDeferred, "mx.client.example", self.status)
        signer.use([self.client], lambda client: True)
        d = signer.sign(makeMessage(mail), makeEnvelope(), 0, lambda: iter([mail]))
        return self.resultOf(d) + mail

    def resultOf(self, d: Deferred[bytes]) -> bytes:
        found: bytes = self.successResultOf(d)
        return found

    def seal(
        self, mail: bytes, leaving: bytes | None = None, sealer: Sealer | None = None, **more: Any
    ) -> bytes:
        """
        @return: the fields in front.
        """
        envelope = makeEnvelope("a@client.example", **more)
        sealer = sealer or self.sealer
        with quiet():
            d = sealer.seal(makeMessage(mail), makeMessage(leaving or mail), envelope)
            return self.resultOf(d)

    def chain(self, mail: bytes) -> str:
        """
        What dkimpy says of a chain.
        """
        import dkim

        def texts(name: bytes, timeout: float = 0) -> bytes | None:
            return self.zone.get(name.decode())

        with quiet():
            found = dkim.ARC(mail).verify(dnsfunc=texts)[0]
        return "none" if found is None else str(found.decode())


class SealerTests(SealingCase):
    """
    L{Sealer}.
    """

    def test_interface(self) -> None:
        """It is what stages are promised."""
        self.assertTrue(verifyObject(ISealer, self.sealer))

    def test_first(self) -> None:
        """One set, which holds, with what was found out: SPF and the sender's signature."""
        mail = self.signed()
        seal = self.seal(mail)
        self.assertEqual(
            fields(seal), [b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"]
        )
        self.assertEqual(self.chain(seal + mail), "pass")
        results = b" ".join(seal[seal.index(b"ARC-Authentication-Results") :].split())
        self.assertEqual(
            results,
            b"ARC-Authentication-Results: i=1; mx.example.net; spf=pass"
            b" smtp.mailfrom=client.example; dkim=pass header.d=client.example header.s=rsa;"
            b" arc=none; dmarc=none header.from=client.example",
        )
        self.assertIn(b" cv=none;", seal)
        self.assertEqual(self.seal(mail), seal)

    def test_found(self) -> None:
        """What does not hold is said as it is; who is inside is not asked about."""
        mail = self.signed()
        broken = mail.replace(b"Body", b"Bodies")
        self.assertIn(b"dkim=fail header.d=client.example", self.seal(broken))
        self.assertIn(b"dkim=none", self.seal(MAIL))
        self.assertIn(b"dkim=permerror", self.seal(b"DKIM-Signature: nonsense\r\n" + MAIL))
        for client in (Client("127.0.0.1"), Client("local"), Client("192.0.2.1", user="a")):
            self.assertNotIn(b"spf=", self.seal(mail, client=client))
        self.assertIn(b"spf=fail", self.seal(mail, client=Client("203.0.113.1")))

    def test_hostname(self) -> None:
        """A name that is not ASCII is sealed with its A-labels."""
        seal = self.seal(MAIL, sealer=self.make(self.keys, "mx.ex\xe4mple.net"))
        self.assertIn(b" i=1; mx.xn--exmple-cua.net;", seal)
        self.assertEqual(self.chain(seal + MAIL), "pass")

    def test_second(self) -> None:
        """A chain that holds goes on."""
        mail = self.signed()
        first = self.seal(mail, sealer=self.make([self.other], "mx.other.example")) + mail
        second = self.seal(first)
        self.assertIn(b"ARC-Authentication-Results: i=2; mx.example.net;", second)
        self.assertIn(b"arc=pass", second)
        self.assertIn(b" cv=pass;", second)
        self.assertEqual(self.chain(second + first), "pass")
        third = self.seal(second + first, sealer=self.make([self.other], "mx.other.example"))
        self.assertEqual(self.chain(third + second + first), "pass")
        self.assertEqual(self.chain(third + second + first.replace(b"Body", b"x")), "fail")

    def test_broken(self) -> None:
        """A chain that does not hold, or is none, is not sealed again."""
        mail = self.signed()
        first = self.seal(mail, sealer=self.make([self.other], "mx.other.example")) + mail
        for wrong in (
            first.replace(b"Body", b"Bodies"),
            first.replace(b"ARC-Seal: i=1", b"ARC-Seal: i=2"),
            first.replace(b"ARC-Seal", b"X-Seal"),
            first.replace(b"spf=pass", b"spf=none"),
        ):
            self.assertNotEqual(wrong, first)
            self.assertEqual(self.seal(wrong), b"")
        self.assertEqual(self.status.counted("events", "unsealed"), 4)

    def test_leaving(self) -> None:
        """What is signed is what goes on."""
        leaving = MAIL.replace(b"Subject: hello", b"Subject: [x] hello")
        seal = self.seal(self.signed(), leaving)
        self.assertEqual(self.chain(seal + leaving), "pass")
        self.assertIn(b"dkim=pass", seal)

    def test_noDNS(self) -> None:
        """Without an answer a signature is of unknown worth, and a chain is not sealed."""
        mail = self.signed()
        first = self.seal(mail, sealer=self.make([self.other], "mx.other.example")) + mail
        self.resolver.broken = {"rsa._domainkey.client.example", "rsa._domainkey.other.example"}
        sealer = self.make(self.keys)
        self.assertIn(b"dkim=temperror header.d=client.example", self.seal(mail, sealer=sealer))
        self.assertEqual(self.seal(first, sealer=sealer), b"")

    def test_silentDNS(self) -> None:
        """It is waited for, for some time."""
        self.resolver.silent = {"rsa._domainkey.client.example"}
        mail = makeMessage(self.signed())
        d = self.make(self.keys).seal(mail, mail, makeEnvelope(client=Client("local")))
        self.assertNoResult(d)
        with quiet():
            self.clock.advance(verifying.KEY_SECONDS)
        self.assertIn(b"dkim=temperror", self.resultOf(d))

    def test_tooMuch(self) -> None:
        """What would take long is not checked, and goes on without."""
        self.assertEqual(self.seal(b"a: b\r\n" * 1001 + MAIL), b"")
        self.patch(verifying, "MOST_OCTETS", 10)
        self.assertEqual(self.seal(MAIL), b"")
        self.assertEqual(self.status.counted("events", "unsealed"), 2)

    def test_hugeKeys(self) -> None:
        """A key that would keep the server busy is none: what computes with it is not asked."""
        import dkim

        asked: list[int] = []

        def verify(hashed: Any, octets: bytes, key: Any) -> bool:
            asked.append(key["modulus"].bit_length())
            return False

        self.patch(dkim, "RSASSA_PKCS1_v1_5_verify", verify)
        mail = self.signed()
        for modulus, exponent, isAsked in (
            (1 << 4095, 65537, True),
            (1 << 4096, 65537, False),
            (1 << 2047, 1 << 64, False),
            (1 << 2047, 1 << 30000, False),
        ):
            asked.clear()
            record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(publicKey(modulus, exponent))
            self.resolver.records["rsa._domainkey.client.example", "TXT"] = [(record,)]
            seal = self.seal(mail, sealer=self.make(self.keys))
            self.assertEqual(bool(asked), isAsked, (modulus.bit_length(), exponent.bit_length()))
            self.assertIn(b"dkim=fail", seal)

    def test_blanks(self) -> None:
        """Blanks that would take the check minutes leave a message without a seal."""
        slow = MAIL + b" " * 20_000 + b"x\r\n"
        self.assertEqual(self.seal(self.signed(slow)), b"")
        self.assertEqual(self.status.counted("events", "unsealed"), 1)
        self.assertIn(b"dkim=pass", self.seal(self.signed(MAIL + b" " * 20_000 + b"\r\n")))

    def test_times(self) -> None:
        """How much is checked grows with the signatures."""
        signature = b"DKIM-Signature: d=x.example; s=a\r\n"
        self.patch(verifying, "MOST_TIMES_OCTETS", 3 * len(signature * 2 + MAIL))
        self.assertTrue(self.seal(signature * 2 + MAIL))
        self.assertEqual(self.seal(signature * 5 + MAIL), b"")
        self.patch(verifying, "MOST_TIMES_OCTETS", 1 << 20)
        mail = signature * 2 + MAIL
        pieces = mail.count(b" ") + mail.count(b"\n")
        self.patch(arc, "MOST_TIMES_PIECES", 2 * pieces)
        self.assertTrue(self.seal(mail))
        self.assertEqual(self.seal(signature + mail), b"")

    def test_keys(self) -> None:
        """The RSA key seals; without one nothing is sealed."""
        self.assertIn(b"a=rsa-sha256", self.seal(MAIL))
        self.assertTrue(self.sealer.hasKeys)
        for keys in ([], self.keys[1:]):
            sealer = self.make(keys)
            self.assertFalse(sealer.hasKeys)
            self.assertEqual(self.seal(MAIL, sealer=sealer), b"")

    def test_reload(self) -> None:
        """A seal is made with the keys that were there when it was begun."""
        for keys in ([], self.keys[1:], [self.other]):
            self.resolver.silent = {"rsa._domainkey.client.example"}
            sealer, mail = self.make(self.keys), makeMessage(self.signed())
            d = sealer.seal(mail, mail, makeEnvelope(client=Client("local")))
            self.assertNoResult(d)
            sealer.use(keys)
            with quiet():
                self.clock.advance(verifying.KEY_SECONDS)
            self.assertIn(b"; d=example.net;", self.resultOf(d))
            self.resolver.silent = set()
            self.assertNotIn(b"; d=example.net;", self.seal(MAIL, sealer=sealer))

    def test_signs(self) -> None:
        """Keys that are for it sign what is forwarded, too."""
        settings = SigningSettings("example.net", "rsa", "key.pem", ("forward",))
        key = signingKey(settings, privateKey(signatures.pem("rsa")))
        made = self.seal(MAIL, sealer=self.make([key, self.keys[1]]))
        self.assertEqual(fields(made)[:2], [b"DKIM-Signature", b"ARC-Seal"])
        self.assertEqual(signatures.verified(made + MAIL, [key]), [True])
        self.assertEqual(self.chain(made + MAIL), "pass")

    def test_longHeader(self) -> None:
        """What no signature is made of is not sealed either, and not signed."""
        settings = SigningSettings("example.net", "rsa", "key.pem", ("forward",))
        key = signingKey(settings, privateKey(signatures.pem("rsa")))
        sealer, line = self.make([key]), b"X-Long: " + b"x" * 900 + b"\r\n"
        fits = line * (HEADER_OCTETS // len(line) - 1) + MAIL
        self.assertEqual(self.chain(self.seal(MAIL, fits, sealer) + fits), "pass")
        self.assertEqual(self.status.counted("events", "unsealed"), 0)
        self.assertEqual(self.seal(MAIL, line * 2 + fits, sealer), b"")
        self.assertEqual(self.status.counted("events", "unsealed"), 1)

    def test_fails(self) -> None:
        """What cannot be read is tried again; whatever else goes wrong costs the seal alone."""
        for error, isRaised in ((OSError("disk"), True), (ValueError("odd"), False)):
            message: Any = Broken(error)
            d = self.sealer.seal(message, message, makeEnvelope())
            if isRaised:
                self.failureResultOf(d, OSError)
            else:
                self.assertEqual(self.resultOf(d), b"")
                self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_cancelled(self) -> None:
        """It may be cancelled."""
        self.resolver.silent = {"client.example"}
        mail = makeMessage(MAIL)
        d = self.sealer.seal(mail, mail, makeEnvelope("a@client.example"))
        self.assertNoResult(d)
        d.cancel()
        self.failureResultOf(d, CancelledError)

    def test_long(self) -> None:
        """A chain ends at some length."""
        self.patch(arc, "MOST_SETS", 1)
        mail = self.signed()
        first = self.seal(mail, sealer=self.make([self.other])) + mail
        self.assertEqual(self.seal(first), b"")

    def test_envelopes(self) -> None:
        """Copies of one message are checked once."""
        mail = makeMessage(self.signed())
        envelope = attrs.evolve(makeEnvelope("a@client.example"))
        self.resolver.asked.clear()
        for _ in range(2):
            with quiet():
                self.resultOf(self.sealer.seal(mail, mail, envelope))
        asked = [name for name, _ in self.resolver.asked]
        self.assertEqual(asked.count("rsa._domainkey.client.example"), 1)
