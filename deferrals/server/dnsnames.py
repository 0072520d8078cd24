"""
What is asked of DNS because of what strangers say: the names of clients, SPF, keys of
signatures, policies.  All of it has one memory, beside the one of deliveries: what
strangers choose does not drive out where mail goes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.names import dns

from deferrals.model.spf import LookupFailed, Resolver
from deferrals.model.spfrecord import Address
from deferrals.stages.lookups import Names, NoSuchName, Unanswered

#: How much is remembered for a while.
MAX_CACHED_OCTETS = 8 * 1024 * 1024


class DNSNames(Resolver):
    """
    See L{Resolver<deferrals.model.spf.Resolver>}.

    @param resolver: makes C{IResolver} when it is needed.
    @param clock: timers.
    """

    def __init__(self, resolver: Callable[[], IResolver], clock: IReactorTime) -> None:
        self._names = Names(resolver, clock, MAX_CACHED_OCTETS)

    async def _find(self, kind: int, name: str) -> Sequence[Any]:  # records, by their kind
        try:
            found = await self._names.find(kind, name)
        except NoSuchName:
            return ()
        except Unanswered:
            raise LookupFailed("DNS has no answer now") from None
        return found

    async def texts(self, name: str) -> Sequence[bytes]:
        return [b"".join(record.data) for record in await self._find(dns.TXT, name)]

    async def addresses(self, name: str, version: int) -> Sequence[Address]:
        found = await self._find(dns.A if version == 4 else dns.AAAA, name)
        return [ipaddress.ip_address(record.address) for record in found]

    async def exchanges(self, name: str) -> Sequence[str]:
        found = await self._find(dns.MX, name)
        return [_text(record) for record in sorted(found, key=lambda one: one.preference)]

    async def pointers(self, name: str) -> Sequence[str]:
        return [_text(record) for record in await self._find(dns.PTR, name)]


def _text(record: dns.Record_MX | dns.Record_PTR) -> str:
    """
    The name that a record leads to; what is not ASCII in it makes it none.
    """
    name = b"" if record.name is None else record.name.name
    return name.decode("ascii", "replace").rstrip(".")
