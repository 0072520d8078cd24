"""
The log for machines: one JSON object per line.

Every object has C{time} (RFC 3339, UTC), C{level}, C{logger} and C{text}, the
line that the plain log would show; beside them, the keys of the event as
L{deferrals.smtp.journal} and the others name them.
"""

from __future__ import annotations

import datetime
import json
from typing import Any, TextIO

from twisted.logger import ILogObserver, LogLevel, formatEvent
from zope.interface import implementer

#: Keys that Twisted's legacy log adds.
_LEGACY = {"message", "time", "isError", "system", "format", "log_text"}


@implementer(ILogObserver)
class JSONObserver:
    """
    @param file: where lines are written.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __call__(self, event: dict[str, Any]) -> None:
        """
        Write one event; debugging excepted.
        """
        level = event.get("log_level", LogLevel.info)
        if level < LogLevel.info:
            return
        moment = datetime.datetime.fromtimestamp(event["log_time"], datetime.UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": level.name,
            "logger": event.get("log_namespace", ""),
            "text": formatEvent(event),
        }
        failure = event.get("log_failure")
        if failure is not None:
            line["traceback"] = failure.getTraceback()
        for key, value in event.items():
            if not key.startswith("log_") and key not in _LEGACY and key not in line:
                line[key] = value
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()
