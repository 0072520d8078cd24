"""
One request and one answer over a connection of its own: the message goes out
piece by piece, as fast as the other side takes it, and is never whole in
memory.

What the other side has said counts even when it closed the connection while we
were still sending: a scanner that finds a message too large does so.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import connectProtocol
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import StageError

#: How much of a message is read and sent at a time.
CHUNK_OCTETS = 64 * 1024

#: A longer answer is none.
MAX_ANSWER_OCTETS = 64 * 1024


def chunks(message: Any) -> Iterator[bytes]:
    """
    A message, piece by piece.

    @param message: L{IMessage<deferrals.interfaces.IMessage>}.
    """
    with message.open() as file:
        while chunk := file.read(CHUNK_OCTETS):
            yield chunk


@inlineCallbacks
def exchange(endpoint: Any, pieces: Iterator[bytes], isWhole: Callable[[bytes], bool]) -> Any:
    """
    @param endpoint: where to connect.
    @param pieces: what to send; closed in the end.
    @param isWhole: whether an answer is complete; otherwise it ends with the
        connection.
    @return: a Deferred of the answer; empty if there was none.  It fails when
        there is no connection, or when it is lost before an answer.  May be
        cancelled.
    """
    try:
        protocol = yield connectProtocol(endpoint, _Exchange(pieces, isWhole))
        return (yield protocol.answered)
    finally:
        pieces.close()  # type: ignore[attr-defined]


@implementer(IPullProducer)
class _Exchange(Protocol):
    """
    See L{exchange}.
    """

    def __init__(self, pieces: Iterator[bytes], isWhole: Callable[[bytes], bool]) -> None:
        self._pieces = pieces
        self._isWhole = isWhole
        self._answer = b""
        self._twin: socket.socket | None = None
        self.answered: Deferred[bytes] = Deferred(lambda _: self._leave())

    def connectionMade(self) -> None:
        """
        Begin to send.  A second descriptor of the socket survives the first:
        when writing fails, the transport closes its own without another look
        at what has come in.
        """
        with contextlib.suppress(OSError, AttributeError):
            self._twin = self._transport.getHandle().dup()
        self._transport.registerProducer(self, False)

    @property
    def _transport(self) -> Any:
        return self.transport

    def resumeProducing(self) -> None:
        """
        The last piece has gone: send the next one.
        """
        try:
            piece = next(self._pieces, None)
        except Exception:
            self._end(Failure())
            return
        if piece is None:
            self._transport.unregisterProducer()
        else:
            self._transport.write(piece)

    def stopProducing(self) -> None:
        """
        The connection is lost; that is told elsewhere.
        """

    def dataReceived(self, data: bytes) -> None:
        self._answer += data
        if len(self._answer) > MAX_ANSWER_OCTETS:
            self._end(Failure(StageError("the answer is too long")))
        elif self._isWhole(self._answer):
            self._end(self._answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answered.called:
            self._answer += self._left()
            self._end(self._answer or reason)
        self._closeTwin()

    def _left(self) -> bytes:
        """
        What has come in, and was not read.
        """
        found = b""
        with contextlib.suppress(OSError):
            while self._twin is not None and len(found) < MAX_ANSWER_OCTETS:
                data = self._twin.recv(4096, socket.MSG_DONTWAIT)
                if not data:
                    break
                found += data
        return found

    def _end(self, result: Any) -> None:
        if not self.answered.called:
            self.answered.callback(result)
        self._leave()

    def _leave(self) -> None:
        self._transport.abortConnection()

    def _closeTwin(self) -> None:
        if self._twin is not None:
            self._twin.close()
            self._twin = None
