"""
The content stage C{match}.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import cattrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.verdict import ACCEPT, Refuse
from deferrals.stages.content.match import mime
from deferrals.stages.content.match.findings import EICAR, GTUBE
from deferrals.stages.content.match.stage import (
    AT_ONCE,
    SMALL_OCTETS,
    MatchRule,
    MatchSettings,
    MatchStage,
)
from deferrals.testing import (
    ContentStageContract,
    FakeServices,
    makeEnvelope,
    makeMessage,
    makeRecipient,
)
from tests.mails import mail, many
from tests.reactors import TurningClock


class MatchTests(ContentStageContract, SynchronousTestCase):
    """
    L{MatchStage}.
    """

    def makeStage(self, *rules: MatchRule) -> MatchStage:
        return MatchStage(
            MatchSettings(rules or (MatchRule(test="gtube"),)), FakeServices(reactor=TurningClock())
        )

    def judge(self, message: Any, *rules: MatchRule) -> Any:
        content = message if isinstance(message, bytes) else message.as_bytes()
        stage = self.makeStage(*rules)
        d = stage.judge(makeMessage(content), makeEnvelope(), [makeRecipient("a@b.example")])
        return self.successResultOf(d)

    def matches(self, message: Any, **rule: Any) -> bool:
        return isinstance(self.judge(message, MatchRule(**rule)), Refuse)

    def test_header(self) -> None:
        """Words and patterns in a field, MIME words decoded, without regard to case."""
        message = mail(subject="G\u00fcnstige CASINO Angebote")
        self.assertTrue(self.matches(message, header="subject", words=("casino",)))
        self.assertTrue(self.matches(message, header="Subject", words=("g\u00fcnstige casino",)))
        self.assertTrue(self.matches(message, header="Subject", pattern="^g.nstige"))
        self.assertFalse(self.matches(message, header="Subject", words=("casin",)))
        self.assertFalse(self.matches(message, header="From", pattern="."))

    def test_body(self) -> None:
        """Words and patterns in the text, whatever its transfer encoding."""
        for cte in ("base64", "quoted-printable", "8bit"):
            message = mail(text="a g\u00fcnstiges Angebot\n", cte=cte)
            self.assertTrue(
                self.matches(message, body=True, words=("g\u00fcnstiges angebot",)), cte
            )
            self.assertFalse(self.matches(message, body=True, words=("unstiges",)), cte)
        half = b"Content-Type: text/plain; charset=utf-7\r\n\r\n+2AA- casino\r\n"
        self.assertTrue(self.matches(half, body=True, words=("casino",)))
        message = mail(html="<b>casino</b>")
        self.assertTrue(self.matches(message, body=True, pattern="<b>casino"))

    def test_attachment(self) -> None:
        """File names, however they are written."""
        message = mail(attachments=[("Rechnung \u00e4.EXE", "application/octet-stream", b"MZ")])
        self.assertTrue(self.matches(message, attachment=("*.exe",)))
        self.assertFalse(self.matches(message, attachment=("*.scr",)))
        for field in (
            b'Content-Disposition: attachment; filename="a.exe"',
            b"Content-Type: application/x; name=a.exe",
            b"Content-Disposition: attachment; filename*=utf-8''a%2Eexe",
            b'Content-Disposition: attachment; filename="=?utf-8?q?a=2Eexe?="',
            b'Content-Disposition: attachment; filename*0="a.e"; filename*1="xe"',
            b'Content-Disposition: attachment;\r\n\tfilename="a.exe "',
        ):
            self.assertTrue(self.matches(field + b"\r\n\r\nMZ\r\n", attachment=("*.exe",)), field)
            for count in (100, 400):  # what stands in front hides nothing
                padded = (b"X: " + b"x" * 900 + b"\r\n") * count + field
                found = self.matches(padded + b"\r\n\r\nMZ\r\n", attachment=("*.exe",))
                self.assertTrue(found, (count, field))

    def test_mimeType(self) -> None:
        """MIME types of all parts."""
        message = mail(attachments=[("a", "application/x-msdownload", b"MZ")])
        self.assertTrue(self.matches(message, mime_type=("application/x-ms*",)))
        self.assertFalse(self.matches(message, mime_type=("image/*",)))

    def test_size(self) -> None:
        """The size of the whole message."""
        self.assertTrue(self.matches(b"x" * 101, larger_than=100))
        self.assertFalse(self.matches(b"x" * 100, larger_than=100))

    def test_gtube(self) -> None:
        """The test string of spam filters, encoded or not."""
        self.assertTrue(self.matches(mail(text=GTUBE), test="gtube"))
        self.assertTrue(self.matches(mail(text=GTUBE, cte="base64"), test="gtube"))
        self.assertFalse(self.matches(mail(text=GTUBE[1:]), test="gtube"))

    def test_eicar(self) -> None:
        """The test string of virus scanners, as text and as an attachment."""
        self.assertTrue(self.matches(mail(text=EICAR.decode()), test="eicar"))
        message = mail(attachments=[("e.com", "application/octet-stream", EICAR)])
        self.assertTrue(self.matches(message, test="eicar"))
        self.assertFalse(self.matches(mail(), test="eicar"))

    def test_replies(self) -> None:
        """The first rule that matches refuses, with its own reply."""
        rules = (
            MatchRule(header="Subject", words=("nothing",), reply="550 5.7.1 one"),
            MatchRule(header="Subject", words=("test",), reply="450 4.7.1 two"),
            MatchRule(larger_than=1, reply="552 5.2.3 three"),
        )
        self.assertEqual(str(self.judge(mail(), *rules).reply), "450 4.7.1 two")
        self.assertEqual(self.judge(mail(subject="x"), rules[0]), ACCEPT)

    def test_settings(self) -> None:
        """A rule looks at one thing, and searches with words or with a pattern."""
        for rule in (
            {},
            {"header": "a"},
            {"header": "a", "words": ["b"], "pattern": "c"},
            {"header": "a", "words": ["b"], "test": "gtube"},
            {"larger_than": 5, "words": ["x"]},
            {"header": "a", "pattern": "("},
            {"test": "gtube", "reply": "250 ok"},
        ):
            self.assertRaises(cattrs.BaseValidationError, cattrs.structure, rule, MatchRule)

    def test_catastrophicPattern(self) -> None:
        """A pattern that would take a backtracking engine years: with one, this would not end."""
        self.matches(mail(text="a" * 50000), body=True, pattern="(a+)+$b")

    def test_oncePerMessage(self) -> None:
        """The message is taken apart once for all policies."""
        message, calls = makeMessage(mail(text="hello").as_bytes()), 0
        content = message.open

        def counted() -> Any:
            nonlocal calls
            calls += 1
            return content()

        message.open = counted  # type: ignore[method-assign]
        for word in ("one", "two"):
            stage = self.makeStage(MatchRule(body=True, words=(word,)))
            self.successResultOf(stage.judge(message, makeEnvelope(), []))
        self.assertEqual(len(message._shared), 1)

    def test_threads(self) -> None:
        """Few messages are looked at in threads at once, and each in one, also by many policies."""
        services, running = FakeServices(reactor=TurningClock()), []

        def inThread(function: Any, *args: Any) -> Deferred[Any]:
            running.append((Deferred(), function, args))
            return running[-1][0]

        services.inThread = inThread  # type: ignore[method-assign, assignment]
        rules = [MatchRule(body=True, words=(word,)) for word in ("one", "two", "three")]
        stages = [MatchStage(MatchSettings((rule,)), services) for rule in rules]
        large = mail(text="three " * (SMALL_OCTETS // 6)).as_bytes()
        messages = [makeMessage(large) for _ in range(AT_ONCE + 1)]
        asked = [
            stage.judge(message, makeEnvelope(), []) for message in messages for stage in stages
        ]
        self.assertEqual(len(running), AT_ONCE)
        for d in asked[: -len(stages)]:
            d.cancel()
            self.failureResultOf(d, CancelledError)
        self.assertEqual(len(running), AT_ONCE)  # who gave up still has the thread
        for d, function, args in running:
            d.callback(function(*args))
        found = [self.successResultOf(d) for d in asked[-len(stages) :]]
        self.assertEqual([isinstance(verdict, Refuse) for verdict in found], [False, False, True])
        self.assertEqual(len(running), AT_ONCE + len(stages))

    def test_noGarbage(self) -> None:
        """A message that was looked at leaves nothing to the collector of garbage."""
        self.addCleanup(gc.enable)
        gc.disable()
        for rule in (MatchRule(attachment=("*.exe",)), MatchRule(archive=("*.exe",))):
            stage = self.makeStage(rule)
            message = makeMessage(mail(text="one").as_bytes())
            gone = weakref.ref(message)
            self.successResultOf(stage.judge(message, makeEnvelope(), []))
            del message
            self.assertIsNone(gone())

    def test_together(self) -> None:
        """Small messages that come while others are looked at are looked at at one go."""
        services, running = FakeServices(reactor=TurningClock()), []

        def inThread(function: Any, *args: Any) -> Deferred[Any]:
            running.append((Deferred(), function, args))
            return running[-1][0]

        services.inThread = inThread  # type: ignore[method-assign, assignment]
        rules = [MatchRule(body=True, words=(word,)) for word in ("one", "two")]
        stages = [MatchStage(MatchSettings((rule,)), services) for rule in rules]
        messages = [makeMessage(mail(text=text).as_bytes()) for text in ("one", "two", "three")]
        asked = [
            stage.judge(message, makeEnvelope(), []) for message in messages for stage in stages
        ]
        for number in (1, 2):
            self.assertEqual(len(running), number)
            d, function, args = running[-1]
            d.callback(function(*args))
        found = [isinstance(self.successResultOf(d), Refuse) for d in asked]
        self.assertEqual(found, [True, False, False, True, False, False])
        self.assertEqual(len(running), 2)

    def test_unpacks(self) -> None:
        """Where archives are looked into, a small message may take long: others do not wait."""
        for rule, wanted in (
            (MatchRule(archive=("*.exe",)), AT_ONCE),
            (MatchRule(test="unreadable-archive"), AT_ONCE),
            (MatchRule(attachment=("*.exe",)), 1),
        ):
            services, running = FakeServices(reactor=TurningClock()), []

            def inThread(function: Any, *args: Any, running: list[Any] = running) -> Deferred[Any]:
                running.append((function, args))
                return Deferred()

            services.inThread = inThread  # type: ignore[method-assign, assignment]
            stage = MatchStage(MatchSettings((rule,)), services)
            for _ in range(AT_ONCE + 1):
                stage.judge(makeMessage(mail(text="x").as_bytes()), makeEnvelope(), [])
            self.assertEqual(len(running), wanted)

    def test_tooComplex(self) -> None:
        """A message with more parts than can be looked into is refused."""
        self.patch(mime, "MAX_PARTS", 100)
        self.assertEqual(self.judge(many(30), MatchRule(attachment=("x",))), ACCEPT)
        self.assertIn("MIME", str(self.judge(many(101), MatchRule(attachment=("x",))).reply))
