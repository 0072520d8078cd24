"""
What rspamd's JSON says, read with care: it may come from another version, or
from something that is no rspamd.  What is said there and cannot be carried out is
named: nothing is dropped in silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import attrs

from deferrals.errors import StageError
from deferrals.model.headertext import isFieldName
from deferrals.model.json import JSON
from deferrals.model.verdict import Marks
from deferrals.stages.content.addedfields import MAX_FIELDS, fitting

#: What an operator may meet as an action, and is carried out here.
ACTIONS = frozenset(
    {
        *("no action", "greylist", "soft reject", "add header", "rewrite subject"),
        *("reject", "discard", "quarantine"),
    }
)

#: Of these, what is done in their place.
_INSTEAD = {
    "discard": "refused: nothing is dropped without a word",
    "quarantine": "marked, and filed as junk",
}

#: The parts of an answer that are read here, and those that only tell something.
_KNOWN = frozenset(
    {
        *("action", "dkim-signature", "error", "is_skipped", "messages", "milter"),
        *("required_score", "score", "subject", "symbols", "thresholds"),
        *("default", "emails", "fuzzy_hashes", "filename", "groups", "message-id", "profile"),
        *("scan_time", "time", "time_real", "time_virtual", "urls", "uid"),
    }
)
_KNOWN_OF_MILTER = frozenset(
    {"add_headers", "remove_headers", "spam_header", "reject", "no_action"}
)

#: Blanks are entered at their beginning alone: from each of them would be too long.
_FOLD = re.compile(r"(?:(?<![ \t])[ \t]++)?\r?\n[ \t]++")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{68}")


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
    @ivar marks: the fields that rspamd wants added and removed, its signatures
        (DKIM) among them.
    @ivar subject: the Subject that it wants, as marks.
    @ivar spam: the fields that it wants in what is spam in place of C{X-Spam: Yes}.
    @ivar instead: what is done in place of an action that cannot be carried out, for
        people; empty for all others.
    @ivar unknown: parts of the answer that are not carried out, for people.
    """

    score: float
    required: float
    action: str
    symbols: Mapping[str, float]
    cut: bool = False
    text: str = ""
    marks: Marks = Marks()
    subject: Marks = Marks()
    spam: Marks = Marks()
    instead: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def refuses(self) -> bool:
        """
        Whether no recipient is to have it.
        """
        return self.action in ("reject", "discard")

    @property
    def forced(self) -> bool:
        """
        Whether it is rejected for another reason than its score.
        """
        if self.action == "discard":
            return True
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
    milter = answer.get("milter")
    milter = milter if isinstance(milter, dict) else {}
    messages = answer.get("messages")
    text = messages.get("smtp_message") if isinstance(messages, dict) else ""
    subject, spam = answer.get("subject"), milter.get("spam_header")
    return RspamdScan(
        score,
        math.inf if required is None else required,
        _action(action.lower(), milter),
        _symbols(answer.get("symbols")),
        answer.get("is_skipped") is True,
        text if isinstance(text, str) else "",
        _marks(answer, milter, action.lower()),
        _replacing({"Subject": subject}),
        _replacing({"X-Spam": spam} if isinstance(spam, str) else spam),
        _instead(_action(action.lower(), milter)),
        tuple(_unknown(answer, milter)),
    )


def _action(action: str, milter: Mapping[str, JSON]) -> str:
    """
    The action, with what the milter's part makes of it.
    """
    if milter.get("no_action") is True:
        return "no action"
    instead = milter.get("reject")
    if action == "reject" and isinstance(instead, str) and instead in ("discard", "quarantine"):
        return instead
    return action


def _instead(action: str) -> str:
    return _INSTEAD.get(action, "" if action in ACTIONS else "nothing, it is not known")


def _unknown(answer: Mapping[str, JSON], milter: Mapping[str, JSON]) -> Iterator[str]:
    """
    What is not carried out as it stands there.
    """
    yield from (name for name in answer if name not in _KNOWN)
    yield from (f"milter.{name}" for name in milter if name not in _KNOWN_OF_MILTER)
    added = milter.get("add_headers")
    for name, value in added.items() if isinstance(added, dict) else ():
        if not isFieldName(name) or not _texts(value):
            yield f"milter.add_headers.{name}"
    removed = milter.get("remove_headers")
    for name, places in removed.items() if isinstance(removed, dict) else ():
        if not isFieldName(name):
            yield f"milter.remove_headers.{name}"
        elif places != 0:
            yield f"milter.remove_headers.{name} of one place (all are removed)"


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


def _marks(answer: Mapping[str, JSON], milter: Mapping[str, JSON], action: str) -> Marks:
    """
    What rspamd would have a milter do to the header.  How many fields of a
    name are removed cannot be said: all are.
    """
    headers = [("DKIM-Signature", _foldable(text)) for text in _texts(answer.get("dkim-signature"))]
    if milter.get("no_action") is True:
        headers.append(("X-Rspamd-Action", action))
    headers += _fields(milter.get("add_headers"))
    removed = milter.get("remove_headers")
    names = tuple(filter(isFieldName, removed)) if isinstance(removed, dict) else ()
    return Marks(fitting(headers), names[:MAX_FIELDS])


def _replacing(found: JSON) -> Marks:
    """
    Fields that stand in place of those of their names.
    """
    headers = fitting(_fields(found))
    return Marks(headers, tuple(dict.fromkeys(name for name, _ in headers)))


def _fields(found: JSON) -> list[tuple[str, str]]:
    return [
        (name, text)
        for name, value in (found.items() if isinstance(found, dict) else ())
        if isFieldName(name)
        for text in _texts(value)
    ]


def _foldable(signature: str) -> str:
    """
    A signature whose base64 can be folded: blanks mean nothing in it
    (RFC 6376 §3.5), and are not signed.
    """
    return _BASE64.sub(r"\g<0> ", signature).rstrip()


def _texts(value: JSON) -> list[str]:
    """
    A field's values: text, C{{value, order}}, or a list of these; unfolded.
    """
    found = [_text(one) for one in (value if isinstance(value, list) else [value])]
    return [_FOLD.sub(" ", text) for text in found if text is not None]


def _text(value: JSON) -> str | None:
    if isinstance(value, dict):
        value = value.get("value")
    return value if isinstance(value, str) else None
