"""
Where a message comes from: everything together, once for each message.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IMessage
from deferrals.model import dmarc
from deferrals.model.authentication import Authentication, Chain, Signature
from deferrals.model.envelope import Client, Envelope
from deferrals.model.spf import Finding
from deferrals.model.spfrecord import SPFResult
from deferrals.model.status import Status
from deferrals.server import authentication
from deferrals.server.authentication import DNS_SECONDS, Authentications
from deferrals.server.spf import SPF
from deferrals.stages.foreign import seen, view
from deferrals.testing import makeEnvelope, makeMessage
from tests import signatures
from tests.model.test_dmarc import MISSING, suffixes
from tests.server.test_verifying import MAIL, SignedMail, quiet

OUTSIDE = Client("192.0.2.1", 25, "mail.client.example")


class AuthenticationCase(SynchronousTestCase):
    """
    Mail of client.example, which has all records.
    """

    if signatures.MISSING or MISSING:
        skip = signatures.MISSING or MISSING

    def setUp(self) -> None:
        self.mail = SignedMail()
        self.clock, self.resolver = self.mail.clock, self.mail.resolver
        self.records = self.resolver.records
        self.records["client.example", "TXT"] = [(b"v=spf1 ip4:192.0.2.0/24 -all",)]
        self.records["mail.client.example", "TXT"] = [(b"v=spf1 ip4:192.0.2.1 -all",)]
        self.records["_dmarc.client.example", "TXT"] = [(b"v=DMARC1; p=reject",)]
        self.patch(authentication, "_suffixes", suffixes)
        self.status = Status()
        self.checks = self.make()

    def make(self) -> Authentications:
        names = self.mail.names()
        spf = SPF(names, self.clock)
        return Authentications(maybeDeferred, names, spf, self.clock, self.status)

    def begin(self, message: IMessage, envelope: Envelope) -> Deferred[Authentication]:
        with quiet():
            return self.checks.ofMessage(message, envelope)

    def find(self, mail: bytes, sender: str = "a@client.example", **more: Any) -> Authentication:
        envelope = makeEnvelope(sender, **{"client": OUTSIDE, **more})
        found: Authentication = self.successResultOf(self.begin(makeMessage(mail), envelope))
        return found


class AuthenticationsTests(AuthenticationCase):
    """
    L{Authentications}.
    """

    def test_all(self) -> None:
        """SPF, signatures, seals, and what the author's domain wants."""
        found = self.find(self.mail.signed())
        self.assertEqual(found.spf, Finding(SPFResult.PASS, "client.example"))
        self.assertEqual(found.dkim, (Signature("pass", "client.example", "rsa"),))
        self.assertEqual(found.arc, Chain())
        self.assertEqual(found.dmarc and found.dmarc.result, "pass")
        self.assertEqual(found.aligned, {"client.example"})
        found = self.find(MAIL, "a@other.example")
        self.assertEqual(
            found.dmarc and (found.dmarc.result, found.dmarc.policy), ("fail", "reject")
        )

    def test_null(self) -> None:
        """Of the null path it is the client's name that SPF proves, and DMARC believes."""
        found = self.find(MAIL, "")
        self.assertEqual(found.spf, Finding(SPFResult.PASS, "mail.client.example"))
        self.assertEqual(found.dmarc and found.dmarc.result, "pass")

    def test_inside(self) -> None:
        """Of clients that are inside only signatures are checked."""
        for client in (Client("127.0.0.1"), Client("local"), Client("192.0.2.1", user="a")):
            found = self.find(self.mail.signed(), client=client)
            self.assertEqual((found.spf, found.dmarc), (None, None))
            self.assertEqual(found.aligned, {"client.example"})

    def test_once(self) -> None:
        """
        Whoever asks, with the message as it came in or as a stage sees it, it is found out
        once; of what is signed nothing is missing.
        """
        mail = b"Return-Path: <forged@x.example>\r\nDelivered-To: x\r\n" + self.mail.signed()
        message, envelope = makeMessage(mail), makeEnvelope("a@client.example", client=OUTSIDE)
        self.resolver.asked.clear()
        shown = seen(message, "mx.example.net")
        self.assertIsNot(shown, message)
        all = [message, shown, view(message, envelope, "mx.example.net"), shown]
        found = [self.successResultOf(self.begin(one, envelope)) for one in all]
        self.assertEqual([id(one) for one in found], [id(found[0])] * 4)
        self.assertEqual(self.status.counted("scans", "authenticate"), 1)
        self.assertEqual(len(self.resolver.asked), len(set(self.resolver.asked)))

    def test_changedHead(self) -> None:
        """A signature over a field that no mailbox gets is checked as it was made."""
        mail = b"Authentication-Results: mx.example.net; dmarc=pass\r\n" + MAIL
        message = makeMessage(self.mail.signed(mail))
        envelope = makeEnvelope("a@client.example", client=OUTSIDE)
        found = self.successResultOf(self.begin(seen(message, "mx.example.net"), envelope))
        self.assertEqual([one.result for one in found.dkim], ["pass"])

    def test_asked(self) -> None:
        """So much is asked of DNS, and no more: a record each; none twice."""
        self.resolver.asked.clear()
        self.find(self.mail.signed())
        self.assertEqual(
            sorted(self.resolver.asked),
            [
                ("_dmarc.client.example", "TXT"),
                ("client.example", "TXT"),
                ("rsa._domainkey.client.example", "TXT"),
            ],
        )

    def test_silent(self) -> None:
        """DNS that hangs in one place costs its time once, and only what is asked there."""
        for silent, wanted in (
            ("client.example", ("temperror", "pass", "pass")),
            ("rsa._domainkey.client.example", ("pass", "temperror", "pass")),
            ("_dmarc.client.example", ("pass", "pass", "temperror")),
        ):
            self.checks = self.make()
            self.resolver.silent = {silent}
            envelope = makeEnvelope("a@client.example", client=OUTSIDE)
            d = self.begin(makeMessage(self.mail.signed()), envelope)
            self.assertNoResult(d)
            with quiet():
                self.clock.advance(DNS_SECONDS)
            found = self.successResultOf(d)
            assert found.spf is not None and found.dmarc is not None
            said = (found.spf.result.value, found.dkim[0].result, found.dmarc.result)
            self.assertEqual(said, wanted)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_dead(self) -> None:
        """DNS that is not there leaves everything unknown, at once."""
        self.resolver.broken = {name for name, _ in self.records}
        found = self.find(self.mail.signed())
        assert found.spf is not None and found.dmarc is not None
        said = (found.spf.result.value, found.dkim[0].result, found.dmarc.result)
        self.assertEqual(said, ("temperror",) * 3)
        self.assertEqual(found.aligned, frozenset())

    def test_cancelled(self) -> None:
        """What all have given up is asked for anew by the next one."""
        self.resolver.silent = {"client.example"}
        message = makeMessage(self.mail.signed())
        envelope = makeEnvelope("a@client.example", client=OUTSIDE)
        first, second = self.begin(message, envelope), self.begin(message, envelope)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertNoResult(second)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.resolver.silent = set()
        self.checks = self.make()
        self.successResultOf(self.begin(message, envelope))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_authors(self) -> None:
        """Each author's domain is asked about; the strictest counts."""
        mail = MAIL.replace(b"From: A <a@client.example>", b"From: x@x.example, a@client.example")
        found = self.find(mail, "x@x.example").dmarc
        self.assertEqual(found and (found.result, found.policy), ("permerror", "reject"))

    def test_notInstalled(self) -> None:
        """Without what judges there is no judgement; all else is the same."""
        self.patch(authentication, "_mayJudge", lambda: False)
        found = self.find(self.mail.signed())
        self.assertIsNone(found.dmarc)
        self.assertEqual(found.aligned, {"client.example"})

    def test_suffixesOnce(self) -> None:
        """The list of public suffixes is read once, and again where that has failed."""
        read: list[int] = []

        def fails() -> dmarc.Suffixes:
            read.append(0)
            if len(read) == 1:
                raise OSError("no file")
            return suffixes()

        self.patch(authentication, "_suffixes", fails)
        envelope = makeEnvelope("a@client.example", client=OUTSIDE)
        self.failureResultOf(self.begin(makeMessage(MAIL), envelope), OSError)
        self.find(MAIL)
        self.find(MAIL)
        self.assertEqual(len(read), 2)


class InstalledTests(SynchronousTestCase):
    """
    The list of public suffixes that is installed.
    """

    if MISSING:
        skip = MISSING

    def test_list(self) -> None:
        """It knows what belongs together."""
        found = authentication._suffixes()
        self.assertEqual(found.get_public_suffix("a.b.example.co.uk"), "example.co.uk")
        self.assertEqual(found.get_public_suffix("co.uk"), "co.uk")
        self.assertFalse(found.areOne("a.github.io", "b.github.io"))
        self.assertTrue(found.areOne("a.example.com", "Example.com"))
