"""
One request and one answer over a connection of its own.
"""

from __future__ import annotations

from collections.abc import Generator

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import ISystemHandle
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.stages.content.exchange import CHUNK_OCTETS, MAX_ANSWER_OCTETS, chunks, exchange
from deferrals.testing import makeMessage
from tests import streams
from tests.stages.test_unread import UnreadHandle
from tests.streams import Endpoint


class ChunksTests(SynchronousTestCase):
    """
    L{chunks}.
    """

    def test_pieces(self) -> None:
        """A message comes in pieces, and is whole."""
        content = bytes(range(256)) * 1000
        found = list(chunks(makeMessage(content)))
        self.assertEqual(b"".join(found), content)
        self.assertEqual({len(piece) for piece in found[:-1]}, {CHUNK_OCTETS})


class ExchangeTests(SynchronousTestCase):
    """
    L{exchange}.
    """

    def setUp(self) -> None:
        self.endpoint = Endpoint()
        self.closed = False

    def pieces(self, *pieces: bytes | Exception) -> Generator[bytes, None, None]:
        try:
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed = True

    def ask(self, *pieces: bytes | Exception) -> Deferred[bytes]:
        asked = exchange(
            self.endpoint,  # type: ignore[arg-type]
            self.pieces(*(pieces or (b"one ", b"two"))),
            lambda answer: answer.endswith(b"."),
        )
        return Deferred.fromCoroutine(asked)

    def lose(self) -> None:
        self.endpoint.protocols[0].connectionLost(Failure(ConnectionDone()))

    def test_answer(self) -> None:
        """An answer that is whole ends the exchange and the connection."""
        d = self.ask()
        self.assertEqual(self.endpoint.wires[0].drain(), b"one two")
        for data in (b"all ", b"well"):
            self.endpoint.protocols[0].dataReceived(data)
            self.assertNoResult(d)
        self.endpoint.protocols[0].dataReceived(b".")
        self.assertEqual(self.successResultOf(d), b"all well.")
        self.assertTrue(self.endpoint.wires[0].aborted)
        self.assertTrue(self.closed)

    def test_slowly(self) -> None:
        """A piece goes out when the one before has gone."""
        self.ask()
        (wire,) = self.endpoint.wires
        self.assertEqual(wire.value(), b"")
        for sent in (b"one ", b"one two"):
            wire.producer.resumeProducing()
            self.assertEqual(wire.value(), sent)
        wire.producer.resumeProducing()
        self.assertIsNone(wire.producer)

    def test_early(self) -> None:
        """An answer may come before all is sent."""
        d = self.ask()
        self.endpoint.protocols[0].dataReceived(b"too large.")
        self.assertEqual(self.successResultOf(d), b"too large.")

    def test_end(self) -> None:
        """An answer that does not say where it ends, ends with the connection."""
        d = self.ask()
        self.endpoint.protocols[0].dataReceived(b"all well")
        self.lose()
        self.assertEqual(self.successResultOf(d), b"all well")

    def test_nothing(self) -> None:
        """A connection that is lost before an answer is a failure; so is none at all."""
        d = self.ask()
        self.lose()
        self.failureResultOf(d, ConnectionDone)
        self.endpoint.refuses = True
        self.failureResultOf(self.ask(), ConnectionRefusedError)

    def test_tooLong(self) -> None:
        """An answer that is too long is none."""
        d = self.ask()
        self.endpoint.protocols[0].dataReceived(b"x" * MAX_ANSWER_OCTETS)
        self.assertNoResult(d)
        self.endpoint.protocols[0].dataReceived(b"x")
        self.failureResultOf(d, StageError)
        self.assertTrue(self.endpoint.wires[0].aborted)

    def test_unreadable(self) -> None:
        """A message that cannot be read ends the exchange with that."""
        d = self.ask(b"one ", OSError("unreadable"))
        self.endpoint.wires[0].drain()
        self.failureResultOf(d, OSError)
        self.assertTrue(self.closed)

    def test_cancel(self) -> None:
        """Cancelled, it closes its connection and the message."""
        d = self.ask()
        self.endpoint.wires[0].producer.resumeProducing()
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertTrue(self.endpoint.wires[0].aborted)
        self.assertTrue(self.closed)
        self.lose()


class UnreadTests(ExchangeTests):
    """
    The same over a connection that has a socket: what was said before the
    connection was lost, and not read, counts.
    """

    def setUp(self) -> None:
        super().setUp()
        self.unread: list[bytes] = []
        self.handle = UnreadHandle(self.unread)
        handle = self.handle

        @implementer(ISystemHandle)
        class SocketWire(streams.Wire):
            """
            A connection that has a socket.
            """

            def getHandle(self) -> UnreadHandle:
                return handle

        self.patch(streams, "Wire", SocketWire)

    def test_unread(self) -> None:
        """It is read from a second descriptor, which is closed then."""
        for end in ([], [b""]):
            d = self.ask()
            self.endpoint.protocols[-1].dataReceived(b"too ")
            self.unread += [b"la", b"rge", *end]
            self.endpoint.protocols[-1].connectionLost(Failure(ConnectionDone()))
            self.assertEqual(self.successResultOf(d), b"too large")
            self.assertEqual(self.handle.twin.closings, 1)
        self.assertEqual(self.handle.closings, 0)

    def test_unreadTooLong(self) -> None:
        """An answer that is too long is none then, either."""
        d = self.ask()
        self.endpoint.protocols[0].dataReceived(b"x" * MAX_ANSWER_OCTETS)
        self.unread.append(b"x")
        self.lose()
        self.failureResultOf(d, StageError)
