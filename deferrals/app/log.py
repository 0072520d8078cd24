"""
How the log is written: a line for people, or a JSON object for machines.

Both write the events of one turn of the reactor together, but errors at once, and
what another thread says, and all that comes when the reactor stops; and cost a
fraction of what Twisted's own formatting does: a busy server logs thousands of lines
per second.

What cannot be written is named in a line of its own, and takes no other line with it:
anybody's events come here, with any values.

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
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from threading import get_ident
from typing import Any, Protocol

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python import threadable
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr
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

#: So many characters of a format that cannot be written are shown.
_FORMAT_SHOWN = 200


def _shown(value: object) -> str:
    """
    Anything as text, even if it has none.
    """
    try:
        return str(value)
    except Exception:  # its own code fails
        text: str = safe_repr(value)
        return text


_encode = json.JSONEncoder(default=_shown, separators=(",", ":")).encode


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
    The text of an event whose format is a plain one, as ours are.
    """
    format: str = event["log_format"]
    taken = _taken(format)
    return format.format_map(event) if taken is None else taken[0] % taken[1](event)


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
    The event as a line, which may have anything in it.
    """
    if str(event.get("log_namespace", "")).startswith("deferrals"):
        try:
            return _plainText(event)
        except Exception:  # a format, or a value, that Twisted knows to name
            pass
    return formatEvent(event)


def _traceback(event: LogEvent) -> list[str]:
    """
    A failure's traceback, or the lines of one that the event brings.
    """
    if "log_failure" not in event and "traceback" not in event:
        return []
    found = event.get("log_failure")
    if found is None:
        found = event.get("traceback")
    if found is None:
        return []
    if isinstance(found, list | tuple):
        return [cleaned(_shown(line)) for line in found]
    return cleanedLines(found.getTraceback() if isinstance(found, Failure) else _shown(found))


def _unwritable(event: LogEvent, error: Exception) -> LogEvent:
    """
    What is logged in the place of an event that makes no line.
    """
    names = [key for key in event if isinstance(key, str)]
    return {
        "log_time": time.time(),
        "log_level": LogLevel.error,
        "log_namespace": __name__,
        "log_format": "an event could not be written ({error}): {what}, with {names}",
        "error": type(error).__name__,
        "what": cleaned(_shown(event.get("log_format"))[:_FORMAT_SHOWN]),
        "names": cleaned(" ".join(names)),
    }


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
    @param worker: which process of several says it.
    """

    #: In which its times are; by default in the local one.
    zone: datetime.tzinfo | None = None

    def __init__(
        self,
        file: Lines,
        later: Callable[[Callable[[], None]], object],
        worker: int | None = None,
    ) -> None:
        self._file = file
        self._later = later
        self._worker = worker
        self._seconds = _Seconds(self.zone)
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
            self._file.write(self._made(self.line, event))
            self._file.flush()
            return
        self._waiting.append(event if isPlain(event) else self._made(self.line, event))
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

    def _made(self, line: Callable[[LogEvent], str], event: LogEvent) -> str:
        """
        What is written for an event, whatever is in it.
        """
        try:
            return line(event)
        except Exception as error:  # others have their own values, which do as they like
            return self.line(_unwritable(event, error))

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
            make = self.plainLine
            lines = [one if isinstance(one, str) else self._made(make, one) for one in waiting]
            self._file.write("".join(lines))
            self._file.flush()


class PlainObserver(_Observer):
    """
    Lines for people.
    """

    def line(self, event: LogEvent) -> str:
        """
        Local time to the millisecond with its offset (ISO 8601), the logger's name, the
        worker's number, and the text.
        """
        text = "\n\t".join([*cleanedLines(_text(event)), *_traceback(event)])
        return self._stamped(event, text, cleaned(_shown(event.get("log_namespace", "-"))))

    def plainLine(self, event: LogEvent) -> str:
        """
        Its values are clean already, unless they are objects that others have put there.
        """
        try:
            text = _plainText(event)
        except Exception:  # no format, or a bad one
            return self.line(event)
        if not text.isprintable():
            return self.line(event)
        return self._stamped(event, text, event["log_namespace"])

    def _stamped(self, event: LogEvent, text: str, logger: str) -> str:
        when = event["log_time"]
        second = int(when)
        before, after = self._seconds.text(second)
        level = event.get("log_level", LogLevel.info)
        mark = "" if level is LogLevel.info else f" {level.name}"
        own = "" if self._worker is None else f" worker {self._worker}"
        thousandth = int((when - second) * 1000)
        return f"{before}{thousandth:03d}{after} [{logger}{own}{mark}] {text}\n"


class JSONObserver(_Observer):
    """
    Lines for machines.
    """

    zone = datetime.UTC

    def line(self, event: LogEvent) -> str:
        """
        One JSON object.
        """
        line: dict[str, Any] = {
            "time": self._time(event["log_time"]),
            "level": event.get("log_level", LogLevel.info).name,
            "logger": event.get("log_namespace", ""),
            "text": "\n".join(cleanedLines(_text(event))),
        }
        if self._worker is not None:
            line["worker"] = self._worker
        traceback = _traceback(event)
        if traceback:
            line["traceback"] = "\n".join(traceback)
        said = {
            key: value
            for key, value in event.items()
            if not key.startswith("log_") and key not in _LEGACY and key not in line
        }
        try:
            octets = _encode({**line, **said})
        except TypeError:  # of a key that is no text
            octets = "\\"
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
                own = "" if self._worker is None else f',"worker":{self._worker}'
                values = [_SCALARS[type(value)](value) for value in members[1](event)]
                text = encode_basestring_ascii(_plainText(event))
                return (
                    f'{{"time":"{self._time(event["log_time"])}"'
                    f',"level":"{event["log_level"].name}","logger":"{event["log_namespace"]}"'
                    f',"text":{text}{own}{members[0] % tuple(values)}}}\n'
                )
        except Exception:  # a value of another type, or a bad format
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
        return {cleaned(_shown(key)): _cleanedValue(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_cleanedValue(one) for one in value]
    return value if value is None or isinstance(value, int | float) else cleaned(_shown(value))
