"""
The whole server for an application's tests: without a socket, or on loopback.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IPullProducer,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.interfaces import IContentStage
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope
from deferrals.server import ListenerSettings, MailServer
from deferrals.server.stages import Contents, Deliveries, Envelopes
from deferrals.testing.fakes import FakeDelivery, FakeEnvelope

#: When a test begins, in seconds since the epoch.
BEGINNING_SECONDS = 1_000_000_000.0

#: A client has no more turns than this: two that talk for ever are an error.
_MOST_TURNS = 100_000


class _MemoryTransport(StringTransport):
    """
    One end of a connection.

    @ivar protocol: who is here.
    @ivar peer: the other end.
    """

    protocol: IProtocol
    peer: _MemoryTransport
    isLost = False

    def abortConnection(self) -> None:
        """
        What is on the way is lost.
        """
        self.clear()
        self.lose(ConnectionAborted())
        self.peer.lose(ConnectionLost())

    def lose(self, reason: Exception) -> None:
        """
        The connection is gone.
        """
        if not self.isLost:
            self.isLost = True
            self.protocol.connectionLost(Failure(reason))

    def move(self) -> bool:
        """
        @return: whether there was something on its way from here.
        """
        if self.isLost:
            return False
        if self.producer is not None and not self.streaming:
            IPullProducer(self.producer).resumeProducing()
        data = self.value()
        if data and self.peer.producerState == "producing" and not self.peer.isLost:
            self.clear()
            self.peer.protocol.dataReceived(data)
            return True
        if self.disconnecting and not data:
            self.lose(ConnectionDone())
            self.peer.lose(ConnectionDone())
            return True
        return False


class _MemoryConnection:
    """
    Two ends.
    """

    def __init__(self, client: IProtocol, server: IProtocol, host: str) -> None:
        kind = IPv6Address if ":" in host else IPv4Address
        here, there = kind("TCP", host, 54321), IPv4Address("TCP", "127.0.0.1", 25)
        self.client, self.server = _MemoryTransport(here, there), _MemoryTransport(there, here)
        self.client.protocol, self.server.protocol = client, server
        self.client.peer, self.server.peer = self.server, self.client
        server.makeConnection(self.server)
        client.makeConnection(self.client)

    def move(self) -> bool:
        """
        @return: whether there was something on its way.
        """
        moved = self.client.move()
        return self.server.move() or moved


class MemorySession(Protocol):
    """
    A client that speaks line by line: see L{MemoryServer.session}.

    @ivar isClosed: whether the connection is gone.
    """

    isClosed = False

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._said = b""

    def dataReceived(self, data: bytes) -> None:
        self._said += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:
        self.isClosed = True

    def say(self, *lines: str) -> list[str]:
        """
        Say lines, each when the one before it has had its answer, if it has one
        at once.

        @return: L{heard}.
        """
        for line in lines:
            if not self.isClosed:
                assert self.transport is not None
                self.transport.write(line.encode() + b"\r\n")
            self._server.advance()
        return self.heard()

    def heard(self) -> list[str]:
        """
        @return: the lines that the server has said since the last time.
        """
        said, self._said = self._said, b""
        return said.decode().splitlines()

    def lose(self) -> None:
        """
        The connection breaks.
        """
        if not self.isClosed:
            assert isinstance(self.transport, _MemoryTransport)
            self.transport.abortConnection()
            self._server.advance()


@implementer(IStreamClientEndpoint)
class MemoryServer:
    """
    A L{MailServer<deferrals.server.MailServer>} without a socket, with mail in
    memory, and with a clock that the test moves.  It is an endpoint: a client
    that is given it is connected to it.

    Nothing happens by itself: L{advance} lets it.

    @param envelope: by default all recipients are deferred.
    @param content: one stage, or what C{MailServer} takes; by default all accept.
    @param delivery: by default a L{FakeDelivery}.
    @param settings: of the listener.
    @param more: what else C{MailServer} takes.
    @ivar clock: the clock of all.
    @ivar server: the C{MailServer}.
    @ivar delivered: what the default delivery has got, each recipient with the
        envelope and the octets.
    """

    def __init__(
        self,
        *,
        envelope: Envelopes | None = None,
        content: IContentStage | Contents = (),
        delivery: Deliveries | None = None,
        settings: ListenerSettings | None = None,
        **more: Any,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(BEGINNING_SECONDS)
        fake = FakeDelivery()
        self.delivered: list[tuple[Envelope, Addressee, bytes]] = fake.delivered
        self.server = MailServer(
            self.clock,
            **{
                "hostname": "mx.example.net",
                "envelope": FakeEnvelope() if envelope is None else envelope,
                "content": [content] if IContentStage.providedBy(content) else content,
                "delivery": fake if delivery is None else delivery,
                "settings": settings,
                "reverseDNS": False,
                **more,
            },
        )
        self._factory = self.server.factory()
        self._connections: list[_MemoryConnection] = []
        self.started = self.server.start()
        self.advance()

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        client = protocolFactory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 25))
        assert client is not None
        self._open(client, "192.0.2.1")
        return succeed(client)

    def _open(self, client: IProtocol, host: str) -> None:
        address = IPv6Address if ":" in host else IPv4Address
        server = self._factory.buildProtocol(address("TCP", host, 54321))
        assert server is not None
        self._connections.append(_MemoryConnection(client, server, host))

    def advance(self, seconds: float = 0.0) -> None:
        """
        Let time pass, and everything happen that can: on all connections, and in
        the server.
        """
        self._settle()
        if seconds:
            self.clock.advance(seconds)
            self._settle()

    def _settle(self) -> None:
        for _ in range(_MOST_TURNS):
            moved = [connection for connection in self._connections if connection.move()]
            due = [
                call
                for call in self.clock.getDelayedCalls()
                if call.getTime() <= self.clock.seconds()
            ]
            if not moved and not due:
                return
            self.clock.advance(0)
        raise AssertionError("it never comes to rest")

    def session(self, host: str = "192.0.2.1") -> MemorySession:
        """
        A client of its own, which has not heard the greeting yet.

        @param host: its address.
        """
        session = MemorySession(self)
        self._open(session, host)
        self.advance()
        return session

    def dialogue(self, *lines: str) -> list[str]:
        """
        Raw lines, on a new connection.

        @return: all that the server said, the greeting included.
        """
        return self.session().say(*lines)

    def stop(self) -> None:
        """
        End all of it: transactions, deliveries, timers.

        @raise AssertionError: it does not end.
        """
        ended: list[None] = []
        self.server.stop(0.0).addCallback(ended.append)
        for _ in range(100):
            if ended:
                return
            self.advance(1.0)
        raise AssertionError("the server does not end")


class TestServer:
    """
    A L{MailServer<deferrals.server.MailServer>} on a port of loopback, for tests
    with real clients.

    @ivar server: the C{MailServer}.
    @ivar delivered: what the default delivery has got.
    """

    __test__ = False  # pytest: it is none

    def __init__(
        self,
        reactor: IReactorTime,
        *,
        envelope: Envelopes | None = None,
        content: IContentStage | Contents = (),
        delivery: Deliveries | None = None,
        settings: ListenerSettings | None = None,
        **more: Any,
    ) -> None:
        fake = FakeDelivery()
        self.delivered: list[tuple[Envelope, Addressee, bytes]] = fake.delivered
        self.server = MailServer(
            reactor,
            **{
                "hostname": "mx.example.net",
                "envelope": FakeEnvelope() if envelope is None else envelope,
                "content": [content] if IContentStage.providedBy(content) else content,
                "delivery": fake if delivery is None else delivery,
                "settings": settings,
                **more,
            },
        )
        self.server.listenOn("tcp:0:interface=127.0.0.1")

    @classmethod
    def start(cls, reactor: IReactorTime, **stages: Any) -> Deferred[TestServer]:
        """
        @param stages: as L{MemoryServer}'s.
        @return: a Deferred that fires when it listens.
        """
        made = cls(reactor, **stages)
        return made.server.start().addCallback(lambda _: made)

    @property
    def address(self) -> tuple[str, int]:
        """
        Where it listens, as (host, port).
        """
        (found,) = self.server.addresses
        assert isinstance(found, IPv4Address)
        return found.host, found.port

    def stop(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when it has ended.
        """
        return self.server.stop(0.0)
