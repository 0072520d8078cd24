"""
How a message leaves the database.

A file in C{bodies} without a row may be the content of mail that was
acknowledged: it is never removed for that.  That a file is of no use any longer
is therefore written in the transaction that removes its message, and is
forgotten when the file is gone.

Everything here runs in the database's thread, inside a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

#: Files looked at in one slice.
SLICE = 500


def leave(db: sqlite3.Connection, number: int) -> None:
    """
    Remove a message that has no recipients.
    """
    inDatabase = db.execute("SELECT 1 FROM bodies WHERE id = ?", (number,)).fetchone()
    db.execute("DELETE FROM messages WHERE id = ?", (number,))
    if inDatabase is not None:
        db.execute("DELETE FROM bodies WHERE id = ?", (number,))
    else:
        noted(db, [number])


def noted(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """
    The files of these messages' contents are to be removed.
    """
    db.executemany("INSERT OR IGNORE INTO leaving VALUES (?)", [(number,) for number in numbers])


def leaving(db: sqlite3.Connection) -> list[int]:
    """
    @return: some of the messages whose files are to be removed.  One that is here,
        taken back, keeps its file.
    """
    db.execute("DELETE FROM leaving WHERE message IN (SELECT id FROM messages)")
    found = db.execute("SELECT message FROM leaving LIMIT ?", (SLICE,))
    return [number for (number,) in found]


def left(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """
    Their files are gone.
    """
    db.executemany("DELETE FROM leaving WHERE message = ?", [(number,) for number in numbers])
