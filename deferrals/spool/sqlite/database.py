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

import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from deferrals.errors import SpoolError
from deferrals.logger import Logger
from deferrals.spool.sqlite.fileidentity import FileIdentity
from deferrals.spool.sqlite.files import createPrivate

_log = Logger(namespace="deferrals.spool")

#: How many operations go into one transaction at most.
BATCH = 512

#: How long to leave it after an attempt to mend the database has failed.
MEND_SECONDS = 5.0

_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_T = TypeVar("_T")
_P = ParamSpec("_P")


@attrs.frozen(eq=False)
class _Operation:
    """
    @ivar run: what is to be done with the connection.
    @ivar done: fires with its result.
    """

    run: Callable[[sqlite3.Connection], Any]
    done: Deferred[Any]


@attrs.frozen(eq=False)
class _Stop:
    """
    The last thing to do.

    @ivar closed: fires when the database is closed.
    """

    closed: Deferred[None]


#: What an operation's Deferred is to fire with.
_Result = tuple[Deferred[Any], Any]


def connect(path: str) -> sqlite3.Connection:
    """
    Open a database as all of ours are opened.
    """
    with contextlib.suppress(OSError):  # SQLite will say it
        createPrivate(path)
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
        reactor: IReactorFromThreads,
        prepare: Callable[[sqlite3.Connection], None],
        mend: Callable[[sqlite3.Connection | None], str],
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._prepare = prepare
        self._mend = mend
        self._queue: queue.SimpleQueue[_Operation | _Stop] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None
        self._identity: FileIdentity | None = None
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

    def run(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Deferred[_T]:
        """
        See L{RunInTransaction<deferrals.spool.sqlite.store.RunInTransaction>}.
        """
        if self._thread is None:
            return fail(SpoolError("the spool is closed"))
        done: Deferred[_T] = Deferred()
        self._queue.put(_Operation(lambda db: function(db, *args, **kwargs), done))
        return done

    def close(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when everything before it is done and
            the database is closed.
        """
        if self._thread is None:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._queue.put(_Stop(closed))
        self._thread = None
        return closed

    # Everything below runs in the database's thread.

    def _work(self, opened: Deferred[None]) -> None:
        try:
            self._openOrMend()
        except Exception as error:
            self._shut()
            failure = Failure(SpoolError(f"{self._path}: {error}"))
            self._reactor.callFromThread(opened.errback, failure)
            return
        self._reactor.callFromThread(opened.callback, None)
        stop = None
        while stop is None:
            batch, stop = self._next()
            if batch:
                results = self._together(batch) if self._isSound() else self._refused(batch)
                self._reactor.callFromThread(_fire, results)
        self._shut()
        self._reactor.callFromThread(stop.closed.callback, None)

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
        self._identity = FileIdentity(self._path)

    def _shut(self) -> None:
        if self._identity is not None:
            self._identity.close()
        if self._db is not None:
            self._db.close()
        self._db = self._identity = None

    def _isSound(self) -> bool:
        """
        Whether the database can be used; mends it where that is possible.
        """
        trouble = self._identity.trouble() if self._identity is not None else "not open"
        if not trouble and not self._damaged:
            if self._trouble:
                _log.info("{path} is back", path=self._path)
            self._trouble = ""
            return True
        trouble = trouble or "the database is damaged"
        if trouble != self._trouble:
            self._trouble = trouble
            _log.critical("no mail is taken: {trouble}", trouble=trouble)
        deleted = self._identity is not None and self._identity.deleted
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

    def _refused(self, batch: list[_Operation]) -> list[_Result]:
        return [(one.done, Failure(SpoolError(self._trouble))) for one in batch]

    def _next(self) -> tuple[list[_Operation], _Stop | None]:
        """
        @return: what waits now, at least one; and whether L{close} has been
            called.
        """
        batch: list[_Operation] = []
        while len(batch) < BATCH:
            try:
                operation = self._queue.get(block=not batch)
            except queue.Empty:
                break
            if isinstance(operation, _Stop):
                return batch, operation
            batch.append(operation)
        return batch, None

    def _together(self, batch: list[_Operation]) -> list[_Result]:
        try:
            return self._transaction(batch)
        except Exception:
            if len(batch) > 1:
                return [result for one in batch for result in self._together([one])]
        done = batch[0].done
        try:
            return self._transaction(batch)
        except (sqlite3.Error, OSError) as error:
            self._damaged = self._damaged or isBroken(error)
            return [(done, Failure(SpoolError(f"{self._path}: {error}")))]
        except Exception:
            return [(done, Failure())]

    def _transaction(self, batch: list[_Operation]) -> list[_Result]:
        db, identity = self._db, self._identity
        assert db is not None and identity is not None
        results: list[_Result] = []
        db.execute("BEGIN IMMEDIATE")
        try:
            for operation in batch:
                results.append((operation.done, operation.run(db)))
            trouble = identity.trouble()
            if trouble:
                raise SpoolError(trouble)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self.commits += 1
        return results


def _fire(results: list[_Result]) -> None:
    for done, result in results:
        done.callback(result)
