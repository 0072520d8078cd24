"""
A row of a table of users, read into what it says of a recipient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs

from deferrals.errors import StageError
from deferrals.model.address import AddressError, Mailbox
from deferrals.model.authpolicy import (
    DMARCMeans,
    Domains,
    Forwarders,
    SPFMeans,
    oneOf,
    refusalFor,
)
from deferrals.model.json import JSON
from deferrals.model.refusal import HowOften
from deferrals.model.reply import Reply
from deferrals.model.rowlists import listed
from deferrals.model.tablekeys import TableRow
from deferrals.model.verdict import Overrides
from deferrals.stages.envelope.rules import Pattern

#: A recipient's own settings: what content stages look for in its route.
NUMBERS = ("refuse_score", "mark_score", "refuse_weight")
FLAGS = ("spam_filter",)
TEXTS = ("settings_id", "user", "home")

#: Whether it wants to be told what was refused for it.
DIGEST = "digest"

#: What C{authenticate} looks for there, and what has to be able to read it.
_OF_AUTHENTICATE: dict[str, Callable[[str], object]] = {
    "dmarc": oneOf(DMARCMeans),
    "spf": oneOf(SPFMeans),
    "trusted_forwarders": lambda text: Forwarders.parse(text.split()),
    "trusted_sealers": lambda text: Domains.parse(text.split()),
}
_LISTS = ("trusted_forwarders", "trusted_sealers")

#: The same by column.  Several stages have a C{reply}, and tables columns that are called
#: so for other reasons.
_READERS: dict[str, Callable[[str], object]] = {
    DIGEST: oneOf(HowOften),
    **_OF_AUTHENTICATE,
    **{f"authenticate.{key}": read for key, read in _OF_AUTHENTICATE.items()},
    "authenticate.reply": refusalFor,
    "milter.reply": Reply.parseRefusal,
}


@attrs.frozen
class UserSettings:
    """
    What a row says.

    @ivar policy: the name of its policy; empty for the rule's.
    @ivar delivery: the name of its delivery; empty for the rule's.
    @ivar overrides: in place of its policy's thresholds.
    @ivar allow: senders whose mail it takes as far as spam goes.
    @ivar deny: senders whose mail it takes in no case.
    @ivar forward: the addresses that have its mail.
    @ivar keeps: whether it has it, too.
    """

    policy: str = ""
    delivery: str = ""
    overrides: Overrides = ()
    allow: frozenset[Pattern] = frozenset()
    deny: frozenset[Pattern] = frozenset()
    forward: tuple[Mailbox, ...] = ()
    keeps: bool = False


def readRow(row: TableRow) -> UserSettings:
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
        elif column in _READERS:
            overrides[column] = _readable(column, value)
    return UserSettings(
        _text("policy", row.get("policy") or ""),
        _text("delivery", row.get("delivery") or ""),
        tuple(sorted(overrides.items())),
        _senders("allow", row.get("allow")),
        _senders("deny", row.get("deny")),
        _addresses("forward", row.get("forward")),
        _flag("forward_keep", row.get("forward_keep") or 0),
    )


def _number(column: str, value: JSON) -> float:
    try:
        found = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        found = math.nan
    if math.isnan(found):
        raise StageError(f"{column}: expected a number, not {value!r}")
    return found


def _flag(column: str, value: JSON) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    found = words.get(str(value).lower().removesuffix(".0"))
    if found is None:
        raise StageError(f"{column}: expected 0 or 1, not {value!r}")
    return found


def _text(column: str, value: JSON) -> str:
    if not isinstance(value, str | int) or not str(value).isprintable():
        raise StageError(f"{column}: expected text, not {value!r}")
    return str(value)


def _readable(column: str, value: JSON) -> str:
    """
    What a stage is to read, a list as words.
    """
    isList = column.endswith(_LISTS)
    text = " ".join(_listed(column, value)) if isList else _text(column, value)
    try:
        _READERS[column](text)
    except ValueError as error:
        raise StageError(f"{column}: expected {error}") from None
    return text


def _senders(column: str, value: JSON) -> frozenset[Pattern]:
    """
    A list of senders.
    """
    words = _listed(column, value)
    try:
        return frozenset(map(Pattern.parse, words))
    except ValueError as error:
        raise StageError(f"{column}: expected {error}") from None


def _addresses(column: str, value: JSON) -> tuple[Mailbox, ...]:
    """
    A list of addresses.
    """
    words = _listed(column, value)
    try:
        return tuple(map(Mailbox.parse, words))
    except AddressError as error:
        raise StageError(f"{column}: expected addresses: {error}") from None


def _listed(column: str, value: JSON) -> Sequence[str]:
    try:
        return listed(value)
    except ValueError as error:
        raise StageError(f"{column}: {error}") from None
