"""
The embedded spool while no server has it, for an operator's commands.  What it
does, it does at once: the Deferreds have fired.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, execute

from deferrals.errors import SpoolError
from deferrals.spool.sqlite import belonging
from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.database import asSpoolError, connect, isFull, makeRoom
from deferrals.spool.sqlite.diskspace import NoRoom, Reserve
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock
from deferrals.spool.sqlite.marker import Marker, raiseGeneration
from deferrals.spool.sqlite.recovery import savedClock
from deferrals.spool.sqlite.schema import prepare
from deferrals.spool.sqlite.store import Store

_T = TypeVar("_T")
_P = ParamSpec("_P")


class OfflineSpool:
    """
    It is locked meanwhile: no server can start.

    @param directory: where the spool is.
    @ivar store: what a queue of it needs.
    @raise SpoolError: it is in use, is not there, or cannot be read.
    """

    def __init__(self, directory: str) -> None:
        files = SpoolFiles(directory)
        if not os.path.exists(files.database) and not files.namesAside():
            raise SpoolError(f"{files.database} is not there")
        self._lock = SpoolLock(files)
        self._reserve = Reserve(files.reserve)
        self._lock.take("a server that does not answer")
        self._marker = Marker(files.mark, files.database)
        try:
            belonging.judge(files, 0.0, ())
            self._db = self._opened(files.database)
            saved = savedClock(self._db)
        except (sqlite3.Error, OSError, SpoolError) as error:
            self._lock.release()
            raise SpoolError(f"{files.database}: {error}") from None
        clock = SpoolClock(time.monotonic, time.time)
        if saved is not None:
            clock.resume(*saved)
        self.store = Store(files, clock, self.run)

    def run(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Deferred[_T]:
        """
        Run C{function(connection, *args)} in a transaction.
        """
        return execute(lambda: self._run(lambda db: function(db, *args, **kwargs)))

    def _opened(self, path: str) -> sqlite3.Connection:
        self._marker.opening()
        try:
            return self._openedOnce(path)
        except sqlite3.Error as error:
            if not (isFull(error) and makeRoom(None, self._reserve)):
                raise
            return self._openedOnce(path)

    def _openedOnce(self, path: str) -> sqlite3.Connection:
        db = connect(path)
        try:
            prepare(db)
            self._marker.opened(db)
        except BaseException:
            db.close()
            raise
        return db

    def _run(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        """
        Once more on a full disk, with what has been kept for that.
        """
        try:
            return self._transaction(function)
        except NoRoom:
            makeRoom(self._db, self._reserve)
            return self._transaction(function)

    def _transaction(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            result = function(self._db)
            self._db.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise asSpoolError(self.store.files.database, error) from None
            raise
        return result

    def notes(self) -> dict[str, str]:
        """
        See L{ISpool.notes<deferrals.interfaces.ISpool.notes>}.
        """
        now = self.store.clock.now()
        sql = "SELECT name, value FROM notes WHERE expires > ?"
        return self._run(lambda db: dict(db.execute(sql, (now,))))

    def note(self, name: str, value: str, seconds: float) -> None:
        """
        See L{ISpool.note<deferrals.interfaces.ISpool.note>}; it is durable at once.
        """
        row = name, value, self.store.clock.now() + seconds
        sql = "INSERT OR REPLACE INTO notes (name, value, expires) VALUES (?, ?, ?)"
        self._run(lambda db: db.execute(sql, row))

    def forget(self, name: str) -> None:
        """
        See L{ISpool.forget<deferrals.interfaces.ISpool.forget>}.
        """
        self._run(lambda db: db.execute("DELETE FROM notes WHERE name = ?", (name,)))

    def close(self) -> None:
        """
        Let others have it.
        """
        with contextlib.suppress(SpoolError):  # on a full disk
            self._run(raiseGeneration)
        self._marker.closing(self._db)
        self._db.close()
        self._marker.closed()
        self._lock.release()


def immediately(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
    """
    Run what blocks here and now, where no reactor waits for it.
    """
    return execute(function, *args, **kwargs)
