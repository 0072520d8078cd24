"""
The logger of every module here: text in an event is for people, whoever observes
it, and much of it comes from outside.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable

from cachetools import LRUCache
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from deferrals.model.events import happened
from deferrals.model.status import Status
from deferrals.model.text import cleaned
from twisted import logger

_LEVELS = frozenset(LogLevel.iterconstants())

#: So many ways of failing are told apart; the ones that were seen last.
MAX_RAISED = 1000

#: So much of a traceback is logged: its beginning and its end.
MAX_TRACEBACK_LINES = 100

_raised: LRUCache[tuple[str, str], int] = LRUCache(MAX_RAISED)


def isPlain(event: logger.LogEvent) -> bool:
    """
    Whether an event is one of those that have a name, L{Logger.tell}'s: it has numbers
    and clean texts and nothing else, which do not change any more.
    """
    isNamed = "event" in event and "log_failure" not in event
    return isNamed and isinstance(event.get("log_logger"), Logger)


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
        _clean(event)
        if level not in _LEVELS or "log_trace" in event:
            return super().emit(level, format, **event)
        self._complete(level, format, event)
        self.observer(event)

    def _complete(self, level: LogLevel, format: str | None, event: dict[str, object]) -> None:
        """
        What Twisted's logger does then, at less cost.
        """
        event["log_logger"] = self
        event["log_level"] = level
        event["log_namespace"] = self.namespace
        event["log_source"] = self.source
        event["log_format"] = format
        event["log_time"] = time.time()

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
        @param values: what it says, by name: texts, numbers, truth values and C{None}.
        """
        self.tellOf(status, format, event, values, level)

    def tellOf(
        self,
        status: Status,
        format: str,
        event: str,
        values: dict[str, object],
        level: LogLevel = LogLevel.info,
    ) -> None:
        """
        The same, where the values are in a dictionary of their own, which becomes the
        event: for what each message says.
        """
        happened(status, event, values)
        values["event"] = event
        self._send(level, format, values)

    def tellEach(
        self,
        status: Status,
        format: str,
        each: Iterable[dict[str, object]],
        *,
        event: str,
        **common: object,
    ) -> None:
        """
        The same has happened to several: each has an event of its own, in their order.

        @param each: what is said of each besides, or instead.
        @param common: what is said of all.
        """
        common["event"] = event
        _clean(common)
        self._complete(LogLevel.info, format, common)
        for own in each:
            _clean(own)
            values = {**common, **own}
            happened(status, event, values)
            self.observer(values)

    def raised(self, failure: Failure, format: str, *, stage: str, **values: object) -> None:
        """
        A stage has raised: an error that says which one, with its traceback the
        first time, and then with the number of times.

        @param failure: what it has raised.
        @param stage: its name.
        @param values: what else the line says, by name.
        """
        way = (stage, "" if failure.value is None else _place(failure.value))
        times = _raised[way] = _raised.get(way, 0) + 1
        said = {"stage": stage, "error": _text(failure), "times": times, **values}
        if times == 1:
            self.error(format, traceback=_tracebackLines(failure), **said)
        else:
            self.error(f"{format} ({{times}} times; the first had a traceback)", **said)


def _clean(values: dict[str, object]) -> None:
    """
    Let no text in an event act on a terminal.
    """
    # A dozen values a line, nearly all plain: these are looked at together.
    text = "".join([value for value in values.values() if isinstance(value, str)])
    if not (text.isascii() and text.isprintable()):
        for key, value in values.items():
            if isinstance(value, str):
                values[key] = cleaned(value)


def _text(failure: Failure) -> str:
    return f"{type(failure.value).__name__}: {failure.getErrorMessage()}"


def _place(error: BaseException) -> str:
    """
    What was raised, and the innermost line that did.
    """
    error = error.__cause__ or error
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__} {where}"


def _tracebackLines(failure: Failure) -> list[str]:
    lines = traceback.format_exception(failure.type, failure.value, failure.getTracebackObject())
    found = [line for text in lines for line in text.rstrip("\n").split("\n")]
    half = MAX_TRACEBACK_LINES // 2
    return found if len(found) <= 2 * half else [*found[:half], "…", *found[-half:]]
