"""
One request and one answer over a connection of its own: the message goes out
piece by piece, as fast as the other side takes it, and is never whole in
memory.

What the other side has said counts even when it closed the connection while we
were still sending: a scanner that finds a message too large does so.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IPullProducer,
    IStreamClientEndpoint,
    ISystemHandle,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IMessage
from deferrals.stages.unread import UnreadSocket

#: How much of a message is read and sent at a time.
CHUNK_OCTETS = 64 * 1024

#: A longer answer is none.
MAX_ANSWER_OCTETS = 64 * 1024


def chunks(message: IMessage) -> Generator[bytes, None, None]:
    """
    A message, piece by piece.
    """
    with message.open() as file:
        while chunk := file.read(CHUNK_OCTETS):
            yield chunk


async def exchange(
    endpoint: IStreamClientEndpoint,
    pieces: Generator[bytes, None, None],
    isWhole: Callable[[bytearray], bool],
) -> bytes:
    """
    @param endpoint: where to connect.
    @param pieces: what to send; closed in the end.
    @param isWhole: whether an answer is complete; otherwise it ends with the
        connection.  It is asked with each piece, and has to remember where it
        was rather than to read the answer anew.
    @return: the answer; empty if there was none.  It fails when there is no
        connection, or when it is lost before an answer.
    """
    protocol = _Exchange(pieces, isWhole)
    try:
        await endpoint.connect(_Once(protocol))
        return await protocol.answered
    finally:
        pieces.close()


class _Once(Factory):
    """
    Makes one connection, without a line of log.
    """

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._protocol


class _IExchangeTransport(ITCPTransport, ISystemHandle, IConsumer):
    """
    What an exchange needs of its transport.
    """


@implementer(IPullProducer)
class _Exchange(Protocol):
    """
    One L{exchange}.
    """

    transport: _IExchangeTransport  # from connectionMade on; nothing here is called before

    def __init__(self, pieces: Iterator[bytes], isWhole: Callable[[bytearray], bool]) -> None:
        self._pieces = pieces
        self._isWhole = isWhole
        self._answer = bytearray()
        self._unread: UnreadSocket | None = None
        self.answered: Deferred[bytes] = Deferred(lambda _: self._leave())

    def connectionMade(self) -> None:
        """
        Begin to send.
        """
        self._unread = UnreadSocket(self.transport)
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """
        The last piece has gone: send the next one.
        """
        try:
            piece = next(self._pieces, None)
        except Exception:
            self._fail(Failure())
            return
        if piece is None:
            self.transport.unregisterProducer()
        else:
            self.transport.write(piece)

    def stopProducing(self) -> None:
        """
        The connection is lost; that is told elsewhere.
        """

    def dataReceived(self, data: bytes) -> None:
        self._answer += data
        if not self._isTooLong() and self._isWhole(self._answer):
            self._end()

    def _isTooLong(self) -> bool:
        """
        Whether the answer is none, and the exchange has failed.
        """
        if len(self._answer) <= MAX_ANSWER_OCTETS:
            return False
        self._fail(Failure(StageError("the answer is too long")))
        return True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answered.called:
            if self._unread is not None:
                self._answer += self._unread.take(MAX_ANSWER_OCTETS)
            if not self._answer:
                self._fail(reason)
            elif not self._isTooLong():
                self._end()
        if self._unread is not None:
            self._unread.close()

    def _end(self) -> None:
        if not self.answered.called:
            self.answered.callback(bytes(self._answer))
        self._leave()

    def _fail(self, failure: Failure) -> None:
        if not self.answered.called:
            self.answered.errback(failure)
        self._leave()

    def _leave(self) -> None:
        self.transport.abortConnection()
