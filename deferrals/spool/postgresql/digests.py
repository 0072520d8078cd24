"""
Up to when recipients were told what was refused for them, in PostgreSQL; and which process
is about to tell one: of all machines one does.

Who tells a recipient takes it first, and says when it has told.  What a process has taken
stays its own: after a kill it goes on, and knows by the notes of its own spool whether it
had told.  One that does not come back is out of it after a while.

Everything here runs in a thread that has a connection, inside a transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from deferrals.spool.postgresql import ownnotes
from deferrals.spool.postgresql.owners import Identity

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: What a process has taken that is not heard any longer is free so late; and what one has
#: taken that lives, in seconds.
AWAY_SECONDS, LONGEST_SECONDS = 900.0, 86400.0

#: It is known for so long up to when one was told.
_DAYS = 15

_EXPIRES = f"clock_timestamp() + interval '{_DAYS} days'"

#: So many are removed at once.
_SLICE = 1000


@attrs.frozen
class DigestTaken:
    """
    What is known of one recipient.

    @ivar told: up to when it was told, in seconds since the epoch.
    @ivar taker: the process that is about to tell it; C{None} where none is.
    @ivar seconds: how long ago that took it.
    @ivar isHeard: whether that process lives.
    @ivar noted: up to when that process has told it, as far as can be seen: where its spool
        is in the database, too.
    """

    told: float = 0.0
    taker: bytes | None = None
    seconds: float = 0.0
    isHeard: bool = False
    noted: float = 0.0

    @property
    def known(self) -> float:
        """Up to when the recipient has been told, for all that is known."""
        return max(self.told, self.noted)

    def isFree(self, me: bytes) -> bool:
        """
        Whether a process may tell.
        """
        if self.taker in (None, me):
            return True
        return self.seconds > (LONGEST_SECONDS if self.isHeard else AWAY_SECONDS)


def told(db: Connection) -> dict[str, float]:
    """
    @return: up to when recipients were told.
    """
    db.execute(
        "DELETE FROM digests WHERE owner IN (SELECT owner FROM digests"
        " WHERE expires <= clock_timestamp() LIMIT %s FOR UPDATE SKIP LOCKED)",
        (_SLICE,),
    )
    found: list[tuple[str, float]] = db.execute(
        "SELECT owner, told FROM digests WHERE told > 0"
    ).fetchall()
    return dict(found)


def take(db: Connection, me: Identity, owner: str, note: str, until: float) -> float | None:
    """
    Be the one that tells a recipient.

    @param note: what a process notes in its own spool with what it tells.
    @return: since when it is to be told; C{None} where it was, or another one does.
    """
    db.execute(
        f"INSERT INTO digests (owner, told, expires) VALUES (%s, 0, {_EXPIRES})"
        " ON CONFLICT (owner) DO NOTHING",
        (owner,),
    )
    place = ownnotes.placeOf(me)
    found = _found(db, owner, note)
    if found is None or found.known >= until or not found.isFree(place):
        return None
    db.execute(
        "UPDATE digests SET told = greatest(told, %s), taker = %s, machine = %s, worker = %s,"
        f" taken = clock_timestamp(), expires = {_EXPIRES} WHERE owner = %s",
        (found.known, place, me.machine, me.worker, owner),
    )
    return found.known


def _found(db: Connection, owner: str, note: str) -> DigestTaken | None:
    row = db.execute(
        "SELECT told, taker, coalesce(extract(epoch FROM clock_timestamp() - taken), 0)::float8,"
        " EXISTS (SELECT 1 FROM owners AS o WHERE o.machine = d.machine AND o.worker = d.worker"
        " AND o.seen > clock_timestamp() - make_interval(secs => o.lease)),"
        " coalesce((SELECT value::float8 FROM notes WHERE place = d.taker AND item = %s), 0)"
        " FROM digests AS d WHERE owner = %s FOR UPDATE OF d",
        (ownnotes.itemOf(note), owner),
    ).fetchone()
    return None if row is None else DigestTaken(*row)


def done(db: Connection, me: Identity, owner: str, until: float) -> None:
    """
    A recipient was told up to then.
    """
    db.execute(
        f"INSERT INTO digests AS d (owner, told, expires) VALUES (%s, %s, {_EXPIRES})"
        " ON CONFLICT (owner) DO UPDATE SET told = greatest(d.told, excluded.told),"
        " expires = excluded.expires, taker = nullif(d.taker, %s)",
        (owner, until, ownnotes.placeOf(me)),
    )


def leave(db: Connection, me: Identity, owner: str) -> None:
    """
    A recipient is not told by this process after all.
    """
    db.execute(
        "UPDATE digests SET taker = NULL WHERE owner = %s AND taker = %s",
        (owner, ownnotes.placeOf(me)),
    )


def linkKey(db: Connection, made: str) -> str:
    """
    What links are signed with at all machines.

    @param made: what it is from now on, where there is none yet.
    @return: hexadecimal digits.
    """
    db.execute("INSERT INTO info VALUES ('link_key', %s) ON CONFLICT DO NOTHING", (made,))
    found: str = db.execute("SELECT value FROM info WHERE name = 'link_key'").fetchall()[0][0]
    return found
