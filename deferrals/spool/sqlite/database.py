"""
One SQLite database behind one thread, with group commit.

Everything that waits when a commit ends goes into the next one, so that the
cost of a sync is shared by all who wait for it.  WAL with C{synchronous=FULL}:
what an operation's Deferred has fired for is on the disk.

When a transaction fails, it is rolled back and its operations are run again one
by one, each in a transaction of its own: only those that fail by themselves
fail.  A full disk therefore fails what does not fit, and the thread goes on.

A full disk is met with what is kept for that: the log begins anew where all of
it is in the database, the L{Reserve} is given up, and what failed is tried once
more.  So what is in the spool can leave it, and make room.

A database that is damaged, or whose file is taken away, fails every operation
with L{SpoolError}, until it has been mended (C{mend}) or is back.  One whose
disk fails is opened again now and then: it may have been mounted anew.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from deferrals.errors import SpoolError
from deferrals.logger import Logger
from deferrals.spool.sqlite.diskspace import NoRoom, Reserve
from deferrals.spool.sqlite.fileidentity import FileIdentity
from deferrals.spool.sqlite.files import createPrivate

_log = Logger(namespace="deferrals.spool")

#: How many operations go into one transaction at most.
BATCH = 512

#: How long to leave it after an attempt to mend the database has failed.
MEND_SECONDS = 5.0

#: The size of a page; and of how many the write-ahead log may consist for long.
PAGE_OCTETS, LOG_PAGES = 4096, 1000

#: All that a build of SQLite may have set otherwise, and that matters here.  The
#: first two only count for a database that is made now.  C{secure_delete} would
#: write the zeros of all that leaves into the log: on a full disk nothing could.
SETTINGS = {
    "page_size": PAGE_OCTETS,
    "auto_vacuum": "INCREMENTAL",
    "journal_mode": "WAL",
    "synchronous": "FULL",
    "foreign_keys": "ON",
    "secure_delete": "OFF",
    "recursive_triggers": "OFF",
    "trusted_schema": "OFF",
    "automatic_index": "ON",
    "cell_size_check": "ON",
    "locking_mode": "NORMAL",
    "temp_store": "MEMORY",
    "mmap_size": 0,
    "cache_size": -8192,
    "threads": 0,
    "wal_autocheckpoint": LOG_PAGES,
    "journal_size_limit": LOG_PAGES * PAGE_OCTETS,
    "busy_timeout": 5000,
}

_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_FAILING = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}

_T = TypeVar("_T")
_P = ParamSpec("_P")


#: What is to be called in the reactor.
_Result = Callable[[], None]


@attrs.frozen(eq=False)
class _Operation:
    """
    @ivar run: does what is to be done with the connection; what it returns tells
        the result, in the reactor.
    @ivar fail: tells what is wrong, in the reactor.
    @ivar alone: whether it is run outside a transaction.
    """

    run: Callable[[sqlite3.Connection], _Result]
    fail: Callable[[Failure], None]
    alone: bool = False


@attrs.frozen(eq=False)
class _Stop:
    """
    The last thing to do.

    @ivar closed: fires when the database is closed.
    """

    closed: Deferred[None]


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
        configure(db)
    except BaseException:
        db.close()
        raise
    return db


def configure(db: sqlite3.Connection) -> None:
    """
    Set all that a build may have set otherwise.
    """
    for name, value in SETTINGS.items():
        db.execute(f"PRAGMA {name}={value}").fetchall()


def checkpoint(db: sqlite3.Connection) -> bool:
    """
    Carry all of the write-ahead log over into the database, and begin it anew:
    what the database does not need any longer goes back to the disk.  No reader
    is waited for.

    @return: whether all of it was.
    """
    db.execute("PRAGMA busy_timeout=0").fetchall()
    try:
        ((busy, _, _),) = db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    finally:
        db.execute(f"PRAGMA busy_timeout={SETTINGS['busy_timeout']}").fetchall()
    return not busy


def isBroken(error: BaseException) -> bool:
    """
    Whether an error says that the database itself is damaged.
    """
    return _code(error) in _BROKEN


def isFull(error: BaseException) -> bool:
    """
    Whether an error says that the disk is full.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # To enlarge the index of the log is an input or output error, whatever the reason.
    extended: int = getattr(error, "sqlite_errorcode", 0)
    return _code(error) == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE


def _code(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0) if isinstance(error, sqlite3.Error) else 0
    return code & 0xFF


def makeRoom(db: sqlite3.Connection | None, reserve: Reserve) -> bool:
    """
    On a full disk: take what has been kept for that.

    @return: whether there may be more room now.
    """
    anew = False
    if db is not None:
        with contextlib.suppress(sqlite3.Error):
            anew = checkpoint(db)
    return reserve.give() or anew


def asSpoolError(path: str, error: Exception) -> SpoolError:
    """
    What callers are told of an error of the database or of its disk.
    """
    return (NoRoom if isFull(error) else SpoolError)(f"{path}: {error}")


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
    @param reserve: what is given up on a full disk.
    @param opening: called in the thread before the database is opened, and
        before it is closed to be opened again.
    """

    def __init__(
        self,
        path: str,
        reactor: IReactorFromThreads,
        prepare: Callable[[sqlite3.Connection], None],
        mend: Callable[[sqlite3.Connection | None], str],
        reserve: Reserve,
        opening: Callable[[], None] = lambda: None,
    ) -> None:
        self._opening = opening
        self._path = path
        self._reserve = reserve
        self._reactor = reactor
        self._prepare = prepare
        self._mend = mend
        self._queue: queue.SimpleQueue[_Operation | _Stop] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None
        self._identity: FileIdentity | None = None
        self._trouble = ""
        self._damaged = self._failing = False
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
        return self._put(lambda db: function(db, *args, **kwargs), alone=False)

    def _put(self, function: Callable[[sqlite3.Connection], _T], alone: bool) -> Deferred[_T]:
        if self._thread is None:
            return fail(SpoolError("the spool is closed"))
        done: Deferred[_T] = Deferred()

        def run(db: sqlite3.Connection) -> _Result:
            return functools.partial(done.callback, function(db))

        self._queue.put(_Operation(run, done.errback, alone))
        return done

    def outside(self, function: Callable[[sqlite3.Connection], _T]) -> Deferred[_T]:
        """
        The same outside a transaction, once.
        """
        return self._put(function, alone=True)

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
                results = self._all(batch) if self._isSound() else self._refused(batch)
                self._reactor.callFromThread(_fire, results)
        self._shut()
        self._reactor.callFromThread(stop.closed.callback, None)

    def _openOrMend(self) -> None:
        try:
            self._open()
        except sqlite3.Error as error:
            # Where tables are missing or others, SQLite says that a statement is wrong.
            if not (isBroken(error) or _code(error) == sqlite3.SQLITE_ERROR):
                raise
            self._shut()
            _log.critical("{path}: {error}", path=self._path, error=str(error))
            _log.critical("{text}", text=self._mend(None), event="set-aside")
            self._open()

    def _open(self) -> None:
        self._opening()
        try:
            self._openOnce()
        except (sqlite3.Error, OSError) as error:
            if not (isFull(error) and makeRoom(None, self._reserve)):
                raise
            self._openOnce()

    def _openOnce(self) -> None:
        self._db = connect(self._path)
        try:
            self._prepare(self._db)
            self._identity = FileIdentity(self._path)
        except BaseException:
            self._db.close()
            self._db = None
            raise

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
            if self._failing:
                self._openAnew()
            return True
        trouble = trouble or "the database is damaged"
        if trouble != self._trouble:
            self._trouble = trouble
            _log.critical("no mail is taken: {trouble}", trouble=trouble)
        deleted = self._identity is not None and self._identity.deleted
        if not (deleted or self._damaged or self._db is None):
            return False
        return time.monotonic() >= self._mendAt and self._mended(deleted)

    @property
    def isUsable(self) -> bool:
        """
        Whether it could be used and written the last time.
        """
        return not (self._trouble or self._failing or self._damaged)

    def _openAnew(self) -> None:
        """
        The disk has failed, and may be mounted anew: but the database is not let
        go before it can be opened, and that is not tried all the time.
        """
        if time.monotonic() < self._mendAt:
            return
        self._mendAt = time.monotonic() + MEND_SECONDS
        db, identity = self._db, self._identity
        try:
            self._open()
        except Exception as error:
            self._db, self._identity = db, identity
            _log.error("{path}: {error}", path=self._path, error=str(error))
            return
        self._failing = False
        if identity is not None:
            identity.close()
        if db is not None:
            db.close()

    def _mended(self, deleted: bool) -> bool:
        self._mendAt = time.monotonic() + MEND_SECONDS
        self._opening()
        try:
            if deleted or self._damaged:
                text = self._mend(None if self._damaged else self._db)
                _log.critical("{text}", text=text, event="set-aside")
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
        return [_failing(one, SpoolError(self._trouble)) for one in batch]

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

    def _all(self, batch: list[_Operation]) -> list[_Result]:
        results: list[_Result] = []
        together = [one for one in batch if not one.alone]
        if together:
            results += self._together(together)
        for one in batch:
            if one.alone:
                results += self._attempt(one, functools.partial(self._outside, one))
        return results

    def _outside(self, operation: _Operation) -> list[_Result]:
        assert self._db is not None
        return [operation.run(self._db)]

    def _together(self, batch: list[_Operation]) -> list[_Result]:
        try:
            return self._transaction(batch)
        except Exception as error:
            if len(batch) > 1:
                return [result for one in batch for result in self._together([one])]
            if isFull(error):
                makeRoom(self._db, self._reserve)
        return self._attempt(batch[0], lambda: self._transaction(batch))

    def _attempt(
        self, operation: _Operation, function: Callable[[], list[_Result]]
    ) -> list[_Result]:
        try:
            return function()
        except (sqlite3.Error, OSError) as error:
            self._damaged = self._damaged or isBroken(error)
            self._failing = _code(error) in _FAILING
            return [_failing(operation, asSpoolError(self._path, error))]
        except Exception as error:
            return [_failing(operation, error)]

    def _transaction(self, batch: list[_Operation]) -> list[_Result]:
        db, identity = self._db, self._identity
        assert db is not None and identity is not None
        db.execute("BEGIN IMMEDIATE")
        try:
            results = [operation.run(db) for operation in batch]
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
    for tell in results:
        tell()


def _failing(operation: _Operation, error: Exception) -> _Result:
    return functools.partial(operation.fail, Failure(error))
