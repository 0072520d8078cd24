"""
One SQLite database behind one thread, with group commit.

Everything that waits when a commit ends goes into the next one, so that the
cost of a sync is shared by all who wait for it.  WAL with C{synchronous=FULL}:
what an operation's Deferred has fired for is on the disk.

When a transaction fails, it is rolled back and its operations are run again one
by one, each in a transaction of its own: only those that fail by themselves
fail.  A full disk therefore fails what does not fit, and the thread goes on.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from deferrals.errors import SpoolError

#: How many operations go into one transaction at most.
BATCH = 512

_Operation = tuple[Callable[..., Any], tuple[Any, ...], "Deferred[Any] | None"]
_STOP = object()


class Database:
    """
    @param path: the database's file.
    @param reactor: where Deferreds fire.
    @param prepare: called with the connection in the thread, once, before
        anything else: makes tables, migrates.
    """

    def __init__(
        self, path: str, reactor: Any, prepare: Callable[[sqlite3.Connection], None]
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._prepare = prepare
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
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
        return opened

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
            db = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, cached_statements=1024
            )
            for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                db.execute(f"PRAGMA {setting}")
            self._prepare(db)
        except Exception as error:
            failure = Failure(SpoolError(f"{self._path}: {error}"))
            self._reactor.callFromThread(opened.errback, failure)
            return
        self._reactor.callFromThread(opened.callback, None)
        closed = None
        while closed is None:
            batch, closed = self._next()
            if batch:
                results = self._together(db, batch)
                self._reactor.callFromThread(_deliver, results)
        db.close()
        self._reactor.callFromThread(closed.callback, None)

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

    def _together(self, db: sqlite3.Connection, batch: list[_Operation]) -> list[Any]:
        try:
            return self._transaction(db, batch)
        except Exception:
            if len(batch) > 1:
                return [result for one in batch for result in self._together(db, [one])]
        try:
            return self._transaction(db, batch)
        except (sqlite3.Error, OSError) as error:
            return [(batch[0][2], Failure(SpoolError(f"{self._path}: {error}")))]
        except Exception:
            return [(batch[0][2], Failure())]

    def _transaction(self, db: sqlite3.Connection, batch: list[_Operation]) -> list[Any]:
        results = []
        db.execute("BEGIN IMMEDIATE")
        try:
            for function, args, d in batch:
                results.append((d, function(db, *args)))
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
