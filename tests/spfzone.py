"""
Names for SPF checks without DNS: a table, and how a check runs on it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from deferrals.model.address import Mailbox
from deferrals.model.spf import Finding, LookupFailed, checkHost
from deferrals.model.spfrecord import Address

_T = TypeVar("_T")
_MAX_ALIASES = 8


def finished(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """
    @return: the result of a coroutine that waits for nothing.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    raise AssertionError("it waits")


class Names:
    """
    A L{Resolver<deferrals.model.spf.Resolver>}.

    @param records: by name (lower case) and type; values as C{str}, those of MX
        as (preference, name), of TXT as text, octets, or a list of strings.
    @param broken: names of which DNS does not answer what is not in the table.
    @ivar asked: the questions, as (name, type).
    """

    def __init__(
        self, records: Mapping[tuple[str, str], Sequence[Any]], broken: Iterable[str] = ()
    ) -> None:
        self.records = records
        self.broken = set(broken)
        self.asked: list[tuple[str, str]] = []

    def find(self, name: str, kind: str) -> Sequence[Any]:
        """
        @raise LookupFailed: an alias leads in a circle, or the name is broken.
        """
        self.asked.append((name, kind))
        for _ in range(_MAX_ALIASES):
            name = name.lower().rstrip(".")
            alias = self.records.get((name, "CNAME"))
            if alias is None:
                break
            name = alias[0]
        else:
            raise LookupFailed("a circle of aliases")
        found = self.records.get((name, kind))
        if not found and name in self.broken:
            raise LookupFailed("no answer")
        return found or ()

    async def texts(self, name: str) -> Sequence[bytes]:
        """
        See L{Resolver.texts<deferrals.model.spf.Resolver.texts>}.
        """
        return [_octets(value) for value in self.find(name, "TXT")]

    async def addresses(self, name: str, version: int) -> Sequence[Address]:
        """
        See L{Resolver.addresses<deferrals.model.spf.Resolver.addresses>}.
        """
        return [ipaddress.ip_address(one) for one in self.find(name, {4: "A", 6: "AAAA"}[version])]

    async def exchanges(self, name: str) -> Sequence[str]:
        """
        See L{Resolver.exchanges<deferrals.model.spf.Resolver.exchanges>}.
        """
        return [one.rstrip(".") for _, one in sorted(map(tuple, self.find(name, "MX")))]

    async def pointers(self, name: str) -> Sequence[str]:
        """
        See L{Resolver.pointers<deferrals.model.spf.Resolver.pointers>}.
        """
        return [one.rstrip(".") for one in self.find(name, "PTR")]


def _octets(value: str | bytes | Sequence[str]) -> bytes:
    if isinstance(value, bytes):
        return value
    return "".join(value).encode("utf-8")


def check(
    names: Names, sender: str, address: str = "192.0.2.1", helo: str = "mail.example.net"
) -> Finding:
    """
    @param sender: C{local@domain}, where the local part may be anything; empty
        for the null path.
    """
    local, _, domain = sender.rpartition("@")
    mailbox = Mailbox(local, domain.lower()) if sender else None
    return finished(checkHost(names, address, helo, mailbox))
