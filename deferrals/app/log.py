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
import json
import re
import time
from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.threadable import isInIOThread
from zope.interface import implementer

from deferrals.model.text import cleaned, cleanedLines

#: Keys that Twisted's legacy log adds.
_LEGACY = {"message", "time", "isError", "system", "format", "log_text"}

#: What waits for no end of a turn.
_AT_ONCE = (LogLevel.error, LogLevel.critical)

_PORTS = re.compile(r"^\S+ starting on |^\(.* Closed\)$|^(Starting|Stopping) factory ")


class Lines(Protocol):
    """
    What is written to: a text file, or L{deferrals.app.output.Output}.
    """

    def write(self, text: str, /) -> object:
        """Take whole lines."""

    def flush(self) -> object:
        """Keep nothing back."""


_encode = json.JSONEncoder(default=str, separators=(",", ":")).encode


def _text(event: LogEvent) -> str:
    """
    The event as a line; our own formats are plain ones.
    """
    if str(event.get("log_namespace", "")).startswith("deferrals"):
        try:
            return str(event["log_format"].format_map(event))
        except (KeyError, AttributeError, IndexError, ValueError):
            pass
    return formatEvent(event)


def _isAboutPorts(event: LogEvent) -> bool:
    """
    Whether it is Twisted's own message about a port or a factory: ours is
    better.
    """
    isLegacy = event.get("log_namespace") == "log_legacy"
    return isLegacy and _PORTS.search(formatEvent(event)) is not None


@implementer(ILogObserver)
class _Observer:
    """
    @param file: where lines are written.
    @param later: calls a function in the next turn of the reactor.
    """

    def __init__(self, file: Lines, later: Callable[[Callable[[], None]], object]) -> None:
        self._file = file
        self._later = later
        self._lines: list[str] = []
        self._isLast = False
        atexit.register(self.flush)

    def __call__(self, event: LogEvent) -> None:
        """
        Take one event; debugging excepted, and what Twisted says of its ports.
        """
        if event.get("log_level") is LogLevel.debug or _isAboutPorts(event):
            return
        line = self.line(event)
        if self._isLast or not isInIOThread():
            # No turn of the reactor ends with it, perhaps for minutes.
            self._file.write(line)
            self._file.flush()
            return
        self._lines.append(line)
        if event.get("log_level") in _AT_ONCE:
            self.flush()
        elif len(self._lines) == 1:
            self._later(self.flush)

    def line(self, event: LogEvent) -> str:
        """
        @return: what is written for an event, its line feed included.
        """
        raise NotImplementedError

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
        lines, self._lines = self._lines, []
        if lines:  # otherwise the file may have been closed
            self._file.write("".join(lines))
            self._file.flush()


class PlainObserver(_Observer):
    """
    Lines for people.
    """

    def __init__(self, file: Lines, later: Callable[[Callable[[], None]], object]) -> None:
        super().__init__(file, later)
        self._second = -1
        self._stamp = ""

    def line(self, event: LogEvent) -> str:
        """
        Local time to the millisecond, the logger's name, and the text.
        """
        when = event["log_time"]
        second = int(when)
        if second != self._second:
            moment = time.localtime(second)
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S.{:03d}%z", moment)
        stamp = self._stamp.format(int((when - second) * 1000))
        level = event.get("log_level", LogLevel.info)
        logger = event.get("log_namespace", "-")
        mark = "" if level is LogLevel.info else f" {level.name}"
        lines = cleanedLines(_text(event))
        failure = event.get("log_failure")
        if failure is not None:
            lines += cleanedLines(failure.getTraceback())
        text = "\n\t".join(lines)
        return f"{stamp} [{logger}{mark}] {text}\n"


class JSONObserver(_Observer):
    """
    Lines for machines.
    """

    def line(self, event: LogEvent) -> str:
        """
        One JSON object.
        """
        moment = datetime.datetime.fromtimestamp(event["log_time"], datetime.UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": event.get("log_level", LogLevel.info).name,
            "logger": event.get("log_namespace", ""),
            "text": "\n".join(cleanedLines(_text(event))),
        }
        failure = event.get("log_failure")
        if failure is not None:
            line["traceback"] = "\n".join(cleanedLines(failure.getTraceback()))
        said = {
            key: value
            for key, value in event.items()
            if not key.startswith("log_") and key not in _LEGACY and key not in line
        }
        octets = _encode({**line, **said})
        if "\\" in octets or "\x7f" in octets:  # otherwise there is nothing to clean
            octets = _encode({**line, **_cleanedValue(said)})
        return octets + "\n"


def _cleanedValue(value: Any) -> Any:
    """
    A value that JSON has, or anything that can be shown as text: others log, too.
    """
    if isinstance(value, dict):
        return {cleaned(str(key)): _cleanedValue(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_cleanedValue(one) for one in value]
    return value if value is None or isinstance(value, int | float) else cleaned(str(value))
