"""
The content stage C{spamassassin}, without spamd.
"""

from __future__ import annotations

from deferrals.errors import StageError
from deferrals.model.verdict import ACCEPT, Accept, Marks, Refuse
from deferrals.stages.content import spamassassin
from deferrals.testing import (
    ContentStageContract,
    makeMessage,
)
from tests.streams import FailureTests, StreamCase, person

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
        for request, user in zip(
            self.endpoint.requests, (b"", b"User: some.body.example.net\r\n"), strict=True
        ):
            head, _, sent = request.partition(b"\r\n\r\n")
            said = b"SYMBOLS SPAMC/1.5\r\nContent-length: %d\r\n" % len(sent)
            self.assertEqual(head + b"\r\n", said + user)
            self.assertTrue(sent.startswith(b"Return-Path: <"))
            self.assertTrue(sent.endswith(b"\r\n" + content))

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
        """Larger messages are not scanned, and their copies say so."""
        stage = self.makeStage(max_size=10)
        verdict = self.verdict(stage, message=makeMessage(b"x" * 11))
        marks = (("Deferrals-Unscanned", "spamassassin (too large)"),)
        self.assertEqual(verdict, Accept(Marks(marks)))
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

    def test_whole(self) -> None:
        """An answer is whole with its last octet, in whatever pieces it comes."""
        silent = b"SPAMD/1.1 0 EX_OK\r\n\r\nONE"
        for size in (1, 7, 1000):
            for answer, isWhole in ((SPAM, True), (silent, False), (SPAM[:-1], False)):
                whole, had, found = spamassassin.WholeAnswer(), bytearray(), False
                for start in range(0, len(answer), size):
                    self.assertFalse(found)
                    had += answer[start : start + size]
                    found = whole(had)
                self.assertEqual(found, isWhole)

    def test_settings(self) -> None:
        """What cannot be is refused."""
        for settings in ({"user": "{who}"}, {"user": "a\nb"}, {"refuse_score": float("nan")}):
            self.assertRaises(ValueError, self.makeStage, **settings)
