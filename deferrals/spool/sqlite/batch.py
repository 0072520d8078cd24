"""
What one turn of the reactor asks of the spool, written in a few statements.

A busy server stages and finishes dozens of messages per turn.  Their rows go
into multi-row statements: the cost of a statement, and of handing the
interpreter from thread to thread around it, is paid once for all of them.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred

#: Rows per statement; SQLite takes 32,766 values in one.
ROWS = 256

#: The columns of a fresh recipient; the others keep their defaults until its
#: first attempt has failed.
RECIPIENT = "recipients (message, seq, status, due, owner, delivery, recipient, marks, refusal)"


@attrs.define(eq=False)
class Insert:
    """
    A message to be staged.

    @ivar message: its row in C{messages}.
    @ivar body: its octets, unless they are in a file.
    @ivar recipients: its rows in C{recipients}.
    @ivar result: what C{done} fires with.
    """

    message: tuple[Any, ...]
    body: bytes | None
    recipients: list[tuple[Any, ...]]
    result: Any
    done: Deferred[Any] = attrs.field(factory=Deferred)


@attrs.define(eq=False)
class WriteBatch:
    """
    @ivar inserts: messages to be staged.
    @ivar released: numbers of messages that became ours.
    @ivar gone: numbers of messages that are delivered to all, or abandoned,
        with the files of their bodies, which are removed afterwards.
    @ivar notes: what is noted: name to (value, expires); L{None} to forget it.
    """

    inserts: list[Insert] = attrs.field(factory=list)
    released: dict[int, None] = attrs.field(factory=dict)
    gone: dict[int, str | None] = attrs.field(factory=dict)
    notes: dict[str, tuple[str, float] | None] = attrs.field(factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inserts or self.released or self.gone or self.notes)

    def apply(self, db: sqlite3.Connection) -> None:
        """
        Write it (in the thread, inside a transaction; may be repeated).
        """
        _insert(db, "messages", [insert.message for insert in self.inserts])
        bodies = [(i.message[0], i.body) for i in self.inserts if i.body is not None]
        _insert(db, "bodies", bodies)
        _insert(db, RECIPIENT, [row for i in self.inserts for row in i.recipients])
        _forAll(db, "UPDATE messages SET state = 1 WHERE id IN", list(self.released))
        for sql in (
            "DELETE FROM messages WHERE id IN",
            "DELETE FROM bodies WHERE id IN",
            "DELETE FROM recipients WHERE message IN",
        ):
            _forAll(db, sql, list(self.gone))
        _note(db, self.notes)

    def parts(self) -> Iterator[WriteBatch]:
        """
        The same, each message by itself: so that one that cannot be written
        does not take the others with it.
        """
        for insert in self.inserts:
            yield WriteBatch(inserts=[insert])
        for number in self.released:
            yield WriteBatch(released={number: None})
        for number, path in self.gone.items():
            yield WriteBatch(gone={number: path})
        for name, note in self.notes.items():
            yield WriteBatch(notes={name: note})


@functools.cache
def _placeholders(count: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})" if columns else "?"
    return ", ".join([row] * count)


def _slices(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))


def _insert(db: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    for some in _slices(rows):
        values = [value for row in some for value in row]
        db.execute(f"INSERT INTO {table} VALUES {_placeholders(len(some), len(some[0]))}", values)


def _forAll(db: sqlite3.Connection, sql: str, numbers: Sequence[int]) -> None:
    for some in _slices(numbers):
        db.execute(f"{sql} ({_placeholders(len(some), 0)})", some)


def _note(db: sqlite3.Connection, notes: dict[str, tuple[str, float] | None]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO notes (name, value, expires) VALUES (?, ?, ?)",
        [(name, *note) for name, note in notes.items() if note is not None],
    )
    db.executemany(
        "DELETE FROM notes WHERE name = ?",
        [(name,) for name, note in notes.items() if note is None],
    )


class BatchWriter:
    """
    Collects a turn, and hands it over at its end.

    @param later: calls a function in the next turn of the reactor.
    @param write: takes a L{WriteBatch}, returns a Deferred that fires when it is
        durable.
    """

    def __init__(
        self,
        later: Callable[[Callable[[], None]], object],
        write: Callable[[WriteBatch], Deferred[Any]],
    ) -> None:
        self._later = later
        self._write = write
        self._turn = WriteBatch()

    def turn(self) -> WriteBatch:
        """
        What is being collected; about to be added to.
        """
        if not self._turn:
            self._later(self.flush)
        return self._turn

    def flush(self) -> None:
        """
        Write what has been collected.
        """
        turn, self._turn = self._turn, WriteBatch()
        if turn:
            self._write(turn)
