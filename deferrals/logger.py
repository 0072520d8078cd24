"""
The logger of every module here: text in an event is for people, whoever observes
it, and much of it comes from outside.
"""

from __future__ import annotations

from twisted.logger import LogLevel

from deferrals.model.events import happened
from deferrals.model.status import Status
from deferrals.model.text import cleaned
from twisted import logger


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
        for key, value in kwargs.items():
            # A dozen values a line, nearly all plain: for these nothing is called.
            if isinstance(value, str) and not (value.isascii() and value.isprintable()):
                kwargs[key] = cleaned(value)
        super().emit(level, format, **kwargs)

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
        self.emit(level, format, event=event, **values)
