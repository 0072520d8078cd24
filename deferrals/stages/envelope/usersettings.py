"""
A row of a table of users, read into what it says of a recipient.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import attrs

from deferrals.errors import StageError
from deferrals.model.verdict import Overrides
from deferrals.stages.envelope.rules import Pattern

#: A recipient's own settings: what content stages look for in its route.
NUMBERS = ("refuse_score", "mark_score")
FLAGS = ("spam_filter",)
TEXTS = ("settings_id", "user")

#: More senders in one list are none.
MAX_SENDERS = 10_000


@attrs.frozen
class UserSettings:
    """
    What a row says.

    @ivar policy: the name of its policy; empty for the rule's.
    @ivar delivery: the name of its delivery; empty for the rule's.
    @ivar overrides: in place of its policy's thresholds.
    @ivar allow: senders whose mail it takes as far as spam goes.
    @ivar deny: senders whose mail it takes in no case.
    """

    policy: str = ""
    delivery: str = ""
    overrides: Overrides = ()
    allow: frozenset[Pattern] = frozenset()
    deny: frozenset[Pattern] = frozenset()


def readRow(row: Mapping[str, Any]) -> UserSettings:
    """
    @param row: values by column; those that mean nothing here are left out.
    @raise StageError: a value cannot be what its column says.
    """
    overrides: dict[str, float | str] = {}
    for column, value in row.items():
        key = column.rpartition(".")[2]
        if value is None or (isinstance(value, str) and not value):
            continue
        if key in NUMBERS:
            overrides[column] = _number(column, value)
        elif key in FLAGS:
            overrides[column] = float(_flag(column, value))
        elif key in TEXTS:
            overrides[column] = _text(column, value)
    return UserSettings(
        _text("policy", row.get("policy") or ""),
        _text("delivery", row.get("delivery") or ""),
        tuple(sorted(overrides.items())),
        _senders("allow", row.get("allow")),
        _senders("deny", row.get("deny")),
    )


def _number(column: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if math.isnan(found):
        raise StageError(f"{column}: expected a number, not {value!r}")
    return found


def _flag(column: str, value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    found = words.get(str(value).lower().removesuffix(".0"))
    if found is None:
        raise StageError(f"{column}: expected 0 or 1, not {value!r}")
    return found


def _text(column: str, value: Any) -> str:
    if not isinstance(value, str | int) or not str(value).isprintable():
        raise StageError(f"{column}: expected text, not {value!r}")
    return str(value)


def _senders(column: str, value: Any) -> frozenset[Pattern]:
    """
    A list of senders: JSON, or text with commas, blanks or line ends between.
    """
    if value is None:
        return frozenset()
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise StageError(f"{column}: expected a list of senders") from None
    words = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(words, list) or len(words) > MAX_SENDERS:
        raise StageError(f"{column}: expected a list of at most {MAX_SENDERS} senders")
    try:
        return frozenset(Pattern.parse(_text(column, word)) for word in words if word != "")
    except ValueError as error:
        raise StageError(f"{column}: expected {error}") from None
