"""
The queue in PostgreSQL: what is found, loaded and saved.

Everything here runs in a thread that has a connection, inside a transaction.  What is
read to be changed is locked; what another transaction has locked is left to it where
there is other work (SKIP LOCKED).  Destinations are locked last, or without waiting:
so no two transactions wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from deferrals.interfaces import MailKind
from deferrals.model.disposition import LEASE_SECONDS
from deferrals.spool import rows
from deferrals.spool.batch import Insert, Value
from deferrals.spool.ledger import HistoryEntry, Ledger, Place, Stored
from deferrals.spool.message import HEADER_OCTETS, Message
from deferrals.spool.postgresql.writing import Batch, File, write
from deferrals.spool.rows import (
    CHANGING,
    COLUMNS,
    DAMAGED,
    ENDED,
    QUEUED,
    STUCK,
    QueueRow,
    queueRow,
)

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

_TIMES = {"due", "expires", "notice"}

#: How the columns of a row are read, and the types of those that are saved.
_TYPES = {
    **dict.fromkeys(("message", "owner"), "bigint"),
    **dict.fromkeys(("seq", "status", "attempts", "warned"), "integer"),
    **dict.fromkeys(_TIMES, "float8"),
}


def epoch(name: str) -> str:
    """
    @return: what reads a time, as the seconds of rows.
    """
    return f"extract(epoch FROM {name})::float8"


def _read(name: str) -> str:
    if name == "owner":
        return "owner::text"
    return epoch(name) if name in _TIMES else name


SELECTED = ", ".join(map(_read, COLUMNS))

_SAVED = ("message", "seq", *CHANGING)

_SAVE = (
    "UPDATE recipients AS r SET "
    + ", ".join(
        f"{name} = {f'to_timestamp(v.{name})' if name in _TIMES else f'v.{name}'}"
        for name in CHANGING
    )
    + " FROM unnest("
    + ", ".join(f"%s::{_TYPES[name]}[]" if name in _TYPES else "%b::text[]" for name in _SAVED)
    + f") AS v ({', '.join(_SAVED)}) WHERE r.message = v.message AND r.seq = v.seq"
)

_DUE = "status = 0 AND destination = %(name)s AND due <= to_timestamp(%(now)s)"

#: Of each destination the messages that have waited longest, as many recipients as
#: messages are wanted; and all that is due of them there.
_TAKE = (
    "WITH first AS (SELECT w.name, f.message"
    " FROM unnest(%(names)s::text[], %(rooms)s::integer[]) AS w (name, room) CROSS JOIN LATERAL"
    " (SELECT message FROM recipients WHERE status = 0 AND destination = w.name"
    " AND due <= to_timestamp(%(now)s) AND message <> ALL(%(taken)s)"
    " ORDER BY due, message LIMIT w.room FOR UPDATE SKIP LOCKED) AS f)"
    f" SELECT {SELECTED} FROM recipients WHERE (destination, message) IN (SELECT * FROM first)"
    " AND status = 0 AND due <= to_timestamp(%(now)s) FOR UPDATE SKIP LOCKED"
)

_STORED = (
    f"SELECT id, {epoch('received')}, envelope, size, digest, {epoch('since')},"
    f" (SELECT {epoch('min(expires)')} FROM recipients WHERE message = id),"
    " (SELECT count(*) FROM recipients WHERE message = id), body"
    " FROM messages WHERE id = ANY(%s)"
)

#: When the first one is ready, locked or not, in each row; and those that are free.
_READY = (
    f"SELECT {epoch('f.at')}, d.name FROM (SELECT min(ready) AS at FROM destinations"
    " WHERE ready >= to_timestamp(%(at)s)) AS f LEFT JOIN LATERAL (SELECT name, ready"
    " FROM destinations WHERE ready >= to_timestamp(%(at)s) AND ready <= to_timestamp(%(now)s)"
    " ORDER BY ready, name LIMIT %(limit)s FOR UPDATE SKIP LOCKED) AS d ON true"
    " ORDER BY d.ready, d.name"
)

_WAIT = (
    "INSERT INTO destinations AS d (name, ready)"
    " SELECT name, to_timestamp(due) FROM unnest(%s::text[], %s::float8[]) AS v (name, due)"
    " ORDER BY name ON CONFLICT (name) DO UPDATE"
    " SET ready = greatest(d.gate, least(d.ready, excluded.ready))"
    " WHERE d.ready > greatest(d.gate, excluded.ready)"
)


#: How often a claim looks at all destinations that are ready, in seconds.
ALL_SECONDS = 10.0

#: So old may a time be when others can see it, in seconds.
COMMIT_SECONDS = 5.0

#: Times are rounded to this, in seconds.
_ROUNDED = 0.001


@attrs.define
class Floor:
    """
    Before which time no destination is ready for this process.

    What has been served is ready later, and what it was stays at the head of the index
    until it is cleaned: while another connection has a transaction open, for as long as that.  So
    claims begin behind it, but for one now and then.

    @ivar at: that time.
    @ivar allAt: when all are looked at again.
    """

    at: float = -math.inf
    allAt: float = -math.inf

    def begin(self, now: float) -> float:
        """
        @return: from which time on to look.
        """
        if not self.allAt - ALL_SECONDS <= now < self.allAt:  # a clock may go back, too
            self.at, self.allAt = -math.inf, now + ALL_SECONDS
        return self.at

    def found(self, first: float | None, now: float) -> None:
        """
        @param first: when the first one is ready, whoever has locked it.
        @param now: what time it is: what others are about to commit was begun
            L{COMMIT_SECONDS} before that at most.
        """
        latest = now - COMMIT_SECONDS
        self.at = latest if first is None else min(first - _ROUNDED, latest)


@attrs.define
class PostgresqlLedger(Ledger):
    """
    See L{Ledger<deferrals.spool.ledger.Ledger>}.

    @ivar staged: messages that are this owner's, and are their senders' still.
    @ivar path: where a large content is, or is to be fetched to, by number.
    @ivar floor: where a claim begins.
    @ivar files: what has left, and is in the directory of contents; filled here.
    """

    db: Connection
    now: float
    owner: str
    staged: Collection[int] = ()
    path: Callable[[int], str] = str
    floor: Floor = attrs.field(factory=Floor)
    files: list[File] = attrs.field(factory=list)
    _bodies: dict[int, bytes | None] = attrs.field(factory=dict)

    # Recipients.

    def rows(self, number: int, seqs: Collection[int] | None = None) -> list[QueueRow]:
        some = "" if seqs is None else " AND seq = ANY(%s)"
        values = [number] if seqs is None else [number, [*seqs]]
        return self._found(f"message = %s{some} ORDER BY seq FOR UPDATE", values)

    def _found(self, where: str, values: Sequence[object]) -> list[QueueRow]:
        found = self.db.execute(f"SELECT {SELECTED} FROM recipients WHERE {where}", values)
        return [queueRow(columns) for columns in found]

    def save(self, rows: Sequence[QueueRow]) -> None:
        if rows:
            columns = [[_value(row, name) for row in rows] for name in _SAVED]
            self.db.execute(_SAVE, columns)

    def drop(self, rows: Sequence[QueueRow]) -> None:
        if rows:
            self.db.execute(
                "DELETE FROM recipients WHERE (message, seq) IN"
                " (SELECT * FROM unnest(%s::bigint[], %s::integer[]))",
                ([row.message for row in rows], [row.seq for row in rows]),
            )

    def endedLeases(self, limit: int) -> list[QueueRow]:
        """
        The leases of others end with them (L{deferrals.spool.postgresql.owners}).
        """
        where = (
            "status = 1 AND owner = %s AND due <= to_timestamp(%s) AND message <> ALL(%s)"
            " LIMIT %s FOR UPDATE SKIP LOCKED"
        )
        return self._found(where, [int(self.owner), self.now, [*self.staged], limit])

    def leasedTo(self, owners: Sequence[int], limit: int) -> list[QueueRow]:
        """
        What is leased to some owners.
        """
        return self._found("status = 1 AND owner = ANY(%s) LIMIT %s FOR UPDATE", [[*owners], limit])

    def unknown(
        self, known: Sequence[tuple[int, int]], others: Collection[int], limit: int
    ) -> list[QueueRow]:
        """
        What was leased to this owner before now, or has ended there, and it does not know of.

        @param known: numbers of messages and of their recipients.
        @param others: numbers of messages.
        """
        where = (
            f"(status = 1 OR status = {ENDED}) AND owner = %s AND message <> ALL(%s)"
            " AND due <= to_timestamp(%s)"
            " AND NOT EXISTS"
            " (SELECT 1 FROM unnest(%s::bigint[], %s::integer[]) AS k (number, place)"
            " WHERE number = message AND place = seq) LIMIT %s FOR UPDATE SKIP LOCKED"
        )
        numbers, seqs = [number for number, _ in known], [seq for _, seq in known]
        ends = self.now + LEASE_SECONDS
        return self._found(where, [int(self.owner), [*others], ends, numbers, seqs, limit])

    def due(self, rooms: Mapping[str, int]) -> list[QueueRow]:
        taken: dict[str, dict[int, list[QueueRow]]] = {name: {} for name in rooms}
        self._take(rooms, (), taken)
        for name, room in rooms.items():
            some = taken[name]
            while len(some) < room <= sum(map(len, some.values())):
                before = len(some)  # several recipients of one message were the first
                self._take({name: room - before}, [*some], taken)
                if len(some) == before:
                    break
        return [row for some in taken.values() for row in _inOrder(some)]

    def _take(
        self,
        rooms: Mapping[str, int],
        others: Sequence[int],
        taken: Mapping[str, dict[int, list[QueueRow]]],
    ) -> None:
        """
        @param others: messages that were taken before.
        @param taken: rows by destination and message; they are added.
        """
        values = {"names": [*rooms], "rooms": [*rooms.values()], "now": self.now}
        for columns in self.db.execute(_TAKE, {**values, "taken": [*others]}):
            row = queueRow(columns)
            taken[row.destination].setdefault(row.message, []).append(row)

    def telling(self, limit: int) -> list[int]:
        ended = f"status = {ENDED} AND due <= to_timestamp(%s)"
        late = f"notice <= to_timestamp(%s) AND status IN ({QUEUED}, {STUCK}, {DAMAGED})"
        numbers: list[int] = []
        for where in (ended, late):
            sql = f"SELECT message FROM recipients WHERE {where} LIMIT %s"
            numbers += [number for (number,) in self.db.execute(sql, (self.now, limit * 10))]
        return list(dict.fromkeys(numbers))[:limit]

    # Messages.

    def since(self, number: int) -> float | None:
        """
        Whoever asks is about to change what is left of the message, alone.
        """
        sql = f"SELECT {epoch('since')} FROM messages WHERE id = %s FOR UPDATE"
        found = self.db.execute(sql, (number,)).fetchone()
        return None if found is None else found[0]

    def isStaged(self, number: int) -> bool:
        return number in self.staged

    def messages(self, numbers: Collection[int]) -> Mapping[int, Stored]:
        found = self.db.execute(_STORED, ([*numbers],)).fetchall() if numbers else []
        self._bodies.update((row[0], row[-1]) for row in found)
        return {row[0]: Stored(row[:3], *row[3:-1]) for row in found}

    def content(self, number: int, size: int, digest: bytes) -> Message:
        body = self._bodies.get(number)
        if body is not None:
            return Message(size, digest, body, None, body[:HEADER_OCTETS], False)
        head = self.db.execute(
            "SELECT substring(body FOR %s) FROM pieces WHERE message = %s AND seq <= 0",
            (HEADER_OCTETS, number),
        ).fetchone()
        if head is None:
            raise ValueError("its content is missing")
        return Message(size, digest, None, self.path(number), head[0], False)

    def insert(self, inserts: Sequence[Insert]) -> None:
        write(self.db, Batch(int(self.owner), inserts))

    def leave(self, number: int) -> bool:
        sql = "SELECT 1 FROM recipients WHERE message = %s LIMIT 1"
        if self.db.execute(sql, (number,)).fetchone() is not None:
            return False
        self.db.execute("DELETE FROM messages WHERE id = %s", (number,))
        gone = self.db.execute(
            "DELETE FROM pieces WHERE message = %s RETURNING owner, seq", (number,)
        )
        self.files += [(number, owner) for owner, seq in gone if seq < 0]
        return True

    def tell(self, entries: Sequence[HistoryEntry]) -> None:
        if entries:
            columns = list(zip(*map(attrs.astuple, entries), strict=True))
            self.db.execute(
                "INSERT INTO history (message, seq, at, event, reply, host)"
                " SELECT message, seq, clock_timestamp(), event, nullif(reply, ''), host FROM"
                " unnest(%s::bigint[], %s::integer[], %b::text[], %b::text[], %b::text[])"
                " AS v (message, seq, event, reply, host)",
                [list(column) for column in columns],
            )

    # Destinations.

    def ready(self, limit: int) -> list[str]:
        found = self.db.execute(
            _READY, {"at": self.floor.begin(self.now), "now": self.now, "limit": limit}
        ).fetchall()
        self.floor.found(found[0][0], self.now)
        return [name for _, name in found if name is not None]

    def asked(self, names: Collection[str]) -> list[str]:
        found = self.db.execute(
            "SELECT name FROM destinations WHERE name = ANY(%s) AND ready <= to_timestamp(%s)"
            " ORDER BY ready, name FOR UPDATE SKIP LOCKED",
            ([*names], self.now),
        )
        return [name for (name,) in found]

    def places(self, after: Place, limit: int) -> list[Place]:
        ready, name = after
        found = self.db.execute(
            f"SELECT {epoch('ready')}, name FROM destinations"
            " WHERE (ready, name) > (to_timestamp(%s), %s) AND ready <= to_timestamp(%s)"
            " ORDER BY ready, name LIMIT %s",
            (ready, name, self.now, limit),
        )
        return [(row[0], row[1]) for row in found]

    def kinds(self, name: str, limit: int) -> tuple[MailKind, ...]:
        found = self.db.execute(
            f"SELECT delivery, envelope FROM recipients JOIN messages ON id = message WHERE {_DUE}"
            " ORDER BY due, message, seq LIMIT %(limit)s",
            {"name": name, "now": self.now, "limit": limit},
        )
        return tuple(dict.fromkeys(rows.kind(*row) for row in found))

    def waitFor(self, dues: Mapping[str, float]) -> None:
        if dues:
            self.db.execute(_WAIT, ([*dues], [*dues.values()]))

    def hurry(self, name: str) -> None:
        sql = "UPDATE destinations SET gate = '-infinity' WHERE name = %s AND gate > '-infinity'"
        self.db.execute(sql, (name,))
        self.waitFor({name: self.now})

    def served(self, names: Collection[str]) -> None:
        self._moved(names, "gate <= to_timestamp(%(now)s)", "ready = greatest(gate, first.due, %s)")

    def _moved(self, names: Collection[str], forgotten: str, moved: str) -> None:
        """
        @param forgotten: where a destination is forgotten for which no recipients wait.
        @param moved: what becomes of the others.
        """
        gone = f"(first.due IS NULL AND {forgotten})"
        self.db.execute(
            "WITH first AS (SELECT v.name, (SELECT due FROM recipients WHERE status = 0"
            " AND destination = v.name ORDER BY due LIMIT 1) AS due"
            " FROM unnest(%(names)s::text[]) AS v (name)), gone AS (DELETE FROM destinations AS d"
            f" USING first WHERE d.name = first.name AND {gone})"
            f" UPDATE destinations AS d SET {moved.replace('%s', 'to_timestamp(%(now)s)')}"
            f" FROM first WHERE d.name = first.name AND NOT {gone}",
            {"names": [*names], "now": self.now},
        )

    def shut(self, name: str, until: float) -> None:
        self.db.execute(
            "INSERT INTO destinations AS d (name, ready, gate)"
            " VALUES (%(name)s, to_timestamp(%(until)s), to_timestamp(%(until)s))"
            " ON CONFLICT (name) DO UPDATE"
            " SET gate = excluded.gate, ready = greatest(d.ready, excluded.gate)",
            {"name": name, "until": until},
        )

    def reopen(self, name: str) -> None:
        locked = "SELECT 1 FROM destinations WHERE name = %s FOR UPDATE"
        if self.db.execute(locked, (name,)).fetchone() is not None:
            opened = "gate = '-infinity', ready = greatest(first.due, %s)"
            self._moved([name], "true", opened)


def _value(row: QueueRow, name: str) -> Value:
    value: Value = getattr(row, name)
    return int(value) if name == "owner" and value is not None else value


def _inOrder(taken: Mapping[int, Sequence[QueueRow]]) -> list[QueueRow]:
    """
    Those of one message together, what has waited longest first.
    """
    order = sorted(taken, key=lambda number: (min(row.due for row in taken[number]), number))
    return [row for one in order for row in sorted(taken[one], key=lambda row: row.seq)]


def timeOf(db: Connection) -> float:
    """
    @return: what time it is: the server's, so that no machine's clock matters.
    """
    found = db.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    assert found is not None
    now: float = found[0]
    return now
