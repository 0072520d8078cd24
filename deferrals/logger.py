"""
The logger of every module here: text in an event is for people, whoever observes
it, and much of it comes from outside.
"""

from __future__ import annotations

import time

from twisted.logger import LogLevel

from deferrals.model.events import happened
from deferrals.model.status import Status
from deferrals.model.text import cleaned
from twisted import logger

_LEVELS = frozenset(LogLevel.iterconstants())


class Logger(logger.Logger):
    """
    Twisted's, with clean text: no value of an event acts on a terminal, hides in
    it, or is taken for another event.
    """

    def emit(self, level: LogLevel, format: str | None = None, **kwargs: object) -> None:
        """
        Send an event to the observers.

        @param kwargs: what it says, by name.
        """
        self._send(level, format, kwargs)

    def _send(self, level: LogLevel, format: str | None, event: dict[str, object]) -> None:
        """
        @param event: what it says, by name; it becomes the event.
        """
        # A dozen values a line, nearly all plain: these are looked at together.
        text = "".join([value for value in event.values() if isinstance(value, str)])
        if not (text.isascii() and text.isprintable()):
            for key, value in event.items():
                if isinstance(value, str):
                    event[key] = cleaned(value)
        if level not in _LEVELS or "log_trace" in event:
            return super().emit(level, format, **event)
        # What Twisted's logger does then, at less cost.
        event["log_logger"] = self
        event["log_level"] = level
        event["log_namespace"] = self.namespace
        event["log_source"] = self.source
        event["log_format"] = format
        event["log_time"] = time.time()
        self.observer(event)

    def tell(
        self,
        status: Status,
        format: str,
        *,
        event: str,
        level: LogLevel = LogLevel.info,
        **values: object,
    ) -> None:
        """
        Something has happened: it is counted and logged, from the same values.

        @param status: where it is counted.
        @param event: its name, for programs.
        @param values: what it says, by name.
        """
        happened(status, event, values)
        values["event"] = event
        self._send(level, format, values)
