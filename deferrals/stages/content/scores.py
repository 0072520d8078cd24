"""
What a spam score means for a cohort: its limits, its refusal, its marks.
"""

from __future__ import annotations

import math
from typing import Any

import attrs

from deferrals.model.envelope import Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Accept, ContentVerdict, Marks, Refuse, Route

DEFAULT_REPLY = "550 5.7.1 refused as spam"


@attrs.frozen
class ScoreLimits:
    """
    What one cohort thinks of scores; recipients with equal limits are alike.

    @ivar refuse: refuse from this score on; L{None}: what the scanner says;
        infinite: never.
    @ivar mark: likewise, for marking.
    """

    refuse: float | None = None
    mark: float | None = None


def limitsOf(stage: str, settings: Any, recipient: Recipient) -> ScoreLimits | None:
    """
    A recipient's limits: its own, where it has some, otherwise its policy's.

    @param settings: with C{refuse_score} and C{mark_score}.
    @return: L{None}, where it wants no spam filter.
    """
    route = recipient.route or Route("", "")
    if route.own(stage, "spam_filter") == 0:
        return None
    own = [route.own(stage, key) for key in ("refuse_score", "mark_score")]
    refuse, mark = (None if value is None else float(value) for value in own)
    return ScoreLimits(
        settings.refuse_score if refuse is None else refuse,
        settings.mark_score if mark is None else mark,
    )


def number(value: float) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    if math.isnan(value):
        raise ValueError("a number, or inf")


def refusal(reply: str, text: str = "") -> Refuse:
    """
    @param reply: the stage's setting.
    @param text: what the scanner wants the sender to read instead of its text.
    """
    found = Reply.parseRefusal(reply)
    text = " ".join(text.split())[:300]
    return Refuse(attrs.evolve(found, text=text) if text else found)


def acceptance(settings: Any, score: float, marked: bool, more: Marks) -> ContentVerdict:
    """
    The copy of a cohort that accepts.  What a sender says about its own score
    is taken out.

    @param settings: with C{add_headers}, C{subject_tag} and C{junk}.
    @param more: further marks, in front.
    """
    headers: list[tuple[str, str]] = []
    removed: tuple[str, ...] = ()
    if settings.add_headers:
        removed = ("X-Spam", "X-Spam-Score")
        headers = [("X-Spam", "Yes")] if marked else []
        headers.append(("X-Spam-Score", f"{score:.1f}"))
    marks = more.plus(
        Marks(
            tuple(headers),
            removed,
            settings.subject_tag if marked else "",
            marked and settings.junk,
        )
    )
    return ACCEPT if marks == Marks() else Accept(marks)
