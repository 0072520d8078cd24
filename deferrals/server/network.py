"""
What the server knows of the network that it is in: which DNS servers it asks,
and which addresses are its own.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from twisted.internet.interfaces import IReactorTime, IResolver
from twisted.names.client import Resolver

#: Seconds after which each DNS server is asked again; after the last, given up.
DNS_SECONDS = (2, 5, 8)


def makeResolver(reactor: IReactorTime, servers: Iterable[tuple[str, int]]) -> IResolver:
    """
    @param servers: (address, port) pairs; none, for those of C{/etc/resolv.conf}.
    """
    chosen = list(servers)
    return Resolver(
        None if chosen else "/etc/resolv.conf", chosen, timeout=DNS_SECONDS, reactor=reactor
    )


def reachable(listening: Iterable[tuple[str, int]], address: str, port: int) -> bool:
    """
    Whether a connection to an address would come out where we listen.

    @param listening: addresses and ports, as sockets are bound to them: an
        unspecified address stands for all of this machine.
    """
    target = ipaddress.ip_address(address)
    for host, bound in listening:
        if bound == port:
            own = ipaddress.ip_address(host.partition("%")[0])
            if own == target or (own.is_unspecified and isLocal(address)):
                return True
    return False


def isLocal(address: str) -> bool:
    """
    Whether an address is one of this machine's: a socket can be bound to it.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
