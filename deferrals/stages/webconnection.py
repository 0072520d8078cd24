"""
Connections to web services, as the library cannot bear them: answers are counted, and
those that come too early are held back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
    ITransport,
)
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.model.httpanswer import (
    MAX_HEAD_OCTETS,
    AnswerCounter,
)
from deferrals.stages.unread import UnreadSocket

_RETRY_AFTER = re.compile(rb"\nRetry-After:([^\r\n]*)", re.I)


class AnsweredEarly(ConnectionLost):
    """
    The connection was lost, or given up, before all of the request was sent; what was
    the matter has been said.

    @ivar status: the answer's.
    @ivar headers: those of its head that are used.
    """

    def __init__(self, status: int, head: bytes) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status
        after = _RETRY_AFTER.search(head)
        self.headers = Headers({b"Retry-After": [after[1]]} if after else {})


class KeptLost(ConnectionLost):
    """
    A connection that had been used before was lost without a word.
    """


class IWebConnection(ITCPTransport, IConsumer):
    """
    What is needed of a connection.
    """


@implementer(ITransport)
class _AskingTransport:
    """
    A connection as the client sees it: its other end is told what is written.

    @param connection: what is told.
    """

    def __init__(self, transport: IWebConnection, connection: _CountedConnection) -> None:
        self._transport = transport
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._connection.sends(data)
        self._transport.write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        pieces = list(data)
        self._connection.sends(pieces[0] if pieces else b"")
        self._transport.writeSequence(pieces)

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """
        A message begins.
        """
        self._connection.begins()
        self._transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """
        A message has come to its end.
        """
        self._transport.unregisterProducer()
        self._connection.ends()

    def loseConnection(self) -> None:
        self._connection.isLeft = True
        self._transport.loseConnection()

    def abortConnection(self) -> None:
        """
        The client gives its request up.
        """
        self._connection.isLeft = True
        self._transport.abortConnection()

    def getPeer(self) -> IAddress:
        return self._transport.getPeer()

    def getHost(self) -> IAddress:
        return self._transport.getHost()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _CountedConnection(protocol.Protocol):
    """
    Between a connection and the client's end of it: an answer that is too long
    loses the connection.

    The library cannot bear an answer that is none, or not a whole one, while it sends a
    message: its request would not come to an end, and exceptions be in the log.  So what
    is said by then is held back until the message is sent; where it refuses, the rest is
    not sent.

    @param clock: timers.
    @ivar client: the client's end.
    @ivar isLeft: whether the client does not want the connection any longer.
    """

    transport: IWebConnection  # from connectionMade on; nothing here is called before

    def __init__(self, clock: IReactorTime, client: IProtocol) -> None:
        self.client = client
        self.isLeft = False
        self._clock = clock
        self._counter = AnswerCounter()
        self._problem: Failure | None = None
        self._unread: UnreadSocket | None = None
        self._held = bytearray()
        self._isHolding = self._isSent = False

    def connectionMade(self) -> None:
        self.client.makeConnection(_AskingTransport(self.transport, self))

    def sends(self, data: bytes) -> None:
        """
        Something is sent: until it is answered, the answer could be left unread.
        """
        self._counter.sent(data)
        if self._unread is None and not self._counter.status:
            self._unread = UnreadSocket(self.transport)

    def begins(self) -> None:
        """
        A message begins.
        """
        self._isHolding, self._isSent = True, False

    def ends(self) -> None:
        """
        It is sent, which the client hears behind this.
        """
        self._isSent = True
        if self._held:
            self._clock.callLater(0, self._release)
        else:
            self._isHolding = False

    def _release(self) -> None:
        if self._problem is not None or self.isLeft:
            return
        data, self._held, self._isHolding = bytes(self._held), bytearray(), False
        if data:
            self.client.dataReceived(data)

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.close()
            self._unread = None

    def dataReceived(self, data: bytes) -> None:
        self._read()
        if self._problem is not None or self.isLeft:
            return
        try:
            self._counter.feed(data)
        except ValueError as error:
            self._fail(StageError(str(error)))
            return
        if not self._isHolding:
            self.client.dataReceived(data)
            return
        self._held += data
        if self._counter.status >= 300 and self._counter.isHeaded:
            self._fail(AnsweredEarly(self._counter.status, bytes(self._held)))

    def _fail(self, error: Exception) -> None:
        """
        The connection is given up.
        """
        self._problem = Failure(error)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        if self._unread is not None and (left := self._unread.take(MAX_HEAD_OCTETS)):
            self.dataReceived(bytes(left))
        self._read()
        if self._isSent:
            self._release()
        self.client.connectionLost(self._problem or self._lost(reason))

    def _lost(self, reason: Failure) -> Failure:
        """
        What the client is told.
        """
        status = self._counter.status
        if status >= (300 if self._held else 400):
            return Failure(AnsweredEarly(status, bytes(self._held)))
        isKept = self._counter.isKept and not self._held
        if isKept and reason.check(ConnectionDone, ConnectionLost):
            return Failure(KeptLost(str(reason.value)))
        return reason


@implementer(IProtocolFactory)
class _CountingFactory:
    """
    Makes such connections, without two lines of log for each.
    """

    def __init__(self, clock: IReactorTime, clients: IProtocolFactory) -> None:
        self._clock = clock
        self._clients = clients

    def doStart(self) -> None:
        pass

    def doStop(self) -> None:
        pass

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        client = self._clients.buildProtocol(addr)
        return None if client is None else _CountedConnection(self._clock, client)


@implementer(IStreamClientEndpoint)
class CountedEndpoint:
    """
    Makes connections on which answers are counted.
    """

    def __init__(self, clock: IReactorTime, endpoint: IStreamClientEndpoint) -> None:
        self._clock = clock
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        def clientOf(connection: IProtocol) -> IProtocol:
            return connection.client if isinstance(connection, _CountedConnection) else connection

        return self._endpoint.connect(_CountingFactory(self._clock, protocolFactory)).addCallback(
            clientOf
        )
