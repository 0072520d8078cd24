"""
SPF against a zone on loopback.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.trial.unittest import TestCase

from deferrals.model.address import Mailbox
from deferrals.model.envelope import Client
from deferrals.model.spfrecord import SPFResult
from deferrals.server.dnsnames import DNSNames
from deferrals.server.network import makeResolver
from deferrals.server.spf import SPF
from deferrals.testing import makeEnvelope
from tests.zone import Zone

NETWORKS = " ".join(f"ip4:198.51.100.{n}" for n in range(0, 254, 2))
RECORDS: dict[tuple[str, str], list[Any]] = {
    ("aligned.example", "TXT"): ["v=spf1 ip4:192.0.2.0/24 -all"],
    ("other.example", "TXT"): ["v=spf1 ip4:198.51.100.1 -all"],
    ("soft.example", "TXT"): ["v=spf1 ~all"],
    ("mx.example", "TXT"): ["some text", "v=spf1 mx -all"],
    ("mx.example", "MX"): [(10, "host.mx.example")],
    ("host.mx.example", "A"): ["192.0.2.1"],
    ("ptr.example", "TXT"): ["v=spf1 ptr -all"],
    ("1.2.0.192.in-addr.arpa", "PTR"): ["host.ptr.example"],
    ("host.ptr.example", "A"): ["192.0.2.1"],
    ("long.example", "TXT"): [f"v=spf1 {NETWORKS} ip4:192.0.2.1 -all"],
    ("include.example", "TXT"): ["v=spf1 include:aligned.example -all"],
    ("loop.example", "TXT"): ["v=spf1 include:loop.example -all"],
    ("nothing.example", "A"): ["192.0.2.9"],
}


class SPFTests(TestCase):
    """
    L{SPF}.
    """

    def setUp(self) -> None:
        self.zone = Zone(RECORDS)
        self.addCleanup(self.zone.close)
        self.resolver = makeResolver(reactor, [self.zone.address])
        self.spf = SPF(DNSNames(lambda: self.resolver, reactor), reactor)

    @inlineCallbacks
    def test_passes(self) -> Any:
        """Only "pass" passes; whoever has no record, or a broken one, does not."""
        for sender, wanted in (
            ("a@aligned.example", True),
            ("a@mx.example", True),
            ("a@ptr.example", True),
            ("a@include.example", True),
            ("a@other.example", False),
            ("a@soft.example", False),
            ("a@nothing.example", False),
            ("a@unknown.example", False),
            ("a@loop.example", False),
            ("", False),
        ):
            proved = yield self.spf.proved(makeEnvelope(sender))
            self.assertEqual(proved, sender.partition("@")[2] if wanted else None, sender)

    @inlineCallbacks
    def test_client(self) -> Any:
        """It is the client's address that counts, of either family."""
        envelope = makeEnvelope("a@aligned.example")
        for address in ("203.0.113.5", "2001:db8::1"):
            other = attrs.evolve(envelope, client=Client(address, 25, "x.example"))
            self.assertFalse((yield self.spf.proved(other)))

    @inlineCallbacks
    def test_long(self) -> Any:
        """A record that no datagram holds is fetched over a connection."""
        found = yield self.spf.check("192.0.2.1", "x.example", Mailbox("a", "long.example"))
        self.assertEqual(found.result, SPFResult.PASS)
        self.assertEqual(self.zone.asked, [("long.example", "TXT")] * 2)

    @inlineCallbacks
    def test_noServer(self) -> Any:
        """No DNS, no pass, and no failure."""
        self.patch(self.resolver, "servers", [("127.0.0.1", 1)])
        self.patch(self.resolver, "timeout", (1,))
        proved = yield self.spf.proved(makeEnvelope("a@aligned.example"))
        self.assertIsNone(proved)
