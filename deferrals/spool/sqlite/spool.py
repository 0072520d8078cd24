"""
The embedded spool: an L{ISpool<deferrals.interfaces.ISpool>} in one directory.

::

    spool.sqlite    messages, recipients, and bodies up to 256 KiB
    bodies/         larger bodies, one file each, named by transaction id
    damaged/        what could not be read, or does not fit
    mark            which database belongs here
    lock            held while a process has the spool open

Order of commitment: a large body's file is synced before its row commits, and
loses the C{.part} of its name afterwards; the row's commit is what makes the
message durable (state I{staged}); I{released} is written some time behind the final
reply, unless the message has left by then, and nothing waits for it, since a message
that is found staged after a crash is released anyway.

On an error every method fails with L{SpoolError} and leaves nothing behind
that another process would take for a message.  What no caller waits for (what
is released, or leaves the spool) is written again until it is.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import IMessage, IReactor, ISpool, Turn, Work
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import LEASE_SECONDS, Disposition, Reschedule
from deferrals.model.envelope import Envelope
from deferrals.model.ids import formatId
from deferrals.model.status import Status
from deferrals.spool.batch import BatchWriter, Insert, WriteBatch
from deferrals.spool.claims import Claims, isDamage, setAside, verify
from deferrals.spool.damage import logDamaged, logUnread
from deferrals.spool.message import BodyWriter, Message, ownMessage
from deferrals.spool.opening import SpoolOpening
from deferrals.spool.outcomes import Outcomes, backOff, isAllDelivered
from deferrals.spool.rows import RELEASED, STAGED, Lease, insertion
from deferrals.spool.sqlite import belonging, repair
from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.database import Database, checkpoint
from deferrals.spool.sqlite.diskspace import Reserve
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock, removeContent, removeFile
from deferrals.spool.sqlite.housekeeping import Housekeeping
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.marker import Marker, generationOf, raiseGeneration
from deferrals.spool.sqlite.recovery import interrupted, recover, saveClock, savedClock
from deferrals.spool.sqlite.room import RoomKeeping
from deferrals.spool.sqlite.schema import identity, prepare
from deferrals.spool.sqlite.store import Incoming, Store
from deferrals.spool.sqlite.writing import write
from deferrals.threads import InThread

_log = Logger(namespace="deferrals.spool")

_T = TypeVar("_T")

#: The note that names what is about to be delivered, and for how long it is kept.
UNDER_WAY, UNDER_WAY_SECONDS = "under way", 86400.0

#: A notice: its envelope, its content, its recipients.
NewMessage = tuple[Envelope, IMessage, Sequence[Addressee]]


@implementer(ISpool)
class SqliteSpool:
    """
    A spool in a directory: a SQLite database, and a file for each large content.

    @param directory: absolute path; made if it is not there, with mode 0700.
    @param reactor: timers' time is its C{seconds()}, Deferreds fire in it.
    @param inThread: runs a function outside the reactor thread.
    @param wall: the time of day; by default the reactor's time.
    @param status: where commits are counted.
    @ivar identity: the spool's own number, once it is open.
    @ivar owner: this process, in leases.
    @ivar store: its files, its time, and the way to its database.
    @ivar interrupted: the ids of the messages that the process before had in hand when it
        died.
    @ivar isCareful: whether it is noted what is about to be delivered, one after the
        other: the process has died, and may have died of it.
    """

    isCareful = False
    interrupted: Sequence[str] = ()

    def __init__(
        self,
        directory: str,
        reactor: IReactor,
        inThread: InThread,
        wall: Callable[[], float] | None = None,
        status: Status | None = None,
    ) -> None:
        self.owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.identity = ""
        self._inThread = inThread
        self._incoming = Incoming()
        files = SpoolFiles(directory)
        clock = SpoolClock(reactor.seconds, wall or reactor.seconds)
        self._lock = SpoolLock(files)
        self._marker = Marker(files.mark, files.database)
        mend = repair.Repair(files, clock, self._incoming, self._lock).mend
        reserve = Reserve(files.reserve)
        self._database = Database(
            files.database, reactor, self._prepare, mend, reserve, self._marker.opening
        )
        self.store = Store(files, clock, self._database.run, self._checkpoint)
        self._batches = BatchWriter(self._write, reactor, self._written, status or Status())
        self._housekeeping = Housekeeping(self.store, reactor, inThread, self._incoming)
        self._room = RoomKeeping(self.store, reactor, inThread, reserve)
        self._opening = SpoolOpening()

    @property
    def isThere(self) -> bool:
        """
        Whether mail can be stored, as far as is known.
        """
        return self._database.isUsable and not self._room.isLacking

    # From the first call to the last.

    def open(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        self._takeDirectory()
        clock = self.store.clock
        try:
            self._judge()
            await self._database.open()
            saved = await self._twice(savedClock)
            if saved is not None:
                clock.resume(*saved)
            self.identity = await self._twice(identity)
            self.interrupted = [formatId(one) for one in await self._twice(interrupted)]
            recovered = await self._twice(lambda db: recover(db, clock.now()))
        except SpoolError:
            self._opening.end(Failure())
            await self._database.close()
            self._lock.release()
            raise
        self._opening.end()
        if recovered:
            _log.info(
                "released {count} messages that were staged at the last stop", count=recovered
            )
        self._housekeeping.start()
        self._room.start()

    def _judge(self) -> None:
        try:
            belonging.judge(self.store.files, self.store.clock.now(), self._incoming)
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(f"{self.store.files.directory}: {error}") from None

    def _prepare(self, db: sqlite3.Connection) -> None:
        """
        In the database's thread.
        """
        prepare(db)
        self._marker.opened(db)

    def _checkpoint(self) -> Deferred[bool]:
        def settled(db: sqlite3.Connection) -> bool:
            whole = checkpoint(db)
            self._marker.came(generationOf(db))
            return whole

        return self._database.outside(settled)

    def _takeDirectory(self) -> None:
        try:
            self.store.files.make()
        except OSError as error:
            raise SpoolError(f"cannot make the spool: {error}") from None
        self._lock.take()

    async def _twice(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        """
        A database that turns out to be damaged is mended before the next
        operation.
        """
        try:
            return await self.store.run(function)
        except SpoolError:
            return await self.store.run(function)

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self._room.stop()
        await self._housekeeping.stop()
        self._batches.close()
        await self._logged(self.store.run(saveClock, *self.store.clock.saved()))
        await self._logged(self.store.run(raiseGeneration))
        await self._logged(self._database.outside(self._marker.closing))
        await self._database.close()
        await self._logged(self._inThread(self._marker.closed))
        self._lock.release()

    @property
    def closed(self) -> bool:
        """Whether another process may open it now."""
        return not self._lock.held

    # On the way in.

    def newBody(self, transaction: int) -> BodyWriter:
        self._incoming.begin(transaction)
        return BodyWriter(
            self.store.files.body(transaction),
            self._inThread,
            lambda: self._incoming.end(transaction),
        )

    def stage(
        self, envelope: Envelope, message: IMessage, addressees: Sequence[Addressee]
    ) -> Deferred[Work]:
        if not self._opening.isOver:
            return self._opening.wait(lambda: self.stage(envelope, message, addressees))
        insert = self._insertion(envelope, message, addressees, STAGED)
        if ownMessage(message).path is None:
            return self._insert(insert)
        return Deferred.fromCoroutine(self._insertFile(insert, ownMessage(message)))

    async def _insertFile(self, insert: Insert, message: Message) -> Work:
        settled = await self._settled(message)
        try:
            work = await self._insert(insert)
        except SpoolError:
            if settled is not None:
                self._logged(self._inThread(removeFile, settled))
            raise
        await self._logged(self._inThread(message.giveName))
        return work

    def _insertion(
        self, envelope: Envelope, message: IMessage, addressees: Sequence[Addressee], state: int
    ) -> Insert:
        now = self.store.clock.now()
        return insertion(
            envelope, ownMessage(message), addressees, state=state, now=now, lease=self._lease(now)
        )

    def _lease(self, now: float) -> Lease:
        return Lease(self.owner, now + LEASE_SECONDS)

    def _insert(self, insert: Insert) -> Deferred[Work]:
        self._batches.next().inserts.append(insert)
        return insert.done

    def _write(self, batch: WriteBatch) -> Deferred[None]:
        return self.store.run(write, batch, self.store.files.directory)

    def _written(self, batch: WriteBatch) -> None:
        for insert in batch.inserts:
            self._incoming.end(insert.number)
        for path in batch.removed.values():
            if path is not None:
                self._removeFile(path)

    def release(self, work: Work, later: Mapping[Addressee, Reschedule]) -> None:
        self._batches.release(work.envelope.transaction)
        if later:
            self._logged(self.record(work, later))

    def abandon(self, work: Work) -> None:
        self._remove(work)

    def _remove(self, work: Work) -> None:
        """
        Remove a message and all that belongs to it.
        """
        self._batches.remove(work.envelope.transaction, ownMessage(work.message).path)

    def _removeFile(self, path: str) -> None:
        self._logged(self._inThread(removeContent, path))

    def _logged(self, d: Deferred[_T]) -> Deferred[_T | None]:
        """
        No caller waits for this; what goes wrong is repeated when a lease has
        run out, or by the housekeeping.
        """
        return d.addErrback(lambda failure: _log.error("{error}", error=failure.getErrorMessage()))

    # On the way out.

    def _writeAll(self) -> None:
        """
        What is read next is to know all that was said before.
        """
        self._batches.retry()
        self._batches.flush()

    def claim(
        self,
        limit: int,
        shares: Mapping[str, int],
        share: int,
        only: Collection[str] | None = None,
    ) -> Deferred[list[Work]]:
        self._writeAll()
        return self._leased(lambda claims: claims.due(limit, shares, share, only))

    def turns(self, after: Hashable) -> Deferred[tuple[list[Turn], Hashable]]:
        self._writeAll()
        now, place = self.store.clock.now(), after if isinstance(after, tuple) else None

        def look(db: sqlite3.Connection) -> tuple[list[Turn], Hashable]:
            return Claims(self._book(db, now)).turns(place)

        return self.store.run(look)

    def notices(self, limit: int, transaction: int | None = None) -> Deferred[list[Work]]:
        self._batches.flush()
        return self._leased(lambda claims: claims.notices(limit, transaction))

    def _leased(self, take: Callable[[Claims], list[Work]]) -> Deferred[list[Work]]:
        now = self.store.clock.now()

        def claim(db: sqlite3.Connection) -> tuple[list[Work], Claims]:
            claims = Claims(self._book(db, now))
            return take(claims), claims

        return self.store.run(claim).addCallback(self._claimed)

    def _book(self, db: sqlite3.Connection, now: float) -> SqliteLedger:
        return SqliteLedger(db, now, self.owner, self.store.clock.wall(), self.store.files)

    def _claimed(self, result: tuple[list[Work], Claims]) -> list[Work]:
        works, claims = result
        logUnread(claims)
        return works

    def renew(self, works: Iterable[Work]) -> None:
        keys = [
            (work.envelope.transaction, addressee.seq)
            for work in works
            for addressee in work.addressees
        ]
        lease = self._lease(self.store.clock.now())
        self._logged(self.store.run(_renew, lease, keys))

    def check(self, work: Work) -> Deferred[None] | None:
        if self.isCareful:
            return Deferred.fromCoroutine(self._checkCarefully(work))
        return self._checked(work)

    async def _checkCarefully(self, work: Work) -> None:
        self.note(UNDER_WAY, work.envelope.id, UNDER_WAY_SECONDS)
        await self.notes()  # it is durable then
        checked = self._checked(work)
        if checked is not None:
            await checked

    def _checked(self, work: Work) -> Deferred[None] | None:
        message = ownMessage(work.message)
        return None if message.fresh else Deferred.fromCoroutine(self._check(work, message))

    async def _check(self, work: Work, message: Message) -> None:
        verifying: Deferred[str] = message.shared(
            SqliteSpool, lambda _: self._inThread(verify, message)
        )
        try:
            wrong = await verifying
        except Exception as error:
            wrong = f"its content cannot be read: {error}"
            if not isDamage(error):
                raise SpoolError(wrong) from None
        if wrong:
            await self._setAside(work, message, wrong)
            raise SpoolError(f"the message is damaged, and was moved aside: {wrong}")

    async def _setAside(self, work: Work, message: Message, wrong: str) -> None:
        number = work.envelope.transaction
        logDamaged(number, wrong)
        self._batches.settle(number)
        self._batches.flush()
        now = self.store.clock.now()
        done = self.store.run(lambda db: setAside(self._book(db, now), number))
        if message.path is not None:
            self._logged(self._inThread(self.store.files.setBodyAside, number))
        await done

    def record(
        self,
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        messages: Sequence[NewMessage] = (),
    ) -> Deferred[list[Work]]:
        if self.isCareful:
            self.forget(UNDER_WAY)
        if not messages and isAllDelivered(work, dispositions):
            self._remove(work)
            return succeed([])
        self._batches.settle(work.envelope.transaction)
        self._batches.flush()
        return Deferred.fromCoroutine(self._record(work, dispositions, messages))

    async def _record(
        self,
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        messages: Sequence[NewMessage],
    ) -> list[Work]:
        notices = [self._insertion(*message, RELEASED) for message in messages]
        settled = [path for _, message, _ in messages if (path := await self._settled(message))]
        try:
            isLast = await self.store.run(self._apply, work, list(dispositions.items()), notices)
        except SpoolError:
            for own in settled:
                self._logged(self._inThread(removeFile, own))
            raise
        path = ownMessage(work.message).path
        if isLast and path is not None:
            self._removeFile(path)
        for notice in notices:
            self._incoming.end(notice.number)
        for _, message, _ in messages:
            if ownMessage(message).path is not None:
                await self._logged(self._inThread(ownMessage(message).giveName))
        return [notice.work for notice in notices]

    async def _settled(self, message: IMessage) -> str | None:
        """
        @return: the file that is to be given its name when its row is durable.
        """
        own = ownMessage(message)
        try:
            return own.path if await self._inThread(own.settle) else None
        except Exception as error:
            raise SpoolError(f"cannot sync {own.path}: {error}") from None

    def _apply(
        self,
        db: sqlite3.Connection,
        work: Work,
        dispositions: list[tuple[Addressee, Disposition]],
        notices: list[Insert],
    ) -> bool:
        """
        In the database's thread.

        @return: whether no recipient of the message is left.
        """
        outcomes = Outcomes(self._book(db, self.store.clock.now()))
        return outcomes.record(work.envelope.transaction, dispositions, notices)

    def backOff(self, destination: str, seconds: float) -> None:
        now = self.store.clock.now()
        self._logged(self.store.run(lambda db: backOff(self._book(db, now), destination, seconds)))

    # Notes and numbers.

    def notes(self) -> Deferred[dict[str, str]]:
        self._batches.flush()
        return self.store.run(_notes, self.store.clock.now())

    def note(self, name: str, value: str, seconds: float) -> None:
        self._batches.next().notes[name] = (value, self.store.clock.now() + seconds)

    def forget(self, name: str) -> None:
        self._batches.next().notes[name] = None

    def waiting(self) -> Deferred[tuple[int, int]]:
        self._batches.flush()
        return self.store.run(_count)


# Everything below runs in the database's thread.


def _renew(db: sqlite3.Connection, lease: Lease, keys: Sequence[tuple[int, int]]) -> None:
    db.executemany(
        "UPDATE recipients SET due = ? WHERE message = ? AND seq = ? AND status = 1 AND owner = ?",
        [(lease.until, *key, lease.owner) for key in keys],
    )


def _notes(db: sqlite3.Connection, now: float) -> dict[str, str]:
    return dict(db.execute("SELECT name, value FROM notes WHERE expires > ?", (now,)))


def _count(db: sqlite3.Connection) -> tuple[int, int]:
    messages = db.execute("SELECT COUNT(*) FROM messages").fetchone()[0]
    recipients = db.execute("SELECT COUNT(*) FROM recipients").fetchone()[0]
    return messages, recipients
