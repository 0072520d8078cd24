"""
The site: C{/metrics}, C{/healthz}, C{/readyz}, and the pages beside them.

A client here costs next to nothing, whatever it does: there are few connections at
once, each has one request, a small one, and a time within which it is over.  What
is answered is made at most once a second.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from deferrals.logger import Logger
from deferrals.web.answers import (
    HEADERS,
    Answering,
    FixedAnswer,
    answered,
    misdirected,
)

_log = Logger(namespace="deferrals.web")

#: Connections at once; for a further one the oldest is closed: whoever asks has an
#: answer long before as many have come.
MAX_CONNECTIONS = 20

#: How long a connection may take, from its beginning to its end, in seconds.
CONNECTION_SECONDS = 20.0

#: So many octets a client may send.
MAX_OCTETS = 16 * 1024


class Channel(HTTPChannel):
    """
    One connection, with one request.
    """

    site: WebSite
    _octets = 0
    _deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """
        See C{Protocol}.
        """
        self._deadline = self.site.reactor.callLater(CONNECTION_SECONDS, self._late)
        self.site.channels[self] = None
        HTTPChannel.connectionMade(self)
        if len(self.site.channels) > MAX_CONNECTIONS:
            next(iter(self.site.channels)).cutOff()

    def _late(self) -> None:
        self._deadline = None
        self.cutOff()

    def cutOff(self) -> None:
        """
        End the connection at once.
        """
        self.site.channels.pop(self, None)
        transport: Any = self.transport  # whatever the endpoint gives it
        transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """
        See C{Protocol}.
        """
        self._octets += len(data)
        if self._octets > MAX_OCTETS:
            self.cutOff()
        else:
            HTTPChannel.dataReceived(self, data)

    def stay(self, seconds: float) -> None:
        """
        It may be there for so long; and it does not count any more among those that go
        for new ones: the caller bounds their number.
        """
        if self._deadline is not None:
            self._deadline.reset(seconds)
        self.site.channels.pop(self, None)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """
        See C{HTTPChannel}: never.
        """
        return False

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See C{Protocol}.
        """
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()
        self.site.channels.pop(self, None)
        HTTPChannel.connectionLost(self, reason)


class WebRequest(Request):
    """
    One that asks for the whole server (C{OPTIONS *}) is answered as any other: Twisted
    would answer it before anything here has seen it.
    """

    def process(self) -> None:
        """
        See C{Request}.
        """
        if self.path == b"*":
            self.path = b"/*"
        Request.process(self)


class WebSite(Site):
    """
    @param root: what is there.
    @param hosts: those that are answered, in small letters; others get 421.
    @param path: the path that browsers see before that of each page; a proxy may have
        taken it off, or not.
    @ivar channels: the connections, the oldest first.
    """

    noisy = False

    def __init__(
        self, root: Resource, hosts: frozenset[str], clock: IReactorTime, path: str = ""
    ) -> None:
        Site.__init__(self, root, WebRequest, timeout=CONNECTION_SECONDS, reactor=clock)
        setattr(self, "protocol", Channel)  # noqa: B010 -- Twisted's type is narrower than its use
        self.displayTracebacks = False
        self._hosts = hosts
        self._path = path.encode("ascii")
        self.channels: dict[Channel, None] = {}

    def startFactory(self) -> None:
        """
        See C{Factory}: no log of its own.
        """

    def stopFactory(self) -> None:
        """
        See C{Factory}.
        """

    def log(self, request: http.Request) -> None:
        """
        See C{HTTPFactory}: nothing is written for each scrape.
        """

    def getResourceFor(self, request: Request) -> Resource:
        """
        See C{Site}.
        """
        for name, value in HEADERS:
            request.setHeader(name, value)
        named = request.requestHeaders.getRawHeaders(b"host", [])
        if len(named) != 1 or hostOf(named[0]) not in self._hosts:
            return misdirected()
        self._takeOff(request)
        found: Resource = Site.getResourceFor(self, request)
        return found

    def _takeOff(self, request: Request) -> None:
        """
        Let a request be for a page of ours, with the site's path behind it.
        """
        path = self._path
        if not path:
            return
        request.prepath = path.split(b"/")[1:]
        if request.path == path or request.path.startswith(path + b"/"):
            request.uri = b"/" + request.uri.removeprefix(path).removeprefix(b"/")
            request.postpath = (request.postpath or [])[len(request.prepath) :] or [b""]


def hostOf(header: bytes) -> str:
    """
    The host of a C{Host} header, in small letters and without its port.
    """
    text = header.decode("ascii", "replace").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


class _Root(Answering):
    """
    What is above all others.
    """

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See C{Resource}: where there are pages, one says that there is no such.
        """
        first: Resource | None = self.children.get(b"")
        return super().getChild(path, request) if first is None else first.getChild(path, request)

    def render_GET(self, request: Request) -> bytes:
        """
        See C{Resource}.
        """
        return answered(request, b"not here\n", code=404)


class Ready(Answering):
    """
    Whether mail can be taken.

    @param reasons: why not, each in a word.
    """

    def __init__(self, reasons: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._reasons = reasons

    def render_GET(self, request: Request) -> bytes:
        """
        See C{Resource}.
        """
        reasons = list(self._reasons())
        text = json.dumps({"ready": not reasons, "reasons": reasons})
        code = 503 if reasons else 200
        return answered(request, text.encode("utf-8") + b"\n", b"application/json", code)


class Scraped(Answering):
    """
    The metrics.

    @param make: returns a Deferred of their text.
    @param kind: its content type.
    @param token: what a client has to show; C{None} where it need not.  It may raise
        C{OSError} or C{ValueError}: then the client is told nothing.
    """

    def __init__(
        self, make: Callable[[], Deferred[bytes]], kind: str, token: Callable[[], bytes | None]
    ) -> None:
        super().__init__()
        self._make = make
        self._kind = kind.encode("ascii")
        self._token = token

    def render_GET(self, request: Request) -> bytes | int:
        """
        See C{Resource}.
        """
        if not self._isAllowed(request):
            request.setHeader(b"www-authenticate", b'Bearer realm="metrics"')
            return answered(request, b"a token is needed\n", code=401)
        isGone: list[Failure] = []
        request.notifyFinish().addErrback(isGone.append)
        d = self._make()
        d.addCallback(_answered, request, self._kind, isGone)
        d.addErrback(_failed, request, isGone)
        return int(NOT_DONE_YET)

    def _isAllowed(self, request: Request) -> bool:
        try:
            token = self._token()
        except (OSError, ValueError) as error:
            _log.error("web.token_file: {error}", error=str(error))
            return False
        if token is None:
            return True
        word, _, shown = (request.getHeader(b"authorization") or b"").partition(b" ")
        return word.lower() == b"bearer" and hmac.compare_digest(shown, token)


def _answered(content: bytes, request: Request, kind: bytes, isGone: Sequence[Failure]) -> None:
    if not isGone:
        request.setHeader(b"content-length", str(len(content)).encode("ascii"))
        answered(request, kind=kind, content=b"")
        request.write(content)
        request.finish()


def _failed(failure: Failure, request: Request, isGone: Sequence[Failure]) -> None:
    _log.failure("no metrics", failure=failure)
    if not isGone:
        request.setResponseCode(500)
        request.finish()


def hold(request: Request, seconds: float) -> Callable[[], None]:
    """
    Let a request's connection stay for so long.

    @return: what cuts it off, whatever it has still to read.
    """
    channel = request.channel
    assert isinstance(channel, Channel)
    channel.stay(seconds)
    return channel.cutOff


def siteOf(
    metrics: Callable[[], Deferred[bytes]],
    kind: str,
    reasons: Callable[[], Sequence[str]],
    hosts: frozenset[str],
    token: Callable[[], bytes | None],
    clock: IReactorTime,
    pages: Mapping[bytes, Resource] | None = None,
    path: str = "",
) -> WebSite:
    """
    All of it; see the classes.

    @param pages: what is there beside that, by the first part of its path.
    @param path: see L{WebSite}.
    """
    root = _Root()
    for name, page in (pages or {}).items():
        root.putChild(name, page)
    root.putChild(b"metrics", Scraped(metrics, kind, token))
    root.putChild(b"healthz", FixedAnswer(200, "ok\n"))
    root.putChild(b"readyz", Ready(reasons))
    return WebSite(root, hosts, clock, path)
