"""
A batch of the embedded spool, written in a few statements of many rows.

Everything here runs in the database's thread, inside a transaction.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterable, Sequence
from typing import TypeVar

from deferrals.spool.batch import Note, Value, WriteBatch
from deferrals.spool.sqlite import diskspace
from deferrals.spool.sqlite.leaving import noted

_T = TypeVar("_T")

#: Rows per statement; SQLite takes 32,766 values in one.
ROWS = 256

#: The columns of a fresh recipient; the others keep their defaults until its
#: first attempt has failed.
RECIPIENT = "recipients (message, seq, status, due, owner, delivery, recipient, marks, refusal)"


def write(db: sqlite3.Connection, batch: WriteBatch, directory: str) -> None:
    """
    Write it where there is room.

    @param directory: the spool's.
    """
    if batch.inserts:
        lack = diskspace.lack(directory)
        if lack:
            raise diskspace.NoRoom(lack)
    apply(batch, db)


def apply(batch: WriteBatch, db: sqlite3.Connection) -> None:
    """
    Write it.  It may be repeated.
    """
    _insert(db, "messages", [insert.message for insert in batch.inserts])
    bodies = [(i.number, i.body) for i in batch.inserts if i.body is not None]
    _insert(db, "bodies", bodies)
    _insert(db, RECIPIENT, [row for i in batch.inserts for row in i.recipients])
    _forAll(db, "UPDATE messages SET state = 1 WHERE id IN", list(batch.released))
    for sql in (
        "DELETE FROM messages WHERE id IN",
        "DELETE FROM bodies WHERE id IN",
        "DELETE FROM recipients WHERE message IN",
    ):
        _forAll(db, sql, list(batch.removed))
    noted(db, [number for number, path in batch.removed.items() if path is not None])
    _note(db, batch.notes)


@functools.cache
def _placeholders(count: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})" if columns else "?"
    return ", ".join([row] * count)


def _slices(rows: Sequence[_T]) -> Iterable[Sequence[_T]]:
    return (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))


def _insert(db: sqlite3.Connection, table: str, rows: Sequence[tuple[Value, ...]]) -> None:
    for some in _slices(rows):
        values = [value for row in some for value in row]
        db.execute(f"INSERT INTO {table} VALUES {_placeholders(len(some), len(some[0]))}", values)


def _forAll(db: sqlite3.Connection, sql: str, numbers: Sequence[int]) -> None:
    for some in _slices(numbers):
        db.execute(f"{sql} ({_placeholders(len(some), 0)})", some)


def _note(db: sqlite3.Connection, notes: dict[str, Note]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO notes (name, value, expires) VALUES (?, ?, ?)",
        [(name, *note) for name, note in notes.items() if note is not None],
    )
    db.executemany(
        "DELETE FROM notes WHERE name = ?",
        [(name,) for name, note in notes.items() if note is None],
    )
