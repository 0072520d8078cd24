"""
HTTP requests of stages: pooled connections, answers of a limited length, head
and all, and a second try on a fresh connection where a kept one was lost before there
was an answer: the other side may have closed it while it was not used.  One that was
fresh itself is not tried again: the other side may have taken what it was sent.

A service is asked, and its answer is the answer: no redirection is followed,
no cookie is kept for the next message, and what is compressed is no answer.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol
from urllib.parse import urlsplit

from treq.client import HTTPClient
from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, wrapClientTLS
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
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    FileBodyProducer,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IReactor, IServices
from deferrals.model.httpanswer import (
    MAX_BODY_OCTETS,
    MAX_BODY_PIECES,
    MAX_HEAD_OCTETS,
    AnswerCounter,
)
from deferrals.stages.remote import JSON, AboutMessage, TooLarge
from deferrals.stages.unread import UnreadSocket
from deferrals.tls import Verifying

#: What treq is told; L{_PlainAgent} knows where to.
_ANY_URL = "http://localhost/"

_RETRY_AFTER = re.compile(rb"\nRetry-After:([^\r\n]*)", re.I)

_HOST = re.compile(r"https?://[^/?#]+")

#: Statuses that are about one request, and not about the service (RFC 9110 §15.5).
_ABOUT_MESSAGE = frozenset({400, 406, 414, 415, 422, 431})


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


#: How the library says that a connection was lost before there was an answer.
LOST = (RequestTransmissionFailed, ResponseNeverReceived)


def httpURL(value: str) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    host = _HOST.match(value)
    if host is None or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("an http:// or https:// URL")
    if "{" not in host[0]:
        _checkHost(value)


def _checkHost(value: str) -> None:
    """
    @raise ValueError: no request could be made.
    """
    try:
        parts = urlsplit(value)
        uri = URI.fromBytes(value.encode("ascii"))
        host = uri.host.decode("ascii")
        if ":" in host:
            ipaddress.IPv6Address(host)
        isBad = "@" in parts.netloc or parts.port == 0 or not host
        if parts.scheme == "https":
            Verifying(host)
    except ValueError:
        isBad = True
    if isBad:
        raise ValueError("a URL with a name, or an address, that can be asked")


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
class _CountedEndpoint:
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


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """
    TCP for http, TLS with a server that proves its name for https.
    """

    def __init__(self, reactor: IReactor) -> None:
        self._reactor = reactor

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint
        host = uri.host.decode("ascii")
        # Names of containers have underscores; HostnameEndpoint takes none.
        kind = TCP4ClientEndpoint if "_" in host else HostnameEndpoint
        endpoint = kind(self._reactor, host, uri.port)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(Verifying(host), endpoint)
        return _CountedEndpoint(self._reactor, endpoint)


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
    @param connections: kept open to one host; with none, each request has one of
        its own.
    """
    pool = HTTPConnectionPool(reactor, persistent=connections > 0)
    pool.maxPersistentPerHost = connections
    agent: IAgent = Agent.usingEndpointFactory(reactor, _Endpoints(reactor), pool)
    return agent


def _notCompressed(response: IResponse) -> IResponse:
    values = response.headers.getRawHeaders(b"content-encoding", [])
    if {word.strip().lower() for value in values for word in value.split(b",")} - {
        b"",
        b"identity",
    }:
        response.deliverBody(_Unwanted())
        raise _Compressed(response)
    return response


class _Compressed(StageError):
    """
    An answer whose body cannot be used.

    @ivar response: its status and header count all the same.
    """

    def __init__(self, response: IResponse) -> None:
        super().__init__("the answer is compressed, which was not asked for")
        self.response = response


@implementer(IAgent)
class _PlainAgent:
    """
    What treq asks through.  Answers come as they are: it asks for compressed ones,
    which could be larger than they seem.  The URL is the one of the configuration:
    its own reading knows neither addresses of IPv6 nor names with underscores.
    """

    def __init__(self, agent: IAgent, url: bytes) -> None:
        self._agent = agent
        self._url = url

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        if headers is not None:
            headers.removeHeader(b"accept-encoding")
        found: Deferred[IResponse] = self._agent.request(method, self._url, headers, bodyProducer)
        return found.addCallback(_notCompressed)


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
        self._agent = makeAgent(reactor, connections)
        self._fresh = makeAgent(reactor, 0)
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
            return await self._exchange(method, url, headers, content, needsBody)
        except _Compressed as error:
            if needsBody:
                raise
            return error.response.code, b"", error.response.headers

    async def _exchange(
        self, method: str, url: str, headers: Headers, content: RequestBody | None, needsBody: bool
    ) -> tuple[int, bytes, Headers]:
        try:
            response = await self._ask(self._agent, method, url, headers, content)
        except LOST as error:
            if not _isStale(error):
                return _answered(error)
        else:
            return await _whole(response, needsBody)
        try:
            response = await self._ask(self._fresh, method, url, headers, content)
        except LOST as error:
            return _answered(error)
        return await _whole(response, needsBody)

    async def _ask(
        self, agent: IAgent, method: str, url: str, headers: Headers, content: RequestBody | None
    ) -> IResponse:
        file = None if content is None else content.open()
        data = None if file is None else FileBodyProducer(file, self._cooperator)
        try:
            client = HTTPClient(_PlainAgent(agent, url.encode("ascii")))  # cookies are not kept
            response: IResponse = await client.request(
                method,
                _ANY_URL,
                headers=headers.copy(),
                data=data,
                allow_redirects=False,
                unbuffered=True,
            )
        except BaseException as error:
            if file is not None:
                file.close()  # the producer may never have been started
            _raiseOurs(error)
            raise
        return response


async def _whole(response: IResponse, needsBody: bool) -> tuple[int, bytes, Headers]:
    """
    An answer with its body.
    """
    body = _Body()
    response.deliverBody(body)
    try:
        await body.whole
    except Exception as error:
        if needsBody:
            _raiseOurs(error)
            raise
    return response.code, bytes(body.octets), response.headers


def _reasons(error: Exception) -> list[BaseException]:
    return [reason.value for reason in getattr(error, "reasons", ())]


def _isStale(error: Exception) -> bool:
    """
    Whether a kept connection was lost without a word: it may have been closed before
    the request came.
    """
    return all(isinstance(one, KeptLost) for one in _reasons(error))


def _answered(error: Exception) -> tuple[int, bytes, Headers]:
    """
    The answer that came before all of the request was sent.

    @raise Exception: C{error} itself, where there is none.
    """
    for reason in _reasons(error):
        if isinstance(reason, AnsweredEarly):
            return reason.status, b"", reason.headers
    raise error


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

    @raise StageError: the status is not 200, or it is no JSON, or one in which a
        key is repeated, so that readers differ in what it says.
    @raise AboutMessage: the status is about the message.
    """
    if status == 413:
        raise TooLarge("HTTP status 413")
    if status != 200:
        raise (AboutMessage if status in _ABOUT_MESSAGE else StageError)(f"HTTP status {status}")
    try:
        text = body.decode("utf-8-sig", "replace")
        found: JSON = json.loads(text, object_pairs_hook=_once)
    except StageError:
        raise
    except (ValueError, RecursionError):
        raise StageError("the answer is no JSON") from None
    return found


def _once(pairs: list[tuple[str, JSON]]) -> JSON:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise StageError(f"the answer has the key {twice[:100]!r} twice")
    return found
