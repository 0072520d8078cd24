"""
What the parts of the embedded spool share: its files, its time, and the way to
its database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred, succeed

from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.files import SpoolFiles

_T = TypeVar("_T")
_P = ParamSpec("_P")


class RunInTransaction(Protocol):
    """
    Runs a function in the database's thread, inside a transaction.
    """

    def __call__(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Deferred[_T]:
        """
        @param function: is given the connection, and the arguments.  It may be
            called twice.
        @return: a Deferred of its result, which fires when that is durable;
            fails with L{SpoolError<deferrals.errors.SpoolError>} where the
            database could not do it.
        """


@attrs.frozen
class Store:
    """
    @ivar files: where they are.
    @ivar clock: the spool's time.
    @ivar run: runs a function in the next transaction.
    @ivar checkpoint: carries the write-ahead log over into the database; its
        Deferred's result is whether all of it was.
    """

    files: SpoolFiles
    clock: SpoolClock
    run: RunInTransaction
    checkpoint: Callable[[], Deferred[bool]] = lambda: succeed(False)


class Incoming:
    """
    The messages whose content is coming in: no row says yet that their files
    belong to a message.  It is read in other threads, too.
    """

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    def __contains__(self, number: object) -> bool:
        return number in self._numbers

    def begin(self, number: int) -> None:
        """
        The content of a message begins.
        """
        self._numbers.add(number)

    def end(self, number: int) -> None:
        """
        The message has a row, or is not wanted.
        """
        self._numbers.discard(number)
