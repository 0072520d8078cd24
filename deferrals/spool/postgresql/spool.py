"""
The queue that several servers share: an L{ISpool<deferrals.interfaces.ISpool>} in
PostgreSQL.

What is staged or leased is its owner's (L{deferrals.spool.postgresql.owners}).  There is
no state I{staged} in the database: what is only staged is leased to the process that has
it, which knows; if that dies, its lease ends, and the message is delivered, since it is
unknown whether its sender saw the reply (RFC 1047).  So that a message is released is
never written.

Order of commitment: the pieces of a large content, which are put there while it is
received, are there before the row of its message; the row's commit is what makes the
message durable.  Where it is not known
whether that has come about, the sender is told to try again, and the message is forgotten
first thing when the database is back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.interfaces import IMessage, IReactor, ISpool, Turn, Work
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import DelayNotified, Disposition, Reschedule
from deferrals.model.envelope import Envelope
from deferrals.model.status import Status
from deferrals.spool import rules
from deferrals.spool.batch import BatchWriter, Insert, WriteBatch
from deferrals.spool.claims import Claims, setAside
from deferrals.spool.damage import logDamaged, logUnread
from deferrals.spool.message import BodyWriter, Message, ownMessage
from deferrals.spool.opening import SpoolOpening
from deferrals.spool.outcomes import Outcomes, backOff, isAllDelivered
from deferrals.spool.postgresql import ownnotes, queries
from deferrals.spool.postgresql.beginning import Beginning
from deferrals.spool.postgresql.connection import Access, Presence, StoreConnection, isFull
from deferrals.spool.postgresql.contents import SHOWN, Contents
from deferrals.spool.postgresql.cutoff import CutOff
from deferrals.spool.postgresql.directory import Directory
from deferrals.spool.postgresql.held import Held
from deferrals.spool.postgresql.large import LargeContents, SharedDirectory
from deferrals.spool.postgresql.ledger import Floor, PostgresqlLedger, timeOf
from deferrals.spool.postgresql.lost import LostClaims
from deferrals.spool.postgresql.order import Look, Order
from deferrals.spool.postgresql.owners import Identity, Owner, OwnerRow, leave, lives
from deferrals.spool.postgresql.schema import check, durability, upgrade, versionOf
from deferrals.spool.postgresql.upkeep import EVERY_SECONDS, keepUp
from deferrals.spool.postgresql.writing import Batch, File, write
from deferrals.spool.rows import STAGED, Lease, insertion
from deferrals.threads import InThread, OwnThread

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

_log = Logger(namespace="deferrals.spool")

_T = TypeVar("_T")

#: A notice: its envelope, its content, its recipients.
NewMessage = tuple[Envelope, IMessage, Sequence[Addressee]]


@implementer(ISpool)
class PostgresqlSpool:
    """
    @param access: how the database is reached.
    @param me: what people see of this process.
    @param directory: for large contents on this machine.
    @param reactor: timers; Deferreds fire in it.
    @param inThread: runs a function outside the reactor thread.
    @param status: where commits are counted.
    @param isUpgraded: whether the tables are made, or brought to this version.
    @param bodies: the directory that all machines share, for large contents.
    @param presence: of the database, where this process has more than its queue there.
    @ivar identity: the queue's own number, once it is open.
    @ivar owned: who this process is among the owners.
    @ivar changed: is told when recipients may be due that were not before.
    @ivar beginning: whether L{open} waits for the database.
    @ivar beside: is called once the database is there, before mail can be taken: what else
        is to begin with it.
    @ivar doubted: is told that a connection is lost: others may be, too.
    """

    def __init__(
        self,
        access: Access,
        me: Identity,
        directory: str,
        reactor: IReactor,
        inThread: InThread,
        status: Status | None = None,
        isUpgraded: bool = True,
        bodies: Directory | None = None,
        presence: Presence | None = None,
    ) -> None:
        self.identity = ""
        self._inThread = inThread
        self._presence = Presence(reactor, presence)
        self._threads: list[OwnThread] = []
        connected = partial(self._connection, access, reactor)
        self._writes = connected("deferrals spool")
        self._claims = connected("deferrals claims")
        self._bodies = connected("deferrals contents")
        self._connections = self._writes, self._claims, self._bodies
        prepare = partial(upgrade, schema=access.schema) if isUpgraded else _checked
        self._own = self._threads[-1]  # the threads of the reactor may not have begun
        self._writes.begin += [CutOff().begin, prepare, self._say]
        self._bodies.begin.append(CutOff().begin)
        self._claims.begin.append(_hasty)
        self._worth = ""
        self._me = me
        self.owned = self._newOwner(reactor, me)
        self.changed: Callable[[], object] = lambda: None
        self._contents = Contents(directory)
        self.large = self._largeContents(reactor, bodies)
        self._batches = BatchWriter(self._write, reactor, self._written, status or Status())
        self._presence.watchers.append(self._isBack)
        self._staged: set[int] = set()
        self._uncertain: set[int] = set()
        self._held, self._lost, self._floor = Held(), LostClaims(), Floor()
        self._order = Order(
            self._writes, self._claims, self._batches, self._held, reactor, self._ledger
        )
        self._opening = SpoolOpening()
        self.beginning = Beginning(self._connections, reactor)
        self.beside: Callable[[], Awaitable[None]] = _nothingMore
        self.doubted: Callable[[], object] = lambda: None
        self._number: Callable[[int], object] = lambda slot: None
        self._upkeep = LoopingCall(self._keepUp)
        self._upkeep.clock = reactor

    def _newOwner(self, reactor: IReactor, me: Identity) -> Owner:
        owned = Owner(self._claims, reactor, me)
        owned.woken = self._woken
        owned.staged = lambda: len(self._staged)
        owned.buried = lambda number: self.changed()
        return owned

    def _largeContents(self, reactor: IReactor, bodies: Directory | None) -> LargeContents:
        shared = None
        if bodies is not None:
            thread = self._newThread(reactor, "deferrals bodies")
            shared = SharedDirectory(bodies, thread, reactor)
        return LargeContents(
            self._contents, self._bodies, self.owned, self._inThread, reactor, shared
        )

    def _newThread(self, reactor: IReactor, name: str) -> OwnThread:
        thread = OwnThread(reactor, name.replace(" ", "-"))
        self._threads.append(thread)
        return thread

    def _connection(self, access: Access, reactor: IReactor, name: str) -> StoreConnection:
        thread = self._newThread(reactor, name)
        return StoreConnection(access, thread, reactor, self._presence, name)

    @property
    def owner(self) -> str:
        """Who this process is, in leases."""
        return str(self.owned.id)

    @property
    def isThere(self) -> bool:
        """Whether mail can be taken now, as far as is known."""
        return self._writes.isThere and self._opening.isOver

    # From the first call to the last.

    def open(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        try:
            await self._own(self._contents.take)
            await self.beginning.whole(self._begin)
        except SpoolError:
            self._opening.end(Failure())
            await self._shut()
            raise
        self._opening.end()

    async def _begin(self) -> None:
        await self.beginning.connections()
        self.identity = await self._writes.alone(_identity)
        await self.large.begin(self.identity)
        before = await self._own(self._contents.predecessor, self.identity)
        if before is not None and self.owned.row is None:
            await self._writes.run(leave, before)
        if self.beginning.isWaiting:
            self.owned.wasAway()
        if self.owned.row is None:
            await self.owned.start()
        await self.large.open()
        await self._remember()
        await self.beside()
        self._upkeep.start(EVERY_SECONDS)

    def giveUp(self) -> None:
        """
        L{open} is not to wait any longer: it fails, if it has not come to its end.
        """
        self.beginning.end(self._opening.isOver)

    def _keepUp(self) -> Deferred[None]:
        return self._logged(Deferred.fromCoroutine(self._keptUp()))

    async def _keptUp(self) -> None:
        await self._bodies.run(keepUp)
        await self.large.keepUp()

    def _remember(self) -> Deferred[None]:
        return self._own(self._contents.remember, self.identity, self.owned.id)

    def close(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        self._batches.close()
        await self._logged(self._order.said())
        await self.owned.stop()
        await self._shut()

    async def _shut(self) -> None:
        if self._upkeep.running:
            self._upkeep.stop()
        self.large.close()
        for connection in self._connections:
            await connection.close()
        for thread in self._threads:
            thread.end()
        self._contents.leave()

    def _say(self, db: Connection) -> None:
        """
        In the connection's thread: what a reply of 250 is worth.
        """
        worth = durability(db)
        if worth != self._worth:
            self._worth = worth
            _log.info("accepted mail is kept {durable}", event="store", durable=worth)

    def _isBack(self, isThere: bool) -> None:
        """
        What was not written, or has an unknown outcome, comes first; contents that were not
        wanted meanwhile could not be removed.  When one connection is lost, others are,
        mostly: the heart notices it, and no mail has to.
        """
        if isThere:
            self.large.coming -= self._uncertain
            self._uncertain.clear()
            self._lost.suspect()
            self._order.endLeases()
            self._batches.retry()
            self.large.isBack()
            return
        for connection in self._connections:
            connection.look()
        self.doubted()
        self._opening.tell(Failure(StoreAway(self._presence.why)))

    def _woken(self, old: OwnerRow, new: OwnerRow) -> None:
        """
        This process was thought dead: what it had is free, or others' already.
        """
        _log.warn("this process was not heard for too long: others deliver what it had")
        self._staged.clear()
        self._held.clear()
        self._order.endLeases()
        self._logged(self._remember())
        self._number(new.slot)
        self.changed()

    def numbered(self, number: Callable[[int], object]) -> None:
        """
        @param number: is told this process's number, 0 to 255, which no other owner has.
        """
        self._number = number
        if self.owned.row is not None:
            number(self.owned.row.slot)

    # On the way in.

    def newBody(self, transaction: int) -> BodyWriter:
        follow = partial(self.large.follow, transaction)
        return BodyWriter(self._contents.path(transaction), self._inThread, lambda: None, follow)

    def stage(
        self, envelope: Envelope, message: IMessage, addressees: Sequence[Addressee]
    ) -> Deferred[Work]:
        if not self._opening.isOver and not self._presence.isThere:
            return fail(StoreAway(self._presence.why))
        if not self._opening.isOver:
            return self._opening.wait(lambda: self.stage(envelope, message, addressees))
        insert = self._insertion(envelope, message, addressees)
        if ownMessage(message).path is None:
            return self._insert(insert)
        return Deferred.fromCoroutine(self._insertLarge(insert, ownMessage(message)))

    def _insertion(
        self, envelope: Envelope, message: IMessage, addressees: Sequence[Addressee]
    ) -> Insert:
        """
        Its times are the database's.
        """
        lease = Lease(self.owner, 0.0)
        own = ownMessage(message)
        return insertion(envelope, own, addressees, state=STAGED, now=0.0, lease=lease)

    def _insert(self, insert: Insert) -> Deferred[Work]:
        self._taken(insert.work, self.owned.id)
        self._staged.add(insert.number)
        self._batches.next().inserts.append(insert)
        return insert.done.addErrback(self._notInserted, insert.number)

    def _notInserted(self, failure: Failure, number: int) -> Failure:
        self._staged.discard(number)
        self._held.forget(number)
        return failure

    async def _insertLarge(self, insert: Insert, message: Message) -> Work:
        number, owner, isPut = insert.number, self.owned.id, False
        self.large.coming.add(number)
        try:
            await self.large.put(number, message)
            isPut = True
            work = await self._insert(insert)
        except SpoolError as error:
            if isPut and isinstance(error, OutcomeUnknown):
                raise  # it is coming still, until it was forgotten
            self.large.forget(number, owner)
            self.large.coming.discard(number)
            raise
        self.large.coming.discard(number)
        return work

    def _write(self, batch: WriteBatch) -> Deferred[None]:
        if self.owned.row is None:
            return fail(StoreAway("this process is no owner yet"))
        for insert in batch.inserts:
            if insert.number not in self._staged:  # this process was thought dead meanwhile
                self._taken(insert.work, self.owned.id)
                self._staged.add(insert.number)
        rows = Batch(self.owned.id, batch.inserts, batch.removed)
        if not batch.notes:
            written = self._writes.alone(write, rows)
        else:
            written = self._writes.run(self._writeNotes, rows, dict(batch.notes))
        return written.addCallback(self.large.removed)

    def _writeNotes(self, db: Connection, rows: Batch, notes: ownnotes.Notes) -> list[File]:
        """
        In the connection's thread.
        """
        files = write(db, rows)
        ownnotes.write(db, self._me, notes)
        return files

    def _written(self, batch: WriteBatch) -> None:
        self.large.coming.difference_update(batch.removed)
        for path in batch.removed.values():
            if path is not None:
                self._logged(self._inThread(self._contents.remove, path))

    def release(self, work: Work, later: Mapping[Addressee, Reschedule]) -> None:
        self._staged.discard(work.envelope.transaction)
        if later:
            self._logged(self.record(work, later).addErrback(self._notLater, work, later))

    def _notLater(
        self, failure: Failure, work: Work, later: Mapping[Addressee, Reschedule]
    ) -> Failure:
        """
        It is due all the same, as soon as the database is back.
        """
        self._held.leave(work.envelope.transaction, (one.seq for one in later))
        return self._lost.failed(failure)

    def abandon(self, work: Work) -> None:
        self._remove(work)

    def _remove(self, work: Work) -> None:
        """
        Remove a message and all that belongs to it.
        """
        number = work.envelope.transaction
        if not self._isOurs(work):
            self._order.endLeases()  # a claim could find it
        # It is known to be leaving before it is held no longer: claims look from their thread.
        self._batches.remove(number, ownMessage(work.message).path)
        self._staged.discard(number)
        self._held.forget(number)

    def _logged(self, d: Deferred[_T]) -> Deferred[_T | None]:
        """
        No caller waits for this; what goes wrong is repeated when a lease has
        run out.
        """
        return d.addErrback(_said)

    # On the way out.

    def _asked(self, look: Look[_T]) -> Deferred[_T]:
        return Deferred.fromCoroutine(self._order.ask(look))

    def _change(self, function: Callable[[PostgresqlLedger], _T]) -> Deferred[_T]:
        return Deferred.fromCoroutine(self._changed(function))

    async def _changed(self, function: Callable[[PostgresqlLedger], _T]) -> _T:
        result, files = await self._order.change(lambda ledger: (function(ledger), ledger.files))
        self.large.removed(files)
        return result

    def _ledger(self, db: Connection) -> PostgresqlLedger:
        """
        In a connection's thread.
        """
        staged, path = self._staged | self._batches.leaving, self._contents.path
        return PostgresqlLedger(db, timeOf(db), self.owner, staged, path, self._floor)

    def claim(
        self,
        limit: int,
        shares: Mapping[str, int],
        share: int,
        only: Collection[str] | None = None,
    ) -> Deferred[list[Work]]:
        return self._leased(lambda claims: claims.due(limit, shares, share, only))

    def turns(self, after: Hashable) -> Deferred[tuple[list[Turn], Hashable]]:
        place = after if isinstance(after, tuple) else None

        def look(claims: Claims, _: PostgresqlLedger) -> tuple[list[Turn], Hashable]:
            return claims.turns(place)

        return self._asked(look)

    def notices(self, limit: int, transaction: int | None = None) -> Deferred[list[Work]]:
        return self._leased(lambda claims: claims.notices(limit, transaction))

    def _leased(self, take: Callable[[Claims], list[Work]]) -> Deferred[list[Work]]:
        def claim(claims: Claims, ledger: PostgresqlLedger) -> tuple[list[Work], Claims]:
            if not lives(ledger.db, int(ledger.owner)):
                return [], claims
            self._lost.free(ledger, self._held, self._others)
            return take(claims), claims

        return self._asked(claim).addCallbacks(self._claimed, self._lost.failed)

    def _others(self) -> set[int]:
        return self.large.coming | self._batches.leaving

    def _claimed(self, result: tuple[list[Work], Claims]) -> list[Work]:
        works, claims = result
        logUnread(claims)
        for work in works:
            self._taken(work, int(claims.ledger.owner))
        return works

    def renew(self, works: Iterable[Work]) -> None:
        keys = [(work.envelope.transaction, {a.seq for a in work.addressees}) for work in works]

        def renew(db: Connection) -> None:
            ledger = self._ledger(db)
            found = [row for number, seqs in keys for row in ledger.rows(number, seqs)]
            renewed = [rules.renewed(row, ledger.owner, ledger.now) for row in found]
            ledger.save([row for row in renewed if row is not None])

        self._logged(self._writes.run(renew))

    def check(self, work: Work) -> Deferred[None] | None:
        """
        Is it still this process's, and is its content here, and what was stored?
        """
        message = ownMessage(work.message)
        return (
            None
            if message.fresh and self._isOurs(work)
            else Deferred.fromCoroutine(self._check(work))
        )

    def _isOurs(self, work: Work) -> bool:
        return self._held.isOurs(work.envelope.transaction, _inHand(work), self.owned.id)

    def _taken(self, work: Work, owner: int) -> None:
        self._held.take(work.envelope.transaction, _inHand(work), owner)

    async def _check(self, work: Work) -> None:
        number, message = work.envelope.transaction, ownMessage(work.message)
        if not self._isOurs(work):
            raise SpoolError("it is delivered by another process")
        fetching: Deferred[str] = message.shared(
            PostgresqlSpool, lambda _: Deferred.fromCoroutine(self.large.fetched(number, message))
        )
        try:
            wrong = await fetching
        except SpoolError as error:
            self._givenUp(work, error)
            raise
        if wrong:
            logDamaged(number, wrong)
            self._batches.flush()
            await self._change(lambda ledger: setAside(ledger, number))
            raise SpoolError(f"the message is damaged, and was moved aside: {wrong}")

    def record(
        self,
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        messages: Sequence[NewMessage] = (),
    ) -> Deferred[list[Work]]:
        if not messages and isAllDelivered(work, dispositions):
            self._remove(work)
            return succeed([])
        self._batches.flush()
        return Deferred.fromCoroutine(self._record(work, dispositions, messages))

    async def _record(
        self,
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        messages: Sequence[NewMessage],
    ) -> list[Work]:
        inserts = [self._insertion(*message) for message in messages]
        coming = {insert.number for insert in inserts}
        self.large.coming |= coming
        try:
            return await self._recordAll(work, dispositions, inserts)
        except SpoolError as error:
            if isinstance(error, OutcomeUnknown):
                self._uncertain |= coming  # their rows may be there before all is back
            if any(one.action for one in work.addressees):
                self._givenUp(work, error)  # whoever tells senders does not say it again
            raise
        finally:
            self.large.coming -= coming - self._uncertain

    def _givenUp(self, work: Work, error: SpoolError) -> None:
        """
        No task of this process is at it any longer: it is to be found anew, where that may help.
        """
        if isinstance(error, OutcomeUnknown | StoreAway):
            self._lost.suspect()
        elif isFull(error):
            self._lost.suspectLater()
        else:
            return
        self._held.leave(work.envelope.transaction, _inHand(work))

    async def _recordAll(
        self, work: Work, dispositions: Mapping[Addressee, Disposition], inserts: list[Insert]
    ) -> list[Work]:
        for insert in inserts:
            await self.large.put(insert.number, ownMessage(insert.work.message))
        number, items = work.envelope.transaction, list(dispositions.items())

        def record(ledger: PostgresqlLedger) -> int:
            Outcomes(ledger).record(number, items, inserts)
            return int(ledger.owner)

        owner = await self._change(record)
        for insert in inserts:
            self._taken(insert.work, owner)
        path = ownMessage(work.message).path
        left = [one.seq for one, outcome in items if not isinstance(outcome, DelayNotified)]
        if self._held.leave(number, left) and path is not None:
            self._logged(self._inThread(self._contents.remove, path))
        return [insert.work for insert in inserts]

    # For an operator.

    def read(self, function: Callable[[Connection], _T]) -> Deferred[_T]:
        """
        Look at what is there: no claim and no new mail waits for that.
        """
        self._batches.flush()
        return self._bodies.run(function)

    def change(self, function: Callable[[PostgresqlLedger], _T]) -> Deferred[_T]:
        """
        Change what is there.
        """
        self._batches.flush()
        return self._change(function)

    async def missing(self, number: int, owner: int, size: int) -> str:
        """
        See L{LargeContents.missing}.
        """
        return await self.large.missing(number, owner, size)

    async def contentOf(self, number: int) -> Message | None:
        """
        @return: the content of a message, which is on this machine then.
        """
        path = f"{self._contents.path(number)}{SHOWN}"
        found = await self._bodies.alone(queries.content, number, path)
        if found is not None:
            await self.large.show(number, found)
        return found

    def backOff(self, destination: str, seconds: float) -> None:
        def shut(ledger: PostgresqlLedger) -> None:
            backOff(ledger, destination, seconds)

        self._logged(self._change(shut))

    # Notes and numbers.

    def notes(self) -> Deferred[dict[str, str]]:
        def read() -> Deferred[dict[str, str]]:
            self._batches.flush()
            return self._writes.run(ownnotes.read, self._me)

        return Deferred.fromCoroutine(self.beginning.asked(read))

    def note(self, name: str, value: str, seconds: float) -> None:
        self._batches.next().notes[name] = (value, seconds)

    def forget(self, name: str) -> None:
        self._batches.next().notes[name] = None

    def waiting(self) -> Deferred[tuple[int, int]]:
        self._batches.flush()
        return self._writes.alone(_count)


async def _nothingMore() -> None:
    """Nothing begins with it."""


def _said(failure: Failure) -> None:
    if not failure.check(StoreAway):  # that was logged
        _log.error("{error}", error=failure.getErrorMessage())


def _inHand(work: Work) -> list[int]:
    """
    @return: the recipients that are leased, or ended: one that is late is in the queue, and
        only its sender is told.
    """
    return [one.seq for one in work.addressees if one.action != "delayed"]


def _checked(db: Connection) -> None:
    check(versionOf(db))


def _hasty(db: Connection) -> None:
    """
    That a lease is lost when the database crashes costs a second copy at most; outcomes,
    which are synced, sync the leases before them.
    """
    db.execute("SET synchronous_commit = off")


def _identity(db: Connection) -> str:
    found = db.execute("SELECT value FROM info WHERE name = 'identity'").fetchone()
    if found is None:
        raise SpoolError("the database has lost the number that tells it from others")
    return str(found[0])


def _count(db: Connection) -> tuple[int, int]:
    found = db.execute(
        "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM recipients)"
    ).fetchone()
    return (0, 0) if found is None else (found[0], found[1])
