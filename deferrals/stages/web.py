"""
HTTP requests of stages: pooled connections, answers of a limited length, and a
second try where a pooled connection had been closed by the other side.
"""

from __future__ import annotations

import json
from typing import Protocol

from treq.client import HTTPClient
from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
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
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from zope.interface import implementer

from deferrals.errors import StageError
from deferrals.interfaces import IReactor, IServices
from deferrals.stages.remote import JSON
from deferrals.tls import Verifying

#: A longer answer is none.
MAX_ANSWER_OCTETS = 1024 * 1024


def httpURL(value: str) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    if not value.startswith(("http://", "https://")) or not value.isascii() or " " in value:
        raise ValueError("an http:// or https:// URL")


@implementer(IStreamClientEndpoint)
class _QuietEndpoint:
    """
    Without two lines of log for each connection.
    """

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        if isinstance(protocolFactory, protocol.Factory):
            protocolFactory.noisy = False
        return self._endpoint.connect(protocolFactory)


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
        return _QuietEndpoint(endpoint)


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


class WebClient:
    """
    @param reactor: the network and the timers.
    @param connections: kept open to one host.
    """

    def __init__(self, reactor: IReactor, connections: int) -> None:
        self._reactor = reactor
        self._client = HTTPClient(makeAgent(reactor, connections))
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
            response = await self._client.request(method, url, headers=headers, data=data)
        except BaseException:
            if file is not None:
                file.close()  # the producer may never have been started
            raise
        body = _Body()
        response.deliverBody(body)
        try:
            await body.whole
        except Exception:
            if needsBody:
                raise
        return response.code, bytes(body.octets), response.headers


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
        self.whole: Deferred[None] = Deferred(lambda _: self._leave())

    def _leave(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.whole.called:
            return
        self.octets += data
        if len(self.octets) > MAX_ANSWER_OCTETS:
            self.whole.errback(StageError("the answer is too long"))
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
