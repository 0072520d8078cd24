"""
Notes (L{INotes<deferrals.interfaces.INotes>}) in PostgreSQL: what is put there is found
by all servers that ask from then on.

A note is found by digests of its place and its key, which have one size whatever senders
call themselves.  Its version is the time of day, or one more than the version before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from deferrals.errors import Changed
from deferrals.model.json import JSON

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: Key, the text of its value, and version.
Stored: TypeAlias = tuple[str, str, int]

#: One server at a time lets go of what is too much.
_TRIM_LOCK = 0x64656603

#: So many notes are removed by one statement.
_PIECE = 10_000

_VERSION = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

_INSERT = (
    "INSERT INTO notes AS n (place, item, kind, whose, name, value, version, expires)"
    f" VALUES (%s, %s, %s, %s, %s, %s, {_VERSION},"
    " clock_timestamp() + make_interval(secs => %s)) ON CONFLICT (place, item) DO UPDATE"
    " SET value = excluded.value, expires = excluded.expires, name = excluded.name,"
    " version = greatest(n.version + 1, excluded.version)"
)

_UPDATE = (
    f"UPDATE notes SET value = %s, version = greatest(version + 1, {_VERSION}),"
    " expires = clock_timestamp() + make_interval(secs => %s)"
    " WHERE place = %s AND item = %s AND version = %s AND expires > clock_timestamp()"
)

#: What goes first: the oldest notes of the owners that have most.
_TRIM = (
    "DELETE FROM notes WHERE (place, item) IN (SELECT place, item FROM"
    " (SELECT place, item, version,"
    " row_number() OVER (PARTITION BY whose ORDER BY version DESC) AS rank"
    " FROM notes WHERE kind = %s) AS ranked ORDER BY rank DESC, version LIMIT %s)"
)


def placeOf(kind: str, group: str) -> bytes:
    """
    @return: what tells a group from all others.
    """
    return _digest([kind, group])


def _digest(value: JSON) -> bytes:
    return hashlib.sha256(json.dumps(value).encode()).digest()


def find(db: Connection, places: Sequence[bytes]) -> dict[bytes, list[Stored]]:
    """
    @return: of each place its notes that have not expired, the one that was put longest
        ago first.
    """
    found: dict[bytes, list[Stored]] = {place: [] for place in places}
    for place, name, value, version in db.execute(
        "SELECT place, name, value, version FROM notes WHERE place = ANY(%s)"
        " AND expires > clock_timestamp() ORDER BY version, item",
        ([*places],),
    ):
        found[place].append((json.loads(name), value, version))
    return found


def put(
    db: Connection,
    place: tuple[str, str, str],
    value: JSON,
    seconds: float,
    was: int | None,
) -> int:
    """
    @param place: kind, group and key.
    @raise Changed: it has another version than C{was}.
    """
    kind, group, key = place
    where, item, text = placeOf(kind, group), _digest(key), json.dumps(value)
    if was:
        row = db.execute(f"{_UPDATE} RETURNING version", (text, seconds, where, item, was))
    else:
        only = "" if was is None else " WHERE n.expires <= clock_timestamp()"
        whose = group.partition(" ")[0]
        values = (where, item, kind, json.dumps(whose), json.dumps(key), text, seconds)
        row = db.execute(f"{_INSERT}{only} RETURNING version", values)
    written = row.fetchone()
    if written is None:
        raise _changed(db, where, item)
    return int(written[0])


def _changed(db: Connection, place: bytes, item: bytes) -> Changed:
    now = db.execute(
        "SELECT value, version FROM notes WHERE place = %s AND item = %s"
        " AND expires > clock_timestamp()",
        (place, item),
    ).fetchone()
    return Changed() if now is None else Changed(json.loads(now[0]), now[1])


def forget(db: Connection, kind: str, group: str, key: str) -> None:
    """
    No server finds it any longer.
    """
    where = placeOf(kind, group), _digest(key)
    db.execute("DELETE FROM notes WHERE place = %s AND item = %s", where)


def trim(db: Connection, most: Mapping[str, int], octets: int) -> None:
    """
    Let go of what has expired, and of what is too much of a kind (in a transaction).

    @param most: how many notes a kind may have.
    @param octets: how much all notes of one kind may be together.
    """
    if not _isAlone(db):
        return
    db.execute(
        "DELETE FROM notes WHERE (place, item) IN (SELECT place, item FROM notes"
        " WHERE expires <= clock_timestamp() LIMIT %s)",
        (_PIECE,),
    )
    for kind, number, size in _sizes(db, most):
        surplus = number - most[kind]
        if size > octets:
            surplus = max(surplus, number - number * octets // size)
        if surplus > 0:
            db.execute(_TRIM, (kind, min(surplus, _PIECE)))


def _isAlone(db: Connection) -> bool:
    found = db.execute("SELECT pg_try_advisory_xact_lock(%s)", (_TRIM_LOCK,)).fetchone()
    return found is not None and bool(found[0])


def _sizes(db: Connection, kinds: Iterable[str]) -> list[tuple[str, int, int]]:
    """
    @return: kind, how many notes, and how many octets.
    """
    return [
        (kind, number, int(size))
        for kind, number, size in db.execute(
            "SELECT kind, count(*), sum(length(value) + length(name)) FROM notes"
            " WHERE kind = ANY(%s) GROUP BY kind",
            ([*kinds],),
        )
    ]
