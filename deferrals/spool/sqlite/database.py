"""
One SQLite database behind one thread, with group commit.

Everything that waits when a commit ends goes into the next one, so that the
cost of a sync is shared by all who wait for it.  WAL with C{synchronous=FULL}:
what an operation's Deferred has fired for is on the disk.

When a transaction fails, it is rolled back and its operations are run again one
by one, each in a transaction of its own: only those that fail by themselves
fail.  A full disk therefore fails what does not fit, and the thread goes on.

A database that is damaged, or whose file is taken away, fails every operation
with L{SpoolError}, until it has been mended (C{mend}) or is back.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.errors import SpoolError
from deferrals.spool.sqlite.fileidentity import FileIdentity

_log = Logger(namespace="deferrals.spool")

#: How many operations go into one transaction at most.
BATCH = 512

#: How long to leave it after an attempt to mend the database has failed.
MEND_SECONDS = 5.0

_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_Operation = tuple[Callable[..., Any], tuple[Any, ...], "Deferred[Any] | None"]
_STOP = object()


def connect(path: str) -> sqlite3.Connection:
    """
    Open a database as all of ours are opened.
    """
    db = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=1024
    )
    try:
        for setting in (
            "auto_vacuum=INCREMENTAL",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            db.execute(f"PRAGMA {setting}")
    except BaseException:
        db.close()
        raise
    return db


def isBroken(error: BaseException) -> bool:
    """
    Whether an error says that the database itself is damaged.
    """
    return (
        isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN
    )


class Database:
    """
    @param path: the database's file.
    @param reactor: where Deferreds fire.
    @param prepare: called with the connection in the thread, before anything
        else: makes tables, migrates.
    @param mend: called in the thread when the database is damaged; or, with
        the connection, when it is deleted and only this process still has it:
        puts a good one in its place, and returns a text for the log; raises
        what prevents it, and has then changed nothing.
    """

    def __init__(
        self,
        path: str,
        reactor: Any,
        prepare: Callable[[sqlite3.Connection], None],
        mend: Callable[[sqlite3.Connection | None], str],
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._prepare = prepare
        self._mend = mend
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None
        self._place: FileIdentity | None = None
        self._trouble = ""
        self._damaged = False
        self._mendAt = 0.0
        self.commits = 0

    def open(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when the database can be used; fails
            with L{SpoolError}.
        """
        opened: Deferred[None] = Deferred()
        self._thread = threading.Thread(
            target=self._work, args=(opened,), name="deferrals-spool", daemon=True
        )
        self._thread.start()
        return opened.addErrback(self._notOpened)

    def _notOpened(self, failure: Failure) -> Failure:
        self._thread = None
        return failure

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """
        Run C{function(connection, *args)} in the thread, inside the next
        transaction.  It may be called twice (see above).

        @return: a Deferred of its result, which fires when that is durable;
            fails with L{SpoolError} where the database could not do it.
        """
        if self._thread is None:
            return fail(SpoolError("the spool is closed"))
        d: Deferred[Any] = Deferred()
        self._queue.put((function, args, d))
        return d

    def close(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when everything before it is done and
            the database is closed.
        """
        if self._thread is None:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._queue.put((_STOP, (), closed))
        self._thread = None
        return closed

    # What follows runs in the thread.

    def _work(self, opened: Deferred[None]) -> None:
        try:
            self._openOrMend()
        except Exception as error:
            failure = Failure(SpoolError(f"{self._path}: {error}"))
            self._reactor.callFromThread(opened.errback, failure)
            return
        self._reactor.callFromThread(opened.callback, None)
        closed = None
        while closed is None:
            batch, closed = self._next()
            if batch:
                results = self._together(batch) if self._isSound() else self._refused(batch)
                self._reactor.callFromThread(_deliver, results)
        self._shut()
        self._reactor.callFromThread(closed.callback, None)

    def _openOrMend(self) -> None:
        try:
            self._open()
        except sqlite3.Error as error:
            if not isBroken(error):
                raise
            self._shut()
            _log.critical("{path}: {error}", path=self._path, error=str(error))
            _log.critical("{text}", text=self._mend(None))
            self._open()

    def _open(self) -> None:
        self._db = connect(self._path)
        self._prepare(self._db)
        self._place = FileIdentity(self._path)

    def _shut(self) -> None:
        if self._place is not None:
            self._place.close()
        if self._db is not None:
            self._db.close()
        self._db = self._place = None

    def _isSound(self) -> bool:
        """
        Whether the database can be used; mends it where that is possible.
        """
        trouble = self._place.trouble() if self._place is not None else "not open"
        if not trouble and not self._damaged:
            if self._trouble:
                _log.info("{path} is back", path=self._path)
            self._trouble = ""
            return True
        trouble = trouble or "the database is damaged"
        if trouble != self._trouble:
            self._trouble = trouble
            _log.critical("no mail is taken: {trouble}", trouble=trouble)
        deleted = self._place is not None and self._place.deleted
        if not (deleted or self._damaged or self._db is None):
            return False
        return time.monotonic() >= self._mendAt and self._mended(deleted)

    def _mended(self, deleted: bool) -> bool:
        self._mendAt = time.monotonic() + MEND_SECONDS
        try:
            if deleted or self._damaged:
                text = self._mend(None if self._damaged else self._db)
                _log.critical("{text}", text=text)
                self._damaged = False
            self._shut()
            self._open()
        except Exception as error:
            _log.critical("cannot mend {path}: {error}", path=self._path, error=str(error))
            return False
        self._trouble = ""
        _log.critical("{path} can be used again", path=self._path)
        return True

    def _refused(self, batch: list[_Operation]) -> list[Any]:
        return [(d, Failure(SpoolError(self._trouble))) for _, _, d in batch]

    def _next(self) -> tuple[list[_Operation], Deferred[None] | None]:
        """
        What waits now, at least one; and the Deferred of L{close}, once that
        has been called.
        """
        batch: list[_Operation] = []
        while len(batch) < BATCH:
            try:
                operation = self._queue.get(block=not batch)
            except queue.Empty:
                break
            if operation[0] is _STOP:
                return batch, operation[2]
            batch.append(operation)
        return batch, None

    def _together(self, batch: list[_Operation]) -> list[Any]:
        try:
            return self._transaction(batch)
        except Exception:
            if len(batch) > 1:
                return [result for one in batch for result in self._together([one])]
        try:
            return self._transaction(batch)
        except (sqlite3.Error, OSError) as error:
            self._damaged = self._damaged or isBroken(error)
            return [(batch[0][2], Failure(SpoolError(f"{self._path}: {error}")))]
        except Exception:
            return [(batch[0][2], Failure())]

    def _transaction(self, batch: list[_Operation]) -> list[Any]:
        db, place = self._db, self._place
        assert db is not None and place is not None
        results = []
        db.execute("BEGIN IMMEDIATE")
        try:
            for function, args, d in batch:
                results.append((d, function(db, *args)))
            trouble = place.trouble()
            if trouble:
                raise SpoolError(trouble)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self.commits += 1
        return results


def _deliver(results: list[tuple[Deferred[Any], Any]]) -> None:
    for d, result in results:
        d.callback(result)
