"""
What a score means for a cohort: tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IMessage
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.settings import Octets, Seconds
from deferrals.model.verdict import ACCEPT, Accept, ContentVerdict, Marks, Refuse
from deferrals.stages.content.scanner import OnError, Scanner
from deferrals.stages.content.scores import (
    ScoreLimits,
    ScoringStage,
    acceptance,
    decision,
    limitsOf,
    number,
    refusal,
)
from deferrals.testing import FakeServices, makeEnvelope, makeMessage
from tests.streams import person


@attrs.frozen
class Settings:
    """
    The settings of a stage with a score.
    """

    timeout: Seconds = Seconds(10)
    on_error: OnError = "refuse-temporarily"
    concurrency: int = 5
    refuse_score: float | None = 15.0
    mark_score: float | None = 6.0
    add_headers: bool = True
    subject_tag: str = ""
    junk: bool = False
    max_size: Octets = Octets(1000)


class LimitsTests(SynchronousTestCase):
    """
    L{limitsOf}.
    """

    def test_own(self) -> None:
        """A recipient's own limits count before its policy's; it may want no filter."""
        for own, limits in (
            ({}, ScoreLimits(15.0, 6.0)),
            ({"spam__refuse_score": 3}, ScoreLimits(3.0, 6.0)),
            ({"spam__mark_score": math.inf}, ScoreLimits(15.0, math.inf)),
            ({"spam__spam_filter": 1.0}, ScoreLimits(15.0, 6.0)),
            ({"spam__spam_filter": 0.0}, None),
            ({"other__refuse_score": 3.0}, ScoreLimits(15.0, 6.0)),
        ):
            found = limitsOf("spam", Settings(), person("a", **own))  # type: ignore[arg-type]
            self.assertEqual(found, limits, own)

    def test_number(self) -> None:
        """A score is a number, or infinite."""
        for value in (0.0, -5.0, math.inf):
            number(value)
        with self.assertRaisesRegex(ValueError, "a number, or inf"):
            number(math.nan)


class VerdictTests(SynchronousTestCase):
    """
    L{refusal} and L{acceptance}.
    """

    def test_refusal(self) -> None:
        """The stage's reply, with the scanner's words where it has some."""
        for text, wanted in (
            ("", "refused as spam"),
            ("  two\r\n words ", "two words"),
            ("x" * 500, "x" * 300),
            ("\r\n", "refused as spam"),
        ):
            found = refusal("550 5.7.1 refused as spam", text)
            self.assertEqual(found, Refuse(Reply(550, "5.7.1", wanted)))

    def test_acceptance(self) -> None:
        """A copy says its score, and is marked; what the sender says of that is taken out."""
        removed = ("X-Spam", "X-Spam-Score")
        score = ("X-Spam-Score", "7.3")
        for settings, marked, marks in (
            ({}, False, Marks((score,), removed)),
            ({}, True, Marks((("X-Spam", "Yes"), score), removed)),
            ({"add_headers": False}, True, Marks()),
            ({"add_headers": False, "junk": True}, True, Marks(junk=True)),
            ({"add_headers": False, "junk": True, "subject_tag": "*"}, False, Marks()),
            ({"add_headers": False, "subject_tag": "*"}, True, Marks(subjectPrefix="*")),
        ):
            found = acceptance(Settings(**settings), 7.25001, marked, Marks(), "x")  # type: ignore[arg-type]
            self.assertEqual((found, found.why), (Accept(marks), "x"))

    def test_decision(self) -> None:
        """The log is told the score, the limits that there are, and what the scanner wanted."""
        for limits, action, text in (
            (
                ScoreLimits(5.0, 2.5),
                "action reject",
                "x: score 7.25, refuse_score 5, mark_score 2.5, action reject",
            ),
            (ScoreLimits(None, float("inf")), "", "x: score 7.25, mark_score inf"),
            (ScoreLimits(), "", "x: score 7.25"),
        ):
            self.assertEqual(decision("x", 7.25, limits, action), text)

    def test_more(self) -> None:
        """Further marks stand in front."""
        found = acceptance(Settings(), 0.0, False, Marks((("A", "b"),), ("C",)), "")
        self.assertEqual(
            found,
            Accept(Marks((("A", "b"), ("X-Spam-Score", "0.0")), ("C", "X-Spam", "X-Spam-Score"))),
        )


class Stage(ScoringStage[str, float]):
    """
    Gives every message a score of 10; recipients named C{b…} need a scan of
    their own.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Scanner("spam", "tcp:x:1", settings, FakeServices()))
        self.scans: list[tuple[str, list[str]]] = []

    def scanOf(self, recipient: Recipient) -> str:
        return str(recipient)[0]

    async def scan(
        self, message: IMessage, envelope: Envelope, key: str, recipients: Sequence[Recipient]
    ) -> float:
        self.scans.append((key, [str(one) for one in recipients]))
        return 10.0

    def decide(self, scan: float, limits: ScoreLimits) -> ContentVerdict:
        return Refuse(Reply(550)) if scan >= (limits.refuse or 0.0) else ACCEPT


class ScoringStageTests(SynchronousTestCase):
    """
    L{ScoringStage}.
    """

    def setUp(self) -> None:
        self.stage = Stage(Settings())
        self.message = makeMessage()

    def verdict(self, *recipients: Recipient) -> Any:
        found = self.stage.judge(self.message, makeEnvelope(), recipients)
        return self.successResultOf(found) if isinstance(found, Deferred) else found

    def test_cohort(self) -> None:
        """A cohort has one scan and equal limits; those without a filter are one."""
        cohort = self.stage.cohort
        self.assertEqual(cohort(person("a1")), cohort(person("a2")))
        self.assertNotEqual(cohort(person("a1")), cohort(person("b1")))
        self.assertNotEqual(cohort(person("a1")), cohort(person("a1", spam__refuse_score=1.0)))
        self.assertIsNone(cohort(person("a1", spam__spam_filter=0.0)))

    def test_judge(self) -> None:
        """One scan serves all cohorts that need it; each decides by its own limits."""
        self.assertEqual(self.verdict(person("a1"), person("a2")), ACCEPT)
        strict = self.verdict(person("a3", spam__refuse_score=9.0))
        self.assertEqual(strict, Refuse(Reply(550)))
        self.assertEqual(self.stage.scans, [("a", ["a1@example.net", "a2@example.net"])])
        self.verdict(person("b1"))
        self.assertEqual(len(self.stage.scans), 2)

    def test_unscanned(self) -> None:
        """Without a filter, and for a message that is too large, there is no scan."""
        self.assertEqual(self.verdict(person("a1", spam__spam_filter=0.0)), ACCEPT)
        self.message = makeMessage(b"x" * 1001)
        marks = Marks((("Deferrals-Unscanned", "spam (too large)"),))
        self.assertEqual(self.verdict(person("a1", spam__refuse_score=1.0)), Accept(marks))
        self.assertEqual(self.stage.scans, [])
