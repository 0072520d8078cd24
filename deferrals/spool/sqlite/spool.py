"""
The embedded spool: an L{ISpool<deferrals.interfaces.ISpool>} in one directory.

::

    spool.sqlite    messages, recipients, and bodies up to 256 KiB
    bodies/         larger bodies, one file each, named by transaction id
    damaged/        what could not be read
    lock            held while a process has the spool open

Order of commitment: a large body's file is synced before its row commits; the
row's commit is what makes the message durable (state I{staged}); I{released}
is written behind the final reply without anybody waiting for it, since a
message that is found staged after a crash is released anyway.

On an error every method fails with L{SpoolError} and leaves nothing behind
that another process would take for a message.  What nobody waits for (who is
released, who is gone) is written again until it is.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import ISpool, Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import Disposition, Remove, Reschedule
from deferrals.model.envelope import Envelope
from deferrals.model.ids import formatId
from deferrals.spool.message import BodyWriter, Message, syncFile
from deferrals.spool.sqlite import diskspace, repair
from deferrals.spool.sqlite.batch import BatchWriter, Insert, WriteBatch
from deferrals.spool.sqlite.claims import (
    LEASE_SECONDS,
    Claims,
    isDamage,
    moveBody,
    setAside,
    verify,
)
from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.database import Database
from deferrals.spool.sqlite.housekeeping import Housekeeping, saveClock
from deferrals.spool.sqlite.outcomes import Outcomes, backOff
from deferrals.spool.sqlite.recovery import recover, savedClock
from deferrals.spool.sqlite.rows import insertion
from deferrals.spool.sqlite.schema import RELEASED, STAGED, prepare

_log = Logger(namespace="deferrals.spool")

#: What could not be written, and nobody waits for, is tried again after so long.
AGAIN_SECONDS = 5.0

_DELIVERED = Remove()

NewMessage = tuple[Envelope, Message, Sequence[Addressee]]


@implementer(ISpool)
class SqliteSpool:
    """
    See L{ISpool}.

    @param directory: absolute path; made if it is not there, with mode 0700.
    @param reactor: timers' time is its C{seconds()}, Deferreds fire in it.
    @param inThread: runs a function outside the reactor thread and returns a
        Deferred of its result.
    @param wall: the time of day; by default the reactor's time.
    @ivar owner: who this is, in leases.
    @ivar clock: the spool's time.
    """

    def __init__(
        self,
        directory: str,
        reactor: Any,
        inThread: Callable[..., Deferred[Any]],
        wall: Callable[[], float] | None = None,
    ) -> None:
        self.directory = directory
        self.path = os.path.join(directory, "spool.sqlite")
        self.owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.clock = SpoolClock(reactor.seconds, wall or reactor.seconds)
        self._reactor = reactor
        self._inThread = inThread
        self._bodies = os.path.join(directory, "bodies")
        self._aside = os.path.join(directory, "damaged")
        self.db = Database(self.path, reactor, prepare, self._mend)
        self._collector = BatchWriter(lambda flush: reactor.callLater(0, flush), self._write)
        self._unwritten = WriteBatch()
        self._writing: set[int] = set()
        self._again: Any = None
        self._housekeeping = Housekeeping(self, reactor, inThread, self._writing)
        self._lock = -1
        self._opening: list[Deferred[None]] | None = []

    # Its life.

    @inlineCallbacks
    def open(self) -> Any:
        """
        See L{ISpool.open}.
        """
        self._makeDirectories()
        repair.putAside(self.path, self._aside, self._writing)
        try:
            yield self.db.open()
            saved = yield self._twice(savedClock)
            if saved is not None:
                self.clock.resume(*saved)
            recovered = yield self._twice(lambda db: recover(db, self.clock.now()))
        except SpoolError:
            self._goOn(Failure())
            yield self.db.close()
            self.unlock()
            raise
        self._goOn(None)
        if recovered:
            _log.info(
                "released {count} messages that were staged at the last stop", count=recovered
            )
        self._housekeeping.start()

    def _twice(self, function: Callable[[sqlite3.Connection], Any]) -> Deferred[Any]:
        """
        A database that turns out to be damaged is mended before the next
        operation.
        """
        d = self.db.run(function)
        return d.addErrback(lambda failure: failure.trap(SpoolError) and self.db.run(function))

    def _goOn(self, result: Any) -> None:
        """
        Mail that has come before the spool was open waits for it: it must not
        be taken for what another process has left.
        """
        waiting, self._opening = self._opening or [], None
        for d in waiting:
            d.callback(result)

    def _makeDirectories(self) -> None:
        try:
            _makePrivate(self._bodies)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            lock = os.open(os.path.join(self.directory, "lock"), flags, 0o600)
        except OSError as error:
            raise SpoolError(f"cannot make the spool: {error}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise SpoolError(f"{self.directory} is in use by another process") from None
        self._lock = lock

    def _mend(self, db: sqlite3.Connection | None) -> str:
        """
        See L{Database}; in its thread.
        """
        if db is None:
            return repair.salvage(self.path, self._aside, self.clock.now(), self._writing)
        text = repair.rewrite(db, self.path)
        if not os.path.exists(os.path.join(self.directory, "lock")):
            old = self._lock
            self._makeDirectories()
            os.close(old)
        return text

    @inlineCallbacks
    def close(self) -> Any:
        """
        See L{ISpool.close}.
        """
        yield self._housekeeping.stop()
        if self._again is not None and self._again.active():
            self._again.cancel()
            self._writeAgain()
        self._collector.flush()
        yield self._forget(self.db.run(saveClock, *self.clock.saved()))
        yield self.db.close()
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

    # On the way in.

    def newBody(self, transaction: int) -> BodyWriter:
        """
        See L{ISpool.newBody}.
        """
        self._writing.add(transaction)
        return BodyWriter(
            self.bodyPath(transaction), self._inThread, lambda: self._writing.discard(transaction)
        )

    def bodyPath(self, transaction: int) -> str:
        """
        The file of a large message.
        """
        return os.path.join(self._bodies, formatId(transaction))

    def asidePath(self, transaction: int) -> str:
        """
        The same, when it has been moved aside.
        """
        return os.path.join(self._aside, formatId(transaction))

    def stage(
        self, envelope: Envelope, message: Message, addressees: Sequence[Addressee]
    ) -> Deferred[Work]:
        """
        See L{ISpool.stage}.
        """
        if self._opening is not None:
            opened: Deferred[None] = Deferred()
            self._opening.append(opened)
            return opened.addCallback(lambda _: self.stage(envelope, message, addressees))
        insert = self._insertion(envelope, message, addressees, STAGED)
        if message.path is None:
            return self._insert(None, insert)
        d = self._inThread(syncFile, message.path)
        d.addErrback(_asSpoolError, f"cannot sync {message.path}")
        return d.addCallback(self._insert, insert)

    def _insertion(
        self, envelope: Envelope, message: Message, addressees: Sequence[Addressee], state: int
    ) -> Insert:
        now = self.clock.now()
        work = Work(envelope, message, tuple(addressees), True)
        lease = (self.owner, now + LEASE_SECONDS)
        return insertion(envelope, message, addressees, work, state, now, lease)

    def _insert(self, _: Any, insert: Insert) -> Deferred[Work]:
        self._collector.turn().inserts.append(insert)
        return insert.done

    def _write(self, turn: WriteBatch) -> Deferred[Any]:
        """
        Write what a turn of the reactor has asked for.
        """
        return self.db.run(self._apply, turn).addCallbacks(
            self._written, self._notWritten, (turn,), {}, (turn,), {}
        )

    def _apply(self, db: sqlite3.Connection, turn: WriteBatch) -> None:
        if turn.inserts:
            lack = diskspace.lack(self.directory)
            if lack:
                raise SpoolError(lack)
        turn.apply(db)

    def _written(self, _: Any, turn: WriteBatch) -> None:
        for insert in turn.inserts:
            self._writing.discard(insert.message[0])
            insert.done.callback(insert.result)
        for path in turn.gone.values():
            if path is not None:
                self._unlink(path)

    def _notWritten(self, failure: Failure, turn: WriteBatch) -> None:
        parts = list(turn.parts())
        if len(parts) > 1:
            for part in parts:
                self._write(part)
        elif turn.inserts:
            turn.inserts[0].done.errback(failure)
        else:
            self._unwritten.released.update(turn.released)
            self._unwritten.gone.update(turn.gone)
            self._unwritten.notes = {**turn.notes, **self._unwritten.notes}
            if self._again is None or not self._again.active():
                _log.error("{error}", error=failure.getErrorMessage())
                self._again = self._reactor.callLater(AGAIN_SECONDS, self._writeAgain)

    def _writeAgain(self) -> None:
        """
        What is delivered must not come back, what is released must not be
        abandoned.
        """
        turn, self._unwritten = self._unwritten, WriteBatch()
        if turn:
            self._write(turn)

    def release(self, work: Work, later: Mapping[Addressee, Reschedule]) -> None:
        """
        See L{ISpool.release}.
        """
        self._collector.turn().released[work.envelope.transaction] = None
        if later:
            self._forget(self.record(work, later))

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
        turn.gone[work.envelope.transaction] = work.message.path

    def _unlink(self, path: str) -> None:
        d = self._inThread(os.unlink, path)
        d.addErrback(lambda failure: failure.trap(FileNotFoundError) and None)
        self._forget(d)

    def _forget(self, d: Deferred[Any]) -> Deferred[Any]:
        """
        Nobody waits for this; what goes wrong is repeated when a lease has
        run out, or by the housekeeping.
        """
        return d.addErrback(lambda failure: _log.error("{error}", error=failure.getErrorMessage()))

    # On the way out.

    def claim(self, limit: int, shares: Mapping[str, int], share: int) -> Deferred[list[Work]]:
        """
        See L{ISpool.claim}.
        """
        self._writeAgain()
        self._collector.flush()
        return self._leased(lambda claims: claims.due(limit, shares, share))

    def notices(self, limit: int, transaction: int | None = None) -> Deferred[list[Work]]:
        """
        See L{ISpool.notices}.
        """
        self._collector.flush()
        return self._leased(lambda claims: claims.notices(limit, transaction))

    def _leased(self, take: Callable[[Claims], list[Work]]) -> Deferred[list[Work]]:
        now = self.clock.now()

        def claim(db: sqlite3.Connection) -> tuple[list[Work], Claims]:
            claims = Claims(db, now, self.owner, self.bodyPath)
            return take(claims), claims

        def claimed(result: tuple[list[Work], Claims]) -> list[Work]:
            works, claims = result
            for number, why in claims.damaged:
                self._sayDamaged(number, why)
            for number, why in claims.later:
                _log.error(
                    "{transaction} cannot be read now: {why}", transaction=formatId(number), why=why
                )
            return works

        return self.db.run(claim).addCallback(claimed)

    def renew(self, works: Sequence[Work]) -> None:
        """
        See L{ISpool.renew}.
        """
        keys = [
            (work.envelope.transaction, addressee.seq)
            for work in works
            for addressee in work.addressees
        ]
        self._forget(self.db.run(_renew, self.owner, self.clock.now() + LEASE_SECONDS, keys))

    def check(self, work: Work) -> Deferred[None] | None:
        """
        See L{ISpool.check}.
        """
        message = work.message
        if message.fresh:
            return None
        d: Deferred[str] = message.shared(SqliteSpool, lambda _: self._inThread(verify, message))
        d.addErrback(_unread)
        return d.addCallback(self._checked, work)

    def _checked(self, wrong: str, work: Work) -> Deferred[None]:
        number = work.envelope.transaction
        if not wrong:
            return succeed(None)
        self._sayDamaged(number, wrong)
        d = self.db.run(setAside, number, self.clock.now(), None)
        if work.message.path is not None:
            moved = self._inThread(moveBody, work.message.path, self._aside)
            moved.addErrback(lambda failure: failure.trap(FileNotFoundError) and None)
            self._forget(moved)
        return d.addCallback(
            lambda _: fail(SpoolError(f"the message is damaged, and was moved aside: {wrong}"))
        )

    def _sayDamaged(self, number: int, why: str) -> None:
        _log.critical(
            "{transaction} is damaged, and was moved aside: {why}",
            event="damaged",
            transaction=formatId(number),
            why=why,
        )

    def record(
        self,
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        messages: Sequence[NewMessage] = (),
    ) -> Deferred[list[Work]]:
        """
        See L{ISpool.record}.
        """
        delivered = all(disposition == _DELIVERED for disposition in dispositions.values())
        if work.whole and delivered and len(dispositions) == len(work.addressees) and not messages:
            self._remove(work)
            return succeed([])
        self._collector.flush()
        notices = [self._insertion(*message, RELEASED) for message in messages]
        d = self._synced([message for _, message, _ in messages])
        d.addCallback(
            lambda _: self.db.run(self._record, work, list(dispositions.items()), notices)
        )
        return d.addCallback(self._recorded, work, notices)

    def _synced(self, messages: Sequence[Message]) -> Deferred[Any]:
        d: Deferred[Any] = succeed(None)
        for message in messages:
            if message.path is not None:
                d.addCallback(lambda _, path: self._inThread(syncFile, path), message.path)
        return d.addErrback(_asSpoolError, "cannot sync a notice")

    def _record(
        self,
        db: sqlite3.Connection,
        work: Work,
        dispositions: list[tuple[Addressee, Disposition]],
        notices: list[Insert],
    ) -> bool:
        outcomes = Outcomes(db, self.clock.now(), self.clock.wall(), self.owner)
        return outcomes.record(work.envelope.transaction, dispositions, notices)

    def _recorded(self, isLast: bool, work: Work, notices: list[Insert]) -> list[Work]:
        if isLast and work.message.path is not None:
            self._unlink(work.message.path)
        for notice in notices:
            self._writing.discard(notice.message[0])
        return [notice.result for notice in notices]

    def backOff(self, destination: str, seconds: float) -> None:
        """
        See L{ISpool.backOff}.
        """
        self._forget(self.db.run(backOff, destination, self.clock.now(), seconds))

    def notes(self) -> Deferred[dict[str, str]]:
        """
        See L{ISpool.notes}.
        """
        self._collector.flush()
        return self.db.run(_notes, self.clock.now())

    def note(self, name: str, value: str, seconds: float) -> None:
        """
        See L{ISpool.note}.
        """
        self._collector.turn().notes[name] = (value, self.clock.now() + seconds)

    def forget(self, name: str) -> None:
        """
        See L{ISpool.forget}.
        """
        self._collector.turn().notes[name] = None

    def waiting(self) -> Deferred[tuple[int, int]]:
        """
        See L{ISpool.waiting}.
        """
        self._collector.flush()
        return self.db.run(_count)


def _makePrivate(path: str) -> None:
    """
    Make a directory, and those above it that are missing, for nobody else.
    """
    if not os.path.isdir(path):
        _makePrivate(os.path.dirname(path))
        os.mkdir(path, 0o700)


def _renew(
    db: sqlite3.Connection, owner: str, until: float, keys: Sequence[tuple[int, int]]
) -> None:
    db.executemany(
        "UPDATE recipients SET due = ? WHERE message = ? AND seq = ? AND status = 1 AND owner = ?",
        [(until, *key, owner) for key in keys],
    )


def _notes(db: sqlite3.Connection, now: float) -> dict[str, str]:
    return dict(db.execute("SELECT name, value FROM notes WHERE expires > ?", (now,)))


def _unread(failure: Failure) -> str:
    """
    @return: what is wrong with a content.
    @raise SpoolError: perhaps nothing.
    """
    text = f"its content cannot be read: {failure.getErrorMessage()}"
    if isDamage(failure.value):
        return text
    raise SpoolError(text)


def _asSpoolError(failure: Failure, what: str) -> NoReturn:
    raise SpoolError(f"{what}: {failure.getErrorMessage()}")


def _count(db: sqlite3.Connection) -> tuple[int, int]:
    messages = db.execute("SELECT COUNT(*) FROM messages").fetchone()[0]
    recipients = db.execute("SELECT COUNT(*) FROM recipients").fetchone()[0]
    return messages, recipients
