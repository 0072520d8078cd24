"""
SPF checks without DNS, and what they may cost.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.spf import MAX_QUERIES, Finding, reverseName
from deferrals.model.spfmacro import isName
from deferrals.model.spfrecord import SPFResult
from tests.characters import anyText
from tests.rigs import examples
from tests.spfzone import Names, check


def zone(*entries: tuple[str, str, Any]) -> Names:
    """
    @param entries: name, type and value; the type C{broken} for a name of which
        DNS says nothing else.
    """
    table: dict[tuple[str, str], list[Any]] = {}
    for name, kind, value in entries:
        table.setdefault((name, kind), []).append(value)
    return Names(table, {name for name, kind, _ in entries if kind == "broken"})


class CheckTests(SynchronousTestCase):
    """
    L{checkHost}.
    """

    def result(self, record: str, *more: tuple[str, str, Any], **client: str) -> str:
        """
        @param record: of a.example, behind the version.
        @param more: further entries of the zone: name, type and value.
        """
        return self.finding(record, *more, **client).result.value

    def finding(self, record: str, *more: tuple[str, str, Any], **client: str) -> Finding:
        self.names = zone(("a.example", "TXT", f"v=spf1 {record}"), *more)
        return check(self.names, "me@a.example", **client)

    def test_identity(self) -> None:
        """The return path's domain is checked; of the null path the client's name."""
        names = zone(
            ("a.example", "TXT", "v=spf1 exists:%{l}.%{o}.%{h}.b.example -all"),
            ("me.a.example.mail.a.example.b.example", "A", "127.0.0.2"),
            ("mail.a.example", "TXT", "v=spf1 exists:%{s}.b.example -all"),
            ("postmaster@mail.a.example.b.example", "A", "127.0.0.2"),
        )
        found = check(names, "me@A.example", helo="mail.a.example")
        self.assertEqual(found, Finding(SPFResult.PASS, "a.example"))
        found = check(names, "", helo="Mail.A.Example.")
        self.assertEqual(found, Finding(SPFResult.PASS, "mail.a.example"))
        found = check(names, "@a.example", helo="mail.a.example")
        self.assertEqual(found.result, SPFResult.FAIL, "its local part is postmaster")

    def test_none(self) -> None:
        """No record, no such name, no name at all, or no IP address: none."""
        names = zone(("a.example", "TXT", "something"), ("b.example", "A", "192.0.2.1"))
        for domain in ("a.example", "b.example", "c.example"):
            self.assertEqual(check(names, f"me@{domain}"), Finding(SPFResult.NONE, domain))
        names.asked.clear()
        for helo in ("", "localhost", "[192.0.2.1]", "[IPv6:::1]", "a..b", "x y\n.b", "é.b"):
            self.assertEqual(check(names, "", helo=helo).result, SPFResult.NONE)
        for address in ("local", "unknown", ""):
            self.assertEqual(check(names, "me@a.example", address).result, SPFResult.NONE)
        self.assertEqual(names.asked, [])

    def test_order(self) -> None:
        """The first mechanism that matches decides, with its qualifier."""
        for record, wanted in {
            "": "neutral",
            "all": "pass",
            "~all -all": "softfail",
            "-ip4:192.0.2.0/24 +all": "fail",
            "-ip4:192.0.2.2/31 ip6:::/0 ?all": "neutral",
            "ip4:192.0.2.0/31 -all": "pass",
            "-all redirect=b.example": "fail",
            "exp=b.example +all": "pass",
        }.items():
            self.assertEqual(self.result(record), wanted, record)
            self.assertEqual(self.names.asked, [("a.example", "TXT")])

    def test_families(self) -> None:
        """IPv4 in IPv6 is IPv4; a host counts with the addresses of the client's family."""
        hosts = [
            ("a.example", "A", "192.0.2.9"),
            ("a.example", "AAAA", "2001:db8::9"),
            ("a.example", "MX", (10, "a.example")),
        ]
        for record, address, wanted in (
            ("a -all", "192.0.2.9", "pass"),
            ("a -all", "::ffff:192.0.2.9", "pass"),
            ("a -all", "2001:db8::9", "pass"),
            ("a/24 -all", "192.0.2.1", "pass"),
            ("a/24 -all", "2001:db8::1", "fail"),
            ("mx//64 -all", "2001:db8::1", "pass"),
            ("mx//64 -all", "192.0.2.1", "fail"),
            ("ip6:::ffff:0:0/96 -all", "::ffff:192.0.2.9", "fail"),
            ("ip4:0.0.0.0/0 -all", "2001:db8::1", "fail"),
        ):
            self.assertEqual(self.result(record, *hosts, address=address), wanted, record)

    def test_others(self) -> None:
        """What included and redirected records do (RFC 7208 §5.2, §6.1)."""
        others = [
            ("pass.example", "TXT", "v=spf1 all"),
            ("fail.example", "TXT", "v=spf1 -all"),
            ("a-host.example", "TXT", "v=spf1 a -all"),
            ("a-host.example", "A", "192.0.2.1"),
            ("wrong.example", "TXT", "v=spf1 nothing"),
            ("two.example", "TXT", "v=spf1"),
            ("two.example", "TXT", "v=spf1"),
        ]
        for record, wanted in {
            "-include:pass.example": "fail",
            "include:fail.example ~all": "softfail",
            "include:nothing.example": "permerror",
            "include:wrong.example all": "permerror",
            "include:two.example": "permerror",
            "include:%{h}.example": "permerror",
            "redirect=fail.example": "fail",
            "redirect=a-host.example": "pass",
            "redirect=nothing.example": "permerror",
            "redirect=two.example": "permerror",
            "include:%{l}.example redirect=pass.example": "permerror",
        }.items():
            self.assertEqual(self.result(record, *others, helo="x y"), wanted, record)

    def test_trouble(self) -> None:
        """DNS that does not answer is temperror, except behind the client's address."""
        broken = [("broken.example", "broken", ""), ("1.2.0.192.in-addr.arpa", "broken", "")]
        for record, wanted in {
            "a:broken.example": "temperror",
            "mx:broken.example all": "temperror",
            "exists:broken.example all": "temperror",
            "include:broken.example all": "temperror",
            "redirect=broken.example": "temperror",
            "ptr -all": "fail",
            "-exists:%{p}.b.example all": "pass",
        }.items():
            self.assertEqual(self.result(record, *broken), wanted, record)

    def test_pointer(self) -> None:
        """Names of the client count if they lead back to it (RFC 7208 §5.5)."""
        names = [
            ("1.2.0.192.in-addr.arpa", "PTR", "forged.a.example."),
            ("1.2.0.192.in-addr.arpa", "PTR", "Mail.Other.example."),
            ("1.2.0.192.in-addr.arpa", "PTR", "broken.example."),
            ("1.2.0.192.in-addr.arpa", "PTR", "localhost."),
            ("broken.example", "broken", ""),
            ("forged.a.example", "A", "192.0.2.2"),
            ("mail.other.example", "A", "192.0.2.1"),
            ("mail.other.example.b.example", "A", "127.0.0.2"),
        ]
        for record, wanted in {
            "ptr -all": "fail",
            "ptr:Other.Example -all": "pass",
            "ptr:mail.other.example -all": "pass",
            "ptr:ther.example -all": "fail",
            "ptr:%{h} -all": "fail",
            "exists:%{p}.b.example -all": "pass",
        }.items():
            self.assertEqual(self.result(record, *names, helo="x y"), wanted, record)
        self.assertEqual(reverseName(ipaddress.ip_address("192.0.2.1")), names[0][0])
        nibbles = "1." + "0." * 23 + "8.b.d.0.1.0.0.2"
        self.assertEqual(reverseName(ipaddress.ip_address("2001:db8::1")), f"{nibbles}.ip6.arpa")

    def test_clientName(self) -> None:
        """C{%{p}} prefers the domain, then what is below it (RFC 7208 §7.3)."""
        own = ("1.2.0.192.in-addr.arpa", "PTR", "a.example")
        below = ("1.2.0.192.in-addr.arpa", "PTR", "mail.a.example")
        other = ("1.2.0.192.in-addr.arpa", "PTR", "other.example")
        hosts = [(name, "A", "192.0.2.1") for _, _, name in (own, below, other)]
        for pointers, wanted in (
            ([other, below, own], "a.example"),
            ([other, below], "mail.a.example"),
            ([other], "other.example"),
            ([], "unknown"),
        ):
            self.result("exists:%{p}.b.example", *pointers, *hosts)
            self.assertIn((f"{wanted}.b.example", "A"), self.names.asked)

    def test_utf8(self) -> None:
        """A local part that is not ASCII matches nothing (RFC 8616 §4)."""
        names = zone(("a.example", "TXT", "v=spf1 exists:%{L}.b.example a:%{d} -all"))
        self.assertEqual(check(names, "jörg@a.example").result, SPFResult.FAIL)
        self.assertEqual(names.asked, [("a.example", "TXT"), ("a.example", "A")])

    def test_broken(self) -> None:
        """A permerror and a temperror say why."""
        for record, wanted in {
            "a:b": "a.example: a domain that ends in no top-level domain and in no macro",
            "include:b.example": "a.example: b.example has no SPF record",
            "redirect=%{h}": "a.example: what it refers to has no SPF record",
            "a:broken.example": "no answer",
        }.items():
            found = self.finding(record, ("broken.example", "broken", ""), helo="x")
            self.assertEqual(found.problem, wanted)
        names = zone(("a.example", "TXT", "v=spf1"), ("a.example", "TXT", "V=SPF1 a"))
        self.assertEqual(check(names, "a@a.example").problem, "a.example: there are 2 SPF records")


class LimitTests(SynchronousTestCase):
    """
    What a check may cost (RFC 7208 §4.6.4).
    """

    def result(
        self, sender: str, *entries: tuple[str, str, Any], address: str = "192.0.2.1"
    ) -> str:
        self.names = zone(*entries)
        return check(self.names, sender, address).result.value

    def test_terms(self) -> None:
        """Ten terms may ask DNS, in all records together; ip4, ip6, all and exp are free."""
        host = ("host.example", "A", "192.0.2.9")
        for count, wanted in ((10, "pass"), (11, "permerror")):
            free = "ip4:192.0.2.9 ip6:::1 exp=host.example x=%{p}"
            record = f"v=spf1 {free} {'a:host.example ' * count}all"
            found = self.result("me@a.example", ("a.example", "TXT", record), host)
            self.assertEqual(found, wanted)
        for count, wanted in ((7, "pass"), (8, "permerror")):
            found = self.result(
                "me@a.example",
                ("a.example", "TXT", "v=spf1 a:host.example include:b.example redirect=c.example"),
                ("b.example", "TXT", f"v=spf1 {'a:host.example ' * count} -all"),
                ("c.example", "TXT", "v=spf1 all"),
                host,
            )
            self.assertEqual(found, wanted)

    def test_loops(self) -> None:
        """Records that refer to themselves or to each other end."""
        for record in (
            "include:a.example",
            "redirect=a.example",
            "include:b.example include:b.example",
            "include:%{l}.%{d} a",
        ):
            found = self.result(
                "me@a.example",
                ("a.example", "TXT", f"v=spf1 {record}"),
                ("b.example", "TXT", "v=spf1 include:a.example redirect=a.example"),
            )
            self.assertEqual(found, "permerror")
            self.assertLessEqual(len(self.names.asked), 11)

    def test_clientName(self) -> None:
        """The first C{%{p}} is a term of its own, and the client's names are found once."""
        pointers = [("1.2.0.192.in-addr.arpa", "PTR", f"n{n}.b.example") for n in range(12)]
        hosts = [(f"n{n}.b.example", "A", "192.0.2.1") for n in range(12)]
        hosts.append(("n0.b.example.c.example", "A", "127.0.0.2"))
        for count, wanted in ((9, "pass"), (10, "permerror")):
            record = f"v=spf1 {'-a:%{p}.c.example ' * count}all"
            found = self.result("me@a.example", ("a.example", "TXT", record), *pointers, *hosts)
            self.assertEqual(found, wanted)
            asked = [name for name, _ in self.names.asked]
            self.assertEqual(asked.count("1.2.0.192.in-addr.arpa"), 1)
            self.assertEqual(len([name for name in asked if name.endswith(".b.example")]), 10)

    def test_exchanges(self) -> None:
        """More than ten mail servers are an error, whichever matches; ten are asked for."""
        for count, wanted in ((10, "pass"), (11, "permerror")):
            servers = [("a.example", "MX", (n, f"mx{n}.a.example")) for n in range(count)]
            hosts = [(f"mx{n}.a.example", "A", f"192.0.2.{n + 1}") for n in range(count)]
            record = ("a.example", "TXT", "v=spf1 mx -all")
            self.assertEqual(self.result("me@a.example", record, *servers, *hosts), wanted)
            found = self.result("me@a.example", record, *servers, *hosts, address="192.0.2.10")
            self.assertEqual(found, wanted)

    def test_pointers(self) -> None:
        """Names of the client beyond the tenth are not looked at."""
        for count, wanted in ((9, "pass"), (10, "fail")):
            others = [f"n{n}.b.example" for n in range(count)]
            pointers = [*others, "mail.a.example"]
            found = self.result(
                "me@a.example",
                ("a.example", "TXT", "v=spf1 ptr -all"),
                ("mail.a.example", "A", "192.0.2.1"),
                *(("1.2.0.192.in-addr.arpa", "PTR", name) for name in pointers),
            )
            self.assertEqual(found, wanted)
            self.assertEqual(len(self.names.asked), 12)

    def test_voids(self) -> None:
        """Two terms may find nothing; C{exp=} and a null MX do not count."""
        null = ("null.example", "MX", (0, ""))
        v4 = [("v4.example", "MX", (n, f"mx{n}.v4.example")) for n in range(3)]
        v4 += [(f"mx{n}.v4.example", "A", "192.0.2.9") for n in range(3)]
        for record, address, wanted in (
            ("a:x.example mx:x.example all", "192.0.2.1", "pass"),
            ("a:x.example mx:x.example exists:x.example all", "192.0.2.1", "permerror"),
            ("a:x.example a:x.example a:x.example all", "192.0.2.1", "permerror"),
            ("a:x.example a:x.example exp=x.example -all", "192.0.2.1", "fail"),
            ("a:x.example ptr ptr:y.example mx:null.example all", "192.0.2.1", "pass"),
            ("ptr a:x.example a:x.example all", "192.0.2.1", "permerror"),
            ("a:x.example mx:v4.example all", "2001:db8::1", "pass"),
            ("a:x.example mx:v4.example mx:v4.example all", "2001:db8::1", "permerror"),
            ("a:%{h} exists:%{h} mx:%{h} all", "192.0.2.1", "pass"),
        ):
            names = zone(("a.example", "TXT", f"v=spf1 {record}"), null, *v4)
            found = check(names, "me@a.example", address, helo="no name")
            self.assertEqual(found.result.value, wanted, record)

    def test_most(self) -> None:
        """The most questions that a check can come to."""
        record = "v=spf1 " + "mx:%{p}.b.example " * 9 + "a:b.example"
        servers = [("n0.b.example.b.example", "MX", (n, f"mx{n}.b.example")) for n in range(10)]
        hosts = [(f"mx{n}.b.example", "A", "192.0.2.9") for n in range(10)]
        pointers = [("1.2.0.192.in-addr.arpa", "PTR", f"n{n}.b.example") for n in range(10)]
        hosts += [(f"n{n}.b.example", "A", "192.0.2.1") for n in range(10)]
        found = self.result(
            "me@a.example", ("a.example", "TXT", record), *servers, *pointers, *hosts
        )
        self.assertEqual(found, "permerror")
        self.assertEqual(len(self.names.asked), MAX_QUERIES)


class Hostile(Names):
    """
    Gives the same answers, of some kind, whatever name it is asked for.
    """

    def find(self, name: str, kind: str) -> Sequence[Any]:
        self.asked.append((name, kind))
        assert isName(name), name
        found: Sequence[Any] = self.records[("", kind)]
        return found


MECHANISMS = [
    *("-all", "a", "mx", "ptr", "?ptr:%{H}", "include:a.example", "include:%{d}", "~include:%{o}"),
    *("exists:%{p}.a", "-exists:%{l1}", "exists:%{Sr+-_}.%{ir}.%{v}", "a:%{s}%{s}%{s}%{s}"),
    *("a:%{p}.%{p}/0//0", "-a:%{h}", "mx:%{d}.%{d}", "?mx:%{o2}", "-mx:b.%{d}", "~a/24//64"),
    *("include:%{s}.%{d}", "ip4:198.51.100.0/24", "-ip6:2001:db8:1::/48"),
]
MODIFIERS = ["", "redirect=%{d}", "redirect=a.%{d}", "redirect=%{l}", "exp=%{p}.%{d} x=%{p}"]
RECORDS = st.tuples(
    st.lists(st.sampled_from(MECHANISMS), min_size=1, max_size=12), st.sampled_from(MODIFIERS)
).map(lambda found: f"v=spf1 {' '.join(found[0])} {found[1]}".encode())
WORDS = st.lists(st.one_of(st.sampled_from(MECHANISMS), anyText(max_size=8)), max_size=12).map(
    lambda words: f"v=spf1 {' '.join(words)}".encode()
)
GOOD = st.sampled_from(["a.example", "mail.a.example", "b.example", "x" * 63 + ".b"])
BAD = st.one_of(
    st.sampled_from(["", ".", "a..b", "x" * 64 + ".b", "[192.0.2.1]"]),
    st.text(st.characters(exclude_categories=()), max_size=30),
)
CLIENTS = st.sampled_from(["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"])
HOSTS = st.lists(st.sampled_from(["192.0.2.1", "192.0.2.9"]), max_size=1)


class HostileTests(SynchronousTestCase):
    """
    Whatever strangers say and publish, a check ends, in time.
    """

    def check(
        self,
        texts: list[bytes],
        exchanges: list[str],
        pointers: list[str],
        addresses: list[str],
        *client: str,
    ) -> None:
        """
        @param client: sender, address and EHLO name.
        """
        six = [f"2001:db8::{one.rpartition('.')[2]}" for one in addresses]
        names = Hostile(
            {
                ("", "TXT"): texts,
                ("", "MX"): [(1, name) for name in exchanges],
                ("", "PTR"): pointers,
                ("", "A"): addresses,
                ("", "AAAA"): six,
            }
        )
        found = check(names, *client)
        self.assertLessEqual(len(names.asked), MAX_QUERIES)
        isError = found.result in (SPFResult.PERMERROR, SPFResult.TEMPERROR)
        self.assertEqual(isError, bool(found.problem))

    @given(RECORDS, st.lists(GOOD, max_size=11), st.lists(GOOD, max_size=12), HOSTS, GOOD, CLIENTS)
    @settings(max_examples=examples(300), deadline=None)
    def test_limits(
        self,
        record: bytes,
        exchanges: list[str],
        pointers: list[str],
        addresses: list[str],
        helo: str,
        client: str,
    ) -> None:
        """There is a result, by a limited number of questions, each for a name."""
        for sender in ("me@a.example", "a" * 64 + ".b@b.example", ""):
            self.check([record], exchanges, pointers, addresses, sender, client, helo)

    @given(
        st.lists(st.one_of(WORDS, RECORDS, st.binary(max_size=40)), max_size=2),
        st.lists(BAD, max_size=2),
        HOSTS,
        anyText(max_size=300),
        BAD,
        CLIENTS,
    )
    @settings(deadline=None)
    def test_nonsense(
        self,
        texts: list[bytes],
        names: list[str],
        addresses: list[str],
        local: str,
        helo: str,
        client: str,
    ) -> None:
        """So there is where nothing is as it should be."""
        for sender in (f"{local}@a.example", ""):
            self.check(texts, names, names, addresses, sender, client, helo)
