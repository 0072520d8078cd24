"""
The content stages that ask rspamd, clamd and spamd, without any of them.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any

import attrs
from treq.testing import RequestTraversalAgent
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource

from deferrals.errors import StageError
from deferrals.model.envelope import Client, Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Accept, Defer, Marks, Refuse
from deferrals.stages import web
from deferrals.stages.content import clamav, rspamd, spamassassin
from deferrals.stages.content.judge import ContentJudge
from deferrals.stages.content.rspamdreply import readScan
from deferrals.stages.remote import FAILURES
from deferrals.testing import (
    ContentStageContract,
    FakeServices,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)

INF = float("inf")


def person(name: str, policy: str = "strict", **overrides: float | str) -> Recipient:
    """
    A recipient with settings of its own.
    """
    recipient = makeRecipient(f"{name}@example.net", policy)
    assert recipient.route is not None
    own = tuple(sorted((key.replace("__", "."), value) for key, value in overrides.items()))
    return recipient.routed(attrs.evolve(recipient.route, overrides=own))


class Wire(StringTransport):
    """
    A connection to a scanner.
    """

    def __init__(self) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "127.0.0.1", 1))
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.producer = None

    def drain(self) -> bytes:
        """
        Take what is sent, as fast as it comes.
        """
        sent = b""
        while self.producer is not None:
            sent += self.value()
            self.clear()
            self.producer.resumeProducing()
        return sent + self.value()


class Endpoint:
    """
    Where a scanner listens.
    """

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.protocols: list[Any] = []
        self.refuses = False
        self.answer: bytes | None = None
        self.requests: list[bytes] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        if self.refuses:
            return fail(ConnectionRefusedError())
        protocol = factory.buildProtocol(None)
        wire = Wire()
        self.wires.append(wire)
        self.protocols.append(protocol)
        protocol.makeConnection(wire)
        if self.answer is not None:
            self.requests.append(wire.drain())
            protocol.dataReceived(self.answer)
        return succeed(protocol)


class StreamCase(SynchronousTestCase):
    """
    A stage that speaks over a connection of its own.
    """

    kind: Any
    settings: Any
    good = b""

    def setUp(self) -> None:
        self.endpoint = Endpoint()
        self.endpoint.answer = self.good
        self.services = FakeServices()
        self.services.connect = lambda text: self.endpoint  # type: ignore[method-assign]

    def makeStage(self, **settings: Any) -> Any:
        return self.kind(self.settings(socket="tcp:127.0.0.1:1", **settings), self.services)

    def ask(self, stage: Any, *recipients: Recipient, message: Any = None) -> Any:
        return stage.judge(
            message or makeMessage(), makeEnvelope(), recipients or (person("somebody"),)
        )

    def verdict(self, stage: Any, *recipients: Recipient, message: Any = None) -> Any:
        answer = self.ask(stage, *recipients, message=message)
        return self.successResultOf(answer) if isinstance(answer, Deferred) else answer


class FailureTests:
    """
    What the failure of a scanner means, for C{clamav} and C{spamassassin}.
    """

    def test_onError(self: Any) -> None:
        """A scanner that refuses connections, or talks nonsense: on_error counts."""
        for refuses, answer in ((True, None), (False, b"nonsense\r\n\r\n\0")):
            self.endpoint.refuses, self.endpoint.answer = refuses, answer
            if answer is not None:
                answer = self.endpoint.answer
            for onError, wanted in (
                ("refuse-temporarily", 451),
                ("skip", ACCEPT),
                (
                    "accept",
                    Accept(Marks((("Deferrals-Unscanned", self.kindName),))),
                ),
            ):
                d = self.ask(self.makeStage(on_error=onError))
                if self.endpoint.protocols:
                    self.endpoint.protocols[-1].connectionLost(Failure(ConnectionDone()))
                verdict = self.successResultOf(d)
                if isinstance(verdict, Refuse):
                    verdict = verdict.reply.code
                self.assertEqual(verdict, wanted)

    def test_lost(self: Any) -> None:
        """A connection that is lost before the answer is a failure."""
        self.endpoint.answer = None
        d = self.ask(self.makeStage())
        self.endpoint.protocols[0].connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.successResultOf(d).reply.code, 451)

    def test_slow(self: Any) -> None:
        """A scanner that says nothing is left when its time is up."""
        self.endpoint.answer = None
        d = self.ask(self.makeStage(timeout=7))
        self.services.reactor.advance(6.9)
        self.assertNoResult(d)
        self.services.reactor.advance(0.2)
        self.assertEqual(self.successResultOf(d).reply.code, 451)
        self.assertTrue(self.endpoint.wires[0].aborted)

    def test_breaker(self: Any) -> None:
        """A dead scanner is soon not asked any more, for all policies that use it."""
        self.endpoint.refuses = True
        for _ in range(FAILURES):
            self.verdict(self.makeStage())
        self.endpoint.refuses = False
        stage = self.makeStage(on_error="skip")
        self.assertEqual(self.verdict(stage), ACCEPT)
        self.assertEqual(self.endpoint.wires, [])
        self.services.reactor.advance(60)
        self.verdict(stage)
        self.assertEqual(len(self.endpoint.wires), 1)

    def test_cancel(self: Any) -> None:
        """It may be cancelled; the connection is closed then."""
        self.endpoint.answer = None
        d = self.ask(self.makeStage())
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertTrue(self.endpoint.wires[0].aborted)

    def test_tooLong(self: Any) -> None:
        """An answer without an end is none."""
        self.endpoint.answer = b"x" * 100_000
        self.assertEqual(self.verdict(self.makeStage()).reply.code, 451)

    def test_unreadable(self: Any) -> None:
        """A message that cannot be read is a failure, not a hanging connection."""
        message = makeMessage()
        self.patch(message, "open", lambda: os.open("/nonexistent", 0))
        self.endpoint.answer = b""
        verdict = self.verdict(self.makeStage(), message=message)
        self.assertEqual(verdict.reply.code, 451)

    def test_flowControl(self: Any) -> None:
        """A large message is sent piece by piece, as the scanner takes it."""
        self.endpoint.answer = None
        message = makeMessage(b"x" * 500_000)
        d = self.ask(self.makeStage(), message=message)
        (wire,) = self.endpoint.wires
        self.assertLess(len(wire.value()), 70_000)
        most = 0
        while wire.producer is not None:
            most = max(most, len(wire.value()))
            wire.clear()
            wire.producer.resumeProducing()
        self.assertLess(most, 70_000)
        d.cancel()
        self.failureResultOf(d, CancelledError)


class ClamAVTests(StreamCase, FailureTests, ContentStageContract):
    """
    L{clamav.ClamAVStage}.
    """

    kind = clamav.ClamAVStage
    settings = clamav.ClamAVSettings
    kindName = "clamav"
    good = b"stream: OK\0"

    def test_request(self) -> None:
        """INSTREAM: the message in chunks with their lengths, and a chunk of none."""
        content = b"Subject: x\r\n\r\n" + b"y" * 200_000
        self.verdict(self.makeStage(), message=makeMessage(content))
        (request,) = self.endpoint.requests
        self.assertTrue(request.startswith(b"zINSTREAM\0"))
        rest, found = request[10:], b""
        while True:
            (length,) = struct.unpack(">I", rest[:4])
            if not length:
                break
            found += rest[4 : 4 + length]
            rest = rest[4 + length :]
        self.assertEqual((found, rest), (content, b"\0\0\0\0"))

    def test_verdicts(self) -> None:
        """A virus is refused or marked, as the policy says; its name is told."""
        self.endpoint.answer = b"stream: Win.Test.X FOUND\0"
        verdict = self.verdict(self.makeStage())
        self.assertEqual(str(verdict.reply), "550 5.7.1 refused: it carries a virus (Win.Test.X)")
        verdict = self.verdict(self.makeStage(action="mark", subject_tag="[virus] "))
        wanted = Marks((("X-Virus", "Win.Test.X"),), ("X-Virus",), "[virus] ", True)
        self.assertEqual(verdict, Accept(wanted))

    def test_parse(self) -> None:
        """Both endings, the size limit, and what is no answer."""
        for answer, scan in (
            (b"stream: OK\n", clamav.ClamdScan()),
            (b"stream: A.b FOUND\n", clamav.ClamdScan("A.b")),
            (b"stream: A\r\n250 b FOUND\0", clamav.ClamdScan("A250 b")),
            (b"INSTREAM size limit exceeded. ERROR\0", clamav.ClamdScan(tooLarge=True)),
        ):
            self.assertEqual(clamav.parseAnswer(answer), scan)
        for answer in (
            b"",
            b"stream: Can't open ERROR\0",
            b"COMMAND READ TIMED OUT\n",
            b"UNKNOWN COMMAND\0",
            b"\xff\0",
        ):
            self.assertRaises(StageError, clamav.parseAnswer, answer)

    def test_tooLarge(self) -> None:
        """What is larger than clamd takes is accepted, marked or refused."""
        self.endpoint.answer = b"INSTREAM size limit exceeded. ERROR\0"
        self.assertEqual(self.verdict(self.makeStage(too_large="accept")), ACCEPT)
        self.assertEqual(self.verdict(self.makeStage(too_large="refuse")).reply.code, 552)
        self.assertEqual(
            self.verdict(self.makeStage()),
            Accept(Marks((("Deferrals-Unscanned", "clamav (too large)"),))),
        )

    def test_oneScan(self) -> None:
        """One scan per message, for all policies with this clamd."""
        message = makeMessage()
        stages = [self.makeStage(), self.makeStage(action="mark"), self.makeStage()]
        for stage in stages:
            self.assertEqual(self.verdict(stage, message=message), ACCEPT)
        self.assertEqual(len(self.endpoint.requests), 1)
        self.assertEqual(self.services.status.counted("scans", "clamav"), 1)
        self.assertEqual(self.services.status.counted("judgements", "clamav"), 3)


SPAM = b"SPAMD/1.1 0 EX_OK\r\nContent-length: 9\r\nSpam: True ; 7.5 / 5.0\r\n\r\nONE,TWO_X"
HAM = b"SPAMD/1.1 0 EX_OK\r\nContent-length: 0\r\nSpam: False ; -0.5 / 5.0\r\n\r\n"


class SpamAssassinTests(StreamCase, FailureTests, ContentStageContract):
    """
    L{spamassassin.SpamAssassinStage}.
    """

    kind = spamassassin.SpamAssassinStage
    settings = spamassassin.SpamAssassinSettings
    kindName = "spamassassin"
    good = HAM

    def test_request(self) -> None:
        """SYMBOLS, the length, the user if there is one, the message."""
        content = b"Subject: x\r\n\r\nhello\r\n"
        self.verdict(self.makeStage(), message=makeMessage(content))
        stage = self.makeStage(user="{local}.{domain}")
        self.verdict(stage, person("Some.Body"), message=makeMessage(content))
        head = b"SYMBOLS SPAMC/1.5\r\nContent-length: 21\r\n"
        self.assertEqual(
            self.endpoint.requests,
            [
                head + b"\r\n" + content,
                head + b"User: some.body.example.net\r\n\r\n" + content,
            ],
        )

    def test_limits(self) -> None:
        """Thresholds of the policy; without them spamd's own, which only marks."""
        self.endpoint.answer = SPAM
        for settings, wanted in (
            ({"refuse_score": 7.5}, "550 5.7.1 refused as spam"),
            ({"refuse_score": 7.5, "reply": "450 4.7.1 later"}, "450 4.7.1 later"),
            ({"refuse_score": 7.6}, True),
            ({"mark_score": 7.6}, False),
            ({"mark_score": 7.5}, True),
            ({}, True),
        ):
            verdict = self.verdict(self.makeStage(**settings))
            if isinstance(verdict, Refuse):
                self.assertEqual(str(verdict.reply), wanted)
            else:
                self.assertEqual(verdict.marks.junk, wanted, settings)

    def test_marks(self) -> None:
        """A marked copy says so; what the sender said about it is taken out."""
        self.endpoint.answer = SPAM
        verdict = self.verdict(self.makeStage(subject_tag="[spam] "))
        self.assertEqual(
            verdict.marks,
            Marks(
                (("X-Spam", "Yes"), ("X-Spam-Score", "7.5")),
                ("X-Spam", "X-Spam-Score"),
                "[spam] ",
                True,
            ),
        )
        verdict = self.verdict(self.makeStage(add_headers=False, junk=False))
        self.assertEqual(verdict, ACCEPT)

    def test_cohorts(self) -> None:
        """Equal users and limits are one cohort, whatever the recipients are called."""
        stage = self.makeStage(refuse_score=7, mark_score=5)
        plain = stage.cohort(person("a"))
        self.assertEqual(plain, stage.cohort(person("b", refuse_score=7.0)))
        self.assertNotEqual(plain, stage.cohort(person("b", refuse_score=8.0)))
        self.assertNotEqual(plain, stage.cohort(person("b", spamassassin__refuse_score=8.0)))
        self.assertEqual(plain, stage.cohort(person("b", rspamd__refuse_score=8.0)))
        self.assertNotEqual(plain, stage.cohort(person("b", user="b")))
        off = person("c", spam_filter=0.0)
        self.assertEqual(stage.cohort(off), stage.cohort(person("d", spam_filter=0.0, user="d")))
        self.assertEqual(self.verdict(stage, off), ACCEPT)
        self.assertEqual(self.endpoint.requests, [])
        stage = self.makeStage(user="{address}")
        self.assertNotEqual(stage.cohort(person("a")), stage.cohort(person("b")))
        self.assertEqual(stage.cohort(person("a")), stage.cohort(person("A")))

    def test_oneScanPerUser(self) -> None:
        """As many scans as there are distinct users."""
        message = makeMessage()
        stage = self.makeStage()
        for one in (person("a"), person("b", refuse_score=1.0), person("c", user="x")):
            self.verdict(stage, one, message=message)
        self.verdict(self.makeStage(user="x"), person("d"), message=message)
        self.assertEqual(len(self.endpoint.requests), 2)

    def test_maxSize(self) -> None:
        """Larger messages are not scanned."""
        stage = self.makeStage(max_size=10)
        self.assertEqual(self.verdict(stage, message=makeMessage(b"x" * 11)), ACCEPT)
        self.assertEqual(self.endpoint.requests, [])

    def test_parse(self) -> None:
        """spamd's words, and what is no answer."""
        self.assertEqual(
            spamassassin.parseAnswer(SPAM), spamassassin.SpamdScan(7.5, True, ("ONE", "TWO_X"))
        )
        yes = SPAM.replace(b"True", b"YES").replace(b"/1.1", b"/1.5")
        self.assertTrue(spamassassin.parseAnswer(yes).spam)
        for answer in (
            b"",
            b"SPAMD/1.0 69 Service Unavailable: no\r\n",
            b"SPAMD/1.1 0 EX_OK\r\n\r\n",
            SPAM.replace(b"7.5", b"7.5.5"),
            SPAM.replace(b"7.5", b"nan"),
            SPAM.replace(b" 0 EX_OK", b" 79 TIMEOUT"),
        ):
            self.assertRaises(StageError, spamassassin.parseAnswer, answer)
        self.endpoint.answer = SPAM.replace(b"Content-length: 9", b"Content-length: " + b"9" * 5000)
        self.assertNoResult(self.ask(self.makeStage()))

    def test_settings(self) -> None:
        """What cannot be is refused."""
        for settings in ({"user": "{who}"}, {"user": "a\nb"}, {"refuse_score": float("nan")}):
            self.assertRaises(ValueError, self.makeStage, **settings)


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
        """Soft reject and greylist refuse for now, with rspamd's text, made harmless."""
        text = {"smtp_message": "come\r\n250 back\tlater"}
        for action in ("soft reject", "greylist"):
            self.rspamd.answer = result(1.0, action, messages=text)
            verdict = self.verdict(self.makeStage())
            self.assertEqual(verdict.reply, Reply(451, "4.7.1", "come 250 back later"))
            verdict = self.verdict(self.makeStage(refuse_score=0.5))
            self.assertEqual(str(verdict.reply), "550 5.7.1 refused as spam")
        self.assertIsInstance(self.verdict(self.makeStage(greylist="accept")), Accept)

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
        judge = ContentJudge({"strict": [stage]}, 10)
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
        self.assertEqual(self.services.status.counted("judgements", "rspamd"), 3)
        self.assertEqual(self.services.status.counted("scans", "rspamd"), 1)

    def test_furtherScans(self) -> None:
        """Who has rules of its own is scanned alone, and leaves no second line in the log."""
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
            b" " * (web.MAX_ANSWER_OCTETS + 1),
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

    def test_sameSettings(self) -> None:
        """Equal settings are equal, weights included: one stage, one cohort."""
        one = rspamd.RspamdSettings(weights={"A": 1, "B": 2})
        two = rspamd.RspamdSettings(weights={"B": 2, "A": 1})
        self.assertEqual(hash(one), hash(two))
        self.assertEqual(one, two)
