"""
What is done to the tables in PostgreSQL now and then, by one server at a time.

The history has a partition for each day, which is dropped whole when it is old: what is
removed row by row has to be cleaned up.

Everything here runs in a thread that has a connection, inside a transaction.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: How often, in seconds.
EVERY_SECONDS = 300.0

#: How long the history is kept, and for how many days there are partitions before they
#: come.
HISTORY_DAYS, DAYS_BEFORE = 14, 2

#: One server at a time.
_LOCK = 0x64656604

#: A message without recipients has left: two servers have recorded its last ones at the
#: same instant.  One that is coming in has both at once.  They are found in the indexes: the
#: rows of all messages are read by no statement.
_EMPTIED = (
    "WITH alone AS MATERIALIZED (SELECT id FROM messages AS m"
    " WHERE NOT EXISTS (SELECT 1 FROM recipients WHERE message = m.id) LIMIT 1000)"
    " DELETE FROM messages WHERE id IN (SELECT id FROM messages"
    " WHERE id IN (SELECT id FROM alone)"
    " AND since < clock_timestamp() - interval '1 hour' FOR UPDATE SKIP LOCKED)"
    " AND NOT EXISTS (SELECT 1 FROM recipients WHERE message = id)"
)

#: Pieces of a content whose message has left, or never came.
_PIECES = (
    "DELETE FROM pieces AS p WHERE NOT EXISTS (SELECT 1 FROM messages WHERE id = p.message)"
    " AND NOT EXISTS (SELECT 1 FROM owners WHERE id = p.owner)"
)


def keepUp(db: Connection) -> bool:
    """
    Do all of it.

    @return: whether no other server does.
    """
    lock = "SELECT pg_try_advisory_xact_lock(%s, hashtext(current_schema())), clock_timestamp()"
    isAlone, now = db.execute(lock, (_LOCK,)).fetchall()[0]
    if not isAlone:
        return False
    today = now.date()
    known = _partitions(db)
    for day in (today + datetime.timedelta(days) for days in range(1, DAYS_BEFORE + 1)):
        if day not in known:
            _add(db, day)
    oldest = today - datetime.timedelta(HISTORY_DAYS)
    for day in known:
        if day < oldest:
            db.execute(f"DROP TABLE {_name(day)}")
    db.execute("DELETE FROM history_rest WHERE at < %s", (oldest,))
    db.execute(_EMPTIED)
    db.execute(_PIECES)
    return True


def _partitions(db: Connection) -> list[datetime.date]:
    """
    The days that have one.
    """
    found = db.execute(
        "SELECT substring(c.relname FROM '^history_([0-9]{8})$') FROM pg_inherits"
        " JOIN pg_class AS c ON c.oid = inhrelid WHERE inhparent = 'history'::regclass"
    ).fetchall()
    return [datetime.date.fromisoformat(text) for (text,) in found if text is not None]


def _name(day: datetime.date) -> str:
    return f"history_{day:%Y%m%d}"


def _add(db: Connection, day: datetime.date) -> None:
    end = day + datetime.timedelta(1)
    db.execute(
        f"CREATE TABLE {_name(day)} PARTITION OF history"
        f" FOR VALUES FROM ('{day.isoformat()}') TO ('{end.isoformat()}')"
    )
