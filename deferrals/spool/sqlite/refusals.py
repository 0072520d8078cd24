"""
Refusals in a SQLite database of their own, C{refusals.sqlite} in the state directory:
all workers have it open.

It is not the queue's: what is kept for people's convenience has no part in what makes
mail durable, can be thrown away, and is written over when it is removed
(C{secure_delete}), which the queue's database is not.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import IRefusalStore
from deferrals.model.refusal import Refusal
from deferrals.spool.refusals import readRefusal
from deferrals.spool.sqlite.files import createPrivate
from deferrals.threads import InThread, Threads

_T = TypeVar("_T")

VERSION = 1

#: So many are removed at once.
SLICE = 500

#: So many are looked at for words.
LOOKED = 20_000

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS refusals (
    number INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    reference TEXT NOT NULL,
    at REAL NOT NULL,
    said TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS refusals_reference ON refusals (reference, owner);
CREATE INDEX IF NOT EXISTS refusals_owner ON refusals (owner, at);
CREATE INDEX IF NOT EXISTS refusals_at ON refusals (at);
PRAGMA user_version = {VERSION};
COMMIT;
"""

#: What a crash takes is some seconds of refusals: no commit waits for the disk.
_SETTINGS = {
    "journal_mode": "WAL",
    "synchronous": "NORMAL",
    "secure_delete": "ON",
    "trusted_schema": "OFF",
    "busy_timeout": 5000,
    "cache_size": -2048,
    "journal_size_limit": 4 * 1024 * 1024,
}

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


@implementer(IRefusalStore)
class SqliteRefusals:
    """
    @param path: the database; made when something is written, if it is not there.
    @param inThread: runs a function outside the reactor thread.
    """

    def __init__(self, path: str, inThread: InThread) -> None:
        self._path = path
        self._threads = Threads(inThread, 1)
        self._db: sqlite3.Connection | None = None

    def add(self, refusals: Sequence[tuple[str, Refusal]]) -> Deferred[None]:
        rows = [(owner, one.id, one.time, json.dumps(one.toJSON())) for owner, one in refusals]
        return self._run(_add, rows)

    def find(self, owner: str, since: float, limit: int) -> Deferred[list[Refusal]]:
        return self._look([], _find, owner, since, limit)

    def about(self, words: str, since: float, limit: int) -> Deferred[list[Refusal]]:
        return self._look([], _about, words, since, limit)

    def named(self, reference: str, owner: str) -> Deferred[Refusal | None]:
        return self._look(None, _named, reference, owner)

    def owners(self, since: float) -> Deferred[list[str]]:
        return self._look([], _owners, since)

    def trim(self, before: float, entries: int) -> Deferred[int]:
        return self._look(0, _trim, before, entries)

    def close(self) -> Deferred[None]:
        return self._threads.run(self._close)

    # In a thread, one at a time.

    def _run(self, function: Callable[..., _T], *args: object) -> Deferred[_T]:
        return self._threads.run(self._inTransaction, function, *args).addErrback(self._explain)

    def _look(self, nothing: _T, function: Callable[..., _T], *args: object) -> Deferred[_T]:
        """
        The same, where there may be nothing yet.
        """

        def look() -> _T:
            if self._db is None and not os.path.exists(self._path):
                return nothing
            return self._inTransaction(function, *args)

        return self._threads.run(look).addErrback(self._explain)

    def _inTransaction(self, function: Callable[..., _T], *args: object) -> _T:
        if self._db is None:
            self._db = _opened(self._path)
        try:
            with self._db:
                return function(self._db, *args)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) in _DAMAGED:
                self._close()
            raise

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _explain(self, failure: Failure) -> Failure:
        if failure.check(sqlite3.Error, OSError):
            raise SpoolError(f"{self._path}: {failure.getErrorMessage()}")
        return failure


def _opened(path: str) -> sqlite3.Connection:
    createPrivate(path)
    db = sqlite3.connect(path, isolation_level="IMMEDIATE", check_same_thread=False)
    try:
        for name, value in _SETTINGS.items():
            db.execute(f"PRAGMA {name}={value}").fetchall()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise sqlite3.DatabaseError("made by a later version of the program")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _add(db: sqlite3.Connection, rows: Sequence[tuple[str, str, float, str]]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO refusals (owner, reference, at, said) VALUES (?, ?, ?, ?)", rows
    )


def _find(db: sqlite3.Connection, owner: str, since: float, limit: int) -> list[Refusal]:
    rows = db.execute(
        "SELECT said FROM refusals WHERE owner = ? AND at >= ? ORDER BY at DESC, reference LIMIT ?",
        (owner, since, limit),
    )
    return [one for (text,) in rows if (one := readRefusal(text)) is not None]


def _about(db: sqlite3.Connection, words: str, since: float, limit: int) -> list[Refusal]:
    rows = db.execute(
        "SELECT said FROM refusals WHERE at >= ? ORDER BY at DESC, reference LIMIT ?",
        (since, LOOKED),
    )
    read = (readRefusal(text) for (text,) in rows)
    return [*islice((one for one in read if one is not None and one.isAbout(words)), limit)]


def _named(db: sqlite3.Connection, reference: str, owner: str) -> Refusal | None:
    row = db.execute(
        "SELECT said FROM refusals WHERE reference = ? AND owner = ?", (reference, owner)
    ).fetchone()
    return None if row is None else readRefusal(row[0])


def _owners(db: sqlite3.Connection, since: float) -> list[str]:
    rows = db.execute("SELECT DISTINCT owner FROM refusals WHERE at >= ? ORDER BY owner", (since,))
    return [owner for (owner,) in rows]


def _trim(db: sqlite3.Connection, before: float, entries: int) -> int:
    sql = (
        "DELETE FROM refusals WHERE number IN (SELECT number FROM refusals {} ORDER BY at LIMIT ?)"
    )
    db.execute(sql.format("WHERE at < ?"), (before, SLICE))
    count: int = db.execute("SELECT count(*) FROM refusals").fetchone()[0]
    surplus = min(SLICE, count - entries)
    if surplus > 0:
        db.execute(sql.format(""), (surplus,))
    return count - max(0, surplus)
