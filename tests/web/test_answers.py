"""
What requests are answered with.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request
from twisted.web.template import tags
from twisted.web.test.requesthelper import DummyRequest

from deferrals.errors import SpoolError
from deferrals.web.answers import (
    MAX_PARAMETER,
    MAX_PARAMETERS,
    PAGE_SECONDS,
    BadRequest,
    Elsewhere,
    FixedAnswer,
    Outcome,
    Page,
    PageAnswer,
    StaticFiles,
    parameter,
    parameters,
)
from deferrals.web.assets import ASSETS
from deferrals.web.layout import shown


class Asking:
    """
    One request, and what is answered.
    """

    def __init__(self, resource: Any, method: bytes = b"GET", **args: bytes) -> None:
        self.request: Any = DummyRequest([b""])
        self.request.method = method
        self.request.args = {name.encode(): [value] for name, value in args.items()}
        self.request.setResponseCode = self._code
        self.code = 200
        answer = resource.render(self.request)
        if isinstance(answer, bytes):
            self.request.write(answer)
            self.request.finish()

    def _code(self, code: int, message: bytes | None = None) -> None:
        self.code = code

    @property
    def text(self) -> str:
        return b"".join(self.request.written).decode()

    def header(self, name: str) -> str:
        found = self.request.responseHeaders.getRawHeaders(name, [""])
        return str(found[0])


class Made(PageAnswer):
    """
    A page that is made when a test says so.
    """

    methods = (b"GET", b"HEAD", b"POST")

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.outcome: Deferred[Outcome] = Deferred(self.cancelled)
        self.isCancelled = False

    def cancelled(self, _: Deferred[Outcome]) -> None:
        self.isCancelled = True

    async def page(self, request: Request) -> Outcome:
        return await self.outcome

    async def act(self, request: Request) -> Outcome:
        return await self.outcome


class PageTests(SynchronousTestCase):
    """
    L{PageAnswer}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.resource = Made(self.clock)

    def test_page(self) -> None:
        """A page, in its frame, with what comes from outside as text."""
        asking = Asking(self.resource)
        self.assertEqual(asking.text, "")
        hostile = '</bdi><script>alert("x")</script>\u202e'
        self.resource.outcome.callback(Page("<b>", tags.p(shown(hostile), title=hostile), code=404))
        self.assertEqual(asking.code, 404)
        self.assertTrue(asking.text.startswith('<!DOCTYPE html>\n<html lang="en">'))
        self.assertEqual(asking.text.count("<script"), 1)  # ours
        self.assertIn("&lt;script&gt;", asking.text)
        self.assertIn("\\x{202E}", asking.text)
        self.assertEqual(asking.header("content-length"), str(len(asking.text.encode())))

    def test_elsewhere(self) -> None:
        """After a form, another page."""
        asking = Asking(self.resource, b"POST")
        self.resource.outcome.callback(Elsewhere("/queue"))
        self.assertEqual((asking.code, asking.header("location")), (303, "/queue"))

    def test_errors(self) -> None:
        """What is wrong is said, and what is a fault of ours is logged."""
        for error, code, said in (
            (BadRequest("no <such> thing"), 400, "no &lt;such&gt; thing"),
            (SpoolError("the disk is gone"), 503, "the disk is gone"),
            (KeyError("x"), 500, "cannot be made"),
        ):
            self.resource.outcome = Deferred()
            asking = Asking(self.resource)
            self.resource.outcome.errback(error)
            self.assertEqual(asking.code, code)
            self.assertIn(said, asking.text)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_late(self) -> None:
        """What takes too long is not waited for."""
        asking = Asking(self.resource)
        self.clock.advance(PAGE_SECONDS)
        self.assertEqual(asking.code, 503)
        self.assertTrue(self.resource.isCancelled)

    def test_gone(self) -> None:
        """A page is not made for a client that has gone; what a form began goes on."""
        asking = Asking(self.resource)
        asking.request.processingFailed(ConnectionResetError())
        self.assertTrue(self.resource.isCancelled)
        self.resource = Made(self.clock)
        asking = Asking(self.resource, b"POST")
        asking.request.processingFailed(ConnectionResetError())
        self.assertFalse(self.resource.isCancelled)
        self.resource.outcome.callback(Elsewhere("/"))
        self.assertEqual(asking.request.finished, 0)

    def test_fixed(self) -> None:
        """What cannot be done is said."""
        asking = Asking(FixedAnswer(200, "ok\n"), b"POST")
        self.assertEqual((asking.code, asking.header("allow")), (405, "GET, HEAD"))


class ParameterTests(SynchronousTestCase):
    """
    L{parameters}.
    """

    def test_bounds(self) -> None:
        """What is too long, too often or no text is refused."""
        request: Any = DummyRequest([b""])
        for values in ([b"x" * (MAX_PARAMETER + 1)], [b"x"] * (MAX_PARAMETERS + 1), [b"\xff"]):
            request.args = {b"id": values}
            self.assertRaises(BadRequest, parameters, request, "id")
        request.args = {b"id": [b"a\0b"]}
        self.assertRaises(BadRequest, parameters, request, "id")
        request.args = {b"id": [b"a", " é ".encode()]}
        self.assertEqual(parameters(request, "id"), ["a", " é "])
        self.assertEqual((parameter(request, "id"), parameter(request, "to")), ("é", ""))


class StaticTests(SynchronousTestCase):
    """
    L{StaticFiles}.
    """

    def test_files(self) -> None:
        """Each is there under its own name, for ever; nothing else is."""
        files: Any = StaticFiles()
        for name in ("pages.css", "pages.js", "icon.svg"):
            path = ASSETS.path(name).removeprefix("/static/")
            asking = Asking(files.getChild(path.encode(), DummyRequest([])))
            self.assertIn("immutable", asking.header("cache-control"))
            self.assertTrue(asking.text)
        for path in ("pages.css", "../answers.py", "", "\xff"):
            asking = Asking(files.getChild(path.encode("latin-1"), DummyRequest([])))
            self.assertEqual(asking.code, 404)
