"""
The names that clients have in DNS.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.server.dnsnames import DNSNames
from deferrals.server.hostnames import (
    LOOKUP_SECONDS,
    MAX_LOOKUPS,
    MAX_NAMES,
    NAME_SECONDS,
    UNNAMED_SECONDS,
    Hostnames,
)
from tests.resolver import Resolver

PTR = "7.2.0.192.in-addr.arpa"
PTR6 = "1.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2.ip6.arpa"
RECORDS: dict[tuple[str, str], list[Any]] = {
    (PTR, "PTR"): ["Mail.Example.Com"],
    ("mail.example.com", "A"): ["192.0.2.9", "192.0.2.7"],
    (PTR6, "PTR"): ["mail.example.com"],
    ("mail.example.com", "AAAA"): ["2001:db8::1"],
}


class HostnamesTests(SynchronousTestCase):
    """
    L{Hostnames}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.resolver = Resolver(dict(RECORDS))
        self.names = Hostnames(DNSNames(lambda: self.resolver, self.clock), self.clock)

    def find(self, address: str = "192.0.2.7") -> str:
        found: str = self.successResultOf(self.names.find(address))
        return found

    def test_confirmed(self) -> None:
        """A name counts that leads back to the address, in its one spelling."""
        self.assertEqual(self.find(), "mail.example.com")
        self.assertEqual(self.find("2001:db8::1"), "mail.example.com")
        asked = len(self.resolver.asked)
        self.assertEqual(self.find(), "mail.example.com")
        self.assertEqual(len(self.resolver.asked), asked)

    def test_notConfirmed(self) -> None:
        """A name that is another's, that does not exist, or is none, does not count."""
        for pointers in (
            ["x.example", "gone.example"],
            ["a b", "(none)", "192.0.2.7", "-", "x" * 64],
            ["[192.0.2.7]"],
            [],
        ):
            self.resolver.records = {(PTR, "PTR"): pointers, ("x.example", "A"): ["192.0.2.8"]}
            self.names = Hostnames(DNSNames(lambda: self.resolver, self.clock), self.clock)
            self.assertEqual(self.find(), "", pointers)
        self.assertEqual(self.find("192.0.2.200"), "")

    def test_several(self) -> None:
        """The first one that leads back counts, of not very many."""
        names = [f"{number}.example" for number in range(9)]
        for last, wanted in ((MAX_NAMES - 1, names[MAX_NAMES - 1]), (MAX_NAMES, "")):
            self.resolver.records = {
                (PTR, "PTR"): names,
                **{(name, "A"): ["192.0.2.8"] for name in names},
                (names[last], "A"): ["192.0.2.7"],
            }
            self.names = Hostnames(DNSNames(lambda: self.resolver, self.clock), self.clock)
            self.assertEqual(self.find(), wanted)

    def test_broken(self) -> None:
        """DNS that does not answer is not asked again for a while."""
        self.resolver.broken = {PTR}
        self.assertEqual(self.find(), "")
        self.resolver.broken = set()
        self.assertEqual(self.find(), "")
        self.clock.advance(UNNAMED_SECONDS)
        self.assertEqual(self.find(), "mail.example.com")

    def test_others(self) -> None:
        """A name of which DNS says nothing, or nothing in time, does not hide the next one."""
        self.resolver.records[PTR, "PTR"] = ["dead.example", "silent.example", "mail.example.com"]
        self.resolver.broken, self.resolver.silent = {"dead.example"}, {"silent.example"}
        found = self.names.find("192.0.2.7")
        self.clock.advance(NAME_SECONDS)
        self.assertEqual(self.successResultOf(found), "mail.example.com")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silent(self) -> None:
        """One look-up for all that ask, which ends, and which none of them can end."""
        self.resolver.silent = {PTR}
        waiting = [self.names.find("192.0.2.7") for _ in range(3)]
        waiting[0].addErrback(lambda _: "left").cancel()
        self.assertEqual(self.resolver.asked, [(PTR, "PTR")])
        self.clock.advance(LOOKUP_SECONDS - 1)
        self.assertNoResult(waiting[1])
        self.clock.advance(1)
        self.assertEqual([self.successResultOf(one) for one in waiting], ["left", "", ""])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many(self) -> None:
        """
        Not more than so many look-ups at once: further clients have no name, at once,
        but for those whose name is known.
        """
        self.assertEqual(self.find(), "mail.example.com")
        addresses = [f"198.51.{number // 200}.{number % 200}" for number in range(MAX_LOOKUPS + 5)]
        reverse = {".".join(reversed(one.split("."))) + ".in-addr.arpa" for one in addresses}
        self.resolver.silent = reverse
        waiting = [self.names.find(one) for one in addresses]
        self.assertEqual(len(self.resolver.asked), MAX_LOOKUPS + 2)
        self.assertEqual(self.find(), "mail.example.com")
        self.assertEqual([self.successResultOf(one) for one in waiting[MAX_LOOKUPS:]], [""] * 5)
        self.clock.advance(LOOKUP_SECONDS)
        self.assertEqual(self.successResultOf(waiting[0]), "")
        self.assertEqual(self.find(), "mail.example.com")
