"""
A PostgreSQL server's connection without a server, and a thread without a thread.
"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import attrs
import psycopg
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.postgresql import Link


@attrs.frozen
class Notice:
    """
    What a server warns of.
    """

    source_function: str


class Rows(list[tuple[Any, ...]]):
    """
    What a statement is answered.
    """

    rowcount = 1

    def fetchone(self) -> tuple[Any, ...] | None:
        return self[0] if self else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self)


def _closeBoth(*descriptors: int) -> None:
    for one in descriptors:
        os.close(one)


class FakeConnection:
    """
    Its descriptors are closed with it, or when no test has it any longer.

    @ivar said: what it was asked, without blanks at the ends.
    @ivar answers: by the beginning of a statement: rows, or an error, which may cut the
        connection.
    """

    def __init__(self, **answers: Any) -> None:
        self.said: list[str] = []
        self.answers: dict[str, Any] = answers
        self.closed = False
        ours, theirs = (end.detach() for end in socket.socketpair())
        os.set_blocking(theirs, False)
        self._ends = ours, theirs
        self._close = weakref.finalize(self, _closeBoth, ours, theirs)
        self._handlers: list[Callable[[Any], object]] = []

    def fileno(self) -> int:
        return self._ends[0]

    def isCut(self) -> bool:
        """
        Whether its socket was shut down.
        """
        if not self._close.alive:
            return True
        try:
            return os.read(self._ends[1], 1) == b""
        except BlockingIOError:
            return False

    def add_notice_handler(self, handler: Callable[[Any], object]) -> None:
        self._handlers.append(handler)

    def warn(self, notice: Notice) -> None:
        for handler in self._handlers:
            handler(notice)

    def execute(self, statement: str, values: Sequence[object] = ()) -> Rows:
        self.said.append(statement.partition(" ")[0])
        answer = self.answers.get(self.said[-1], [])
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return Rows(answer)

    def lose(self) -> Exception:
        """
        @return: the error of one that is lost now.
        """
        self.closed = True
        return psycopg.OperationalError("server closed the connection\n\tThis means")

    def close(self) -> None:
        self.closed = True
        self._close()


class FakeThread:
    """
    Does at once what it is called with; or when it is let.

    @ivar isBusy: whether it waits for L{work}.
    """

    def __init__(self) -> None:
        self.isBusy = False
        self._jobs: list[Callable[[], None]] = []

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()

        def run() -> None:
            maybeDeferred(function, *args, **kwargs).addBoth(done.callback)

        self._jobs.append(run)
        if not self.isBusy:
            self.work()
        return done

    def work(self) -> None:
        """
        Do what waits.
        """
        while self._jobs:
            self._jobs.pop(0)()


class LinkCase(SynchronousTestCase):
    """
    Tests that leave connections open: what each has to cut its wire is closed behind it.
    """

    def run(self, result: Any) -> None:
        links: list[Link[Any]] = []
        begin = Link.__init__

        def recorded(link: Link[Any], connection: Any) -> None:
            begin(link, connection)
            links.append(link)

        with mock.patch.object(Link, "__init__", recorded):
            super().run(result)
        for link in links:
            link._socket.close()

    def logged(self) -> Callable[[], list[str]]:
        """
        @return: returns what was logged since.
        """
        events: list[LogEvent] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        return lambda: [str(formatEvent(one)) for one in events]
