"""
The delivery C{http}, with a transport of its own instead of a network.
"""

from __future__ import annotations

from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from deferrals.model.delivery import Addressee
from deferrals.model.httpanswer import meaningOf
from deferrals.model.verdict import Delivered, Failed, Marks, Retry
from deferrals.stages import web
from deferrals.stages.delivery.http import (
    R451_UNANSWERED,
    HTTPDelivery,
    HTTPDeliverySettings,
    outcomeOf,
)
from deferrals.testing import (
    FakeServices,
    ReportingDeliveryContract,
    makeAddressees,
    makeEnvelope,
    makeMessage,
)


class Service(Resource):
    """
    Takes mail, or says what it is told to.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.status: dict[str, int | None] = {}
        self.retryAfter = b"120"
        self.encoding = ""
        self.requests: list[tuple[list[str], bytes, Any]] = []

    def render_POST(self, request: Any) -> Any:
        people = request.requestHeaders.getRawHeaders("Deferrals-Rcpt-To")
        self.requests.append((people, request.content.read(), request.requestHeaders))
        request.content.close()
        status = self.status.get(people[0], 204)
        if status is None:
            return NOT_DONE_YET
        request.setResponseCode(status)
        if status == 202:
            request.write(b"the end of this")
            return NOT_DONE_YET
        if status == 203:
            return b"x" * (web.MAX_BODY_OCTETS + 1)
        if status == 503:
            request.setHeader(b"Retry-After", self.retryAfter)
        if self.encoding:
            request.setHeader("Content-Encoding", self.encoding)
        return b""


class HTTPDeliveryTests(ReportingDeliveryContract, SynchronousTestCase):
    """
    L{HTTPDelivery}.
    """

    def makeStage(self, **settings: Any) -> HTTPDelivery:
        self.service, self.clock = Service(), Clock()
        self.agent = RequestTraversalAgent(self.service)
        self.patch(web, "makeAgent", lambda reactor, connections: self.agent)
        settings = {"url": "http://127.0.0.1:1/mail", **settings}
        return HTTPDelivery(HTTPDeliverySettings(**settings), FakeServices(reactor=self.clock))

    def successResultOf(self, deferred: Any) -> Any:
        self.run_()
        return super().successResultOf(deferred)

    def assertLetsGo(self, d: Any) -> None:
        self.service.status = {"a@example.net": None, "b@example.net": None}
        self.run_()
        super().assertLetsGo(d)

    def makeHalting(self) -> HTTPDelivery:
        stage = self.makeStage()
        self.service.status = {"b@example.net": None}
        return stage

    def settle(self) -> None:
        self.run_()

    def run_(self) -> None:
        for _ in range(10):
            self.clock.advance(0.1)
            self.agent.flush()

    def deliver(self, stage: HTTPDelivery, people: list[Addressee]) -> list[Any]:
        d = stage.deliver(makeMessage(), makeEnvelope(), people)
        found = self.successResultOf(d)
        return [found[one] for one in people]

    def test_each(self) -> None:
        """A request and an outcome for each: 2xx, 4xx, 429, 5xx with Retry-After."""
        stage = self.makeStage()
        self.service.status = {"b@x.example": 404, "c@x.example": 429, "d@x.example": 503}
        people = makeAddressees(*(f"{local}@x.example" for local in "abcd"))
        a, b, c, d = self.deliver(stage, people)
        self.assertEqual([type(one) for one in (a, b, c, d)], [Delivered, Failed, Retry, Retry])
        self.assertEqual((b.reply.code, c.after, d.after), (550, None, 120.0))
        self.assertEqual([len(names) for names, _, _ in self.service.requests], [1, 1, 1, 1])
        body = next(body for names, body, _ in self.service.requests if names == ["a@x.example"])
        self.assertTrue(body.startswith(b"Return-Path: <sender@example.com>\r\nDelivered-To: a@x"))
        self.assertTrue(body.endswith(b"\r\nhello\r\n"))

    def test_all(self) -> None:
        """One request for all whose copies are the same; nobody sees another's marks."""
        stage = self.makeStage(request="all")
        people = makeAddressees("a@x.example", "b@x.example", "c@x.example")
        people[2] = Addressee(people[2].recipient, Marks((("X-Score", "9"),)), 2)
        self.deliver(stage, people)
        self.service.requests.sort(key=lambda request: request[0])
        self.assertEqual(
            [names for names, _, _ in self.service.requests],
            [["a@x.example", "b@x.example"], ["c@x.example"]],
        )
        self.assertNotIn(b"X-Score", self.service.requests[0][1])
        self.assertNotIn(b"@x.example", self.service.requests[0][1])
        headers = self.service.requests[0][2]
        self.assertEqual(headers.getRawHeaders("Deferrals-Mail-From"), ["sender@example.com"])

    def test_noAnswer(self) -> None:
        """No answer in time is another attempt, for this recipient alone."""
        stage = self.makeStage(timeout=30)
        self.service.status = {"a@x.example": None}
        people = makeAddressees("a@x.example", "b@x.example")
        d = stage.deliver(makeMessage(), makeEnvelope(), people)
        self.run_()
        self.clock.advance(30)
        found = self.successResultOf(d)
        self.assertEqual([type(found[one]) for one in people], [Retry, Delivered])
        self.assertEqual(found[people[0]].reply.enhanced, "4.4.1")

    def test_status(self) -> None:
        """
        The status is the outcome: what follows it may be too long, or never
        end, and nobody gets a second copy for that.
        """
        stage = self.makeStage(timeout=30)
        self.service.status = {"a@x.example": 202, "b@x.example": 203, "c@x.example": 404}
        people = makeAddressees("a@x.example", "b@x.example", "c@x.example")
        d = stage.deliver(makeMessage(), makeEnvelope(), people)
        self.run_()
        self.clock.advance(30)
        found = self.successResultOf(d)
        self.assertEqual([type(found[one]) for one in people], [Delivered, Delivered, Failed])

    def test_cancelled(self) -> None:
        """A caller that waits no longer leaves no request behind."""
        stage = self.makeStage()
        self.service.status = {"a@x.example": None}
        d = stage.deliver(makeMessage(), makeEnvelope(), makeAddressees("a@x.example"))
        self.run_()
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(stage._slots.free, 10)

    def test_retryAfter(self) -> None:
        """Retry-After as seconds, as a date, as nonsense (RFC 9110 §10.2.3)."""
        for value, after in (
            ("17", 17.0),
            ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
            ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
            ("soon", None),
            ("", None),
        ):
            self.assertEqual(outcomeOf(503, value, 10.0).after, after)

    def test_statuses(self) -> None:
        """What a status comes to is what the table says; the log has the status."""
        for status, kind in ((200, Delivered), (302, Failed), (408, Retry), (413, Failed)):
            found = outcomeOf(status, "", 0.0)
            self.assertIsInstance(found, kind)
            self.assertEqual((found.reply, found.host), (meaningOf(status), ""))
            self.assertNotIn(str(status), found.reply.text)
            self.assertEqual(found.details.cause, f"HTTP status {status}")

    def test_nonsense(self) -> None:
        """What one answer has in its fields harms none of the others (D2)."""
        for after in (b"soon\xff", b"9" * 400, b"-1", b"Thu, 99 Xyz 2001", b"\x00", b"1e400"):
            stage = self.makeStage()
            self.service.status = {"b@x.example": 503}
            self.service.retryAfter = after
            people = makeAddressees("a@x.example", "b@x.example", "c@x.example")
            found = self.deliver(stage, people)
            self.assertEqual([type(one) for one in found], [Delivered, Retry, Delivered], after)

    def test_compressed(self) -> None:
        """The status counts, whatever can be done with the body."""
        stage = self.makeStage()
        self.service.encoding = "gzip"
        (found,) = self.deliver(stage, makeAddressees("a@x.example"))
        self.assertIsInstance(found, Delivered)

    def test_quiet(self) -> None:
        """What fails, and in which words, is for the log alone."""
        stage = self.makeStage(url="http://127.0.0.1:1/mail?token=SECRET")
        self.agent.request = lambda *words: fail(OSError(13, "no way to http://127.0.0.1:1/"))
        (found,) = self.deliver(stage, makeAddressees("a@x.example"))
        self.assertEqual((found.reply, found.host), (R451_UNANSWERED, ""))
        self.assertIn("http://127.0.0.1:1/", found.details.cause)
