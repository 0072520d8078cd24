"""
A resolver without sockets.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import defer
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSServerError

RECORDS: dict[tuple[str, str], list[Any]] = {
    ("x.example", "MX"): [(20, "c.x.example"), (10, "a.x.example"), (10, "b.x.example")],
    ("a.x.example", "A"): ["192.0.2.1"],
    ("a.x.example", "AAAA"): ["2001:db8::1"],
    ("b.x.example", "A"): ["192.0.2.2", "192.0.2.22"],
    ("c.x.example", "A"): ["192.0.2.3"],
    ("implicit.example", "A"): ["192.0.2.4"],
    ("null.example", "MX"): [(0, "")],
    ("nowhere.example", "MX"): [(10, "nothing.example")],
    ("nothing.example", "TXT"): ["x"],
    ("text.example", "TXT"): ["x"],
    ("ours.example", "MX"): [(10, "mx.example.net")],
    ("mx.example.net", "A"): ["192.0.2.99"],
    ("backup.example", "MX"): [(10, "a.x.example"), (20, "mx.example.net"), (30, "c.x.example")],
    ("first.example", "MX"): [(10, "a.x.example"), (20, "c.x.example")],
    ("half.example", "MX"): [(10, "a.x.example"), (20, "inside.example")],
    ("alias.example", "CNAME"): ["x.example"],
    ("round.example", "CNAME"): ["round.example"],
    ("inside.example", "A"): ["127.0.0.1"],
    ("literal.example", "MX"): [(10, "192.0.2.7")],
    ("xn--bcher-kva.example", "MX"): [(10, "a.x.example")],
}


class Resolver:
    """
    Answers from a table; C{broken} names fail, C{silent} ones say nothing, and of
    C{liars}, by name and type, it is said that there is no such name.
    """

    def __init__(self, records: dict[tuple[str, str], list[Any]]) -> None:
        self.records = records
        self.broken: set[str] = set()
        self.silent: set[str] = set()
        self.liars: set[tuple[str, str]] = set()
        self.asked: list[tuple[str, str]] = []
        self.ttl = 60

    def query(self, query: Any, timeout: Any = None) -> Any:
        name, kind = query.name.name.decode(), dns.QUERY_TYPES[query.type]
        self.asked.append((name, kind))
        if name in self.silent:
            return defer.Deferred()
        if name in self.broken:
            return defer.fail(DNSServerError(None))
        known = [records for (one, _), records in self.records.items() if one == name]
        if not known or (name, kind) in self.liars:
            return defer.fail(DNSNameError(None))
        alias = self.records.get((name, "CNAME"))
        if alias:
            record = dns.Record_CNAME(alias[0])
            return defer.succeed(([self.header(name, record)], [], []))
        make = {
            "MX": lambda v: dns.Record_MX(*v),
            "TXT": lambda v: dns.Record_TXT(*v),
            "A": dns.Record_A,
            "AAAA": dns.Record_AAAA,
            "PTR": dns.Record_PTR,
        }
        found = [self.header(name, make[kind](v)) for v in self.records.get((name, kind), [])]
        return defer.succeed((found, [], []))

    def header(self, name: str, record: Any) -> Any:
        return dns.RRHeader(name, record.TYPE, dns.IN, self.ttl, record)
