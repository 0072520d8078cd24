"""
SPF with a resolver without sockets.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.envelope import Client
from deferrals.model.spf import Finding
from deferrals.model.spfrecord import SPFResult
from deferrals.server.dnsnames import DNSNames
from deferrals.server.spf import CHECK_SECONDS, SPF
from deferrals.stages.lookups import MAX_CACHED_RECORDS
from deferrals.testing import makeEnvelope
from tests.resolver import Resolver

RECORDS: dict[tuple[str, str], list[Any]] = {
    ("a.example", "TXT"): [[b"text"], [b"v=spf1 ip4:", b"192.0.2.0/24 -all"]],
    ("alias.example", "CNAME"): ["a.example"],
    ("round.example", "CNAME"): ["round.example"],
    ("mx.example", "TXT"): [[b"v=spf1 mx -all"]],
    ("mx.example", "MX"): [(20, "b.mx.example"), (10, "a.mx.example"), (30, "")],
    ("a.mx.example", "A"): ["198.51.100.1"],
    ("b.mx.example", "A"): ["192.0.2.1"],
    ("a.mx.example", "AAAA"): ["2001:db8::1"],
    ("ptr.example", "TXT"): [[b"v=spf1 ptr -all"]],
    ("1.2.0.192.in-addr.arpa", "PTR"): [b"\xff.ptr.example", b"Mail.PTR.example"],
    ("mail.ptr.example", "A"): ["192.0.2.1"],
    ("waits.example", "TXT"): [[b"v=spf1 exists:silent.example -all"]],
    ("broken.example", "TXT"): [[b"v=spf1 a:refused.example -all"]],
    ("wrong.example", "TXT"): [[b"v=spf1 a:"]],
    ("many.example", "TXT"): [[b"v=spf1 a -all"]],
    ("many.example", "A"): [f"192.0.2.{n}" for n in range(MAX_CACHED_RECORDS + 1)],
}


class SPFTests(SynchronousTestCase):
    """
    L{SPF}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver = Resolver(RECORDS)
        self.resolver.silent.add("silent.example")
        self.resolver.broken.add("refused.example")
        self.spf = SPF(DNSNames(lambda: self.resolver, self.clock), self.clock)

    def check(self, domain: str, address: str = "192.0.2.1") -> Deferred[Finding]:
        return self.spf.check(address, "mail.example.net", Mailbox.parse(f"me@{domain}"))

    def test_results(self) -> None:
        """DNS is asked for what a record names; the strings of a record are one text."""
        for domain, address, wanted in (
            ("a.example", "192.0.2.1", SPFResult.PASS),
            ("a.example", "198.51.100.1", SPFResult.FAIL),
            ("A.Example", "::ffff:192.0.2.1", SPFResult.PASS),
            ("alias.example", "192.0.2.1", SPFResult.PASS),
            ("mx.example", "192.0.2.1", SPFResult.PASS),
            ("mx.example", "2001:db8::1", SPFResult.PASS),
            ("ptr.example", "192.0.2.1", SPFResult.PASS),
            ("mail.ptr.example", "192.0.2.1", SPFResult.NONE),
            ("unknown.example", "192.0.2.1", SPFResult.NONE),
            ("a.example", "unknown", SPFResult.NONE),
        ):
            found = self.successResultOf(self.check(domain, address))
            self.assertEqual(found, Finding(wanted, domain.lower()))

    def test_helo(self) -> None:
        """Of the null path it is the client's name that is proved."""
        found = self.successResultOf(self.spf.check("192.0.2.1", "A.example", None))
        self.assertEqual(found, Finding(SPFResult.PASS, "a.example"))

    def test_trouble(self) -> None:
        """DNS that fails, and aliases that do not end, are temperror."""
        for domain in ("broken.example", "refused.example", "round.example"):
            found = self.successResultOf(self.check(domain))
            self.assertEqual(found.result, SPFResult.TEMPERROR)
            self.assertIn("DNS has no answer now", found.problem)

    def test_late(self) -> None:
        """The whole check takes so long and no longer; others do not wait for it."""
        late = self.check("waits.example")
        self.assertEqual(self.successResultOf(self.check("a.example")).result, SPFResult.PASS)
        self.clock.advance(CHECK_SECONDS - 1)
        self.assertNoResult(late)
        self.clock.advance(1)
        found = self.successResultOf(late)
        problem = "there is no result within 20 seconds"
        self.assertEqual(found, Finding(SPFResult.TEMPERROR, "waits.example", problem))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """A check that is given up asks nothing more, and leaves no timer."""
        found = self.check("waits.example")
        asked = list(self.resolver.asked)
        found.cancel()
        self.failureResultOf(found, CancelledError)
        self.assertEqual(self.resolver.asked, asked)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_remembered(self) -> None:
        """Answers are remembered as long as they may be, but very long ones."""
        for domain, again in (("mx.example", 0), ("unknown.example", 0), ("many.example", 1)):
            self.successResultOf(self.check(domain))
            self.resolver.asked.clear()
            self.successResultOf(self.check(domain))
            self.assertEqual(len(self.resolver.asked), again, domain)
        self.clock.advance(60)
        self.successResultOf(self.check("mx.example"))
        self.assertEqual(len(self.resolver.asked), 1 + 4)

    def test_passes(self) -> None:
        """Only "pass" passes; for the null path, the client's name is asked."""
        for sender, wanted in (
            ("me@a.example", "a.example"),
            ("me@wrong.example", None),
            ("me@broken.example", None),
            ("me@unknown.example", None),
            ("", "a.example"),
        ):
            envelope = makeEnvelope(sender)
            client = Client("192.0.2.1", 25, "a.example")
            proved = self.spf.proved(attrs.evolve(envelope, client=client))
            self.assertEqual(self.successResultOf(proved), wanted)

    def test_passesNot(self) -> None:
        """Neither a resolver that cannot be made nor giving up is a failure."""
        names = DNSNames(lambda: self.resolver.missing, self.clock)
        passes = SPF(names, self.clock).proved(makeEnvelope("me@a.example"))
        self.assertFalse(self.successResultOf(passes))
        passes = self.spf.proved(makeEnvelope("me@waits.example"))
        passes.cancel()
        self.assertFalse(self.successResultOf(passes))
