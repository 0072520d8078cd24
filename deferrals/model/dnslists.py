"""
DNS lists of clients and of domains (RFC 5782): the names that are asked for, and what
the answers mean.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import attrs

from deferrals.errors import StageError
from deferrals.model.address import AddressError, normalDomain
from deferrals.model.networks import Networks
from deferrals.model.settings import BadSetting, checked
from deferrals.model.text import cleaned

#: What a name of DNS may have (RFC 1035 §3.1), without the dot at its end.
MAX_NAME_OCTETS = 253

#: So many characters of what a list says are shown.
MAX_TEXT = 200

#: Where lists know of no client: they are not the Internet's.
_INSIDE = Networks.parse(
    (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.168.0.0/16", "::/128", "::1/128", "fc00::/7", "fe80::/10"),
    )
)

#: All answers of lists are in it (RFC 5782 §2.1).
_ANSWERS = ipaddress.IPv4Network("127.0.0.0/8")

#: What some lists answer instead of what was asked, such as that they do not serve this
#: resolver.
_TROUBLE = ipaddress.IPv4Network("127.255.255.0/24")

_RANGE = re.compile(r"(127\.\d{1,3}\.\d{1,3}\.)(\d{1,3})(?:-(\d{1,3}))?", re.A)


class NoAnswer(StageError):
    """
    What a list answers says nothing of the name that it was asked for.
    """


def _isMeant(words: Iterable[str]) -> None:
    found = list(words)
    if not found:
        raise ValueError("one answer at least, such as 127.0.0.2-11")
    for word in found:
        _range(word)


def _range(word: str) -> tuple[ipaddress.IPv4Address, ipaddress.IPv4Address]:
    """
    @return: the first and the last address.
    @raise ValueError: it is none.
    """
    found = _RANGE.fullmatch(word)
    try:
        if found is None:
            raise ValueError(word)
        first = ipaddress.IPv4Address(found[1] + found[2])
        last = ipaddress.IPv4Address(found[1] + (found[3] or found[2]))
        if last < first:
            raise ValueError(word)
    except ValueError:
        raise ValueError(f"addresses such as 127.0.0.2 or 127.0.0.2-11, not {word!r}") from None
    return first, last


def _zone(value: str) -> None:
    try:
        if value.startswith("[") or "." not in normalDomain(value).strip("."):
            raise AddressError(value)
    except AddressError:
        raise ValueError("the name of a DNS zone, such as zen.example.org") from None


@attrs.frozen
class DNSList:
    """
    One list.

    @ivar zone: the DNS zone that it is in.
    @ivar kind: what it lists: C{"client"}, addresses; or C{"domain"}, names: the one
        that the client gives with HELO or EHLO, and the domain of the reverse path are
        asked for.
    @ivar answers: what it answers for the listings that are meant, each an address of
        127.0.0.0/8, perhaps with a range at its end.
    @ivar weight: what a listing counts; less than 0 speaks for the client.
    @ivar name: what senders and the log are told in place of the zone, where that has
        a customer's key in it.
    """

    zone: str = attrs.field(validator=checked(_zone))
    kind: Literal["client", "domain"] = "client"
    answers: tuple[str, ...] = attrs.field(default=("127.0.0.2-11",), validator=checked(_isMeant))
    weight: float = 1.0
    name: str | None = None

    def __attrs_post_init__(self) -> None:
        if not (self.weight and -1e9 < self.weight < 1e9):
            raise BadSetting("weight", "a number other than 0")
        if self.name is not None and not (self.name and self.name.isprintable()):
            raise BadSetting("name", "text that can be printed")

    @property
    def domain(self) -> str:
        """
        The zone in its one spelling.
        """
        return normalDomain(self.zone)

    @property
    def shown(self) -> str:
        """
        How people see it.
        """
        return self.name or self.domain

    def means(self, addresses: Iterable[str]) -> bool:
        """
        @param addresses: what it has answered.
        @return: whether that is one of its listings.
        """
        found = [ipaddress.IPv4Address(one) for one in addresses]
        ranges = map(_range, self.answers)
        return any(first <= one <= last for first, last in ranges for one in found)


def checkAnswer(addresses: Iterable[str]) -> None:
    """
    @raise NoAnswer: these are no answers of a list: its zone is another's now, or it does
        not serve this resolver.
    """
    for text in addresses:
        address = ipaddress.IPv4Address(text)
        if address not in _ANSWERS:
            raise NoAnswer(f"answers {text}, which is no list's answer")
        if address in _TROUBLE:
            raise NoAnswer(f"answers {text}: it does not serve this server's resolver")


def isOutside(address: str) -> bool:
    """
    Whether a client's address is one of the Internet's.
    """
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return address not in _INSIDE


def clientName(address: str) -> str:
    """
    @param address: of IPv4 or IPv6.
    @return: how lists have it (RFC 5782 §2.1, §2.4), without the zone.
    """
    return ipaddress.ip_address(address).reverse_pointer.removesuffix(".arpa").rpartition(".")[0]


def listedNames(names: Iterable[str]) -> Sequence[str]:
    """
    @param names: names as clients give them, and domains of addresses.
    @return: those that lists of domains may have, each once: no address, no address
        literal, no name without a dot.
    """
    found = []
    for name in names:
        try:
            normal = normalDomain(name)
        except AddressError:
            continue
        isNumber = normal.rpartition(".")[2].isdigit()
        if "." in normal and not isNumber and not normal.startswith("["):
            found.append(normal)
    return list(dict.fromkeys(found))


def shownText(octets: bytes) -> str:
    """
    What a list says of a listing, in one line that can be shown.
    """
    return cleaned(octets[: 4 * MAX_TEXT].decode("utf-8", "replace")[:MAX_TEXT]).strip()[:MAX_TEXT]
