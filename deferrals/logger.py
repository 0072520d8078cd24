"""
The logger of every module here: text in an event is for people, whoever observes
it, and much of it comes from outside.
"""

from __future__ import annotations

from twisted.logger import LogLevel

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
