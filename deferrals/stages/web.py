"""
HTTP requests of stages: pooled connections, answers of a limited length, head
and all, and a second try where a pooled connection had been closed by the other
side.

A service is asked, and its answer is the answer: no redirection is followed,
no cookie is kept for the next message, and what is compressed is no answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

from treq.client import HTTPClient
from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITCPTransport,
    ITransport,
)
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    FileBodyProducer,
    HTTPConnectionPool,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IReactor, IServices
from deferrals.model.httpanswer import MAX_BODY_OCTETS, MAX_BODY_PIECES, AnswerCounter
from deferrals.stages.remote import JSON
from deferrals.tls import Verifying


def httpURL(value: str) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    if not value.startswith(("http://", "https://")) or not value.isascii() or " " in value:
        raise ValueError("an http:// or https:// URL")


@implementer(ITransport)
class _AskingTransport:
    """
    A connection as the client sees it: the counter sees what is written.
    """

    def __init__(self, transport: ITransport, counter: AnswerCounter) -> None:
        self._transport = transport
        self._counter = counter

    def write(self, data: bytes) -> None:
        self._counter.sent(data)
        self._transport.write(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        pieces = list(data)
        self._counter.sent(pieces[0] if pieces else b"")
        self._transport.writeSequence(pieces)

    def loseConnection(self) -> None:
        self._transport.loseConnection()

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

    @ivar client: the client's end.
    """

    transport: ITCPTransport  # from connectionMade on; nothing here is called before

    def __init__(self, client: IProtocol) -> None:
        self.client = client
        self._counter = AnswerCounter()
        self._problem: Failure | None = None

    def connectionMade(self) -> None:
        self.client.makeConnection(_AskingTransport(self.transport, self._counter))

    def dataReceived(self, data: bytes) -> None:
        if self._problem is not None:
            return
        try:
            self._counter.feed(data)
        except ValueError as error:
            self._problem = Failure(StageError(str(error)))
            self.transport.abortConnection()
            return
        self.client.dataReceived(data)

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self.client.connectionLost(self._problem or reason)


@implementer(IProtocolFactory)
class _CountingFactory:
    """
    Makes such connections, without two lines of log for each.
    """

    def __init__(self, clients: IProtocolFactory) -> None:
        self._clients = clients

    def doStart(self) -> None:
        pass

    def doStop(self) -> None:
        pass

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        client = self._clients.buildProtocol(addr)
        return None if client is None else _CountedConnection(client)


@implementer(IStreamClientEndpoint)
class _CountedEndpoint:
    """
    Makes connections on which answers are counted.
    """

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        def clientOf(connection: IProtocol) -> IProtocol:
            return connection.client if isinstance(connection, _CountedConnection) else connection

        return self._endpoint.connect(_CountingFactory(protocolFactory)).addCallback(clientOf)


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """
    TCP for http, TLS with a server that proves its name for https.
    """

    def __init__(self, reactor: IReactor) -> None:
        self._reactor = reactor

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint
        endpoint = HostnameEndpoint(self._reactor, uri.host.decode("ascii"), uri.port)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(Verifying(uri.host.decode("ascii")), endpoint)
        return _CountedEndpoint(endpoint)


class Readable(Protocol):
    """
    What a request reads.
    """

    def read(self, size: int = -1, /) -> bytes:
        """
        The next octets; none at the end.
        """

    def close(self) -> None:
        """
        It is not read any longer.
        """


class RequestBody(Protocol):
    """
    What a request sends: it is opened anew for each try.
    L{IMessage<deferrals.interfaces.IMessage>} is one.
    """

    def open(self) -> Readable:
        """
        At its beginning.
        """


def makeAgent(reactor: IReactor, connections: int) -> IAgent:
    """
    @param connections: kept open to one host.
    """
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = connections
    agent: IAgent = Agent.usingEndpointFactory(reactor, _Endpoints(reactor), pool)
    return agent


@implementer(IAgent)
class _PlainAgent:
    """
    Answers as they come: treq asks for compressed ones, which could be larger
    than they seem.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        if headers is not None:
            headers.removeHeader(b"accept-encoding")
        found: Deferred[IResponse] = self._agent.request(method, uri, headers, bodyProducer)
        return found.addCallback(_notCompressed)


class _Compressed(StageError):
    """
    An answer whose body cannot be used.

    @ivar response: its status and header count all the same.
    """

    def __init__(self, response: IResponse) -> None:
        super().__init__("the answer is compressed, which was not asked for")
        self.response = response


def _notCompressed(response: IResponse) -> IResponse:
    if response.headers.hasHeader(b"content-encoding"):
        response.deliverBody(_Unwanted())
        raise _Compressed(response)
    return response


class _Unwanted(protocol.Protocol):
    """
    A body that ends its connection.
    """

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class WebClient:
    """
    @param reactor: the network and the timers.
    @param connections: kept open to one host.
    """

    def __init__(self, reactor: IReactor, connections: int) -> None:
        self._reactor = reactor
        self._agent = _PlainAgent(makeAgent(reactor, connections))
        self._cooperator = Cooperator(scheduler=lambda work: reactor.callLater(0, work))

    async def request(
        self, method: str, url: str, headers: Headers, content: RequestBody | None = None
    ) -> tuple[int, bytes]:
        """
        @return: status and body.
        """
        status, body, _ = await self.exchange(method, url, headers, content)
        return status, body

    async def exchange(
        self,
        method: str,
        url: str,
        headers: Headers,
        content: RequestBody | None = None,
        needsBody: bool = True,
    ) -> tuple[int, bytes, Headers]:
        """
        @param needsBody: whether an answer without its body is none.
        @return: status, body and headers.
        @raise StageError: the answer is too long.
        """
        try:
            return await self._try(method, url, headers, content, needsBody)
        except ResponseNeverReceived as error:
            if not all(reason.check(ConnectionDone, ConnectionLost) for reason in error.reasons):
                raise
        return await self._try(method, url, headers, content, needsBody)

    async def _try(
        self, method: str, url: str, headers: Headers, content: RequestBody | None, needsBody: bool
    ) -> tuple[int, bytes, Headers]:
        file = None if content is None else content.open()
        data = None if file is None else FileBodyProducer(file, self._cooperator)
        try:
            client = HTTPClient(self._agent)  # a new one: cookies are not kept
            response = await client.request(
                method, url, headers=headers, data=data, allow_redirects=False, unbuffered=True
            )
        except BaseException as error:
            if file is not None:
                file.close()  # the producer may never have been started
            if isinstance(error, _Compressed) and not needsBody:
                return error.response.code, b"", error.response.headers
            _raiseOurs(error)
            raise
        body = _Body()
        response.deliverBody(body)
        try:
            await body.whole
        except Exception as error:
            if needsBody:
                _raiseOurs(error)
                raise
        return response.code, bytes(body.octets), response.headers


def _raiseOurs(error: BaseException) -> None:
    """
    @raise StageError: it is one that the library has wrapped.
    """
    for reason in getattr(error, "reasons", ()):
        if isinstance(reason.value, StageError):
            raise reason.value from None


def webClient(services: IServices, connections: int) -> WebClient:
    """
    The client of all stages that want so many connections to one host.
    """
    return services.common(("web", connections), lambda: WebClient(services.reactor, connections))


class _Body(protocol.Protocol):
    """
    The body of an answer.  Ends the connection when it is too long, or not
    wanted any longer.
    """

    def __init__(self) -> None:
        self.octets = bytearray()
        self._pieces = 0
        self.whole: Deferred[None] = Deferred(lambda _: self._leave())

    def _leave(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.whole.called:
            return
        self.octets += data
        self._pieces += 1
        if len(self.octets) > MAX_BODY_OCTETS:
            self._tooMuch("the answer is too long")
        elif self._pieces > MAX_BODY_PIECES:
            self._tooMuch("the answer comes in too many pieces")

    def _tooMuch(self, problem: str) -> None:
        self.whole.errback(StageError(problem))
        self._leave()

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(None)
        else:
            self.whole.errback(reason)


def fromJSON(status: int, body: bytes) -> JSON:
    """
    What is no UTF-8 in it is replaced: a sender may be quoted there.

    @raise StageError: the status is not 200, or it is no JSON.
    """
    if status != 200:
        raise StageError(f"HTTP status {status}")
    try:
        found: JSON = json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        raise StageError("the answer is no JSON") from None
    return found
