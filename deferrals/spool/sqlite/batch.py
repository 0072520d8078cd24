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
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from deferrals.interfaces import Work
from deferrals.logger import Logger
from deferrals.model.events import happened
from deferrals.model.status import Status
from deferrals.spool.sqlite import diskspace
from deferrals.spool.sqlite.leaving import noted
from deferrals.spool.sqlite.store import Store

_log = Logger(namespace="deferrals.spool")

_T = TypeVar("_T")

#: Rows per statement; SQLite takes 32,766 values in one.
ROWS = 256

#: The columns of a fresh recipient; the others keep their defaults until its
#: first attempt has failed.
RECIPIENT = "recipients (message, seq, status, due, owner, delivery, recipient, marks, refusal)"

#: What could not be written, and no caller waits for, is tried again after so
#: long.
AGAIN_SECONDS = 5.0

#: What a column holds.
Value = str | bytes | int | float | None

#: What is noted: a value, and when it expires; C{None} where it is forgotten.
Note = tuple[str, float] | None


@attrs.define(eq=False)
class Insert:
    """
    A message to be staged.

    @ivar message: its row in C{messages}.
    @ivar body: its octets, unless they are in a file.
    @ivar recipients: its rows in C{recipients}.
    @ivar work: what C{done} fires with.
    """

    message: tuple[Value, ...]
    body: bytes | None
    recipients: list[tuple[Value, ...]]
    work: Work
    done: Deferred[Work] = attrs.field(factory=Deferred)

    @property
    def number(self) -> int:
        """The message's number."""
        return self.work.envelope.transaction


@attrs.define(eq=False)
class WriteBatch:
    """
    @ivar inserts: messages to be staged.
    @ivar released: numbers of messages that became ours.
    @ivar removed: numbers of messages that are delivered to all, or abandoned,
        with the files of their bodies, which are removed afterwards.
    @ivar notes: what is noted, by name.
    """

    inserts: list[Insert] = attrs.field(factory=list)
    released: dict[int, None] = attrs.field(factory=dict)
    removed: dict[int, str | None] = attrs.field(factory=dict)
    notes: dict[str, Note] = attrs.field(factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inserts or self.released or self.removed or self.notes)

    def apply(self, db: sqlite3.Connection) -> None:
        """
        Write it (in the database's thread, inside a transaction; may be
        repeated).
        """
        _insert(db, "messages", [insert.message for insert in self.inserts])
        bodies = [(i.number, i.body) for i in self.inserts if i.body is not None]
        _insert(db, "bodies", bodies)
        _insert(db, RECIPIENT, [row for i in self.inserts for row in i.recipients])
        _forAll(db, "UPDATE messages SET state = 1 WHERE id IN", list(self.released))
        for sql in (
            "DELETE FROM messages WHERE id IN",
            "DELETE FROM bodies WHERE id IN",
            "DELETE FROM recipients WHERE message IN",
        ):
            _forAll(db, sql, list(self.removed))
        noted(db, [number for number, path in self.removed.items() if path is not None])
        _note(db, self.notes)

    @property
    def messages(self) -> int:
        """How many it is about."""
        return len(self.inserts) + len(self.released) + len(self.removed)

    def parts(self) -> Iterator[WriteBatch]:
        """
        The same, each message by itself: so that one that cannot be written
        does not take the others with it.
        """
        for insert in self.inserts:
            yield WriteBatch(inserts=[insert])
        for number in self.released:
            yield WriteBatch(released={number: None})
        for number, path in self.removed.items():
            yield WriteBatch(removed={number: path})
        for name, note in self.notes.items():
            yield WriteBatch(notes={name: note})

    def add(self, other: WriteBatch) -> None:
        """
        Take over what another batch could not write.
        """
        self.released.update(other.released)
        self.removed.update(other.removed)
        self.notes.update(other.notes)


@functools.cache
def _placeholders(count: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})" if columns else "?"
    return ", ".join([row] * count)


def _slices(rows: Sequence[_T]) -> Iterable[Sequence[_T]]:
    return (rows[start : start + ROWS] for start in range(0, len(rows), ROWS))


def _insert(db: sqlite3.Connection, table: str, rows: Sequence[tuple[Value, ...]]) -> None:
    for some in _slices(rows):
        values = [value for row in some for value in row]
        db.execute(f"INSERT INTO {table} VALUES {_placeholders(len(some), len(some[0]))}", values)


def _forAll(db: sqlite3.Connection, sql: str, numbers: Sequence[int]) -> None:
    for some in _slices(numbers):
        db.execute(f"{sql} ({_placeholders(len(some), 0)})", some)


def _note(db: sqlite3.Connection, notes: dict[str, Note]) -> None:
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
    Collects what a turn of the reactor asks for, and writes it at its end.

    A message that cannot be staged fails for its caller.  What no caller waits
    for (released, removed, noted) is written again until it is: what is
    delivered must not come back, what is released must not be abandoned.

    @param store: the spool's.
    @param clock: timers.
    @param written: called with each batch that is durable.
    @param status: where commits are counted.
    """

    def __init__(
        self,
        store: Store,
        clock: IReactorTime,
        written: Callable[[WriteBatch], None],
        status: Status,
    ) -> None:
        self._status = status
        self._store = store
        self._clock = clock
        self._onWritten = written
        self._next = WriteBatch()
        self._unwritten = WriteBatch()
        self._notes: dict[str, Note] = {}  # the newest, of those that are not durable
        self._again: IDelayedCall | None = None
        self._closed = False

    def next(self) -> WriteBatch:
        """
        The batch that is collected, about to be added to.
        """
        if not self._next:
            self._clock.callLater(0, self.flush)
        return self._next

    def flush(self) -> None:
        """
        Write what has been collected.
        """
        batch, self._next = self._next, WriteBatch()
        self._notes.update(batch.notes)
        if batch:
            self._write(batch)

    def retry(self) -> None:
        """
        Write what could not be written.  Of a note only the newest value is:
        an older one would come after it.
        """
        batch, self._unwritten = self._unwritten, WriteBatch()
        batch.notes = {name: self._notes[name] for name in batch.notes if name in self._notes}
        if batch:
            self._write(batch)

    def close(self) -> None:
        """
        Write everything, for the last time: what cannot be written now is given
        up.
        """
        self._closed = True
        if self._again is not None and self._again.active():
            self._again.cancel()
            self.retry()
        self.flush()

    def _write(self, batch: WriteBatch) -> None:
        began = self._clock.seconds()
        d = self._store.run(self._apply, batch)
        d.addCallbacks(
            lambda _: self._written(batch, began), self._notWritten, errbackArgs=(batch,)
        )

    def _apply(self, db: sqlite3.Connection, batch: WriteBatch) -> None:
        """
        In the database's thread.
        """
        if batch.inserts:
            lack = diskspace.lack(self._store.files.directory)
            if lack:
                raise diskspace.NoRoom(lack)
        batch.apply(db)

    def _written(self, batch: WriteBatch, began: float) -> None:
        seconds = self._clock.seconds() - began
        happened(self._status, "commit", {"messages": batch.messages, "seconds": seconds})
        self._onWritten(batch)
        for name, note in batch.notes.items():
            if self._notes.get(name) is note:
                self._notes.pop(name, None)
        for insert in batch.inserts:
            insert.done.callback(insert.work)

    def _notWritten(self, failure: Failure, batch: WriteBatch) -> None:
        parts = list(batch.parts())
        if len(parts) > 1:
            for part in parts:
                self._write(part)
        elif batch.inserts:
            batch.inserts[0].done.errback(failure)
        elif self._closed:
            _log.error("{error}", error=failure.getErrorMessage())
        else:
            self._keep(batch, failure)

    def _keep(self, batch: WriteBatch, failure: Failure) -> None:
        """
        Write something again later.
        """
        self._unwritten.add(batch)
        for name, note in batch.notes.items():
            self._notes.setdefault(name, note)
        if self._again is None or not self._again.active():
            _log.error("{error}", error=failure.getErrorMessage())
            self._again = self._clock.callLater(AGAIN_SECONDS, self.retry)
