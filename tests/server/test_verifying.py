"""
Checking signatures and seals.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.authentication import Chain, Signature
from deferrals.model.dkim import BodyHash, fieldsIn
from deferrals.model.envelope import Client
from deferrals.model.status import Status
from deferrals.server import verifying
from deferrals.server.authentication import Authentications
from deferrals.server.dnsnames import DNSNames
from deferrals.server.sealing import Sealer
from deferrals.server.signing import Signer, SigningKey, signedValue
from deferrals.server.spf import SPF
from deferrals.server.verifying import KEY_SECONDS, TOO_MUCH, Verified, Verifier
from deferrals.testing import makeEnvelope, makeMessage
from tests import signatures
from tests.resolver import Resolver

MAIL = (
    b"From: A <a@client.example>\r\nTo: b@x.example\r\nSubject: hello\r\n\r\n"
    b"Body of some lines\r\n\r\nwith  blanks\r\n"
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """
    Not of interest is what dkimpy would tell a log.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BytesWarning)
        yield


class SignedMail:
    """
    Mail that is signed and sealed, and the DNS that has the keys.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.client = signatures.key("rsa", "client.example")
        self.sealers = [signatures.key("rsa", f"list{n}.example") for n in range(3)]
        self.ed25519 = signatures.key("ed25519", "client.example")
        zone = signatures.zone([self.client, self.ed25519, *self.sealers])
        records: dict[tuple[str, str], list[Any]] = {
            (name.rstrip("."), "TXT"): [(record,)] for name, record in zone.items()
        }
        self.resolver = Resolver(records)

    def names(self) -> DNSNames:
        """
        DNS without a memory.
        """
        return DNSNames(lambda: self.resolver, self.clock)

    def signed(self, mail: bytes = MAIL, *keys: SigningKey) -> bytes:
        """
        As its sender's server has sent it.
        """
        signer = Signer(maybeDeferred, "mx.client.example", Status())
        signer.use(keys or [self.client], lambda client: True)
        found: list[bytes] = []
        signer.sign(makeMessage(mail), makeEnvelope(), 0, lambda: iter([mail])).addCallback(
            found.append
        )
        return found[0] + mail

    def sealed(self, mail: bytes, *numbers: int) -> bytes:
        """
        As lists have sent it on, one after the other.
        """
        for number in numbers or (0,):
            mail = self.sealedAs(mail, mail, number)
        return mail

    def sealedAs(self, mail: bytes, leaving: bytes, number: int = 0) -> bytes:
        """
        As a list has sent it on that has changed it.
        """
        key, found = self.sealers[number], list[bytes]()
        names = self.names()
        spf = SPF(names, self.clock)
        checks = Authentications(maybeDeferred, names, spf, self.clock, Status())
        sealer = Sealer(maybeDeferred, checks, f"mx.{key.domain}", Status())
        sealer.use([key])
        envelope = makeEnvelope("a@client.example", client=Client("198.51.100.1", 25, "c.example"))
        with quiet():
            d = sealer.seal(makeMessage(mail), makeMessage(leaving), envelope)
        d.addCallback(found.append)
        return found[0] + leaving


class VerifierTests(SynchronousTestCase):
    """
    L{Verifier}.
    """

    if signatures.MISSING:
        skip = signatures.MISSING

    def setUp(self) -> None:
        self.mail = SignedMail()
        self.resolver = self.mail.resolver

    def begin(self, mail: bytes) -> Deferred[Verified]:
        verifier = Verifier(maybeDeferred, self.mail.names(), self.mail.clock)
        message = makeMessage(mail)
        with quiet():
            return Deferred.fromCoroutine(verifier.check(message, fieldsIn(message.header)))

    def check(self, mail: bytes) -> Verified:
        found: Verified = self.successResultOf(self.begin(mail))
        return found

    def test_signatures(self) -> None:
        """Each signature by itself, of both kinds."""
        mail = self.mail.signed(MAIL, self.mail.client, self.mail.ed25519)
        found = self.check(mail)
        self.assertEqual(
            set(found.dkim),
            {
                Signature("pass", "client.example", "rsa"),
                Signature("pass", "client.example", "ed25519"),
            },
        )
        self.assertEqual((found.arc, found.unchecked), (Chain(), ""))
        self.assertEqual({one.result for one in self.check(mail + b"x").dkim}, {"fail"})
        self.assertEqual(self.check(MAIL), Verified())

    def test_second(self) -> None:
        """A second From spoils a signature: ours are about there being no other."""
        mail = b"From: boss@bank.example\r\n" + self.mail.signed()
        self.assertEqual([one.result for one in self.check(mail).dkim], ["fail"])

    def sign(self, key: SigningKey, names: list[bytes], kind: bytes = b"rsa-sha256") -> bytes:
        """
        By another program, which signs what it is told to.
        """
        import dkim

        signer = dkim.DKIM(MAIL, signature_algorithm=kind)
        with quiet():
            made: bytes = signer.sign(
                key.selector.encode(),
                key.domain.encode(),
                signatures.pem("rsa"),
                include_headers=names,
            )
        return made + MAIL

    def test_unsound(self) -> None:
        """A signature that is not about From, or by an old hash, proves nothing."""
        sound = self.sign(self.mail.client, [b"from", b"subject"])
        self.assertEqual([one.result for one in self.check(sound).dkim], ["pass"])
        old = self.sign(self.mail.client, [b"from", b"subject"], b"rsa-sha1")
        self.assertEqual([one.result for one in self.check(old).dkim], ["permerror"])
        for names in (b"subject", b"subject:to"):
            mail = sound.replace(b"h=from : subject", b"h=" + names)
            self.assertNotEqual(mail, sound)
            self.assertNotIn("pass", [one.result for one in self.check(mail).dkim])

    def test_withoutFrom(self) -> None:
        """Even where the key's owner has signed so."""
        for names, wanted in (([b"from"], "pass"), ([b"subject"], "permerror")):
            mail = self.signAll(self.mail.client, names)
            self.assertEqual([one.result for one in self.check(mail).dkim], [wanted])

    def signAll(self, key: SigningKey, names: list[bytes]) -> bytes:
        head, _, body = MAIL.partition(b"\r\n\r\n")
        hashed = BodyHash()
        hashed.feed(body)
        tags = [
            *(("v", "1"), ("a", "rsa-sha256"), ("c", "relaxed/relaxed")),
            *(("d", key.domain), ("s", key.selector), ("h", b":".join(names).decode())),
            ("bh", hashed.end().decode()),
        ]
        fields = [(one.name, one.value) for one in fieldsIn(head) if one.name in names]
        return b"DKIM-Signature:" + signedValue(key, b"DKIM-Signature", tags, names, fields) + MAIL

    def test_another(self) -> None:
        """What is read as a signature here, and not there, has nobody else's result."""
        place = b"DKIM-Signature : v=1; a=rsa-sha256; d=bank.example; s=rsa; h=from; bh=x; b=y\r\n"
        for front in (place, place.replace(b" :", b"\t:"), b" " + place, b"From x\r\n" + place):
            found = self.check(front + self.mail.signed())
            proved = {one.domain for one in found.dkim if one.result == "pass"}
            self.assertLessEqual(proved, {"client.example"}, front)

    def test_noPlace(self) -> None:
        """A name that DNS cannot have has no key: nobody is asked, and nothing is unknown."""
        for selector in (b"s" * 64, b"a..b", b".a", b"a."):
            mail = self.mail.signed().replace(b"s=rsa;", b"s=" + selector + b";")
            self.resolver.asked.clear()
            self.assertEqual(
                {one.result for one in self.check(mail).dkim} - {"permerror"}, {"fail"}
            )
            self.assertEqual(self.resolver.asked, [])

    def test_chain(self) -> None:
        """A chain that holds says who has sealed, the first one first, and what they said."""
        mail = self.mail.sealed(self.mail.signed(), 0, 2)
        chain = self.check(mail).arc
        self.assertEqual(chain.result, "pass")
        self.assertEqual([one.domain for one in chain.seals], ["list0.example", "list2.example"])
        self.assertIn(b"mx.list0.example", chain.seals[0].results)

    def test_broken(self) -> None:
        """One that does not hold says nothing of who has sealed."""
        mail = self.mail.sealed(self.mail.signed(), 0, 2)
        for wrong in (
            mail.replace(b"Body", b"Bodies"),
            mail.replace(b"arc=none", b"arc=pass"),
            mail.replace(b"ARC-Seal: i=1", b"ARC-Seal: i=3"),
            mail.replace(b"ARC-Seal", b"X-Seal", 1),
        ):
            self.assertNotEqual(wrong, mail)
            chain = self.check(wrong).arc
            self.assertEqual((chain.result, chain.seals), ("fail", ()))

    def test_noKey(self) -> None:
        """A key that is not there, or there twice, proves nothing; DNS that fails is known."""
        place = "rsa._domainkey.client.example"
        mail, record = self.mail.signed(), self.resolver.records[place, "TXT"]
        for records, wanted in ((record * 2, "fail"), ([], "fail")):
            self.resolver.records[place, "TXT"] = records
            self.assertEqual([one.result for one in self.check(mail).dkim], [wanted])
        self.resolver.broken = {place}
        self.assertEqual([one.result for one in self.check(mail).dkim], ["temperror"])

    def test_silent(self) -> None:
        """One key that DNS is silent about does not keep the others from being known."""
        mail = self.mail.sealed(self.mail.signed())
        self.resolver.silent = {"rsa._domainkey.client.example"}
        d = self.begin(mail)
        self.assertNoResult(d)
        with quiet():
            self.mail.clock.advance(KEY_SECONDS)
        found = self.successResultOf(d)
        self.assertEqual([one.result for one in found.dkim], ["temperror"])
        self.assertEqual(found.arc.result, "pass")

    def test_bounds(self) -> None:
        """What is too much is not checked; DNS is not asked then."""
        line = b"DKIM-Signature: d=a.example; s=a\r\n"
        mail = line * 11 + self.mail.sealed(self.mail.signed())
        self.resolver.asked.clear()
        found = self.check(mail)
        self.assertEqual(found.unchecked, TOO_MUCH)
        self.assertEqual({one.result for one in found.dkim}, {"permerror"})
        self.assertEqual((len(found.dkim), found.arc), (10, Chain("permerror")))
        self.assertEqual(self.resolver.asked, [])
        self.patch(verifying, "MOST_OCTETS", 10)
        self.assertEqual(self.check(MAIL).unchecked, TOO_MUCH)

    def test_keysOnce(self) -> None:
        """A key that several signatures have is asked for once."""
        mail = self.mail.sealed(self.mail.signed(), 0, 0)
        self.resolver.asked.clear()
        self.check(mail)
        self.assertEqual(len(self.resolver.asked), 2)


_OCTETS = some.integers(0, 255)


class ChangedTests(SynchronousTestCase):
    """
    Mail that was changed behind its signature or its seal.
    """

    if signatures.MISSING:
        skip = signatures.MISSING

    def setUp(self) -> None:
        self.mail = SignedMail()
        self.signed = self.mail.signed()
        self.sealed = self.mail.sealed(self.signed, 0, 1)

    def check(self, mail: bytes) -> Verified:
        found: list[Verified] = []
        verifier = Verifier(maybeDeferred, self.mail.names(), self.mail.clock)
        message = makeMessage(mail)
        with quiet():
            d = Deferred.fromCoroutine(verifier.check(message, fieldsIn(message.header)))
        d.addCallback(found.append)
        return found[0]

    @settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None)
    @given(some.data(), _OCTETS)
    def test_octet(self, data: some.DataObject, octet: int) -> None:
        """
        One octet of what is signed or sealed is changed: nothing passes that is not the
        same to a reader.
        """
        index = data.draw(some.integers(0, len(self.sealed) - 1))
        changed = self.sealed[:index] + bytes([octet]) + self.sealed[index + 1 :]
        found = self.check(changed)
        if found.arc.result == "pass":
            self.assertEqual(_meant(changed), _meant(self.sealed))
            said = [(one.domain, one.results) for one in found.arc.seals]
            before = [(one.domain, one.results) for one in self.check(self.sealed).arc.seals]
            self.assertEqual([_blanks(two) for _, two in said], [_blanks(two) for _, two in before])
        for one in found.dkim:
            if one.result == "pass":
                self.assertEqual(_signedPart(changed), _signedPart(self.sealed))

    @settings(suppress_health_check=[HealthCheck.differing_executors], deadline=None)
    @given(some.lists(some.binary(max_size=40), max_size=6), some.binary(max_size=60), some.data())
    def test_random(self, lines: list[bytes], subject: bytes, data: some.DataObject) -> None:
        """Any mail that is signed passes; with one letter more in what is signed, it does not."""
        body = b"".join(_line(line) + b"\r\n" for line in lines)
        signed = self.mail.signed(
            b"From: a@client.example\r\nSubject: x" + _line(subject) + b"\r\n\r\n" + body
        )
        self.assertEqual([one.result for one in self.check(signed).dkim], ["pass"])
        first = signed.index(b"Subject: x") + 10
        place = data.draw(some.integers(first, len(signed)))
        if not signed[first:place].endswith(b"\r"):
            self.assertNotIn("pass", [one.result for one in self.check(_more(signed, place)).dkim])

    def test_sets(self) -> None:
        """Sets that are left out, given twice, or put in another order do not hold."""
        head, _, body = self.sealed.partition(b"\r\n\r\n")
        lines = [one.octets for one in fieldsIn(head)]
        seals = [one for one in lines if one.lower().startswith(b"arc-")]
        rest = [one for one in lines if one not in seals]
        for chosen in (seals[:3], seals[1:], [*seals, seals[0]], [*seals[:3], *seals[:3]]):
            mail = b"\r\n".join([*chosen, *rest]) + b"\r\n\r\n" + body
            self.assertNotEqual(self.check(mail).arc.result, "pass", len(chosen))
        self.assertEqual(self.check(self.sealed).arc.result, "pass")
        first = b"\r\n".join([*seals[3:], *rest]) + b"\r\n\r\n" + body
        self.assertEqual([one.domain for one in self.check(first).arc.seals], ["list0.example"])


def _line(octets: bytes) -> bytes:
    return octets.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")


def _more(mail: bytes, place: int) -> bytes:
    return mail[:place] + b"Q" + mail[place:]


def _blanks(octets: bytes) -> bytes:
    return b"".join(octets.split())


def _signedPart(mail: bytes) -> tuple[object, ...]:
    """
    What a signature of ours is about, as C{relaxed} sees it.
    """
    head, _, body = mail.partition(b"\r\n\r\n")
    names = (b"from", b"to", b"subject")
    fields = [(one.name, _blanks(one.value).lower()) for one in fieldsIn(head) if one.name in names]
    return fields, _blanks(body)


def _meant(mail: bytes) -> tuple[object, ...]:
    return _signedPart(mail)
