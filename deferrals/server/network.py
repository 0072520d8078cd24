"""
What the server knows of the network that it is in: which DNS servers it asks,
and which addresses are its own.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable, Sequence

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import CannotListenError, InvalidAddressError
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorTime,
    IReadDescriptor,
    IResolver,
)
from twisted.internet.protocol import DatagramProtocol
from twisted.names import dns
from twisted.names.client import Resolver

from deferrals.logger import Logger
from deferrals.smtp.server.descriptors import firstSpare

_log = Logger(namespace="deferrals")

#: Seconds after which each DNS server is asked again; after the last, given up.
DNS_SECONDS = (2, 5, 8)


#: What says that a server cannot be sent to.
_CANNOT_SEND = (OSError, InvalidAddressError)

#: What a server says that cannot answer where another one may.
_UNABLE = {dns.ESERVER, dns.ENOTIMP, dns.EREFUSED}

#: Why there is no socket: another port may be free, or there are no descriptors.
_OTHER_PORT = {errno.EADDRINUSE, errno.EACCES, errno.EMFILE}

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
    make: Callable[..., _PersistentResolver] = _PersistentResolver
    resolver = make(named, chosen, timeout=DNS_SECONDS, reactor=_SparingReactor(reactor))
    assert resolver.factory is not None
    resolver.factory.noisy = False
    return resolver


class _PersistentResolver(Resolver):
    """
    Twisted's, which would give up at the first server that cannot be sent to: one
    server after the other is asked, and the next one at once where one cannot be
    reached, or says that it cannot answer.
    """

    _answering: tuple[str, int] | None = None

    def queryUDP(
        self, queries: Sequence[dns.Query], timeout: Sequence[float] | None = None
    ) -> Deferred[dns.Message]:
        """
        See L{Resolver}.

        @return: a Deferred of the answer; it fails where no server has one.
        """
        return Deferred.fromCoroutine(self._inTurn(queries, timeout or DNS_SECONDS))

    async def _inTurn(self, queries: Sequence[dns.Query], seconds: Sequence[float]) -> dns.Message:
        servers: list[tuple[str, int]] = [*self.servers, *self.dynServers]
        unable: dns.Message | None = None
        problem: Exception = TimeoutError(queries)
        query: Callable[..., Deferred[dns.Message]] = self._query
        for each in seconds:
            for server in servers[:]:
                try:
                    answer = await query(server, queries, each)
                except dns.DNSQueryTimeoutError:
                    continue
                except _CANNOT_SEND as error:
                    problem = error
                else:
                    if answer.rCode not in _UNABLE:
                        self._answering = server
                        return answer
                    unable = answer
                servers.remove(server)
        if unable is not None:
            return unable
        raise problem

    def pickServer(self) -> tuple[str, int] | None:
        """
        See L{Resolver}: for what does not fit into a datagram, the server that has
        said so.
        """
        if self._answering in [*self.servers, *self.dynServers]:
            return self._answering
        pick: Callable[[], tuple[str, int] | None] = super().pickServer
        return pick()

    def parseConfig(self, resolvConf: Iterable[bytes]) -> None:
        """
        See L{Resolver}.  A line that names no server is passed over.
        """
        parse: Callable[[list[bytes]], None] = super().parseConfig
        parse([line for line in resolvConf if _isUsable(line)])


def _isUsable(line: bytes) -> bool:
    """
    Whether a line of C{/etc/resolv.conf} is one that a resolver can read.
    """
    word, *more = line.decode("utf-8", "replace").split() or [""]
    if word != "nameserver":
        return not word.startswith("nameserver")
    if more and (isIPAddress(more[0]) or isIPv6Address(more[0])):
        return True
    shown = " ".join([word, *more])[:200]
    _log.warn("/etc/resolv.conf: {line}: this is no address, and is not asked", line=shown)
    return False


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

        @raise CannotListenError: there is hardly a descriptor left, or not this port.
        @raise OSError: there is no such network.
        """
        protocol.noisy = False  # each client's name is asked for
        listen: Callable[..., _Port] = getattr(self._reactor, "listenUDP")  # noqa: B009
        try:
            socket = listen(port, protocol, interface, maxPacketSize)
        except CannotListenError as error:
            number = getattr(error.socketError, "errno", None)
            if number in _OTHER_PORT:
                raise
            raise OSError(number, str(error)) from None  # on no port of this machine
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
