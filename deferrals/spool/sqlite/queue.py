"""
What an operator may do with the embedded spool (L{IQueue}), while a server has
it and while none does.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.logger import Logger
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import IQueue
from deferrals.model.ids import parseId
from deferrals.model.selection import Selection
from deferrals.spool.message import Message
from deferrals.spool.sqlite import queries
from deferrals.spool.sqlite.changes import Changes

_log = Logger(namespace="deferrals.operator")

#: Recipients changed per call.
CHANGED = 500

#: What L{View.change} knows.
COMMANDS = ("retry", "hold", "release", "remove")


@implementer(IQueue)
class View:
    """
    See L{IQueue}.

    @param spool: the L{SqliteSpool<deferrals.spool.sqlite.spool.SqliteSpool>}.
    @param inThread: runs a function outside the reactor thread.
    @param idle: whether nobody delivers.
    @param changed: called when recipients may be due now that were not before.
    """

    def __init__(
        self,
        spool: Any,
        inThread: Callable[..., Deferred[Any]],
        idle: bool = False,
        changed: Callable[[], object] = lambda: None,
    ) -> None:
        self._spool = spool
        self._inThread = inThread
        self._idle = idle
        self._changed = changed

    def _read(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return self._inThread(_reading, self._spool.path, function, *args)

    def look(self, selection: Selection, limit: int, after: Any) -> Deferred[Any]:
        """
        See L{IQueue.look}.
        """
        place = None if after is None else (after[0], after[1])
        return self._read(queries.recipients, selection, limit, place, self._spool.clock.now())

    def show(self, number: int) -> Deferred[Any]:
        """
        See L{IQueue.show}.
        """
        return self._read(queries.message, number, self._spool.clock.now())

    @inlineCallbacks
    def change(self, command: str, selection: Selection, after: Any) -> Any:
        """
        See L{IQueue.change}.
        """
        if command not in COMMANDS:
            raise ValueError(f"no such command: {command}")
        found, after = yield self.look(selection, CHANGED, after)
        keys = [(parseId(one["id"]), one["seq"]) for one in found]
        count, emptied = yield self._spool.db.run(self._apply, command, keys)
        for number in emptied:
            for path in self._paths(number):
                yield self._inThread(_unlink, path)
        if count:
            _log.info("{command}: {count} recipients", command=command, count=count)
            self._changed()
        return count, after

    def _apply(
        self, db: sqlite3.Connection, command: str, keys: list[tuple[int, int]]
    ) -> tuple[int, list[int]]:
        clock = self._spool.clock
        changes = Changes(db, clock.now(), clock.wall(), self._idle)
        return changes.make(command, keys), changes.emptied

    def _paths(self, number: int) -> tuple[str, str]:
        return self._spool.bodyPath(number), self._spool.asidePath(number)

    def content(self, number: int) -> Deferred[Message | None]:
        """
        See L{IQueue.content}.
        """
        return self._read(queries.content, number, self._paths(number))

    def inspect(self, after: int | None) -> Deferred[Any]:
        """
        See L{IQueue.inspect}.
        """
        d = self._read(queries.problems, after, self._spool.bodyPath)
        return d.addErrback(self._unreadable) if after is None else d

    def _unreadable(self, failure: Any) -> Any:
        failure.trap(SpoolError)
        return [{"id": "", "problem": failure.getErrorMessage()}], 0, None

    def numbers(self) -> Deferred[dict[str, Any]]:
        """
        See L{IQueue.numbers}.
        """
        d = self._read(queries.numbers, self._spool.clock.now())
        return d.addCallback(self._withAside)

    def _withAside(self, found: dict[str, Any]) -> Any:
        def listed(names: list[str]) -> dict[str, Any]:
            return {**found, "moved_aside": sorted(names)[:100]}

        d = maybeDeferred(self._inThread, _names, os.path.dirname(self._spool.asidePath(0)))
        return d.addCallback(listed)


def _reading(path: str, function: Callable[..., Any], *args: Any) -> Any:
    """
    In a thread, with a connection of its own.

    @raise SpoolError: the database cannot be read.
    """
    try:
        db = queries.readOnly(path)
        try:
            return function(db, *args)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise SpoolError(f"{path}: {error}") from None


def _unlink(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def _names(directory: str) -> list[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []
