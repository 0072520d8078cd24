"""
Limits (L{ILimits<deferrals.interfaces.ILimits>}) that hold for all servers which share a
PostgreSQL database: what was spent within a window that slides, and what is there at once.

Each is one statement.  What counts of a key is one row, so that of several servers one
after the other looks and spends.  A row is found by a digest of its limit and its key,
which have one size whatever clients call themselves.

What is there at once is written with how much its owner has then, not with how much it has
become: so it may be written again.  What a dead owner had does not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from deferrals.model.windows import STEPS

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: One server at a time lets go of what is too much.
_TRIM_LOCK = 0x64656605

#: So many rows are removed by one statement.
_PIECE = 10_000

#: The step of a window that is now, and what counts of one.
_NOW = "floor(extract(epoch FROM clock_timestamp()) / %(width)s)::bigint"
_COUNTING = f"key::bigint >= {_NOW} - {STEPS}"
_USED = f"(SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(s.steps) WHERE {_COUNTING})"

_SPEND = (
    "INSERT INTO spent AS s (place, name, steps, expires)"
    f" VALUES (%(place)s, %(name)s, jsonb_build_object({_NOW}::text, %(amount)s::bigint),"
    " clock_timestamp() + make_interval(secs => %(keep)s)) ON CONFLICT (place) DO UPDATE"
    " SET expires = excluded.expires, steps = (SELECT jsonb_object_agg(key, total) FROM"
    " (SELECT key, sum(value::bigint) AS total FROM (SELECT * FROM jsonb_each_text(s.steps)"
    f" WHERE {_COUNTING} UNION ALL SELECT * FROM jsonb_each_text(excluded.steps)) AS found"
    f" GROUP BY key) AS sums) WHERE {_USED} + %(amount)s <= %(most)s RETURNING 1"
)

_ASK = f"SELECT {_USED} < %(most)s FROM spent AS s WHERE place = %(place)s"

#: What was spent last goes first, as in L{deferrals.model.windows}.
_GIVE_BACK = (
    "UPDATE spent AS s SET steps = (SELECT coalesce(jsonb_object_agg(key, rest), '{}') FROM"
    " (SELECT key, value - least(value, greatest(0, %(back)s - newer)) AS rest FROM"
    " (SELECT key, value::bigint AS value, coalesce(sum(value::bigint) OVER (ORDER BY key::bigint"
    " DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS newer"
    " FROM jsonb_each_text(s.steps)) AS known) AS left_over WHERE rest > 0)"
    " WHERE place = %(place)s"
)

#: What those have who live, but for one of them.
_OTHERS = (
    "(SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(e.counts)"
    " JOIN owners ON id = key::bigint WHERE id <> %(me)s)"
)

_ENTER = (
    "INSERT INTO entered AS e (place, counts)"
    " VALUES (%(place)s, jsonb_build_object(%(me)s::text, %(mine)s::bigint))"
    " ON CONFLICT (place) DO UPDATE SET counts = e.counts || excluded.counts"
    f" WHERE {_OTHERS} + %(mine)s <= %(most)s RETURNING 1"
)

_SET = (
    "INSERT INTO entered AS e (place, counts)"
    " VALUES (%(place)s, jsonb_build_object(%(me)s::text, %(mine)s::bigint))"
    " ON CONFLICT (place) DO UPDATE SET counts = e.counts || excluded.counts"
)

_LEAVE = "UPDATE entered SET counts = counts - %(me)s::text WHERE place = %(place)s"

_EMPTIED = (
    "DELETE FROM entered WHERE place IN (SELECT place FROM entered WHERE NOT EXISTS"
    " (SELECT 1 FROM jsonb_object_keys(counts) AS owner JOIN owners ON id = owner::bigint)"
    " LIMIT %s FOR UPDATE SKIP LOCKED)"
)

_EXPIRED = (
    "DELETE FROM spent WHERE place IN (SELECT place FROM spent"
    " WHERE expires <= clock_timestamp() LIMIT %s FOR UPDATE SKIP LOCKED)"
)

#: What has spent least goes first: a flood of new keys does not free one that has spent
#: much.
_SURPLUS = (
    "DELETE FROM spent WHERE place IN (SELECT place FROM spent WHERE name = %s ORDER BY"
    " (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(steps)), expires LIMIT %s)"
)


def placeOf(limit: str, key: str) -> bytes:
    """
    @return: what tells a key of a limit from all others.
    """
    return hashlib.sha256(json.dumps([limit, key]).encode()).digest()


def spend(db: Connection, limit: str, key: str, amount: int, most: int, seconds: float) -> bool:
    """
    See L{ILimits.spend<deferrals.interfaces.ILimits.spend>}.
    """
    if amount > most:
        return False
    width = seconds / STEPS
    values = {
        **{"place": placeOf(limit, key), "name": limit, "width": width, "most": most},
        **{"amount": amount, "back": -amount, "keep": seconds + width},
    }
    if amount < 0:
        db.execute(_GIVE_BACK, values)
        return True
    found = db.execute(_SPEND if amount else _ASK, values).fetchone()
    if amount:
        return found is not None
    return most > 0 if found is None else bool(found[0])


def enter(db: Connection, me: int, limit: str, key: str, mine: int, most: int) -> bool:
    """
    Have one more of something at once.

    @param mine: how many this owner has then.
    @param most: how many all may have.
    @return: whether it may; where it may not, nothing has changed.
    """
    if mine > most:
        return False
    values = {"place": placeOf(limit, key), "me": me, "mine": mine, "most": most}
    return db.execute(_ENTER, values).fetchone() is not None


def settle(db: Connection, me: int, limit: str, key: str, mine: int) -> None:
    """
    Have so many of something at once.
    """
    values = {"place": placeOf(limit, key), "me": me, "mine": mine}
    db.execute(_SET if mine else _LEAVE, values)


def trim(db: Connection, most: Mapping[str, int], usual: int) -> None:
    """
    Let go of what does not count any longer, and of what is too much of a limit (in a
    transaction).

    @param most: how many keys a limit may have, where that is not what others have.
    """
    lock = "SELECT pg_try_advisory_xact_lock(%s, hashtext(current_schema()))"
    found = db.execute(lock, (_TRIM_LOCK,)).fetchone()
    if found is None or not found[0]:
        return
    db.execute(_EXPIRED, (_PIECE,))
    db.execute(_EMPTIED, (_PIECE,))
    for name, number in db.execute("SELECT name, count(*) FROM spent GROUP BY name").fetchall():
        surplus = number - most.get(name, usual)
        if surplus > 0:
            db.execute(_SURPLUS, (name, min(surplus, _PIECE)))
