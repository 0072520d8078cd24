"""
The content stage C{http}, with a transport of its own instead of a network.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from deferrals.model.verdict import ACCEPT, Accept, Marks, Refuse
from deferrals.stages import web
from deferrals.stages.content import http
from deferrals.testing import (
    ContentStageContract,
    FakeServices,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)

DESIGN = {
    "verdicts": {
        "fighter@example.net": {"accept": False, "reply": "550 5.6.0 refuses the content"},
        "lover@example.net": {"accept": True},
    },
    "default": {"accept": True},
}


class Judge(Resource):
    """
    A verdict service.
    """

    isLeaf = True

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.requests: list[tuple[Any, bytes]] = []

    def render_POST(self, request: Any) -> Any:
        self.requests.append((request.requestHeaders, request.content.read()))
        if isinstance(self.answer, int):
            request.setResponseCode(self.answer)
            return b"{}"
        if self.answer is None:
            return NOT_DONE_YET
        if isinstance(self.answer, bytes):
            return self.answer
        return json.dumps(self.answer).encode()


class HTTPTests(ContentStageContract, SynchronousTestCase):
    """
    L{http.HTTPStage}.
    """

    def makeStage(self, answer: Any = DESIGN, **settings: Any) -> http.HTTPStage:
        self.judge = Judge(answer)
        self.clock = Clock()
        services = FakeServices(reactor=self.clock)
        settings = {"url": "http://127.0.0.1:1/judge", **settings}
        agent = RequestTraversalAgent(self.judge)
        self.patch(web, "makeAgent", lambda reactor, connections: agent)
        stage = http.HTTPStage(http.HTTPSettings(**settings), services)
        self.flush = agent.flush
        return stage

    def ask(self, stage: http.HTTPStage, *addresses: str) -> Any:
        recipients = [makeRecipient(address) for address in addresses]
        content = b"Subject: x\r\n\r\nhello\r\n"
        d = stage.judge(makeMessage(content), makeEnvelope(), recipients)
        for _ in range(10):
            self.clock.advance(0.1)
            self.flush()
        return d

    def test_design(self) -> None:
        """The answer of the design's example."""
        stage = self.makeStage()
        verdict = self.successResultOf(self.ask(stage, "fighter@example.net"))
        self.assertEqual(str(verdict.reply), "550 5.6.0 refuses the content")
        self.assertEqual(self.successResultOf(self.ask(stage, "LOVER@example.net")), ACCEPT)
        self.assertEqual(self.successResultOf(self.ask(stage, "else@example.net")), ACCEPT)

    def test_request(self) -> None:
        """The message as the mailbox will have it, and who is asked about."""
        stage = self.makeStage({"default": {"accept": True}}, cohort="all")
        self.successResultOf(self.ask(stage, "a@example.net", "b@example.net"))
        ((headers, body),) = self.judge.requests
        self.assertTrue(body.startswith(b"Return-Path: <sender@example.com>\r\nReceived: from "))
        self.assertTrue(body.endswith(b"\r\nSubject: x\r\n\r\nhello\r\n"))
        for name, values in (
            ("Content-Type", ["message/rfc822"]),
            ("Deferrals-Mail-From", ["sender@example.com"]),
            ("Deferrals-Client-Address", ["192.0.2.1"]),
            ("Deferrals-Helo", ["client.example.com"]),
            ("Deferrals-Rcpt-To", ["a@example.net", "b@example.net"]),
            ("Deferrals-User", None),
        ):
            self.assertEqual(headers.getRawHeaders(name), values)
        self.assertEqual(len(headers.getRawHeaders("Deferrals-Transaction")[0]), 13)

    def test_cohorts(self) -> None:
        """Each recipient is a cohort of its own, unless all are one."""
        one, two = makeRecipient("a@example.net"), makeRecipient("b@example.net")
        stage = self.makeStage()
        self.assertNotEqual(stage.cohort(one), stage.cohort(two))
        stage = self.makeStage(cohort="all")
        self.assertEqual(stage.cohort(one), stage.cohort(two))

    def test_encoding(self) -> None:
        """What is no printable ASCII is percent-encoded UTF-8, and decoded once what it was."""
        for text in (
            "b\xfcro@example.net",
            "\u65e5\u672c@example.net",
            "a%C3%BCb@example.net",
            '"a b"@example.net',
            "a+b=c{d}@example.net",
        ):
            stage = self.makeStage({"verdicts": {text: {"accept": True}}})
            self.assertEqual(self.successResultOf(self.ask(stage, text)), ACCEPT, text)
            ((headers, _),) = self.judge.requests
            (said,) = headers.getRawHeaders("Deferrals-Rcpt-To")
            self.assertTrue(said.isascii() and said.isprintable(), said)
            self.assertEqual(unquote(said), text)
            echo = self.makeStage({"verdicts": {said: {"accept": True}}})
            self.assertEqual(self.successResultOf(self.ask(echo, text)), ACCEPT, said)

    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_headerText(self, text: str) -> None:
        """Whatever the text is."""
        said = http.headerText(text)
        self.assertTrue(said.isascii() and said.isprintable(), said)
        self.assertEqual(unquote(said), text)
        self.assertNotIn(",", said)  # several headers in one text can be taken apart

    def test_unclear(self) -> None:
        """A name that is one mailbox as it stands there, and decoded another one."""
        for text, code in (("a%25b@x.example", 451), ("a%b@x.example", 250)):
            stage = self.makeStage(
                {"verdicts": {text: {"accept": True}}, "default": {"accept": True}}, cohort="all"
            )
            verdict = self.successResultOf(self.ask(stage, "a%b@x.example", "a%25b@x.example"))
            self.assertEqual(250 if verdict == ACCEPT else verdict.reply.code, code)

    def test_oneMailbox(self) -> None:
        """One mailbox in two spellings is asked about once."""
        stage = self.makeStage({"verdicts": {"fighter@example.net": {"accept": True}}})
        verdict = self.successResultOf(
            self.ask(stage, "Fighter@example.net", "fighter@EXAMPLE.net", "FIGHTER@example.net.")
        )
        self.assertEqual(verdict, ACCEPT)
        ((headers, _),) = self.judge.requests
        self.assertEqual(headers.getRawHeaders("Deferrals-Rcpt-To"), ["Fighter@example.net"])

    def test_ambiguous(self) -> None:
        """Two verdicts for one mailbox are an error, whatever they say."""
        yes = {"accept": True}
        for answer in (
            {"verdicts": {"fighter@example.net": yes, "Fighter@example.net": yes}},
            {"verdicts": {"fighter@example.net": yes, "fighter@EXAMPLE.net.": yes}},
            {"verdicts": {"mu\u0308@example.net": yes, "m\xfc@example.net": yes}, "default": yes},
            {"verdicts": {"x@y.z": yes, "X@y.z": yes}, "default": yes},
            b'{"verdicts": {"a@example.net": {"accept": true}, "a@example.net": {}}}',
            b'{"default": {"accept": false, "reply": "550 no", "accept": true}}',
        ):
            verdict = self.successResultOf(self.ask(self.makeStage(answer), "a@example.net"))
            self.assertIsInstance(verdict, Refuse, answer)
            self.assertEqual(verdict.reply.code, 451, answer)

    def test_tooLarge(self) -> None:
        """What the service finds too large; that is no failure of it."""
        marked = Accept(Marks((("Deferrals-Unscanned", "http (too large)"),)))
        for settings, wanted in (({}, marked), ({"too_large": "accept"}, ACCEPT)):
            stage = self.makeStage(413, **settings)
            for _ in range(10):
                self.assertEqual(self.successResultOf(self.ask(stage, "a@example.net")), wanted)
        stage = self.makeStage(413, too_large="refuse")
        verdict = self.successResultOf(self.ask(stage, "a@example.net"))
        self.assertEqual(str(verdict.reply), "552 5.3.4 too large to be scanned")

    def test_headers(self) -> None:
        """An accepting verdict may add headers."""
        stage = self.makeStage({"default": {"accept": True, "headers": {"X-Score": "5"}}})
        verdict = self.successResultOf(self.ask(stage, "a@example.net"))
        self.assertEqual(verdict, Accept(Marks((("X-Score", "5"),))))

    def test_errors(self) -> None:
        """Whatever is no answer is an error, and on_error decides."""
        refuse = {"accept": False}
        for answer in (
            404,
            500,
            204,
            b"not json",
            b"[]",
            b'{"verdicts": []}',
            b"",
            {},
            {"verdicts": {"other@example.net": {"accept": True}}},
            {"default": {"accept": "yes"}},
            {"default": True},
            {"default": refuse},
            {"default": {**refuse, "reply": "250 2.0.0 ok"}},
            {"default": {**refuse, "reply": "550 a\r\n250 b"}},
            {"default": {**refuse, "reply": "550 " + "x" * 600}},
            {"default": {**refuse, "reply": 550}},
            {"default": {"accept": True, "headers": ["X"]}},
            {"default": {"accept": True, "headers": {"X Y": "z"}}},
            {"default": {"accept": True, "headers": {"": "z"}}},
            {"default": {"accept": True, "headers": {"X": "x" * 100_000}}},
            {"default": {"accept": True, "headers": dict.fromkeys(map(str, range(1000)), "x")}},
            b" " * (web.MAX_BODY_OCTETS + 1),
        ):
            stage = self.makeStage(answer)
            verdict = self.successResultOf(self.ask(stage, "a@example.net"))
            self.assertIsInstance(verdict, Refuse, answer)
            self.assertEqual(verdict.reply.code, 451, answer)
            stage = self.makeStage(answer, on_error="accept")
            self.assertEqual(self.successResultOf(self.ask(stage, "a@example.net")), ACCEPT)

    def test_differentVerdicts(self) -> None:
        """Recipients that are configured as one cohort cannot differ."""
        stage = self.makeStage(cohort="all")
        d = self.ask(stage, "fighter@example.net", "lover@example.net")
        self.assertEqual(self.successResultOf(d).reply.code, 451)

    def test_timeout(self) -> None:
        """A service that does not answer in time is an error."""
        stage = self.makeStage(None, timeout=7)
        d = self.ask(stage, "a@example.net")
        self.clock.advance(5)
        self.assertNoResult(d)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(d).reply.code, 451)

    def test_cancel(self) -> None:
        """It may be cancelled; its slot is free afterwards."""
        stage = self.makeStage(None)
        tries = []

        def post(*args: Any, **kwargs: Any) -> Any:
            tries.append(1)
            return Deferred(lambda d: d.errback(ResponseNeverReceived([Failure(CancelledError())])))

        stage._web._agent.request = post
        d = self.ask(stage, "a@example.net")
        self.assertEqual(stage._service._slots.free, http.CONCURRENCY - 1)
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(len(tries), 1)
        self.assertEqual(stage._service._slots.free, http.CONCURRENCY)

    def test_staleConnection(self) -> None:
        """A pooled connection that the other side had closed costs a second try, no error."""
        stage = self.makeStage()
        real, tries = stage._web._agent.request, []

        def post(*args: Any, **kwargs: Any) -> Any:
            tries.append(1)
            if len(tries) == 1:
                failed: Deferred[Any] = Deferred()
                failed.errback(ResponseNeverReceived([Failure(web.KeptLost())]))
                return failed
            return real(*args, **kwargs)

        stage._web._agent.request = post
        self.assertEqual(self.successResultOf(self.ask(stage, "lover@example.net")), ACCEPT)
        self.assertEqual(len(tries), 2)

    def test_oneVerdict(self) -> None:
        """An ordinary message gets one verdict."""
        verdict = self.successResultOf(self.ask(self.makeStage(), "somebody@example.net"))
        self.assertEqual(verdict, ACCEPT)
