"""
What became of a message, or of all that were sent by one sender, to one recipient, from
one address, or at some time: what the logs and the spool's history say of it, in order.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import attrs

from deferrals.model.ids import parseId
from deferrals.model.selection import Shown
from deferrals.model.settings import parseSeconds
from deferrals.model.text import word
from deferrals.operator.logs import LogEntry, Logs
from deferrals.operator.output import moment

#: What the spool knows of a message.
History = Callable[[str], "Shown | None"]

#: So much of what a client says of itself is in the log.
_MAX_WORD = 250

_AGE = re.compile(r"[0-9]+[smhdw](?: ?[0-9]+[smhdw])*")
_TIME = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class Sought(Protocol):
    """
    What is looked for.
    """

    def matches(self, entry: LogEntry) -> bool:
        """
        @return: whether this event is about it.
        """


@attrs.frozen
class Id:
    """
    One transaction.
    """

    id: str

    def matches(self, entry: LogEntry) -> bool:
        """See L{Sought}."""
        return entry.id == self.id


@attrs.frozen
class Span:
    """
    A time.

    @ivar begin: seconds since the epoch.
    @ivar end: likewise.
    """

    begin: float
    end: float

    def matches(self, entry: LogEntry) -> bool:
        """See L{Sought}."""
        return self.begin <= entry.when < self.end


@attrs.frozen
class Word:
    """
    An address of a sender, a recipient or a client, its domain, a Message-ID, a login,
    a name: as a whole, whatever its case.
    """

    text: str
    _pattern: re.Pattern[str] = attrs.field(init=False, eq=False)

    @_pattern.default
    def _whole(self) -> re.Pattern[str]:
        found = word(self.text.strip("<>").removeprefix("@"), _MAX_WORD)
        text, at = re.escape(found), "@" if "@" in found else ""
        return re.compile(rf"(?<![\w.+\-{at}]){text}(?![\w@+\-]|\.\w)", re.I)

    def matches(self, entry: LogEntry) -> bool:
        """See L{Sought}."""
        return self._pattern.search(entry.text) is not None


def parseKey(text: str, now: float) -> Sought:
    """
    @param text: an id; a time (C{2h}: the last two hours; C{2026-11-29}; C{16:00..16:30};
        C{2026-11-29T16:00..}); or any other word.
    @param now: seconds since the epoch.
    @raise ValueError: it is empty, or half a time.
    """
    try:
        return Id(text.upper()) if parseId(text) else Word(text)
    except ValueError:
        pass
    if not text.strip("<>"):
        raise ValueError("an id, an address, a Message-ID or a time, not an empty word")
    if _AGE.fullmatch(text):
        return Span(now - float(parseSeconds(text)), float("inf"))
    if _DAY.fullmatch(text):
        day = datetime.datetime.fromisoformat(text)
        return Span(day.timestamp(), (day + datetime.timedelta(days=1)).timestamp())
    if ".." in text and "@" not in text:
        first, _, last = text.partition("..")
        begin, end = _instant(first, now, float("-inf")), _instant(last, now, float("inf"))
        return Span(begin, end)
    return Word(text)


def _instant(text: str, now: float, default: float) -> float:
    """
    A moment, of this day where it has none.
    """
    if not text:
        return default
    if _TIME.fullmatch(text):
        day = datetime.datetime.fromtimestamp(now).date()
        text = f"{day}T{text:0>5}"
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ValueError(f"{text!r} is no time such as 16:00 or 2026-11-29T16:00") from None


@attrs.frozen
class Story:
    """
    What was found.

    @ivar id: of the transaction; empty for what belongs to none.
    @ivar spool: what the spool knows of it.
    @ivar lines: (time, text), in order of time.
    """

    id: str
    spool: Shown | None
    lines: Sequence[tuple[str, str]]


def stories(keys: Sequence[Sought], logs: Logs, history: History) -> Iterator[Story]:
    """
    @param keys: all of them have to be met, each by one of a transaction's events.
    @return: the transactions, in the order in which they began.
    """
    ids, others = _found(keys, logs)
    told: dict[str, list[LogEntry]] = {number: [] for number in ids}
    for entry in logs.entries():
        if entry.id in told:
            told[entry.id].append(entry)
    if others:
        yield Story("", None, _lines(others))
    for number in sorted(told):  # ids are in order of time
        spool = history(number)
        entries = told[number]
        if not any(_isDelivery(entry.text) for entry in entries):
            # The log knows of every attempt; without it, the spool does.
            entries += _history(spool)
        if entries or spool is not None:
            yield Story(number, spool, _lines(entries))


def _found(keys: Sequence[Sought], logs: Logs) -> tuple[set[str], list[LogEntry]]:
    """
    @return: the transactions that meet all keys; and the events that do, and
        belong to none.
    """
    met: list[set[str]] = [{key.id} if isinstance(key, Id) else set() for key in keys]
    others = []
    if all(isinstance(key, Id) for key in keys):
        return set.intersection(*met), []
    for entry in logs.entries():
        meets = [key.matches(entry) for key in keys]
        if entry.id:
            for ids, isMet in zip(met, meets, strict=True):
                if isMet:
                    ids.add(entry.id)
        elif all(meets):
            others.append(entry)
    return set.intersection(*met), others


def _lines(entries: Iterable[LogEntry]) -> list[tuple[str, str]]:
    ordered = sorted(entries, key=lambda entry: entry.when)
    return [(moment(entry.when), entry.text) for entry in ordered]


def _isDelivery(text: str) -> bool:
    return " to=<" in text and any(f"> {one} by " in text for one in _OUTCOMES)


_OUTCOMES = ("delivered", "failed", "retry")


def _history(found: Shown | None) -> Iterator[LogEntry]:
    for entry in () if found is None else found["history"]:
        assert found is not None
        said = " ".join(filter(None, (entry["host"], entry["reply"])))
        text = f"[spool] {found['id']} recipient {entry['seq']}: {entry['event']} {said}"
        yield LogEntry(entry["time"], text.rstrip())
