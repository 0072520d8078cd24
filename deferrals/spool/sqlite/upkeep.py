"""
What is done to the embedded database now and then, a slice at a time.

Everything here runs in the database's thread, inside a transaction, and takes
no longer than a moment of it.
"""

from __future__ import annotations

import sqlite3

from deferrals.spool.claims import setAside
from deferrals.spool.rows import ASIDE
from deferrals.spool.sqlite.ledger import SqliteLedger

#: Entries of the history that are kept.
HISTORY_ROWS = 100_000

#: Notes that are kept: of more, those that expire first are removed.
NOTES_ROWS = 100_000

#: Messages, files, or entries of the history looked at in one slice.
SLICE = 500

#: Pages given back in one slice, and how many may lie idle.
VACUUM_PAGES, IDLE_PAGES = 250, 2000


def trimHistory(db: sqlite3.Connection) -> bool:
    """
    @return: whether there is more to do.
    """
    return (
        db.execute(
            "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE id <="
            " (SELECT max(id) FROM history) - ? ORDER BY id LIMIT ?)",
            (HISTORY_ROWS, SLICE),
        ).rowcount
        == SLICE
    )


def trimNotes(db: sqlite3.Connection, now: float) -> bool:
    """
    @param now: the spool's time.
    @return: whether there is more to do.
    """
    (count,) = db.execute("SELECT COUNT(*) FROM notes").fetchone()
    sql = "DELETE FROM notes WHERE name IN (SELECT name FROM notes {} ORDER BY expires LIMIT ?)"
    expired = db.execute(sql.format("WHERE expires <= ?"), (now, SLICE)).rowcount
    more = min(SLICE, count - expired - NOTES_ROWS)
    if more > 0:
        db.execute(sql.format(""), (more,))
    return expired == SLICE or more == SLICE


def vacuum(db: sqlite3.Connection) -> bool:
    """
    @return: whether there is more to do.
    """
    (idle,) = db.execute("PRAGMA freelist_count").fetchone()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    if idle < max(IDLE_PAGES, pages // 4):
        return False
    _vacuum(db, VACUUM_PAGES)
    return True


def _vacuum(db: sqlite3.Connection, pages: int) -> None:
    """
    One by one: of a statement without columns, whose every step gives one page
    back, C{sqlite3} takes no more than the first step.
    """
    (idle,) = db.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(pages, idle)):
        db.execute("PRAGMA incremental_vacuum(1)")


def giveBack(db: sqlite3.Connection, pages: int) -> bool:
    """
    Give unused pages back to a disk that is full, at the next checkpoint.

    @return: whether there is more to give.
    """
    _vacuum(db, pages)
    (idle,) = db.execute("PRAGMA freelist_count").fetchone()
    return bool(idle)


def withoutMessage(db: sqlite3.Connection, numbers: list[int]) -> list[int]:
    """
    @return: those numbers that no message has, and that none had which has left.
    """
    marks = ", ".join("?" * len(numbers))
    found = db.execute(
        f"SELECT id FROM messages WHERE id IN ({marks})"
        f" UNION SELECT message FROM leaving WHERE message IN ({marks})",
        [*numbers, *numbers],
    )
    known = {number for (number,) in found}
    return [number for number in numbers if number not in known]


def nextMessages(db: sqlite3.Connection, after: int) -> tuple[list[int], list[int], int]:
    """
    Look at the next messages that are ours.  One without recipients is set
    aside: whose it is has been lost.

    @return: those whose content should be in a file, those that were set aside,
        and where to go on.
    """
    found = db.execute(
        "SELECT id, EXISTS (SELECT 1 FROM bodies WHERE bodies.id = messages.id),"
        " EXISTS (SELECT 1 FROM recipients WHERE message = messages.id)"
        " FROM messages WHERE id > ? AND state = 1 ORDER BY id LIMIT ?",
        (after, SLICE),
    ).fetchall()
    aside = [number for number, _, hasRecipients in found if not hasRecipients]
    for number in aside:
        db.execute(f"UPDATE messages SET state = {ASIDE} WHERE id = ?", (number,))
    inFiles = [number for number, hasBody, hasRecipients in found if hasRecipients and not hasBody]
    return inFiles, aside, found[-1][0] if len(found) == SLICE else -1


def setMissingAside(db: sqlite3.Connection, numbers: list[int], now: float) -> list[int]:
    """
    The content of these messages is missing: those that are still there are
    moved aside.

    @param now: the spool's time.
    @return: those that were.
    """
    ledger = SqliteLedger(db, now)
    return [number for number in numbers if setAside(ledger, number)]
