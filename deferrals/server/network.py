"""
What the server knows of the network that it is in: which DNS servers it asks,
and which addresses are its own.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorTime,
    IReadDescriptor,
    IResolver,
)
from twisted.internet.protocol import DatagramProtocol
from twisted.names.client import Resolver

from deferrals.smtp.server.descriptors import firstSpare

#: Seconds after which each DNS server is asked again; after the last, given up.
DNS_SECONDS = (2, 5, 8)


#: As C{IReactorUDP} has it.
_DATAGRAM_OCTETS = 8192


class _Port(IListeningPort, IReadDescriptor):
    """
    A socket for datagrams.
    """


def makeResolver(reactor: IReactorTime, servers: Iterable[tuple[str, int]]) -> IResolver:
    """
    @param servers: (address, port) pairs; none, for those of C{/etc/resolv.conf}.
    """
    chosen = list(servers)
    named = None if chosen else "/etc/resolv.conf"
    return Resolver(named, chosen, timeout=DNS_SECONDS, reactor=_SparingReactor(reactor))


class _SparingReactor:
    """
    What a resolver needs of a reactor.  Its sockets for questions are none of the
    last descriptors: each question has one until it is answered, and a client may
    cause many that are not.

    @param reactor: does the work.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self.callLater = reactor.callLater
        self.connectTCP = getattr(reactor, "connectTCP", None)

    def listenUDP(
        self,
        port: int,
        protocol: DatagramProtocol,
        interface: str = "",
        maxPacketSize: int = _DATAGRAM_OCTETS,
    ) -> IListeningPort:
        """
        See C{IReactorUDP}.

        @raise CannotListenError: there is hardly a descriptor left.
        """
        listen: Callable[..., _Port] = getattr(self._reactor, "listenUDP")  # noqa: B009
        socket = listen(port, protocol, interface, maxPacketSize)
        if socket.fileno() >= firstSpare(2):
            socket.stopListening()
            problem = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            raise CannotListenError(interface, port, problem)
        return socket


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
