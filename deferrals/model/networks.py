"""
Networks, as configurations name those whom they trust.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable

import attrs

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: IPv4 within IPv6.
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

#: Where IPv6 clients of the Internet are.
_PUBLIC = ipaddress.IPv6Network("2000::/3")

#: The client's address where there is no IP address: a Unix socket's.
LOCAL = "local"

#: The client's address where a front end does not know it: in no network.
UNKNOWN = "unknown"


def normalAddress(text: str) -> str:
    """
    One spelling for one address: IPv4 in IPv6 is IPv4, no zone.

    @raise ValueError: it is no address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


@functools.lru_cache(maxsize=4096)
def _addressOf(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """
    Remembered: the same client is looked for with each recipient.

    @return: C{None} where it is no address.
    """
    try:
        return ipaddress.ip_address(normalAddress(text))
    except ValueError:
        return None


def mayHaveName(address: str) -> bool:
    """
    Whether DNS may have a name for a client's address: it is one, and another
    machine's.
    """
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def dnsServers(values: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """
    C{"192.0.2.53"}, C{"192.0.2.53:5353"}, C{"[2001:db8::53]:53"}.

    @return: addresses and ports.
    @raise ValueError: one of them is none.
    """
    return tuple(map(_dnsServer, values))


def _dnsServer(value: str) -> tuple[str, int]:
    host, port = value, "53"
    if value.startswith("["):
        host, _, rest = value[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif value.count(":") == 1:
        host, _, port = value.partition(":")
    try:
        number = int(port)
        if not 0 < number < 65536:
            raise ValueError(port)
        return normalAddress(host), number
    except ValueError:
        raise ValueError("addresses of DNS servers, each perhaps with :PORT") from None


@functools.lru_cache(maxsize=4096)
def neighbourhood(address: str) -> str:
    """
    Whom an address is counted with: an IPv4 address by itself, an IPv6 address
    with its /64, since that is what one customer gets at least.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False))


@functools.lru_cache(maxsize=4096)
def largerNetwork(address: str) -> str:
    """
    The network that an address is counted with where one customer may have
    several: the IPv4 /24, the IPv6 /48.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 24 if found.version == 4 else 48), strict=False))


def _network(word: str) -> _Network:
    """
    A network; one of IPv4 in IPv6 is that of IPv4, as L{normalAddress} is.

    @raise ValueError: it is none.
    """
    found = ipaddress.ip_network(word)
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):
        inside = found.network_address.ipv4_mapped
        assert inside is not None
        return ipaddress.IPv4Network((inside, found.prefixlen - 96))
    return found


def _publicAddresses(network: ipaddress.IPv6Network) -> int:
    """
    How many public addresses are in it.
    """
    if network.supernet_of(_PUBLIC):
        return _PUBLIC.num_addresses
    return network.num_addresses if network.subnet_of(_PUBLIC) else 0


def limited(words: Iterable[str]) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}: networks that are trusted.

    @raise ValueError: one of them is none, or they are everybody's.
    """
    if Networks.parse(words).isEverybody:
        raise ValueError("networks of your own: these keep no client out")


@attrs.frozen
class Networks:
    """
    @ivar networks: addresses are in one of them.
    @ivar unix: whether clients on a Unix socket count, too.
    """

    networks: tuple[_Network, ...] = ()
    unix: bool = False

    @classmethod
    def parse(cls, words: Iterable[str]) -> Networks:
        """
        Read addresses and networks, and the word C{unix}.

        @raise ValueError: one of them is none.
        """
        found = []
        unix = False
        for word in words:
            if word == "unix":
                unix = True
                continue
            try:
                found.append(_network(word))
            except ValueError:
                raise ValueError(
                    f"addresses, networks such as 192.0.2.0/24, or unix; not {word!r}"
                ) from None
        return cls(tuple(found), unix)

    def plus(self, others: Networks) -> Networks:
        """
        @return: all of these, and of those.
        """
        return Networks(self.networks + others.networks, self.unix or others.unix)

    def __contains__(self, address: str) -> bool:
        """
        Whether a client with this address is in them.
        """
        if address == LOCAL:
            return self.unix
        found = _addressOf(address)
        return found is not None and any(found in network for network in self.networks)

    @property
    def isEverybody(self) -> bool:
        """
        Whether they keep hardly anybody out, however that is written: together
        they hold an eighth of all IPv4 addresses, or of the public IPv6 ones.
        """
        old = [one for one in self.networks if one.version == 4]
        new = [one for one in self.networks if one.version == 6]
        public = sum(map(_publicAddresses, ipaddress.collapse_addresses(new)))
        held = sum(one.num_addresses for one in ipaddress.collapse_addresses(old))
        return 8 * held >= 1 << 32 or 8 * public >= _PUBLIC.num_addresses

    def __bool__(self) -> bool:
        return self.unix or bool(self.networks)
