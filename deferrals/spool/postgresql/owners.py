"""
Whose work it is: each process that has work in the database has a row of its own there,
which it renews.  What is staged or leased is its owner's for as long as that lives.

A process that has not been heard for its lease is dead: what it had is freed, and its
row removed, in one transaction.  A process that was stopped for so long, and wakes,
finds that its row is gone: it has lost all it held, and takes a new row.  While the
database is away no process is heard: so one that finds it again thinks no other dead until
it was there for a lease.

Every write says whose it is: C{AND owner = ME} where rows are changed; where rows are
added, L{LIVES} in the same statement, so that none belong to an owner that is gone.

All times are the server's: no machine's clock matters.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.logger import Logger
from deferrals.spool import claims
from deferrals.spool.postgresql.connection import StoreConnection
from deferrals.spool.postgresql.ledger import PostgresqlLedger, timeOf
from deferrals.spool.postgresql.schema import OWNERS_LOCK, VERSION

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

_log = Logger(namespace="deferrals.spool")

#: The heart beats so often within a lease.
BEATS = 4

#: Has a row for as long as an owner lives, and keeps it alive until the transaction ends.
LIVES = "SELECT id FROM owners WHERE id = %s FOR KEY SHARE"

#: What the dead have had is due: what they were to tell senders, too.
_ENDED = (
    "UPDATE recipients SET owner = NULL, due = clock_timestamp()"
    " WHERE status = 3 AND owner = ANY(%s)"
)

#: Whether an owner is heard: the one that asks is.  A move of a queue is no server.
_HEARD = (
    "(o.id = me.id OR o.seen >= clock_timestamp() - make_interval(secs => o.lease)"
    " AND o.worker >= 0)"
)

#: Of the processes that are heard: how many, on how many machines, and how many that were
#: heard after this one began, and are taken for it.
_LIVING = (
    f" (SELECT count(*) FROM owners AS o WHERE {_HEARD}),"
    f" (SELECT count(DISTINCT o.machine) FROM owners AS o WHERE {_HEARD}),"
    " (SELECT count(*) FROM owners AS o WHERE o.machine = me.machine"
    " AND o.worker = me.worker AND o.id <> me.id AND o.seen > me.began)"
)

#: So many leases are ended at once.
_FREED = 1000

#: Contents that were coming in.
_INCOMING = (
    "DELETE FROM pieces WHERE owner = ANY(%s)"
    " AND NOT EXISTS (SELECT 1 FROM messages WHERE id = message)"
)


@attrs.frozen
class Identity:
    """
    What people see of a process.

    @ivar machine: its machine's name.
    @ivar worker: which of its machine's processes it is.
    @ivar version: of the program.
    @ivar lease: in seconds: not heard for so long it is dead.
    """

    machine: str
    worker: int
    version: str
    lease: float


@attrs.frozen
class Living:
    """
    Who shares a database now.

    @ivar owners: how many processes.
    @ivar machines: how many machines they are on, by their names.
    @ivar hasTwin: whether another living process has the same machine's name, and the same
        number there: it is another machine with that name.
    """

    owners: int = 1
    machines: int = 1
    hasTwin: bool = False


@attrs.frozen
class OwnerRow:
    """
    @ivar id: who it is.
    @ivar slot: its number, 0 to 255, which no other living process has.
    """

    id: int
    slot: int


def enroll(db: Connection, identity: Identity) -> OwnerRow:
    """
    Become an owner (in a transaction).  The number is the one that has been free for
    longest, nearly: a clock that is behind does not make a number twice.

    @raise SpoolError: there are 256.
    """
    db.execute("SELECT pg_advisory_xact_lock(%s, hashtext(current_schema()))", (OWNERS_LOCK,))
    found = db.execute(
        "WITH last AS (SELECT value::integer AS slot FROM info WHERE name = 'slot')"
        " INSERT INTO owners (slot, machine, worker, pid, version, schema, lease, seen)"
        " SELECT slot, %s, %s, %s, %s, %s, %s, clock_timestamp()"
        " FROM generate_series(0, 255) AS slot WHERE slot NOT IN (SELECT slot FROM owners)"
        " ORDER BY (slot - (SELECT slot FROM last) + 255) %% 256 LIMIT 1 RETURNING id, slot",
        (
            *(identity.machine, identity.worker, os.getpid(), identity.version),
            *(VERSION, identity.lease),
        ),
    ).fetchone()
    if found is None:
        raise SpoolError("256 processes have work in the database already: no more can")
    row = OwnerRow(*found)
    db.execute("UPDATE info SET value = %s WHERE name = 'slot'", (str(row.slot),))
    return row


def beat(db: Connection, me: int, staged: int = 0) -> Living | None:
    """
    Live on.

    @param staged: how many messages this owner has only staged.
    @return: who lives; C{None} if this owner was dead.
    """
    found = db.execute(
        "UPDATE owners AS me SET seen = clock_timestamp(), staged = %s WHERE id = %s"
        f" RETURNING {_LIVING}",
        (staged, me),
    ).fetchone()
    return None if found is None else Living(found[0], found[1], bool(found[2]))


def living(db: Connection, me: int) -> Living:
    """
    @return: who lives.
    """
    found = db.execute(f"SELECT {_LIVING} FROM owners AS me WHERE me.id = %s", (me,)).fetchone()
    return Living() if found is None else Living(found[0], found[1], bool(found[2]))


def lives(db: Connection, me: int) -> bool:
    """
    @return: whether an owner is alive; it is so until the transaction ends.  What is
        leased to one that is not is never freed.
    """
    return db.execute(LIVES, (me,)).fetchone() is not None


def bury(db: Connection) -> list[tuple[int, str, int]]:
    """
    Free what the dead have had, and remove them (in a transaction).

    @return: of each its id, machine and worker.
    """
    dead = db.execute(
        "DELETE FROM owners WHERE id IN (SELECT id FROM owners"
        " WHERE seen < clock_timestamp() - make_interval(secs => lease)"
        " FOR UPDATE SKIP LOCKED) RETURNING id, machine, worker"
    ).fetchall()
    free(db, [one[0] for one in dead])
    return [(one[0], one[1], one[2]) for one in dead]


def free(db: Connection, owners: Sequence[int]) -> None:
    """
    Free what owners have had that are not there any longer (in a transaction).
    """
    if not owners:
        return
    db.execute(_INCOMING, ([*owners],))
    db.execute(_ENDED, ([*owners],))
    ledger = PostgresqlLedger(db, timeOf(db), "")
    while leased := ledger.leasedTo(owners, _FREED):
        claims.free(ledger, leased)


def leave(db: Connection, me: int) -> None:
    """
    Be no owner any longer (in a transaction).
    """
    if db.execute("DELETE FROM owners WHERE id = %s", (me,)).rowcount:
        free(db, [me])


def _enrolled(db: Connection, identity: Identity) -> tuple[OwnerRow, Living]:
    row = enroll(db, identity)
    return row, living(db, row.id)


class Owner:
    """
    This process's row, and its heartbeat.

    @param database: a connection on which nothing waits for long; its
        C{synchronous_commit} may be off.
    @ivar row: who it is now.
    @ivar identity: what people see of it.
    @ivar woken: is told the old row and the new one, when this process has found
        itself dead: all that it held is not its own any longer.
    @ivar buried: is told how many died, when their work has become free.
    @ivar staged: says how many messages are staged, and not released yet.
    @ivar known: is told this process's number among the owners and who lives, whenever it
        has been heard.
    """

    def __init__(self, database: StoreConnection, clock: IReactorTime, identity: Identity) -> None:
        self._database = database
        self.identity = identity
        self._beating = LoopingCall(self._beat)
        self._beating.clock = clock
        self._clock = clock
        self._thereSince: float | None = -math.inf  # None: it is away
        self._isOver = False
        self.row: OwnerRow | None = None
        self.woken: Callable[[OwnerRow, OwnerRow], object] = lambda old, new: None
        self.buried: Callable[[int], object] = lambda number: None
        self.staged: Callable[[], int] = lambda: 0
        self.known: Callable[[int, Living], object] = lambda me, living: None
        self._living = Living()

    @property
    def id(self) -> int:
        """Who it is now: what each write says."""
        assert self.row is not None, "start() has not fired"
        return self.row.id

    def describe(self) -> dict[str, object]:
        """
        For the status.
        """
        return {
            "machine": self.identity.machine,
            "worker": self.identity.worker,
            "owner": None if self.row is None else self.row.id,
            "up": self._database.isThere and self.row is not None,
            "owners": self._living.owners,
            "machines": self._living.machines,
        }

    def start(self) -> Deferred[None]:
        """
        Become an owner; the work of the dead becomes free, if it is known who is.

        @return: a Deferred that fires when it is; fails with L{SpoolError}.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        if self._othersWereHeard():
            await self._database.run(bury)
        await self._enroll("alive")
        self._beating.start(self.identity.lease / BEATS, now=False)

    def startAnyhow(self) -> None:
        """
        Become an owner as soon as the database is there: for a process whose work is not
        in it.
        """
        self._beating.start(self.identity.lease / BEATS)

    async def _enroll(self, state: str) -> OwnerRow:
        row, found = await self._database.run(_enrolled, self.identity)
        if self._isOver:  # it has stopped meanwhile
            await self._database.run(leave, row.id)
        self.row = row
        self._say(state, self.identity.machine, self.identity.worker, row.id)
        self._know(row, found)
        return row

    def _know(self, row: OwnerRow, found: Living) -> None:
        if found.hasTwin and not self._living.hasTwin:
            _log.warn(
                "another machine is {machine}, too: give each a name of its own ([spool] machine)",
                event="owner",
                state="twin",
                machine=self.identity.machine,
                worker=self.identity.worker,
                owner=row.id,
            )
        self._living = found
        self.known(row.id, found)

    def stop(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when it is none any longer: what it still had is
            free.  It never fails: otherwise its lease ends.
        """
        self._isOver = True
        if self._beating.running:
            self._beating.stop()
        row, self.row = self.row, None
        left = self._database.run(leave, -1 if row is None else row.id)
        return left.addErrback(lambda _: None)

    def _beat(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._beatOnce()).addErrback(self._notBeaten)

    async def _beatOnce(self) -> None:
        old = self.row
        if old is None:
            await self._enroll("alive")
        else:
            found = await self._database.alone(beat, old.id, self.staged())
            if found is None:
                self.woken(old, await self._enroll("woken"))
            elif self.row is old:
                self._know(old, found)
        if self._othersWereHeard():
            await self._bury()

    def wasAway(self) -> None:
        """
        The database has not been there: no owner was heard meanwhile.
        """
        self._thereSince = None

    def _othersWereHeard(self) -> bool:
        """
        Whether the database has been there for so long that all who live have been heard.
        """
        now = self._clock.seconds()
        if self._thereSince is None:
            self._thereSince = now
        return now - self._thereSince >= self.identity.lease

    async def _bury(self) -> None:
        dead = await self._database.run(bury)
        for number, machine, worker in dead:
            self._say("dead", machine, worker, number)
        if dead:
            self.buried(len(dead))

    def _notBeaten(self, failure: Failure) -> None:
        """
        The heart beats again as soon as the database is there.
        """
        if failure.check(StoreAway, OutcomeUnknown):
            self.wasAway()
        else:
            _log.error("owner: {error}", error=failure.getErrorMessage())

    def _say(self, state: str, machine: str, worker: int, owner: int) -> None:
        _log.info(
            "owner {owner} ({machine}, worker {worker}) is {state}",
            event="owner",
            state=state,
            machine=machine,
            worker=worker,
            owner=owner,
        )
