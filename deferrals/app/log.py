"""
How the log is written: a line for people, or a JSON object for machines.

Both write the events of one turn of the reactor together, but errors at once, and
what another thread says, and all that comes when the reactor stops; and cost a
fraction of what Twisted's own formatting does: a busy server logs thousands of lines
per second.

A JSON object has C{time} (RFC 3339, UTC), C{level}, C{logger} and C{text}, the
line that the plain log would show; beside them, the keys of the event as
L{deferrals.smtp.server.maillog} and the others name them.
"""

from __future__ import annotations

import atexit
import datetime
import functools
import json
import math
import re
import string
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from threading import get_ident
from typing import Any, Protocol

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python import threadable
from zope.interface import implementer

from deferrals.logger import isPlain
from deferrals.model.text import cleaned, cleanedLines

#: Keys that Twisted's legacy log adds.
_LEGACY = {"message", "time", "isError", "system", "format", "log_text"}

#: What waits for no end of a turn.
_AT_ONCE = (LogLevel.error, LogLevel.critical)

#: How long a date with its time is.
_TIME = len("2026-11-23T16:00:00")

#: Keys that a JSON object has of its own.
_TAKEN = {"time", "level", "logger", "text", "worker", "traceback"}

_PORTS = re.compile(r"^\S+ starting on |^\(.* Closed\)$|^(Starting|Stopping) factory ")


class Lines(Protocol):
    """
    What is written to: a text file, or L{deferrals.app.output.Output}.
    """

    def write(self, text: str, /) -> object:
        """Take whole lines."""

    def flush(self) -> object:
        """Keep nothing back."""


#: So many formats are remembered.
_FORMATS = 500

_encode = json.JSONEncoder(default=str, separators=(",", ":")).encode


def _ofFloat(value: float) -> str:
    return float.__repr__(value) if math.isfinite(value) else _encode(value)


#: What an event with a name has, as JSON has it: the same octets as L{_encode} makes.
_SCALARS: dict[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: int.__repr__,
    float: _ofFloat,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): {None: "null"}.__getitem__,
}


def isInIOThread() -> bool:
    """
    Twisted's, at less cost.
    """
    return get_ident() == threadable.ioThread


@functools.lru_cache(_FORMATS)
def _taken(format: str) -> tuple[str, Callable[[LogEvent], tuple[object, ...]]] | None:
    """
    A format that has nothing but names of values, two of them at least, as what
    C{%} takes, and takes in half of the time.

    @return: C{None} where it has something else.
    """
    parts = list(string.Formatter().parse(format))
    names = [name for _, name, _, _ in parts if name is not None]
    isPlain = all(not spec and not conversion for _, _, spec, conversion in parts)
    if len(names) < 2 or not (isPlain and all(map(str.isidentifier, names))):
        return None
    texts = [text.replace("%", "%%") for text, _, _, _ in parts]
    fields = ["" if name is None else "%s" for _, name, _, _ in parts]
    return "".join(map("".join, zip(texts, fields, strict=True))), itemgetter(*names)


@functools.lru_cache(_FORMATS)
def _members(keys: tuple[str, ...]) -> tuple[str, Callable[[LogEvent], tuple[object, ...]]] | None:
    """
    What an event with these keys says, as members of a JSON object that C{%} completes.

    @return: C{None} where that takes more than its values.
    """
    own = [key for key in keys if not (key.startswith("log_") or key in _LEGACY)]
    isOurs = all(key.isidentifier() and key.isascii() for key in own)
    if len(own) < 2 or not isOurs or not _TAKEN.isdisjoint(own):
        return None
    return "".join(f',"{key}":%s' for key in own), itemgetter(*own)


def _plainText(event: LogEvent) -> str:
    """
    The text of an event that L{isPlain}.
    """
    taken = _taken(event["log_format"])
    return _text(event) if taken is None else taken[0] % taken[1](event)


class _Seconds:
    """
    Seconds as text: the log has many lines of the same one.

    @param zone: in which they are; by default in the local one.
    """

    def __init__(self, zone: datetime.tzinfo | None = None) -> None:
        self._zone = zone
        self._second = -1
        self._text = "", ""

    def text(self, second: int) -> tuple[str, str]:
        """
        @param second: since the epoch.
        @return: what stands before its fraction, with the point; and its offset.
        """
        if second != self._second:
            moment = datetime.datetime.fromtimestamp(second, datetime.UTC)
            date = moment.astimezone(self._zone).isoformat()
            self._text = f"{date[:_TIME]}.", date[_TIME:]
            self._second = second
        return self._text


def _text(event: LogEvent) -> str:
    """
    The event as a line; our own formats are plain ones.
    """
    if str(event.get("log_namespace", "")).startswith("deferrals"):
        try:
            format: str = event["log_format"]
            taken = _taken(format)
            if taken is None:
                return format.format_map(event)
            return taken[0] % taken[1](event)
        except (KeyError, AttributeError, IndexError, TypeError, ValueError):
            pass
    return formatEvent(event)


def _traceback(event: LogEvent) -> list[str]:
    """
    A failure's traceback, or the lines of one that the event brings.
    """
    if "log_failure" not in event and "traceback" not in event:
        return []
    failure = event.get("log_failure")
    if failure is not None:
        return cleanedLines(failure.getTraceback())
    return [cleaned(str(line)) for line in event.get("traceback", ())]


def _isAboutPorts(event: LogEvent) -> bool:
    """
    Whether an event of the legacy log is Twisted's own message about a port or a
    factory: ours is better.
    """
    return _PORTS.search(formatEvent(event)) is not None


@implementer(ILogObserver)
class _Observer:
    """
    @param file: where lines are written.
    @param later: calls a function in the next turn of the reactor.
    """

    def __init__(self, file: Lines, later: Callable[[Callable[[], None]], object]) -> None:
        self._file = file
        self._later = later
        self._waiting: list[LogEvent | str] = []
        self._isLast = False
        atexit.register(self.flush)

    def __call__(self, event: LogEvent) -> None:
        """
        Take one event; debugging excepted, and what Twisted says of its ports.
        """
        level = event.get("log_level")
        if level is LogLevel.debug:
            return
        if event.get("log_namespace") == "log_legacy" and _isAboutPorts(event):
            return
        if self._isLast or not isInIOThread():
            # No turn of the reactor ends with it, perhaps for minutes.
            self._file.write(self.line(event))
            self._file.flush()
            return
        self._waiting.append(event if isPlain(event) else self.line(event))
        if level in _AT_ONCE:
            self.flush()
        elif len(self._waiting) == 1:
            self._later(self.flush)

    def line(self, event: LogEvent) -> str:
        """
        @return: what is written for an event, its line feed included.
        """
        raise NotImplementedError

    def plainLine(self, event: LogEvent) -> str:
        """
        The same for an event that L{isPlain}: nearly all are.
        """
        return self.line(event)

    def last(self) -> None:
        """
        The reactor stops: no further turn ends, so each line is written at once.
        """
        self._isLast = True
        self.flush()

    def flush(self) -> None:
        """
        Write what has been taken.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:  # otherwise the file may have been closed
            lines = [one if isinstance(one, str) else self.plainLine(one) for one in waiting]
            self._file.write("".join(lines))
            self._file.flush()


class PlainObserver(_Observer):
    """
    Lines for people.

    @param worker: which process of several says it.
    """

    def __init__(
        self,
        file: Lines,
        later: Callable[[Callable[[], None]], object],
        worker: int | None = None,
    ) -> None:
        super().__init__(file, later)
        self._own = "" if worker is None else f" worker {worker}"
        self._seconds = _Seconds()

    def line(self, event: LogEvent) -> str:
        """
        Local time to the millisecond with its offset (ISO 8601), the logger's name, the
        worker's number, and the text.
        """
        text = "\n\t".join([*cleanedLines(_text(event)), *_traceback(event)])
        return self._stamped(event, text)

    def plainLine(self, event: LogEvent) -> str:
        """
        Its values are clean already.
        """
        try:
            text = _plainText(event)
        except (KeyError, ValueError, TypeError):  # no format, or a bad one
            return self.line(event)
        return self._stamped(event, text)

    def _stamped(self, event: LogEvent, text: str) -> str:
        when = event["log_time"]
        second = int(when)
        before, after = self._seconds.text(second)
        level = event.get("log_level", LogLevel.info)
        mark = "" if level is LogLevel.info else f" {level.name}"
        logger = event.get("log_namespace", "-")
        thousandth = int((when - second) * 1000)
        return f"{before}{thousandth:03d}{after} [{logger}{self._own}{mark}] {text}\n"


class JSONObserver(_Observer):
    """
    Lines for machines.

    @param worker: which process of several says it.
    """

    def __init__(
        self,
        file: Lines,
        later: Callable[[Callable[[], None]], object],
        worker: int | None = None,
    ) -> None:
        super().__init__(file, later)
        self._own = {} if worker is None else {"worker": worker}
        self._ownMember = "" if worker is None else f',"worker":{worker}'
        self._seconds = _Seconds(datetime.UTC)

    def line(self, event: LogEvent) -> str:
        """
        One JSON object.
        """
        line: dict[str, Any] = {
            "time": self._time(event["log_time"]),
            "level": event.get("log_level", LogLevel.info).name,
            "logger": event.get("log_namespace", ""),
            "text": "\n".join(cleanedLines(_text(event))),
            **self._own,
        }
        traceback = _traceback(event)
        if traceback:
            line["traceback"] = "\n".join(traceback)
        said = {
            key: value
            for key, value in event.items()
            if not key.startswith("log_") and key not in _LEGACY and key not in line
        }
        octets = _encode({**line, **said})
        if "\\" in octets or "\x7f" in octets:  # otherwise there is nothing to clean
            octets = _encode({**line, **_cleanedValue(said)})
        return octets + "\n"

    def plainLine(self, event: LogEvent) -> str:
        """
        The same octets, at a fraction of the cost: its values are clean already, and
        their names the same ones as in many others.
        """
        members = _members(tuple(event))
        try:
            if members is not None:
                values = [_SCALARS[type(value)](value) for value in members[1](event)]
                text = encode_basestring_ascii(_plainText(event))
                return (
                    f'{{"time":"{self._time(event["log_time"])}"'
                    f',"level":"{event["log_level"].name}","logger":"{event["log_namespace"]}"'
                    f',"text":{text}{self._ownMember}{members[0] % tuple(values)}}}\n'
                )
        except (KeyError, ValueError, TypeError):  # a value of another type, or a bad format
            pass
        return self.line(event)

    def _time(self, when: float) -> str:
        """
        RFC 3339, UTC, to the millisecond.
        """
        second = math.floor(when)
        millionths = round((when - second) * 1_000_000)  # as datetime does
        if millionths == 1_000_000:
            second, millionths = second + 1, 0
        before, after = self._seconds.text(second)
        return f"{before}{millionths // 1000:03d}{after}"


def _cleanedValue(value: Any) -> Any:
    """
    A value that JSON has, or anything that can be shown as text: others log, too.
    """
    if isinstance(value, dict):
        return {cleaned(str(key)): _cleanedValue(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_cleanedValue(one) for one in value]
    return value if value is None or isinstance(value, int | float) else cleaned(str(value))
