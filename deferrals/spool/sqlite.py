"""
The embedded spool: an L{ISpool<deferrals.interfaces.ISpool>} in one directory.

::

    spool.sqlite    messages, recipients, and bodies up to 256 KiB
    bodies/         larger bodies, one file each, named by transaction id
    lock            held while a process has the spool open

Order of commitment: a large body's file is synced before its row commits; the
row's commit is what makes the message durable (state I{staged}); I{released}
is written behind the final reply without anybody waiting for it, since a
message that is found staged after a crash is released anyway.

On an error every method fails with L{SpoolError} and leaves nothing behind
that another process would take for a message.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import ISpool
from deferrals.model.delivery import Addressee, Work
from deferrals.model.envelope import (
    Envelope,
    envelopeFromJSON,
    envelopeToJSON,
    recipientFromJSON,
    recipientToJSON,
)
from deferrals.model.ids import formatId
from deferrals.model.verdict import Delivered, Failed, Marks, Outcome
from deferrals.spool.database import Database
from deferrals.spool.message import HEADER_OCTETS, BodyWriter, Message, syncFile
from deferrals.spool.turn import Collector, Insert, Turn

_log = Logger(namespace="deferrals.spool")

#: How long claimed work belongs to the one who claimed it.
LEASE_SECONDS = 300.0

#: So many recipients that wait for another attempt are tried again at the start.
RETRIED_AT_START = 1000

_encode = json.JSONEncoder(separators=(",", ":")).encode

_VERSION = 1
_STAGED, _RELEASED = 0, 1
_QUEUED, _FAILED = 0, 1

_SCHEMA = """
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    received REAL NOT NULL,
    envelope TEXT NOT NULL,
    size INTEGER NOT NULL,
    digest BLOB NOT NULL
);
CREATE TABLE bodies (
    id INTEGER PRIMARY KEY,
    body BLOB NOT NULL
);
CREATE TABLE recipients (
    message INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    status INTEGER NOT NULL,
    due REAL NOT NULL,
    attempts INTEGER NOT NULL,
    delivery TEXT NOT NULL,
    recipient TEXT NOT NULL,
    marks TEXT,
    reply TEXT,
    PRIMARY KEY (message, seq)
) WITHOUT ROWID;
CREATE INDEX recipients_due ON recipients (due) WHERE status = 0;
CREATE INDEX messages_staged ON messages (id) WHERE state = 0;
"""


def _prepare(db: sqlite3.Connection) -> None:
    """
    Make the tables, or see that they are ours.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;")
    elif version != _VERSION:
        raise SpoolError(
            f"made by another version of the program (format {version}, not {_VERSION})"
        )


@implementer(ISpool)
class SqliteSpool:
    """
    See L{ISpool}.

    @param directory: absolute path; made if it is not there, with mode 0700.
    @param reactor: timers' time is its C{seconds()}, Deferreds fire in it.
    @param inThread: runs a function outside the reactor thread and returns a
        Deferred of its result.
    """

    def __init__(
        self, directory: str, reactor: Any, inThread: Callable[..., Deferred[Any]]
    ) -> None:
        self.directory = directory
        self._reactor = reactor
        self._inThread = inThread
        self._bodies = os.path.join(directory, "bodies")
        self._db = Database(os.path.join(directory, "spool.sqlite"), reactor, _prepare)
        self._collector = Collector(lambda flush: reactor.callLater(0, flush), self._write)
        self._lock = -1

    @inlineCallbacks
    def open(self) -> Any:
        """
        See L{ISpool.open}.
        """
        self._makeDirectories()
        try:
            yield self._db.open()
        except SpoolError:
            self.unlock()
            raise
        recovered = yield self._db.run(_recover, self._reactor.seconds())
        if recovered:
            _log.info(
                "released {count} messages that were staged at the last stop", count=recovered
            )

    def _makeDirectories(self) -> None:
        try:
            _makePrivate(self._bodies)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(os.path.join(self.directory, "lock"), flags, 0o600)
        except OSError as error:
            raise SpoolError(f"cannot make the spool: {error}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.unlock()
            raise SpoolError(f"{self.directory} is in use by another process") from None

    @inlineCallbacks
    def close(self) -> Any:
        """
        See L{ISpool.close}.
        """
        self._collector.flush()
        yield self._db.close()
        if not self.closed:
            self.unlock()

    @property
    def closed(self) -> bool:
        """Whether another process may open it now."""
        return self._lock < 0

    def unlock(self) -> None:
        """
        Let other processes have the directory.
        """
        os.close(self._lock)
        self._lock = -1

    def newBody(self, transaction: int) -> BodyWriter:
        """
        See L{ISpool.newBody}.
        """
        return BodyWriter(self._bodyPath(transaction), self._inThread)

    def _bodyPath(self, transaction: int) -> str:
        return os.path.join(self._bodies, formatId(transaction))

    def stage(
        self, envelope: Envelope, message: Message, addressees: Sequence[Addressee]
    ) -> Deferred[Work]:
        """
        See L{ISpool.stage}.
        """
        if message.path is None:
            return self._insert(None, envelope, message, addressees)
        d = self._inThread(syncFile, message.path)
        d.addErrback(_asSpoolError, f"cannot sync {message.path}")
        return d.addCallback(self._insert, envelope, message, addressees)

    def _insert(
        self, _: Any, envelope: Envelope, message: Message, addressees: Sequence[Addressee]
    ) -> Deferred[Work]:
        due = self._reactor.seconds() + LEASE_SECONDS
        row = (
            envelope.transaction,
            _STAGED,
            envelope.received,
            _encode(envelopeToJSON(envelope)),
            message.size,
            message.digest,
        )
        recipients = [_row(envelope.transaction, addressee, due) for addressee in addressees]
        work = Work(envelope, message, tuple(addressees), True)
        insert = Insert(row, message.body, recipients, work)
        self._collector.turn().inserts.append(insert)
        return insert.done

    def _write(self, turn: Turn) -> Deferred[Any]:
        """
        Write what a turn of the reactor has asked for.
        """
        return self._db.run(turn.apply).addCallbacks(
            self._written, self._notWritten, (turn,), {}, (turn,), {}
        )

    def _written(self, _: Any, turn: Turn) -> None:
        for insert in turn.inserts:
            insert.done.callback(insert.result)

    def _notWritten(self, failure: Failure, turn: Turn) -> None:
        parts = list(turn.parts())
        if len(parts) > 1:
            for part in parts:
                self._write(part)
        elif turn.inserts:
            turn.inserts[0].done.errback(failure)
        else:
            # Repeated by the next start, which finds the message as it was.
            _log.error("spool: {error}", error=failure.getErrorMessage())

    def release(self, work: Work, keep: bool) -> None:
        """
        See L{ISpool.release}.
        """
        self._collector.turn().released[work.envelope.transaction] = None
        if not keep:
            self._collector.flush()
            self._forget(self._db.run(_makeDue, work.envelope.transaction, self._reactor.seconds()))

    def abandon(self, work: Work) -> None:
        """
        See L{ISpool.abandon}.
        """
        self._remove(work)

    def _remove(self, work: Work) -> None:
        """
        Remove a message and all that belongs to it.
        """
        turn = self._collector.turn()
        turn.released.pop(work.envelope.transaction, None)
        turn.gone.append(work.envelope.transaction)
        if work.message.path is not None:
            self._unlink(work.message.path)

    def _unlink(self, path: str) -> None:
        d = self._inThread(os.unlink, path)
        d.addErrback(lambda failure: failure.trap(FileNotFoundError) and None)
        self._forget(d)

    def _forget(self, d: Deferred[Any]) -> None:
        """
        Nobody waits for this; what goes wrong is repeated at the next start.
        """
        d.addErrback(lambda failure: _log.error("spool: {error}", error=failure.getErrorMessage()))

    def claim(self, limit: int) -> Deferred[list[Work]]:
        """
        See L{ISpool.claim}.
        """
        self._collector.flush()
        return self._db.run(self._claim, self._reactor.seconds(), limit)

    def _claim(self, db: sqlite3.Connection, now: float, limit: int) -> list[Work]:
        found = db.execute(
            "SELECT DISTINCT message FROM (SELECT message FROM recipients JOIN messages"
            " ON messages.id = message WHERE status = 0 AND due <= ? AND state = ?"
            " ORDER BY due LIMIT ?)",
            (now, _RELEASED, limit),
        ).fetchall()
        return [self._lease(db, number, now) for (number,) in found]

    def _lease(self, db: sqlite3.Connection, number: int, now: float) -> Work:
        rows = db.execute(
            "SELECT seq, attempts, delivery, recipient, marks FROM recipients"
            " WHERE message = ? AND status = 0 AND due <= ?",
            (number, now),
        ).fetchall()
        db.execute(
            "UPDATE recipients SET due = ? WHERE message = ? AND status = 0 AND due <= ?",
            (now + LEASE_SECONDS, number, now),
        )
        received, envelope, size, digest = db.execute(
            "SELECT received, envelope, size, digest FROM messages WHERE id = ?", (number,)
        ).fetchone()
        body = db.execute("SELECT body FROM bodies WHERE id = ?", (number,)).fetchone()
        message = self._message(number, size, digest, body)
        addressees = tuple(
            Addressee(
                recipientFromJSON(json.loads(recipient), delivery),
                Marks.fromJSON(None if marks is None else json.loads(marks)),
                seq,
                attempts,
            )
            for seq, attempts, delivery, recipient, marks in rows
        )
        return Work(envelopeFromJSON(json.loads(envelope), number, received), message, addressees)

    def _message(self, number: int, size: int, digest: bytes, body: tuple[bytes] | None) -> Message:
        if body is not None:
            return Message(size, digest, body[0], None, body[0][:HEADER_OCTETS])
        path = self._bodyPath(number)
        with open(path, "rb") as file:
            head = file.read(HEADER_OCTETS)
        return Message(size, digest, None, path, head)

    def record(
        self, work: Work, outcomes: Mapping[Addressee, Outcome], retryAt: float
    ) -> Deferred[None]:
        """
        See L{ISpool.record}.
        """
        delivered = all(isinstance(outcome, Delivered) for outcome in outcomes.values())
        if work.whole and delivered and len(outcomes) == len(work.addressees):
            self._remove(work)
            return succeed(None)
        self._collector.flush()
        d = self._db.run(_record, work.envelope.transaction, list(outcomes.items()), retryAt)
        return d.addCallback(self._recorded, work)

    def _recorded(self, isLast: bool, work: Work) -> None:
        if isLast:
            self._remove(work)

    def waiting(self) -> Deferred[tuple[int, int]]:
        """
        See L{ISpool.waiting}.
        """
        self._collector.flush()
        return self._db.run(_count)


def _makePrivate(path: str) -> None:
    """
    Make a directory, and those above it that are missing, for nobody else.
    """
    if not os.path.isdir(path):
        _makePrivate(os.path.dirname(path))
        os.mkdir(path, 0o700)


def _row(number: int, addressee: Addressee, due: float) -> tuple[Any, ...]:
    recipient = addressee.recipient
    marks = addressee.marks.toJSON()
    return (
        number,
        addressee.seq,
        _QUEUED,
        due,
        0,
        "" if recipient.route is None else recipient.route.delivery,
        _encode(recipientToJSON(recipient)),
        None if marks is None else _encode(marks),
        None,
    )


def _makeDue(db: sqlite3.Connection, number: int, due: float) -> None:
    db.execute("UPDATE recipients SET due = ? WHERE message = ?", (due, number))


def _record(
    db: sqlite3.Connection,
    number: int,
    outcomes: list[tuple[Addressee, Outcome]],
    retryAt: float,
) -> bool:
    """
    @return: whether nobody is left.
    """
    for addressee, outcome in outcomes:
        if isinstance(outcome, Delivered):
            sql = "DELETE FROM recipients WHERE message = ? AND seq = ?"
            db.execute(sql, (number, addressee.seq))
        else:
            status = _FAILED if isinstance(outcome, Failed) else _QUEUED
            db.execute(
                "UPDATE recipients SET status = ?, due = ?, attempts = attempts + 1, reply = ?"
                " WHERE message = ? AND seq = ?",
                (status, retryAt, str(outcome.reply), number, addressee.seq),
            )
    left = db.execute("SELECT 1 FROM recipients WHERE message = ? LIMIT 1", (number,))
    return left.fetchone() is None


def _asSpoolError(failure: Failure, what: str) -> NoReturn:
    raise SpoolError(f"{what}: {failure.getErrorMessage()}")


def _recover(db: sqlite3.Connection, now: float) -> int:
    """
    See L{ISpool.open}.
    """
    staged = db.execute(f"UPDATE messages SET state = {_RELEASED} WHERE state = {_STAGED}").rowcount
    db.execute(
        "UPDATE recipients SET due = ? WHERE status = 0 AND due > ? AND due <= ?",
        (now, now, now + LEASE_SECONDS),
    )
    db.execute(
        "UPDATE recipients SET due = ? WHERE (message, seq) IN (SELECT message, seq"
        " FROM recipients WHERE status = 0 AND due > ? ORDER BY due LIMIT ?)",
        (now, now, RETRIED_AT_START),
    )
    return staged


def _count(db: sqlite3.Connection) -> tuple[int, int]:
    messages = db.execute("SELECT COUNT(*) FROM messages").fetchone()[0]
    recipients = db.execute("SELECT COUNT(*) FROM recipients").fetchone()[0]
    return messages, recipients
