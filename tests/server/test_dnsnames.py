"""
What is asked of DNS because of what strangers say.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.spf import LookupFailed
from deferrals.server.dnsnames import DNSNames
from deferrals.server.services import Services
from tests.resolver import Resolver

RECORDS: dict[tuple[str, str], list[Any]] = {
    ("a.example", "TXT"): [[b"one ", b"text"], [b"another"]],
    ("a.example", "A"): ["192.0.2.1"],
    ("a.example", "AAAA"): ["2001:db8::1"],
    ("a.example", "MX"): [(20, "b.mx.example"), (10, "a.mx.example")],
    ("1.2.0.192.in-addr.arpa", "PTR"): ["a.example"],
}


class DNSNamesTests(SynchronousTestCase):
    """
    L{DNSNames}.
    """

    def setUp(self) -> None:
        self.resolver = Resolver(dict(RECORDS))
        self.names = DNSNames(lambda: self.resolver, Clock())

    def test_found(self) -> None:
        """Records as they are meant; nothing, where there is nothing or no such name."""
        for asked, wanted in (
            (self.names.texts("a.example"), [b"one text", b"another"]),
            (self.names.exchanges("a.example"), ["a.mx.example", "b.mx.example"]),
            (self.names.pointers("1.2.0.192.in-addr.arpa"), ["a.example"]),
            (self.names.texts("gone.example"), []),
            (self.names.pointers("a.example"), []),
        ):
            found = self.successResultOf(Deferred.fromCoroutine(asked))
            self.assertEqual(list(found), wanted)
        for version, address in ((4, "192.0.2.1"), (6, "2001:db8::1")):
            d = Deferred.fromCoroutine(self.names.addresses("a.example", version))
            self.assertEqual([str(one) for one in self.successResultOf(d)], [address])

    def test_fails(self) -> None:
        """That DNS does not say is not that there is nothing."""
        self.resolver.broken = {"a.example"}
        self.failureResultOf(Deferred.fromCoroutine(self.names.texts("a.example")), LookupFailed)

    def test_one(self) -> None:
        """Whatever asks because of a stranger, it is asked once: a server has one memory."""
        services = Services(Clock(), hostname="mx.example.net")
        services._resolvers[()] = self.resolver
        self.successResultOf(services.hostnames.find("192.0.2.1"))
        asked = list(self.resolver.asked)
        d = Deferred.fromCoroutine(services.names.pointers("1.2.0.192.in-addr.arpa"))
        self.successResultOf(d)
        self.assertEqual(self.resolver.asked, asked)
