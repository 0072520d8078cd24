"""
What a request is answered with: a text, a page, or the way to another page.

A page is made outside of the request: it may wait for others, within a time, and its
client may go meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.template import Flattenable, flattenString

from deferrals.deferreds import TimeoutError, withDeadline
from deferrals.errors import DeferralsError
from deferrals.logger import Logger
from deferrals.model.text import cleanedLines
from deferrals.web.assets import ASSETS
from deferrals.web.layout import Viewer, document, notice

_log = Logger(namespace="deferrals.web")

#: How long a page may take to be made, in seconds.
PAGE_SECONDS = 12.0

#: So long a parameter of a request may be, in characters, and so often it may come.
MAX_PARAMETER = 1024
MAX_PARAMETERS = 500

_MISDIRECTED = 421

#: What Twisted has no words for.
_PHRASES = {_MISDIRECTED: b"Misdirected Request", 429: b"Too Many Requests"}

TEXT, HTML = b"text/plain; charset=utf-8", b"text/html; charset=utf-8"

#: What a browser may do with a page: load what is ours, send forms to us, and no more.
POLICY = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
    b" connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

#: Of every answer.
HEADERS = (
    (b"server", b"deferrals"),
    (b"connection", b"close"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", POLICY),
)


class BadRequest(DeferralsError):
    """
    A client asks for what cannot be; the text says why.

    @ivar code: the status.
    """

    def __init__(self, text: str, code: int = 400) -> None:
        super().__init__(text)
        self.code = code


@attrs.frozen
class Page:
    """
    @ivar title: what it is about.
    @ivar content: what stands in its main part.
    @ivar viewer: for whom it is; C{None} for a stranger.
    @ivar here: the path of the part of the site that it belongs to.
    @ivar code: the status.
    """

    title: str
    content: Flattenable
    viewer: Viewer | None = None
    here: str = ""
    code: int = 200


@attrs.frozen
class Elsewhere:
    """
    The client is to go to another page of ours, as after a form.

    @ivar path: where, as the site has it.
    """

    path: str


#: What becomes of a request.
Outcome: TypeAlias = "Page | Elsewhere"


def answered(request: Request, content: bytes, kind: bytes = TEXT, code: int = 200) -> bytes:
    """
    @return: C{content}; the request is told what it is.
    """
    request.setResponseCode(code, _PHRASES.get(code))
    request.setHeader(b"content-type", kind)
    return content


class Answering(Resource):
    """
    One resource, beneath which there is nothing else.

    @cvar methods: what it can be asked by.
    """

    methods: tuple[bytes, ...] = (b"GET", b"HEAD")

    def __init__(self) -> None:
        Resource.__init__(self)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See C{Resource}: there is nothing else.
        """
        return FixedAnswer(404, "not here\n")

    def render(self, request: Request) -> bytes | int:
        """
        See C{Resource}.
        """
        if request.method not in self.methods:
            request.setHeader(b"allow", b", ".join(self.methods))
            known = " or ".join(one.decode() for one in self.methods if one != b"HEAD")
            return answered(request, f"only {known} is possible here\n".encode(), code=405)
        answer: bytes | int = Resource.render(self, request)
        return answer


class FixedAnswer(Answering):
    """
    Always the same.

    @param code: the status.
    @param text: the content.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__()
        self._code = code
        self._text = text.encode("utf-8")

    def render_GET(self, request: Request) -> bytes:
        """
        See C{Resource}.
        """
        return answered(request, self._text, code=self._code)


def misdirected() -> FixedAnswer:
    """
    What a client gets that names another host.
    """
    return FixedAnswer(_MISDIRECTED, "this host is not here (web.hosts)\n")


class StaticFile(Answering):
    """
    What a browser may keep for ever: another content has another name.
    """

    def __init__(self, content: bytes, kind: bytes) -> None:
        super().__init__()
        self._content = content
        self._kind = kind

    def render_GET(self, request: Request) -> bytes:
        """
        See C{Resource}.
        """
        request.setHeader(b"cache-control", b"public, max-age=31536000, immutable")
        return answered(request, self._content, self._kind)


class StaticFiles(FixedAnswer):
    """
    C{/static}, and what is in it.
    """

    def __init__(self) -> None:
        super().__init__(404, "not here\n")

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See C{Resource}.
        """
        found = ASSETS.files.get(path.decode("ascii", "replace"))
        return super().getChild(path, request) if found is None else StaticFile(*found)


class PageAnswer(Answering):
    """
    A page that is made for each request.

    @param clock: timers.
    """

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__()
        self._clock = clock

    async def page(self, request: Request) -> Outcome:
        """
        @return: what is answered to GET.
        @raise BadRequest: it asks for what cannot be.
        """
        raise NotImplementedError

    async def act(self, request: Request) -> Outcome:
        """
        @return: what is answered to POST, when it has been done.
        @raise BadRequest: it asks for what cannot be.
        """
        raise NotImplementedError

    def render_GET(self, request: Request) -> int:
        """
        See C{Resource}: what is made for a client that has gone is not made any longer.
        """
        d = self._begin(request, self.page)
        request.notifyFinish().addErrback(lambda _: d.cancel())
        return int(NOT_DONE_YET)

    def render_POST(self, request: Request) -> int:
        """
        See C{Resource}: what was begun goes on.
        """
        self._begin(request, self.act)
        return int(NOT_DONE_YET)

    def _begin(
        self, request: Request, make: Callable[[Request], Awaitable[Outcome]]
    ) -> Deferred[None]:
        isGone: list[Failure] = []
        request.notifyFinish().addErrback(isGone.append)
        made = withDeadline(self._clock, PAGE_SECONDS, make, request).addErrback(_failed)
        d = made.addCallback(self._flattened, request, isGone)
        return d.addErrback(_notAnswered, request, isGone)

    async def _written(self, outcome: Outcome, request: Request, isGone: list[Failure]) -> None:
        content, code = b"", 303
        if isinstance(outcome, Page):
            made = document(
                outcome.title, outcome.content, outcome.viewer, outcome.here, rootOf(request)
            )
            content, code = _harmless(await flattenString(request, made)), outcome.code
        if isGone:
            return
        if isinstance(outcome, Elsewhere):
            to = f"{rootOf(request)}{outcome.path}"
            request.setHeader(b"location", to.encode("utf-8"))
        request.setHeader(b"content-length", str(len(content)).encode("ascii"))
        answered(request, b"", HTML, code)
        request.write(content)
        request.finish()

    def _flattened(
        self, outcome: Outcome, request: Request, isGone: list[Failure]
    ) -> Deferred[None]:
        return Deferred.fromCoroutine(self._written(outcome, request, isGone))


def rootOf(request: Request) -> str:
    """
    The path that browsers see before that of each page: where the site is.
    """
    parts: list[bytes] = getattr(request, "sitepath", [])
    return "".join(f"/{part.decode('ascii')}" for part in parts)


def _harmless(flat: bytes) -> bytes:
    """
    A page in which no character acts or hides, wherever it came in.
    """
    return b"<!DOCTYPE html>\n" + "\n".join(cleanedLines(flat.decode("utf-8"))).encode("utf-8")


def _failed(failure: Failure) -> Page:
    if isinstance(failure.value, BadRequest):
        said = notice(failure.getErrorMessage(), "bad")
        return Page("Not possible", said, code=failure.value.code)
    if failure.check(TimeoutError):
        return Page("Late", notice("This takes too long now. Ask for less.", "bad"), code=503)
    if failure.check(DeferralsError):
        return Page("Not now", notice(failure.getErrorMessage(), "bad"), code=503)
    failure.trap(Exception)
    if not failure.check(CancelledError):
        _log.failure("no page", failure=failure)
    return Page("Not made", notice("This page cannot be made; the log says why.", "bad"), code=500)


def _notAnswered(failure: Failure, request: Request, isGone: list[Failure]) -> None:
    if not failure.check(CancelledError):
        _log.failure("no page", failure=failure)
    if not isGone:
        request.setResponseCode(500)
        request.finish()


def parameters(request: Request, name: str) -> list[str]:
    """
    The values of a parameter, of the query or of a form.

    @raise BadRequest: it is none that could be meant.
    """
    found = (request.args or {}).get(name.encode("ascii"), [])
    if len(found) > MAX_PARAMETERS or any(len(one) > MAX_PARAMETER for one in found):
        raise BadRequest(f"{name}: too long")
    try:
        texts = [one.decode("utf-8") for one in found]
    except UnicodeDecodeError:
        raise BadRequest(f"{name}: expected UTF-8") from None
    if any("\0" in text for text in texts):
        raise BadRequest(f"{name}: expected text")
    return texts


def parameter(request: Request, name: str) -> str:
    """
    The last value of a parameter; empty, where there is none.
    """
    found = parameters(request, name)
    return found[-1].strip() if found else ""
