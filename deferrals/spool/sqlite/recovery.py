"""
What a spool does first: take over from the process before.

Everything here runs in the database's thread, inside a transaction.  Nothing
grows with the number of recipients that wait.
"""

from __future__ import annotations

import sqlite3

from deferrals.spool.claims import free
from deferrals.spool.rows import ENDED, LEASED, RELEASED, STAGED
from deferrals.spool.sqlite.ledger import SqliteLedger

#: So many messages can be told to have been in hand.
MOST_INTERRUPTED = 10_000

#: So many leases are ended at once.
FREED = 1000

#: So many recipients that wait for another attempt are tried again at the start.
RETRIED_AT_START = 1000


def saveClock(db: sqlite3.Connection, wall: float, now: float) -> None:
    """
    For L{savedClock}, in the next process.
    """
    sql = "INSERT INTO info VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    db.executemany(sql, [("clock.wall", wall), ("clock.now", now)])


def savedClock(db: sqlite3.Connection) -> tuple[float, float] | None:
    """
    What L{SpoolClock.saved<deferrals.spool.sqlite.clock.SpoolClock.saved>} said.
    """
    found = dict(db.execute("SELECT name, value FROM info WHERE name LIKE 'clock.%'"))
    try:
        return float(found["clock.wall"]), float(found["clock.now"])
    except (KeyError, TypeError, ValueError):
        return None


def interrupted(db: sqlite3.Connection) -> list[int]:
    """
    The messages that the process before had in hand when it died; before L{recover}.
    """
    sql = f"SELECT DISTINCT message FROM recipients WHERE status = {LEASED} LIMIT ?"
    return [number for (number,) in db.execute(sql, (MOST_INTERRUPTED,))]


def recover(db: sqlite3.Connection, now: float) -> int:
    """
    See L{ISpool.open<deferrals.interfaces.ISpool.open>}.

    @param now: the spool's time.
    @return: how many messages were staged.
    """
    staged = db.execute(f"UPDATE messages SET state = {RELEASED} WHERE state = {STAGED}").rowcount
    ledger = SqliteLedger(db, now)
    while leased := ledger.leased(FREED):
        free(ledger, leased)
    db.execute(f"UPDATE recipients SET due = ? WHERE status = {ENDED}", (now,))
    _retry(db, now)
    return staged


def _retry(db: sqlite3.Connection, now: float) -> None:
    """
    Try some of the recipients that wait again: perhaps the operator has just
    mended what kept them waiting.  All destinations that there is room for have
    a part.
    """
    names = db.execute(
        "SELECT name FROM destinations ORDER BY ready LIMIT ?", (RETRIED_AT_START,)
    ).fetchall()
    share = RETRIED_AT_START // max(1, len(names))
    for (name,) in names:
        db.execute(
            "UPDATE recipients SET due = ? WHERE (message, seq) IN (SELECT message, seq"
            " FROM recipients WHERE status = 0 AND destination = ? AND due > ? ORDER BY due"
            " LIMIT ?)",
            (now, name, now, share),
        )
        db.execute("UPDATE destinations SET gate = 0, ready = ? WHERE name = ?", (now, name))
