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
from typing import Protocol
from urllib.parse import urlsplit

from treq.client import HTTPClient
from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IStreamClientEndpoint,
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
)
from deferrals.model.json import JSON
from deferrals.stages.remote import AboutMessage, TooLarge
from deferrals.stages.webconnection import AnsweredEarly, CountedEndpoint, KeptLost
from deferrals.tls import Verifying

#: What treq is told; L{_PlainAgent} knows where to.
_ANY_URL = "http://localhost/"

_HOST = re.compile(r"https?://[^/?#]+")

#: Statuses that are about one request, and not about the service (RFC 9110 §15.5).
_ABOUT_MESSAGE = frozenset({400, 406, 414, 415, 422, 431})


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


def shownURL(url: str) -> str:
    """
    A URL as logs and pages show it: without login and query, which may be secret.

    @param url: or the endpoint of a service that is not asked by HTTP.
    """
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


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
        return CountedEndpoint(self._reactor, endpoint)


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
