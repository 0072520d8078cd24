"""
Tests for L{deferrals.stages.webconnection}.
"""

from __future__ import annotations

import gc
import io
import itertools
from collections.abc import Callable
from typing import Any
from unittest import skipIf

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import RequestTransmissionFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers

from deferrals.stages.web import WebClient
from tests.hopfaults import http
from tests.rigs import keep
from tests.stages.test_unread import SocketTransport, UnreadHandle

#: What is no answer, or not quite; the last one is.
WRONG_ANSWERS = (
    *(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n\r\nok" for header in http.HEADERS),
    *(b"HTTP/1.1 503 Busy\r\n" + header + b"\r\n\r\nok" for header in http.HEADERS),
    *http.GARBAGE,
    b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
)


class PausedFile(io.BytesIO):
    """
    A message of which one half is sent, and then no more.
    """

    half = 1 << 16

    def __init__(self, pause: Callable[[], None]) -> None:
        super().__init__(b"x" * 2 * self.half)
        self.pause = pause

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() == 0:
            self.pause()
        return super().read(size)


@skipIf(
    not IReactorPluggableNameResolver.implementedBy(MemoryReactorClock),
    "the test reactor of this version of Twisted resolves no names",
)
class LostTests(SynchronousTestCase):
    """
    Connections that are lost before there is an answer.
    """

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.client = WebClient(self.reactor, 2)
        self.unread: list[bytes] = []

    def post(self) -> Any:
        url = "http://127.0.0.1:81/"
        return Deferred.fromCoroutine(self.client.request("POST", url, Headers(), self))

    def open(self) -> PausedFile:
        """
        See L{RequestBody<deferrals.stages.web.RequestBody>}.
        """
        return PausedFile(lambda: self.transport.producer.pauseProducing())

    def connect(self, number: int) -> tuple[Any, SocketTransport]:
        """
        @param number: of the connection.
        """
        self.assertEqual(len(self.reactor.tcpClients), number + 1)
        connection = self.reactor.tcpClients[number][2].buildProtocol(None)
        self.handle = UnreadHandle(self.unread)
        self.transport = SocketTransport(self.handle)
        connection.makeConnection(self.transport)
        self.reactor.pump([0] * 5)
        return connection, self.transport

    def finish(self) -> None:
        """
        The rest of the message is sent.
        """
        self.transport.producer.resumeProducing()
        self.reactor.pump([0] * 5)

    def test_kept(self) -> None:
        """A kept connection that is reset under a large body is tried again on a fresh one."""
        d = self.post()
        kept, _ = self.connect(0)
        self.finish()
        kept.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(self.successResultOf(d), (200, b""))
        d = self.post()
        self.reactor.pump([0] * 5)
        kept.connectionLost(Failure(ConnectionLost()))
        fresh, transport = self.connect(1)
        self.assertEqual(transport.value().count(b"x"), PausedFile.half)
        self.finish()
        self.assertEqual(transport.value().count(b"x"), 2 * PausedFile.half)
        fresh.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        self.assertEqual(self.successResultOf(d), (200, b"{}"))

    def test_twice(self) -> None:
        """There is no third try."""
        d = self.post()
        kept, _ = self.connect(0)
        self.finish()
        kept.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.successResultOf(d)
        d = self.post()
        self.reactor.pump([0] * 5)
        kept.connectionLost(Failure(ConnectionLost()))
        self.connect(1)[0].connectionLost(Failure(ConnectionLost()))
        self.failureResultOf(d, RequestTransmissionFailed)
        self.assertEqual(len(self.reactor.tcpClients), 2)

    def test_fresh(self) -> None:
        """
        Nor is there a second one where a fresh connection is lost, before the request is
        sent or behind it: the service may have taken it.
        """
        for number in range(2):
            d = self.post()
            connection, _ = self.connect(number)
            if number:
                self.finish()
            connection.connectionLost(Failure(ConnectionDone()))
            self.failureResultOf(d, RequestTransmissionFailed, ResponseNeverReceived)
            self.assertEqual(len(self.reactor.tcpClients), number + 1)

    def test_early(self) -> None:
        """What was said before all was sent counts, read or unread, and is not asked for again."""
        head = b"HTTP/1.1 413 Too Large\r\n"
        for said, unread in (
            ([head, b"Connection: close\r\n\r\nit is"], []),
            ([], [head + b"Content-Length: 0\r\n\r\n"]),
            ([], [head, b"\r\n"]),
        ):
            self.setUp()
            d = self.post()
            connection, _ = self.connect(0)
            for piece in said:
                connection.dataReceived(piece)
            self.unread += unread
            connection.connectionLost(Failure(ConnectionLost()))
            self.assertEqual(self.successResultOf(d)[0], 413, (said, unread))
            self.assertEqual(self.handle.twin.closings, 1)

    def test_answeredEarly(self) -> None:
        """
        Whatever is said while a message is sent, in one piece or octet by octet, whether
        the rest is sent, the connection is lost or the time is over: the request comes to
        an end, and there is no exception in the log.
        """
        keep()
        for answer, size, end in itertools.product(
            WRONG_ANSWERS, (1, 1000), ("sent", "sent, lost", "lost", "late")
        ):
            self.setUp()
            d = self.post()
            connection, transport = self.connect(0)
            for start in range(0, len(answer), size):
                if not transport.disconnecting:
                    connection.dataReceived(answer[start : start + size])
            if end.startswith("sent") and not transport.disconnecting:
                self.finish()
                self.assertGreaterEqual(transport.value().count(b"x"), 2 * PausedFile.half)
            if end.endswith("lost") or transport.disconnecting:
                connection.connectionLost(Failure(ConnectionLost()))
            else:
                d.cancel()
            ended: list[object] = []
            d.addBoth(ended.append)
            self.assertEqual(len(ended), 1, (answer, size, end))
            gc.collect()
            self.assertEqual(self.flushLoggedErrors(), [], (answer, size, end))

    def test_closed(self) -> None:
        """A second descriptor is held no longer than a message is sent."""
        d = self.post()
        connection, _ = self.connect(0)
        self.assertEqual(self.handle.twin.closings, 0)
        self.finish()
        connection.dataReceived(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.successResultOf(d)
        self.assertEqual(self.handle.twin.closings, 1)
