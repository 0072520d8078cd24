"""
Whether a client may use a domain in MAIL FROM or EHLO: SPF (RFC 7208), the
procedure C{check_host()} without I/O.

Names are asked for through a L{Resolver}, which is what waits.  Explanations
(C{exp=}) are checked for their syntax and not fetched; records of type SPF (99)
are not asked for (RFC 7208 §3.1).

What a check may cost is bounded, whatever strangers publish (RFC 7208 §4.6.4):

  - ten terms that ask DNS (C{include a mx ptr exists redirect}; the first
    C{%{p}} is one of them); the eleventh is I{permerror};
  - ten mail servers of one C{mx}; more are I{permerror};
  - ten names of the client's address; more are not looked at;
  - two terms that found nothing; the third is I{permerror};
  - the length of a record and of a name (L{deferrals.model.spfrecord},
    L{deferrals.model.spfmacro}).

So there are L{MAX_QUERIES} questions at most.  How long they take is for the
caller to limit.

A target that is no name (an empty label, one of more than 63 octets, a single
label) does not match, and DNS is not asked for it; RFC 7208 §4.8 leaves that
open.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

import attrs

from deferrals.model.address import Mailbox
from deferrals.model.networks import normalAddress
from deferrals.model.spfmacro import DomainSpec, RecordError, isName
from deferrals.model.spfrecord import (
    Address,
    All,
    Exists,
    Hosts,
    Include,
    Mechanism,
    Network,
    Pointer,
    SPFRecord,
    SPFResult,
    isRecord,
    parseRecord,
)

MAX_TERMS = 10
MAX_EXCHANGES = 10
MAX_POINTERS = 10
MAX_VOIDS = 2

#: The domain's own record; and each term's question, with one for each of the
#: mail servers, or of the client's names, that it leads to.
MAX_QUERIES = 1 + MAX_TERMS * (1 + max(MAX_EXCHANGES, MAX_POINTERS))


class LookupFailed(Exception):
    """
    DNS cannot say now what there is: the result is I{temperror}.
    """


class Resolver(Protocol):
    """
    What a check asks of DNS.  All names are in ASCII and without a dot at the
    end.  Each method gives nothing where there is nothing, or no such name, and
    fails with L{LookupFailed} where that is not known; aliases are followed.
    """

    def texts(self, name: str) -> Awaitable[Sequence[bytes]]:
        """
        @return: the TXT records, each with its strings put together.
        """

    def addresses(self, name: str, version: int) -> Awaitable[Sequence[Address]]:
        """
        @param version: 4 for A, 6 for AAAA.
        """

    def exchanges(self, name: str) -> Awaitable[Sequence[str]]:
        """
        @return: the names of the MX records, by preference.
        """

    def pointers(self, name: str) -> Awaitable[Sequence[str]]:
        """
        @param name: an address as a name in C{in-addr.arpa} or C{ip6.arpa}.
        @return: the names of the PTR records.
        """


@attrs.frozen
class Finding:
    """
    What a check has found.

    @ivar result: of RFC 7208 §2.6.
    @ivar domain: whose record it was, and whom I{pass} proves: the return
        path's domain, or of the null path the client's EHLO name.
    @ivar problem: what is wrong, for I{temperror} and I{permerror}; else empty.
    """

    result: SPFResult
    domain: str
    problem: str = ""


def checkedDomain(helo: str, sender: Mailbox | None) -> str:
    """
    @return: whose record is asked for: the return path's domain, and for the
        null path the client's name (RFC 7208 §2.4).
    """
    return (sender.domain if sender else helo.lower()).removesuffix(".")


async def checkHost(resolver: Resolver, address: str, helo: str, sender: Mailbox | None) -> Finding:
    """
    @param address: the client's, text; one that is no IP address has the result
        I{none}.
    @param helo: the name that the client gave.
    @param sender: the reverse path; C{None} for the null path.
    @return: the finding; fails with what the resolver fails with,
        L{LookupFailed} excepted.
    """
    domain = checkedDomain(helo, sender)
    local = sender.local if sender else ""
    try:
        client = ipaddress.ip_address(normalAddress(address))
    except ValueError:
        return Finding(SPFResult.NONE, domain)
    if domain.startswith("["):  # an address literal (RFC 7208 §4.3)
        return Finding(SPFResult.NONE, domain)
    try:
        check = _Check(resolver, client, helo, local or "postmaster", domain)
        return Finding(await check.ofDomain(domain), domain)
    except RecordError as error:
        return Finding(SPFResult.PERMERROR, domain, str(error))
    except LookupFailed as error:
        return Finding(SPFResult.TEMPERROR, domain, str(error))


def reverseName(address: Address) -> str:
    """
    @return: the name that an address's PTR records have.
    """
    return f"{'.'.join(reversed(_dotted(address).split('.')))}.{_ARPA[address.version]}.arpa"


_ARPA = {4: "in-addr", 6: "ip6"}


def _dotted(address: Address) -> str:
    """
    Four numbers, or 32 nibbles (RFC 7208 §7.3).
    """
    if address.version == 4:
        return str(address)
    return ".".join(address.exploded.replace(":", ""))


def _agree(one: Address, other: Address, prefix: int) -> bool:
    """
    Whether two addresses are in one network.
    """
    if one.version != other.version:
        return False
    return (int(one) ^ int(other)) >> (one.max_prefixlen - prefix) == 0


class _Check:
    """
    One C{check_host()}, the included and redirected ones with it: who the
    client is, and what it has cost so far.

    @param local: the sender's local part.
    @param sender: the sender's domain.
    """

    def __init__(
        self, resolver: Resolver, client: Address, helo: str, local: str, sender: str
    ) -> None:
        self._resolver = resolver
        self._client = client
        self._isLocalASCII = local.isascii()
        self._values: Mapping[str, str] = {
            "s": f"{local}@{sender}",
            "l": local,
            "o": sender,
            "i": _dotted(client),
            "h": helo,
            "v": _ARPA[client.version],
        }
        self._terms = 0
        self._voids = 0
        self._names: Sequence[str] | None = None

    async def ofDomain(self, domain: str) -> SPFResult:
        """
        @raise RecordError: I{permerror}.
        @raise LookupFailed: I{temperror}.
        """
        record = await self._record(domain)
        if record is None:
            return SPFResult.NONE
        for directive in record.directives:
            if await self._matches(directive.mechanism, domain):
                return directive.result
        if record.redirect is None:
            return SPFResult.NEUTRAL
        return await self._ofAnother(record.redirect, domain)

    async def _ofAnother(self, spec: DomainSpec, domain: str) -> SPFResult:
        """
        A domain that a record names must have one, too (RFC 7208 §5.2, §6.1).
        """
        name = await self._target(spec, domain)
        result = await self.ofDomain(name)
        if result is SPFResult.NONE:
            raise RecordError(f"{domain}: {name or 'what it refers to'} has no SPF record")
        return result

    async def _record(self, domain: str) -> SPFRecord | None:
        """
        The SPF record of a domain (RFC 7208 §4.3 to §4.5), or C{None}.
        """
        texts = await self._resolver.texts(domain) if isName(domain) else ()
        records = [text for text in texts if isRecord(text)]
        if len(records) > 1:
            raise RecordError(f"{domain}: there are {len(records)} SPF records")
        try:
            return parseRecord(records[0]) if records else None
        except RecordError as error:
            raise RecordError(f"{domain}: {error}") from None

    async def _matches(self, mechanism: Mechanism, domain: str) -> bool:
        """
        @param domain: whose record it stands in.
        """
        match mechanism:
            case All():
                return True
            case Network(address, prefix):
                return _agree(self._client, address, prefix)
            case Include(target):
                return await self._ofAnother(target, domain) is SPFResult.PASS
            case Hosts(isMX, target):
                name = await self._target(target, domain)
                prefix = mechanism.prefix4 if self._client.version == 4 else mechanism.prefix6
                return await self._isHost(await self._hosts(name, isMX), prefix)
            case Exists(target):
                return await self._exists(await self._target(target, domain))
            case Pointer(target):
                return await self._pointsInto(await self._target(target, domain))

    async def _isHost(self, names: Sequence[str], prefix: int) -> bool:
        """
        Whether one of these names has the client's address, or one in the same
        network.  If none of them has any, the term has found nothing.
        """
        isVoid = bool(names)
        for name in names:
            found = await self._resolver.addresses(name, self._client.version)
            if any(_agree(self._client, address, prefix) for address in found):
                return True
            isVoid = isVoid and not found
        if isVoid:
            self._countVoid()
        return False

    async def _hosts(self, name: str, isMX: bool) -> Sequence[str]:
        """
        The names whose addresses C{a} and C{mx} are about.
        """
        if not isMX or not name:
            return [name] if name else []
        found = await self._resolver.exchanges(name)
        if not found:
            self._countVoid()
        if len(found) > MAX_EXCHANGES:
            raise RecordError(f"{name} has more than {MAX_EXCHANGES} mail servers")
        return [one for one in found if isName(one)]

    async def _exists(self, name: str) -> bool:
        """
        It is A that is asked for, whatever the client's address (RFC 7208 §5.7).
        """
        if not name:
            return False
        found = await self._resolver.addresses(name, 4)
        if not found:
            self._countVoid()
        return bool(found)

    async def _pointsInto(self, name: str) -> bool:
        """
        C{ptr}: whether one of the client's names is this one, or ends in it.
        """
        suffix = f".{name.lower()}"
        return bool(name) and any(f".{one}".endswith(suffix) for one in await self._clientNames())

    async def _clientNames(self) -> Sequence[str]:
        """
        The names of the client's address that lead back to it, lower case
        (RFC 7208 §5.5).  They are found once.
        """
        if self._names is None:
            names = [name.lower() for name in await self._pointers() if isName(name)]
            self._names = [name for name in names if await self._leadsBack(name)]
        return self._names

    async def _pointers(self) -> Sequence[str]:
        """
        The first ones, as DNS gives them; none if it fails (RFC 7208 §5.5).
        """
        try:
            found = await self._resolver.pointers(reverseName(self._client))
        except LookupFailed:
            return ()
        if not found:
            self._countVoid()
        return found[:MAX_POINTERS]

    async def _leadsBack(self, name: str) -> bool:
        try:
            return self._client in await self._resolver.addresses(name, self._client.version)
        except LookupFailed:
            return False

    async def _target(self, spec: DomainSpec | None, domain: str) -> str:
        """
        Count a term that asks DNS.

        @param spec: what it says of the name, if anything.
        @param domain: whose record it stands in.
        @return: the name that it asks for; empty if that is none.
        """
        self._countTerm()
        if spec is None:
            return domain
        if not self._isLocalASCII and spec.letters & {"s", "l"}:
            return ""  # RFC 8616 §4
        values = {**self._values, "d": domain}
        if "p" in spec.letters:
            values["p"] = await self._clientName(domain)
        name = spec.expand(values)
        return name if isName(name) else ""

    async def _clientName(self, domain: str) -> str:
        """
        C{%{p}}: the domain itself, a name below it, or any (RFC 7208 §7.3).
        """
        if self._names is None:
            self._countTerm()
        names = await self._clientNames()
        domain = domain.lower()
        own = [name for name in names if name == domain]
        below = [name for name in names if name.endswith(f".{domain}")]
        return next(iter([*own, *below, *names]), "unknown")

    def _countTerm(self) -> None:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise RecordError(f"more than {MAX_TERMS} terms ask DNS")

    def _countVoid(self) -> None:
        self._voids += 1
        if self._voids > MAX_VOIDS:
            raise RecordError(f"more than {MAX_VOIDS} terms ask DNS for nothing")
