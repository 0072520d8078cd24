"""
The content stage C{rspamd}, without it.
"""

from __future__ import annotations

import json
from typing import Any

import attrs
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource

from deferrals.model.envelope import Client, Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Accept, Defer, Marks, Refuse
from deferrals.stages import web
from deferrals.stages.content import rspamd
from deferrals.stages.content.judge import ContentJudge
from deferrals.stages.content.rspamdreply import readScan
from deferrals.testing import (
    ContentStageContract,
    FakeServices,
    makeEnvelope,
    makeMessage,
)
from tests.streams import person

INF = float("inf")


def result(score: float = 5.0, action: str = "no action", **more: Any) -> dict[str, Any]:
    """
    What rspamd answers.
    """
    return {
        "score": score,
        "required_score": 15.0,
        "action": action,
        "symbols": {
            "ONE": {"name": "ONE", "score": 3.0, "metric_score": 3.0},
            "TWO": {"name": "TWO", "score": 2.0},
        },
        "messages": {},
        **more,
    }


class FakeRspamd(Resource):
    """
    Answers C{/checkv2}.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answer: Any = result()
        self.requests: list[tuple[Any, bytes]] = []
        self.putChild(b"checkv2", self)
        self.putChild(b"ping", self)

    def render_GET(self, request: Any) -> bytes:
        return b"pong\r\n"

    def render_POST(self, request: Any) -> bytes:
        self.requests.append((request.requestHeaders, request.content.read()))
        if isinstance(self.answer, int):
            request.setResponseCode(self.answer)
            return b"{}"
        return self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()

    def header(self, name: str, place: int = -1) -> Any:
        return self.requests[place][0].getRawHeaders(name)


class RspamdTests(ContentStageContract, SynchronousTestCase):
    """
    L{rspamd.RspamdStage}.
    """

    def setUp(self) -> None:
        self.services = FakeServices()
        self.rspamd = FakeRspamd()
        self.agent = RequestTraversalAgent(self.rspamd)
        self.patch(web, "makeAgent", lambda reactor, connections: self.agent)
        self.patch(HTTPChannel, "maxHeaders", 2000)
        self.patch(HTTPChannel, "totalHeadersSize", 1 << 20)

    def makeStage(self, **settings: Any) -> rspamd.RspamdStage:
        return rspamd.RspamdStage(rspamd.RspamdSettings(**settings), self.services)

    def settle(self) -> None:
        for _ in range(10):
            self.services.reactor.advance(0.1)
            self.agent.flush()

    def verdict(self, stage: Any, *recipients: Recipient, message: Any = None) -> Any:
        answer = stage.judge(
            message or makeMessage(), makeEnvelope(), recipients or (person("somebody"),)
        )
        self.settle()
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer

    def test_oneVerdict(self) -> None:
        """An ordinary message gets one verdict."""
        self.assertIsInstance(self.verdict(self.makeStage()), Accept)

    def test_request(self) -> None:
        """What rspamd is told."""
        content = b"Subject: x\r\n\r\nhello\r\n"
        envelope = attrs.evolve(
            makeEnvelope(),
            client=Client(
                "192.0.2.1",
                25,
                "client.example.com",
                "ESMTPSA",
                "me",
                "TLSv1.3 TLS_AES_256_GCM_SHA384",
                "mail.example.com",
            ),
        )
        d = self.makeStage().judge(makeMessage(content), envelope, [person("a"), person("b")])
        self.settle()
        self.successResultOf(d)
        self.assertEqual(self.rspamd.requests[0][1], content)
        for name, values in (
            ("From", ["sender@example.com"]),
            ("Rcpt", ["a@example.net", "b@example.net"]),
            ("Deliver-To", None),
            ("IP", ["192.0.2.1"]),
            ("Helo", ["client.example.com"]),
            ("Hostname", ["mail.example.com"]),
            ("User", ["me"]),
            ("Queue-Id", [envelope.id]),
            ("MTA-Name", ["mx.example.net"]),
            ("TLS-Version", ["TLSv1.3"]),
            ("TLS-Cipher", ["TLS_AES_256_GCM_SHA384"]),
            ("Flags", None),
            ("Settings-ID", None),
        ):
            self.assertEqual(self.rspamd.header(name), values, name)

    def test_nobody(self) -> None:
        """What is not known is not said; a bounce has an empty From."""
        envelope = attrs.evolve(makeEnvelope(""), client=Client("local"))
        headers = rspamd.requestHeaders(envelope, "mx", [person("a")])
        self.assertEqual(headers.getRawHeaders("From"), [""])
        self.assertEqual(headers.getRawHeaders("Deliver-To"), ["a@example.net"])
        for name in ("IP", "Helo", "Hostname", "User", "TLS-Version"):
            self.assertFalse(headers.hasHeader(name), name)

    def test_refuse(self) -> None:
        """Thresholds of the policy; without them rspamd's action; inf is never."""
        for settings, answer, wanted in (
            ({"refuse_score": 5.0}, result(5.0), True),
            ({"refuse_score": 5.1}, result(5.0), False),
            ({"refuse_score": 5.1}, result(5.0, "reject", required_score=4.0), False),
            ({}, result(5.0), False),
            ({}, result(16.0, "reject"), True),
            ({"refuse_score": 30.0}, result(16.0, "reject"), False),
            ({"refuse_score": 30.0}, result(1.0, "reject"), True),
            ({"refuse_score": INF}, result(1.0, "reject"), False),
            ({"refuse_score": INF}, result(99.0, "reject"), False),
        ):
            self.rspamd.answer = answer
            verdict = self.verdict(self.makeStage(**settings))
            self.assertEqual(isinstance(verdict, Refuse), wanted, (settings, answer))

    def test_weights(self) -> None:
        """Weights and ignored symbols change the score of this policy alone."""
        for settings, wanted in (
            ({}, "5.0"),
            ({"weights": {"ONE": 10}}, "12.0"),
            ({"ignore": ["ONE"]}, "2.0"),
            ({"ignore": ["ONE", "TWO", "NOT_THERE"], "weights": {"THREE": 5}}, "0.0"),
        ):
            verdict = self.verdict(self.makeStage(**settings))
            self.assertIn(("X-Spam-Score", wanted), verdict.marks.headers)

    def test_later(self) -> None:
        """Soft reject refuses for now, with rspamd's text, made harmless; greylist where asked."""
        text = {"smtp_message": "come\r\n250 back\tlater"}
        for action in ("soft reject", "greylist"):
            self.rspamd.answer = result(1.0, action, messages=text)
            verdict = self.verdict(self.makeStage(greylist="refuse-temporarily"))
            self.assertEqual(verdict.reply, Reply(451, "4.7.1", "come 250 back later"))
            verdict = self.verdict(self.makeStage(refuse_score=0.5))
            self.assertEqual(str(verdict.reply), "550 5.7.1 refused as spam")
        self.assertIsInstance(self.verdict(self.makeStage()), Accept)
        self.rspamd.answer = result(1.0, "soft reject")
        verdict = self.verdict(self.makeStage(greylist="accept"))
        self.assertEqual(verdict.reply.code, 451)

    def test_tooLarge(self) -> None:
        """413 is about the message, and no failure of rspamd."""
        self.rspamd.answer = 413
        marked = Accept(Marks((("Deferrals-Unscanned", "rspamd (too large)"),)))
        stage = self.makeStage()
        for _ in range(10):
            self.assertEqual(self.verdict(stage), marked)
        self.assertEqual(self.verdict(self.makeStage(too_large="accept")), ACCEPT)
        stage = self.makeStage(too_large="refuse", max_size=10)
        for message in (makeMessage(b"x"), makeMessage(b"x" * 11)):
            verdict = self.verdict(stage, message=message)
            self.assertEqual(str(verdict.reply), "552 5.3.4 too large to be scanned")
        self.rspamd.answer = result(5.0)
        self.assertIsInstance(self.verdict(self.makeStage()), Accept)

    def test_closes(self) -> None:
        """It closes at a large message, and answers otherwise: that is too large."""
        asked: list[bytes] = []

        def request(method: bytes, uri: bytes, *more: Any) -> Deferred[Any]:
            asked.append(method)
            if method == b"GET" and self.rspamd.answer is not None:
                return real(method, uri, *more)
            return fail(ResponseNeverReceived([Failure(ConnectionLost())]))

        real = self.agent.request
        self.patch(self.agent, "request", request)
        marked = Accept(Marks((("Deferrals-Unscanned", "rspamd (too large)"),)))
        large = makeMessage(b"x" * rspamd.SUSPECT_OCTETS)
        self.assertEqual(self.verdict(self.makeStage(), message=large), marked)
        self.assertEqual(asked, [b"POST", b"GET"])
        verdict = self.verdict(self.makeStage(), message=makeMessage(b"x" * 1000))
        self.assertEqual(verdict.reply.code, 451)
        self.rspamd.answer = None
        again = makeMessage(b"y" * rspamd.SUSPECT_OCTETS)
        self.assertEqual(self.verdict(self.makeStage(), message=again).reply.code, 451)

    def test_actions(self) -> None:
        """What cannot be carried out is named in the log, with what is done instead."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for action, settings, wanted in (
            ("discard", {}, "550 5.7.1 refused as spam"),
            ("discard", {"refuse_score": 30.0}, "550 5.7.1 refused as spam"),
            ("discard", {"refuse_score": INF}, "junk"),
            ("quarantine", {}, "junk"),
            ("quarantine", {"mark_score": 99.0}, "junk"),
            ("quarantine", {"refuse_score": 5.0}, "550 5.7.1 refused as spam"),
            ("our own", {}, "accepted"),
            ("our own", {"refuse_score": 5.0}, "550 5.7.1 refused as spam"),
        ):
            self.rspamd.answer = result(5.0, action)
            events.clear()
            verdict = self.verdict(self.makeStage(**settings))
            if isinstance(verdict, Refuse):
                self.assertEqual(str(verdict.reply), wanted)
            else:
                self.assertEqual("junk" if verdict.marks.junk else "accepted", wanted)
            (line,) = [event for event in events if event.get("instead")]
            self.assertEqual(line["action"], action)

    def test_unknown(self) -> None:
        """A part of an answer that is not known is named, once."""
        stage = self.makeStage()
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for _ in range(3):
            self.rspamd.answer = result(5.0, milter={"add_rcpt": ["x@y.z"]}, novelty=1)
            self.verdict(stage)
        named = [event["part"] for event in events if event.get("part")]
        self.assertEqual(named, ["novelty", "milter.add_rcpt"])

    def test_signatures(self) -> None:
        """rspamd's signatures are in the copy, one or more, unless its fields are not wanted."""
        one, two = "v=1; a=rsa-sha256;\r\n\tb=abc", "v=1; a=ed25519-sha256; b=def"
        for said, wanted in (
            (one, ["v=1; a=rsa-sha256; b=abc"]),
            ([one, two], ["v=1; a=rsa-sha256; b=abc", two]),
            (7, []),
        ):
            self.rspamd.answer = {**result(1.0), "dkim-signature": said}
            marks = self.verdict(self.makeStage()).marks
            found = [value for name, value in marks.headers if name == "DKIM-Signature"]
            self.assertEqual(found, wanted)
            marks = self.verdict(self.makeStage(milter_headers=False)).marks
            self.assertEqual([name for name, _ in marks.headers], ["X-Spam-Score"])

    def test_spamHeader(self) -> None:
        """What rspamd would have in place of X-Spam."""
        for said, wanted in (
            ("very much", [("X-Spam", "very much")]),
            ({"X-Junk": "1"}, [("X-Junk", "1")]),
        ):
            self.rspamd.answer = result(5.0, "add header", milter={"spam_header": said})
            marks = self.verdict(self.makeStage()).marks
            self.assertEqual(marks.headers, (*wanted, ("X-Spam-Score", "5.0")))
            self.assertIn(wanted[0][0], marks.removed)
            self.rspamd.answer = result(5.0, milter={"spam_header": said})
            marks = self.verdict(self.makeStage()).marks
            self.assertEqual(marks.headers, (("X-Spam-Score", "5.0"),))

    def test_text(self) -> None:
        """A reject's reply has rspamd's text and the policy's code."""
        self.rspamd.answer = result(20.0, "reject", messages={"smtp_message": "x" * 1000})
        verdict = self.verdict(self.makeStage(reply="554 5.7.7 spam"))
        self.assertEqual(verdict.reply, Reply(554, "5.7.7", "x" * 300))

    def test_marks(self) -> None:
        """Marked by score, or by rspamd's action; its own fields come along."""
        milter = {
            "add_headers": {
                "X-One": {"value": "1", "order": 0},
                "X-Two": [{"value": "2"}, "3"],
                "X-Bad": {"value": 5},
            },
            "remove_headers": {"X-Old": 0},
        }
        self.rspamd.answer = result(5.0, "add header", milter=milter)
        verdict = self.verdict(self.makeStage(subject_tag="[spam] "))
        self.assertEqual(
            verdict.marks,
            Marks(
                (
                    ("X-One", "1"),
                    ("X-Two", "2"),
                    ("X-Two", "3"),
                    ("X-Spam", "Yes"),
                    ("X-Spam-Score", "5.0"),
                ),
                ("X-Old", "X-Spam", "X-Spam-Score"),
                "[spam] ",
                True,
            ),
        )
        verdict = self.verdict(self.makeStage(mark_score=5.1, milter_headers=False))
        self.assertEqual(
            verdict.marks, Marks((("X-Spam-Score", "5.0"),), ("X-Spam", "X-Spam-Score"))
        )
        self.rspamd.answer = result(5.0, "rewrite subject", subject="*** x")
        verdict = self.verdict(self.makeStage(add_headers=False))
        self.assertEqual(verdict.marks, Marks((("Subject", "*** x"),), ("Subject",), "", True))

    def test_cohorts(self) -> None:
        """Equal limits and rules are one cohort, whatever the recipients are called."""
        stage = self.makeStage(refuse_score=7)
        plain = stage.cohort(person("a"))
        self.assertEqual(plain, stage.cohort(person("b", refuse_score=7.0)))
        for different in (
            {"refuse_score": 8.0},
            {"mark_score": 1.0},
            {"rspamd__mark_score": 1.0},
            {"settings_id": "x"},
            {"spam_filter": 0.0},
        ):
            self.assertNotEqual(plain, stage.cohort(person("b", **different)))
        stage = self.makeStage(per_user=True)
        self.assertNotEqual(stage.cohort(person("a")), stage.cohort(person("b")))

    def seen(self) -> list[Any]:
        """
        What the requests said, in the order of their recipients.
        """
        names = ("Rcpt", "Deliver-To", "Settings-ID", "Flags")
        found = range(len(self.rspamd.requests))
        return sorted(
            (tuple(self.rspamd.header(name, place) for name in names) for place in found),
            key=lambda said: said[0],
        )

    def judged(self, stage: Any, *recipients: Recipient) -> list[Any]:
        status = self.services.status
        judge = ContentJudge({"strict": [stage]}, 10, status=status)
        deferred = [(one, judge.cohort(one, Defer(one.route))) for one in recipients]
        ds = judge.judge(makeMessage(), makeEnvelope(), deferred)
        self.settle()
        return [self.successResultOf(d) for d in ds]

    def test_oneScan(self) -> None:
        """A thousand recipients in three cohorts: three judgements, one scan for all of them."""
        stage = self.makeStage()
        people = [person(f"u{n}", refuse_score=4.0 + n % 3) for n in range(1000)]
        verdicts = self.judged(stage, *people)
        self.assertEqual(sum(isinstance(verdict, Refuse) for verdict in verdicts), 667)
        self.assertEqual(len(self.rspamd.requests), 1)
        named = sorted(self.rspamd.header("Rcpt"))
        self.assertEqual(named, sorted(str(one) for one in people))
        self.assertEqual(sum(self.services.status.kinds("judgements").values()), 3)
        self.assertEqual(self.services.status.counted("scans", "rspamd"), 1)

    def test_furtherScans(self) -> None:
        """
        A recipient with rules of its own is scanned alone, and leaves no second
        line in the log.
        """
        stage = self.makeStage()
        self.judged(
            stage,
            person("a"),
            person("b", settings_id="x"),
            person("c", settings_id="x", refuse_score=1.0),
            person("d", refuse_score=1.0),
            person("e", spam_filter=0.0),
        )
        seen = self.seen()
        self.assertEqual(len(self.rspamd.requests), 2)
        self.assertEqual(
            seen,
            [
                (["a@example.net", "d@example.net"], None, None, None),
                (["b@example.net"], ["b@example.net"], ["x"], ["no_log"]),
            ],
        )

    def test_perUser(self) -> None:
        """per_user: a scan for each recipient."""
        self.judged(self.makeStage(per_user=True), person("a"), person("b"))
        self.assertEqual(
            self.seen(),
            [
                (["a@example.net"], ["a@example.net"], None, None),
                (["b@example.net"], ["b@example.net"], None, ["no_log"]),
            ],
        )

    def test_errors(self) -> None:
        """Whatever is no answer is an error, and on_error decides."""
        for answer in (
            500,
            404,
            b"not json",
            b"[]",
            b"[" * 100_000,
            {"error": "no"},
            {"score": "5", "action": "reject"},
            {"score": 5},
            result(float("nan")),
            b" " * (web.MAX_BODY_OCTETS + 1),
        ):
            self.services = FakeServices()
            self.rspamd.answer = answer
            verdict = self.verdict(self.makeStage())
            self.assertEqual(verdict.reply.code, 451, repr(answer)[:80])
            self.assertEqual(self.verdict(self.makeStage(on_error="skip")), ACCEPT)

    def test_halfCharacters(self) -> None:
        """Octets that are no UTF-8, quoted from a message, spoil no answer."""
        self.rspamd.answer = json.dumps(result(9.0, "reject", urls=["X"])).encode()
        self.rspamd.answer = self.rspamd.answer.replace(b"X", b"\xff\xed\xa0\x80")
        self.assertEqual(self.verdict(self.makeStage()).reply.code, 550)

    def test_strangeAnswers(self) -> None:
        """What is not understood in an answer is left out."""
        for more in (
            {"symbols": None},
            {"symbols": ["ONE"]},
            {"symbols": {"ONE": None}},
            {"messages": None, "milter": []},
            {"messages": {"smtp_message": 5}, "milter": {"add_headers": ["x"]}},
            {"milter": {"remove_headers": 5, "add_headers": {"X": None}}},
            {"required_score": None, "subject": 5, "thresholds": [4]},
        ):
            scan = readScan(result(**more))
            self.assertEqual((scan.score, scan.marks, scan.text), (5.0, Marks(), ""))

    def test_forced(self) -> None:
        """A reject below rspamd's own threshold is forced; newer ones have thresholds."""
        for more, wanted in (
            ({"required_score": 15.0}, True),
            ({"required_score": 5.0}, False),
            ({"required_score": 5.0, "is_skipped": True}, True),
            ({"required_score": None, "thresholds": {"reject": 5.0}}, False),
            ({"required_score": None, "thresholds": {"reject": 6.0}}, True),
            ({"required_score": None, "thresholds": {"reject": None}}, True),
        ):
            self.assertEqual(readScan(result(5.0, "reject", **more)).forced, wanted, more)

    def test_liftable(self) -> None:
        """What rspamd wants for another reason than its score, a virus, is called otherwise."""
        for score, required, stage in ((20.0, 15.0, ""), (3.0, 15.0, rspamd.FORCED)):
            scan = readScan(result(score, "reject", required_score=required))
            refused = rspamd._refused("550 5.7.1 no", scan, score, "why")
            self.assertEqual((refused.stage, refused.score), (stage, None if stage else score))

    def test_sameSettings(self) -> None:
        """Equal settings are equal, weights included: one stage, one cohort."""
        one = rspamd.RspamdSettings(weights={"A": 1, "B": 2})
        two = rspamd.RspamdSettings(weights={"B": 2, "A": 1})
        self.assertEqual(hash(one), hash(two))
        self.assertEqual(one, two)
