"""
HTTP requests of stages: where they connect to.
"""

from __future__ import annotations

import gzip
from typing import Any
from unittest import skipIf

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from deferrals.errors import StageError
from deferrals.stages.web import WebClient, fromJSON, webClient
from deferrals.testing import FakeServices

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


class ClientTests(SynchronousTestCase):
    """
    L{WebClient}.
    """

    def test_shared(self) -> None:
        """Stages that want as many connections have the same client."""
        services = FakeServices()
        self.assertIs(webClient(services, 3), webClient(services, 3))
        self.assertIsNot(webClient(services, 3), webClient(services, 4))

    @skipIf(
        not IReactorPluggableNameResolver.implementedBy(MemoryReactorClock),
        "the test reactor of this version of Twisted resolves no names",
    )
    def test_quiet(self) -> None:
        """A connection makes no line of log of its own, with TLS or without."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for url, port in (("http://127.0.0.1:81/", 81), ("https://127.0.0.1/", 443)):
            reactor = MemoryReactorClock()
            client = WebClient(reactor, 1)
            Deferred.fromCoroutine(client.request("GET", url, Headers())).addErrback(lambda _: None)
            ((host, found, factory, *_),) = reactor.tcpClients
            self.assertEqual((host, found), ("127.0.0.1", port))
            factory.doStart()
            factory.doStop()
        self.assertEqual([event for event in events if "actory" in (event["log_format"] or "")], [])


class Transport(StringTransport):
    """
    One that is gone at once when it is to be.
    """

    def abortConnection(self) -> None:
        if not self.disconnected:
            self.disconnected = True
            self.connection.connectionLost(Failure(ConnectionAborted()))

    loseConnection = abortConnection


@skipIf(
    not IReactorPluggableNameResolver.implementedBy(MemoryReactorClock),
    "the test reactor of this version of Twisted resolves no names",
)
class BoundTests(SynchronousTestCase):
    """
    What a service that means ill, or is broken, may say.
    """

    def ask(self, *said: bytes, size: int = 1000) -> tuple[Any, Transport]:
        """
        @return: a Deferred of the answer, and the connection.
        """
        reactor = MemoryReactorClock()
        client = WebClient(reactor, 1)
        d = Deferred.fromCoroutine(client.request("POST", "http://127.0.0.1:81/x?y=z", Headers()))
        transport = Transport()
        transport.connection = reactor.tcpClients[0][2].buildProtocol(None)
        transport.disconnected = False
        transport.connection.makeConnection(transport)
        self.assertTrue(transport.value().startswith(b"POST /x?y=z HTTP/1.1\r\n"))
        data = b"".join(said)
        for start in range(0, len(data), size):
            if not transport.disconnected:
                transport.connection.dataReceived(data[start : start + size])
        self.reactor = reactor
        return d, transport

    def test_answer(self) -> None:
        """An answer, with others on the way."""
        d, _ = self.ask(b"HTTP/1.1 100 Continue\r\n\r\n" * 3, ANSWER, b"x" * 100_000)
        self.assertEqual(self.successResultOf(d), (200, b"x" * 100_000))

    def test_endless(self) -> None:
        """One without end loses the connection, soon, and is not asked for again."""
        for said in (
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000,
            b"HTTP/1.1 200 OK\r\n" + (b"a: " + b"b" * 1000 + b"\r\n") * 1000,
            b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 500_000,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 21_000,
        ):
            d, transport = self.ask(said)
            self.failureResultOf(d, StageError)
            self.assertTrue(transport.disconnected)
            self.assertEqual(len(self.reactor.tcpClients), 1)

    def test_noRedirect(self) -> None:
        """Where else to ask is not followed, whoever says so."""
        head = b"HTTP/1.1 303 See Other\r\nLocation: http://127.0.0.1:81/\r\n"
        d, _ = self.ask(head, b"Content-Length: 0\r\n\r\n")
        self.assertEqual(self.successResultOf(d), (303, b""))

    def test_notUnpacked(self) -> None:
        """What is packed is not asked for, and is no answer."""
        packed = gzip.compress(b"x" * 10_000_000)
        said = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        d, transport = self.ask(said % len(packed), packed)
        self.assertNotIn(b"gzip", transport.value())
        self.failureResultOf(d, StageError)


class JSONTests(SynchronousTestCase):
    """
    L{fromJSON}.
    """

    def test_read(self) -> None:
        """Octets that are no UTF-8 are replaced; another status, or no JSON, is no answer."""
        self.assertEqual(fromJSON(200, b'["a\xff"]'), ["a\ufffd"])
        self.assertRaises(StageError, fromJSON, 500, b"[]")
        self.assertRaises(StageError, fromJSON, 200, b"[")
