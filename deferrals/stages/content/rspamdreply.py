"""
What rspamd's JSON says, read with care: it may come from another version, or
from something that is no rspamd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

from deferrals.errors import StageError
from deferrals.model.verdict import Marks
from deferrals.stages.content.addedfields import MAX_FIELDS, fitting
from deferrals.stages.remote import JSON


@attrs.frozen
class RspamdScan:
    """
    One scan's result.

    @ivar score: rspamd's own.
    @ivar required: from where rspamd rejects; infinite, where it says nothing.
    @ivar action: in lower case, e.g. C{"add header"}.
    @ivar symbols: their scores, by name.
    @ivar cut: whether rspamd stopped before its rules (GTUBE): the score is
        then the action's threshold, and says nothing.
    @ivar text: what rspamd wants the sender to read.
    @ivar marks: the fields that rspamd wants added and removed.
    @ivar subject: the Subject that it wants, as marks.
    """

    score: float
    required: float
    action: str
    symbols: Mapping[str, float]
    cut: bool = False
    text: str = ""
    marks: Marks = Marks()
    subject: Marks = Marks()

    @property
    def forced(self) -> bool:
        """
        Whether it is rejected for another reason than its score.
        """
        return self.action == "reject" and (self.cut or self.score < self.required)

    def scoreWith(self, weights: Mapping[str, float]) -> float:
        """
        The score that it would have, if these symbols counted so much.
        """
        changed = [weights[name] - score for name, score in self.symbols.items() if name in weights]
        return self.score + sum(changed)


def readScan(answer: JSON) -> RspamdScan:
    """
    @param answer: the JSON of C{/checkv2}.
    @raise StageError: it is none.
    """
    if not isinstance(answer, dict):
        raise StageError("the answer is no object")
    if "error" in answer:
        raise StageError(f"rspamd says: {str(answer['error'])[:200]}")
    score, action = _number(answer.get("score")), answer.get("action")
    if score is None or not isinstance(action, str):
        raise StageError("the answer has no score and action")
    required = _number(answer.get("required_score"))
    thresholds = answer.get("thresholds")
    if required is None and isinstance(thresholds, dict):
        required = _number(thresholds.get("reject"))
    messages = answer.get("messages")
    text = messages.get("smtp_message") if isinstance(messages, dict) else ""
    subject = answer.get("subject")
    return RspamdScan(
        score,
        math.inf if required is None else required,
        action.lower(),
        _symbols(answer.get("symbols")),
        answer.get("is_skipped") is True,
        text if isinstance(text, str) else "",
        _marks(answer.get("milter")),
        Marks((("Subject", subject),), ("Subject",)) if isinstance(subject, str) else Marks(),
    )


def _number(value: JSON) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON's integers have no limit
        return None
    return number if math.isfinite(number) else None


def _symbols(found: JSON) -> dict[str, float]:
    symbols = {}
    for name, symbol in found.items() if isinstance(found, dict) else ():
        score = _number(symbol.get("score")) if isinstance(symbol, dict) else None
        symbols[name] = 0.0 if score is None else score
    return symbols


def _marks(milter: JSON) -> Marks:
    """
    What rspamd would have a milter do to the header.  How many fields of a
    name are removed cannot be said: all are.
    """
    if not isinstance(milter, dict):
        return Marks()
    added, removed = milter.get("add_headers"), milter.get("remove_headers")
    headers = (
        (name, text)
        for name, value in (added.items() if isinstance(added, dict) else ())
        for text in _texts(value)
    )
    names = tuple(removed) if isinstance(removed, dict) else ()
    return Marks(fitting(headers), names[:MAX_FIELDS])


def _texts(value: JSON) -> list[str]:
    """
    A field's values: text, C{{value, order}}, or a list of these.
    """
    found = [_text(one) for one in (value if isinstance(value, list) else [value])]
    return [text for text in found if text is not None]


def _text(value: JSON) -> str | None:
    if isinstance(value, dict):
        value = value.get("value")
    return value if isinstance(value, str) else None
