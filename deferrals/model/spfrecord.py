"""
SPF records: which text is one, and what it says (RFC 7208 §3 to §6, §12).

A record is read as a whole before any of it is applied: an error anywhere makes
all of it invalid (RFC 7208 §4.6).  Reading takes one pass; what is too long is
not read.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Sequence

import attrs

from deferrals.model.spfmacro import DomainSpec, RecordError, checkMacroString

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: A record that is longer, or has more terms, is invalid.  RFC 7208 §3.4 wants
#: 450 octets; long lists of networks have some thousands.
MAX_RECORD_OCTETS = 8192
MAX_TERMS = 512

_VERSION = b"v=spf1"
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.\-]*)=(.*)")
_DIRECTIVE = re.compile(r"([+\-?~]?)([A-Za-z0-9]++)(.*)")
_LENGTHS = re.compile(r"(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?\Z")
_NETWORK = re.compile(r":([0-9A-Fa-f:.]+)(?:/(0|[1-9][0-9]{0,2}))?")


class SPFResult(enum.Enum):
    """
    The results of a check (RFC 7208 §2.6).
    """

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


_QUALIFIERS = {
    "": SPFResult.PASS,
    "+": SPFResult.PASS,
    "-": SPFResult.FAIL,
    "~": SPFResult.SOFTFAIL,
    "?": SPFResult.NEUTRAL,
}


@attrs.frozen
class All:
    """
    C{all}: matches always (RFC 7208 §5.1).
    """


@attrs.frozen
class Include:
    """
    C{include}: matches where another domain's record gives I{pass}
    (RFC 7208 §5.2).
    """

    target: DomainSpec


@attrs.frozen
class Hosts:
    """
    C{a} and C{mx}: the addresses of a name, or of its mail servers
    (RFC 7208 §5.3, §5.4).

    @ivar isMX: which of the two.
    @ivar target: the name; C{None} for the domain itself.
    @ivar prefix4: how many bits of an IPv4 address count.
    @ivar prefix6: how many of an IPv6 address.
    """

    isMX: bool
    target: DomainSpec | None
    prefix4: int = 32
    prefix6: int = 128


@attrs.frozen
class Pointer:
    """
    C{ptr}: the names of the client's address (RFC 7208 §5.5).
    """

    target: DomainSpec | None


@attrs.frozen
class Network:
    """
    C{ip4} and C{ip6} (RFC 7208 §5.6).

    @ivar address: one in the network.
    @ivar prefix: how many of its bits count.
    """

    address: Address
    prefix: int


@attrs.frozen
class Exists:
    """
    C{exists}: matches where a name has an IPv4 address (RFC 7208 §5.7).
    """

    target: DomainSpec


Mechanism = All | Include | Hosts | Pointer | Network | Exists


@attrs.frozen
class Directive:
    """
    @ivar result: of the check, where the mechanism matches.
    """

    result: SPFResult
    mechanism: Mechanism


@attrs.frozen
class SPFRecord:
    """
    @ivar directives: in their order.
    @ivar redirect: whose record is applied where none of them matches
        (RFC 7208 §6.1), or C{None}.
    """

    directives: tuple[Directive, ...]
    redirect: DomainSpec | None = None


def isRecord(text: bytes) -> bool:
    """
    Whether a TXT record is an SPF record (RFC 7208 §4.5).
    """
    return text[:6].lower() == _VERSION and text[6:7] in (b"", b" ")


def parseRecord(octets: bytes) -> SPFRecord:
    """
    @param octets: a TXT record's strings, put together without anything between
        them (RFC 7208 §3.3).
    @raise RecordError: it is no valid SPF record.
    """
    if len(octets) > MAX_RECORD_OCTETS:
        raise RecordError(f"it has more than {MAX_RECORD_OCTETS} octets")
    text = octets.decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise RecordError("it has characters that are not printable ASCII")
    terms = [term for term in text[len(_VERSION) :].split(" ") if term]
    if len(terms) > MAX_TERMS:
        raise RecordError(f"it has more than {MAX_TERMS} terms")
    modifiers: list[re.Match[str]] = []
    directives: list[Directive] = []
    for term in terms:
        if modifier := _MODIFIER.fullmatch(term):
            modifiers.append(modifier)
        else:
            directives.append(_directive(term))
    return SPFRecord(tuple(directives), _redirect(modifiers))


def _redirect(modifiers: Sequence[re.Match[str]]) -> DomainSpec | None:
    """
    @raise RecordError: a modifier is invalid, or there twice (RFC 7208 §6).
    """
    known: dict[str, DomainSpec] = {}
    for modifier in modifiers:
        name, value = modifier[1].lower(), modifier[2]
        if name not in ("redirect", "exp"):
            checkMacroString(value)
        elif name in known:
            raise RecordError(f"{name}= is there twice")
        else:
            known[name] = DomainSpec.parse(value)
    return known.get("redirect")


def _directive(term: str) -> Directive:
    found = _DIRECTIVE.fullmatch(term)
    if found is None:
        raise RecordError(f"{term[:40]!r} is no term")
    return Directive(_QUALIFIERS[found[1]], _mechanism(found[2].lower(), found[3]))


def _mechanism(name: str, rest: str) -> Mechanism:
    """
    @param rest: what stands behind the name.
    """
    match name:
        case "all" if not rest:
            return All()
        case "include":
            return Include(_target(rest))
        case "exists":
            return Exists(_target(rest))
        case "ptr":
            return Pointer(_target(rest) if rest else None)
        case "a" | "mx":
            return _hosts(name == "mx", rest)
        case "ip4":
            return _network(ipaddress.IPv4Address, rest)
        case "ip6":
            return _network(ipaddress.IPv6Address, rest)
    raise RecordError(f"{(name + rest)[:40]!r} is no mechanism")


def _target(rest: str) -> DomainSpec:
    if not rest.startswith(":"):
        raise RecordError(f"{rest[:40]!r} where a colon and a domain should be")
    return DomainSpec.parse(rest[1:])


def _hosts(isMX: bool, rest: str) -> Hosts:
    lengths = _LENGTHS.search(rest)
    assert lengths is not None  # it matches an empty end, too
    prefix4, prefix6 = int(lengths[1] or 32), int(lengths[2] or 128)
    if prefix4 > 32 or prefix6 > 128:
        raise RecordError(f"{lengths[0]} is too long a prefix")
    target = rest[: lengths.start()]
    return Hosts(isMX, _target(target) if target else None, prefix4, prefix6)


def _network(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], rest: str) -> Network:
    found = _NETWORK.fullmatch(rest)
    try:
        if found is None:
            raise ValueError(rest)
        address = kind(found[1])
        prefix = int(found[2] or address.max_prefixlen)
        if prefix > address.max_prefixlen:
            raise ValueError(rest)
    except ValueError:
        raise RecordError(f"{rest[:50]!r} is no network") from None
    return Network(address, prefix)
