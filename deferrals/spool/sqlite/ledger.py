"""
The queue in the embedded database: what is found, loaded and saved.

Everything here runs in the database's thread, inside a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence

import attrs

from deferrals.interfaces import MailKind
from deferrals.spool import rows
from deferrals.spool.batch import Insert, Value, WriteBatch
from deferrals.spool.ledger import HistoryEntry, Ledger, Place, Stored
from deferrals.spool.message import HEADER_OCTETS, Message
from deferrals.spool.rows import (
    CHANGING,
    COLUMNS,
    DAMAGED,
    ENDED,
    QUEUED,
    STAGED,
    STUCK,
    QueueRow,
    queueRow,
)
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.leaving import leave
from deferrals.spool.sqlite.writing import apply

SELECTED = ", ".join(COLUMNS)

_KEY = "message = ? AND seq = ?"

_SAVE = f"UPDATE recipients SET {', '.join(f'{name} = ?' for name in CHANGING)} WHERE {_KEY}"

#: By its key: the plus signs keep SQLite from walking through all that is due.
_BY_DESTINATION = "message = ? AND +status = 0 AND +destination = ? AND +due <= ?"

_FIRST = "SELECT due FROM recipients WHERE status = 0 AND destination = ? ORDER BY due LIMIT 1"

_STORED = (
    f"SELECT {rows.ENVELOPE}, size, digest, since,"
    " (SELECT min(expires) FROM recipients WHERE message = id),"
    " (SELECT count(*) FROM recipients WHERE message = id)"
    " FROM messages WHERE id = ?"
)


@attrs.define
class SqliteLedger(Ledger):
    """
    See L{Ledger<deferrals.spool.ledger.Ledger>}.

    @ivar wall: the time of day, for the history.
    @ivar files: those of the spool; C{None} where no content is asked for.
    """

    db: sqlite3.Connection
    now: float
    owner: str = ""
    wall: float = 0.0
    files: SpoolFiles | None = None

    # Recipients.

    def rows(self, number: int, seqs: Collection[int] | None = None) -> list[QueueRow]:
        if seqs is None:
            return self._found("message = ?", number)
        return [row for seq in seqs for row in self._found(_KEY, number, seq)]

    def _found(self, where: str, *values: Value) -> list[QueueRow]:
        found = self.db.execute(f"SELECT {SELECTED} FROM recipients WHERE {where}", values)
        return [queueRow(columns) for columns in found]

    def save(self, rows: Sequence[QueueRow]) -> None:
        self.db.executemany(_SAVE, [_saved(row) for row in rows])

    def drop(self, rows: Sequence[QueueRow]) -> None:
        keys = [(row.message, row.seq) for row in rows]
        self.db.executemany(f"DELETE FROM recipients WHERE {_KEY}", keys)

    def endedLeases(self, limit: int) -> list[QueueRow]:
        where = (
            "status = 1 AND due <= ?"
            " AND EXISTS (SELECT 1 FROM messages WHERE id = message AND state = 1) LIMIT ?"
        )
        return self._found(where, self.now, limit)

    def leased(self, limit: int) -> list[QueueRow]:
        """
        What is leased, whatever its message is.
        """
        return self._found("status = 1 LIMIT ?", limit)

    def due(self, rooms: Mapping[str, int]) -> list[QueueRow]:
        found = [
            self._found(_BY_DESTINATION, number, name, self.now)
            for name, room in rooms.items()
            for number in self._first(name, room)
        ]
        return [row for some in found for row in some]

    def _first(self, name: str, limit: int) -> list[int]:
        """
        The messages that have waited longest for a destination.
        """
        found: dict[int, None] = {}
        due = self.db.execute(
            "SELECT message FROM recipients WHERE status = 0 AND destination = ? AND due <= ?"
            " ORDER BY due",
            (name, self.now),
        )
        for (number,) in due:
            found[number] = None
            if len(found) == limit:
                break
        due.close()
        return list(found)

    def telling(self, limit: int) -> list[int]:
        ended = f"SELECT message FROM recipients WHERE status = {ENDED} AND due <= ?"
        late = "SELECT message FROM recipients WHERE notice <= ?" + (
            f" AND status IN ({QUEUED}, {STUCK}, {DAMAGED})"
        )
        numbers: list[int] = []
        for sql in (ended, late):
            found = self.db.execute(f"{sql} LIMIT ?", (self.now, limit * 10))
            numbers += [number for (number,) in found]
        return list(dict.fromkeys(numbers))[:limit]

    # Messages.

    def since(self, number: int) -> float | None:
        found = self.db.execute("SELECT since FROM messages WHERE id = ?", (number,)).fetchone()
        return None if found is None else found[0]

    def isStaged(self, number: int) -> bool:
        found = self.db.execute("SELECT state FROM messages WHERE id = ?", (number,)).fetchone()
        return found is not None and found[0] == STAGED

    def messages(self, numbers: Collection[int]) -> Mapping[int, Stored]:
        found = [self.db.execute(_STORED, (number,)).fetchone() for number in numbers]
        return {row[0]: Stored(row[:3], *row[3:]) for row in found if row is not None}

    def content(self, number: int, size: int, digest: bytes) -> Message:
        body = self.db.execute("SELECT body FROM bodies WHERE id = ?", (number,)).fetchone()
        if body is not None:
            return Message(size, digest, body[0], None, body[0][:HEADER_OCTETS], False)
        path = self.files.found(number) if self.files is not None else ""
        try:
            with open(path, "rb") as file:
                head = file.read(HEADER_OCTETS)
        except FileNotFoundError:
            raise ValueError("its content is missing") from None
        return Message(size, digest, None, path, head, False)

    def insert(self, inserts: Sequence[Insert]) -> None:
        apply(WriteBatch(inserts=list(inserts)), self.db)

    def leave(self, number: int) -> bool:
        left = self.db.execute("SELECT 1 FROM recipients WHERE message = ? LIMIT 1", (number,))
        if left.fetchone() is not None:
            return False
        leave(self.db, number)
        return True

    def tell(self, entries: Sequence[HistoryEntry]) -> None:
        self.db.executemany(
            "INSERT INTO history (message, seq, at, event, reply, host) VALUES (?, ?, ?, ?, ?, ?)",
            [(e.message, e.seq, self.wall, e.event, e.reply or None, e.host) for e in entries],
        )

    # Destinations.

    def ready(self, limit: int) -> list[str]:
        found = self.db.execute(
            "SELECT name FROM destinations WHERE ready <= ? ORDER BY ready LIMIT ?",
            (self.now, limit),
        )
        return [name for (name,) in found]

    def asked(self, names: Collection[str]) -> list[str]:
        found: list[Place] = []
        for name in names:
            row = self.db.execute("SELECT ready FROM destinations WHERE name = ?", (name,))
            found += [(ready, name) for (ready,) in row if ready <= self.now]
        return [name for _, name in sorted(found)]

    def places(self, after: Place, limit: int) -> list[Place]:
        found: list[Place] = self.db.execute(
            "SELECT ready, name FROM destinations WHERE (ready, name) > (?, ?) AND ready <= ?"
            " ORDER BY ready, name LIMIT ?",
            (*after, self.now, limit),
        ).fetchall()
        return found

    def kinds(self, name: str, limit: int) -> tuple[MailKind, ...]:
        found = self.db.execute(
            "SELECT delivery, envelope FROM recipients JOIN messages ON id = message"
            " WHERE status = 0 AND destination = ? AND due <= ? ORDER BY due LIMIT ?",
            (name, self.now, limit),
        ).fetchall()
        return tuple(dict.fromkeys(rows.kind(*row) for row in found))

    def waitFor(self, dues: Mapping[str, float]) -> None:
        self.db.executemany(
            "INSERT INTO destinations (name, ready) VALUES (?, ?) ON CONFLICT (name)"
            " DO UPDATE SET ready = max(gate, min(ready, excluded.ready))",
            dues.items(),
        )

    def hurry(self, name: str) -> None:
        self.db.execute("UPDATE destinations SET gate = 0 WHERE name = ?", (name,))
        self.waitFor({name: self.now})

    def served(self, names: Collection[str]) -> None:
        for name in names:
            self._served(name)

    def _served(self, name: str) -> None:
        first = self.db.execute(_FIRST, (name,)).fetchone()
        if first is None:
            sql = "DELETE FROM destinations WHERE name = ? AND gate <= ?"
            self.db.execute(sql, (name, self.now))
        else:
            sql = "UPDATE destinations SET ready = max(gate, ?) WHERE name = ?"
            self.db.execute(sql, (max(first[0], self.now), name))

    def shut(self, name: str, until: float) -> None:
        self.db.execute(
            "INSERT INTO destinations (name, ready, gate) VALUES (?, ?, ?) ON CONFLICT (name)"
            " DO UPDATE SET gate = excluded.gate, ready = max(ready, excluded.gate)",
            (name, until, until),
        )

    def reopen(self, name: str) -> None:
        first = self.db.execute(_FIRST, (name,)).fetchone()
        if first is None:
            self.db.execute("DELETE FROM destinations WHERE name = ?", (name,))
        else:
            sql = "UPDATE destinations SET gate = 0, ready = ? WHERE name = ?"
            self.db.execute(sql, (max(first[0], self.now), name))


def _saved(row: QueueRow) -> tuple[Value, ...]:
    """
    The values of L{_SAVE}.
    """
    return (
        *(row.status, row.due, row.owner, row.destination, row.attempts, row.expires),
        *(row.notice, row.warned, row.action, row.reply, row.host, row.message, row.seq),
    )
