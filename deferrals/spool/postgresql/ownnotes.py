"""
What one process has noted for the one after it, in PostgreSQL.

Everything here runs in a thread that has a connection, inside a transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from deferrals.spool.batch import Note

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection
    from deferrals.spool.postgresql.owners import Identity

#: By their names; how long a value is kept, in seconds.
Notes: TypeAlias = Mapping[str, Note]

_KIND = "process"


def placeOf(me: Identity) -> bytes:
    """
    Where the notes of a process are.
    """
    return hashlib.sha256(f"{_KIND} {me.worker} {me.machine}".encode()).digest()


def itemOf(name: str) -> bytes:
    """
    Where a note of a name is among them.
    """
    return hashlib.sha256(name.encode()).digest()


def read(db: Connection, me: Identity) -> dict[str, str]:
    """
    @return: names and values of what has not expired.
    """
    found: list[tuple[str, str]] = db.execute(
        "SELECT name, value FROM notes WHERE place = %s AND expires > clock_timestamp()",
        (placeOf(me),),
    ).fetchall()
    return dict(found)


def write(db: Connection, me: Identity, notes: Notes) -> None:
    """
    Note, or forget.
    """
    for name, note in sorted(notes.items()):
        place = (placeOf(me), itemOf(name))
        if note is None:
            db.execute("DELETE FROM notes WHERE place = %s AND item = %s", place)
        else:
            value, seconds = note
            db.execute(
                "INSERT INTO notes (place, item, kind, whose, name, value, version, expires)"
                " VALUES (%s, %s, %s, %s, %s, %s, 0, clock_timestamp() + make_interval(secs => %s))"
                " ON CONFLICT (place, item)"
                " DO UPDATE SET value = excluded.value, expires = excluded.expires",
                (*place, _KIND, me.machine, name, value, seconds),
            )
