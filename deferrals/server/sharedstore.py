"""
What a server shares with others in a database.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import deferrals
from deferrals.errors import StoreAway
from deferrals.interfaces import ILimits, INotes, IReactor, IRefusalStore, ISpool
from deferrals.model.status import Status
from deferrals.model.store import SpoolSettings
from deferrals.server.company import Company
from deferrals.server.services import Services
from deferrals.server.sharednotes import SharedNotes
from deferrals.server.storekey import StoreKey
from deferrals.server.storelimits import StoreLimits
from deferrals.server.tellings import OwnTellings, SharedTellings, Tellings
from deferrals.spool.postgresql.connection import Access, Presence, StoreConnection
from deferrals.spool.postgresql.directory import directoryOf
from deferrals.spool.postgresql.owners import Identity, Owner
from deferrals.spool.postgresql.refusals import OnDemand, PostgresqlRefusals
from deferrals.spool.postgresql.schema import check, upgrade, versionOf
from deferrals.spool.postgresql.spool import PostgresqlSpool
from deferrals.threads import OwnThread

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: What the connections are called in the server's views.
_NOTES, _REFUSALS = "deferrals notes", "deferrals refusals"


class SharedStore:
    """
    @param own: the notes of this machine.
    @param ownLimits: what this machine counts.
    @param sharers: how many processes it has.
    @param me: what others see of this process; C{None} where its queue is in the
        database, too: then that says who it is.
    @ivar notes: those that all machines share, and its own.
    @ivar limits: those that hold for all machines.
    @ivar company: who shares it.
    @ivar presence: whether the database is there, for all that this process has in it.
    @ivar key: what links are signed with.
    """

    def __init__(
        self,
        settings: SpoolSettings,
        baseDir: str,
        reactor: IReactor,
        own: INotes,
        ownLimits: ILimits,
        me: Identity | None,
        sharers: int = 1,
    ) -> None:
        access = Access.of(settings, baseDir)
        self._thread = OwnThread(reactor, "deferrals-notes")
        self.presence = Presence(reactor)
        self._presence = Presence(reactor, self.presence)
        self._connection = StoreConnection(access, self._thread, reactor, self._presence, _NOTES)
        self._connection.begin += [_preparing(settings), _visible]
        self._asked = onDemand(settings, baseDir, reactor, self._presence)
        self._reactor = reactor
        self._hasBegun = False
        self.key = StoreKey(self._asked, reactor)
        self.notes = SharedNotes(own, self._connection, reactor)
        self.company = Company(sharers)
        self.limits = StoreLimits(ownLimits, self._connection, reactor, self.company)
        self._owner = None if me is None else Owner(self._connection, reactor, me)
        if self._owner is not None:
            self.company.follow(self._owner)

    async def open(self) -> None:
        """
        A database that is away need not be waited for: mail is taken without it.

        @raise SpoolError: what is there cannot be used; called again it is waited for.
        """
        if self._hasBegun and not self._connection.isThere:  # it is tried again
            raise StoreAway(self.presence.why)
        if not self._hasBegun:
            self._hasBegun = True
            with contextlib.suppress(StoreAway):  # that was logged, and it is tried again
                await self._connection.open()
        self.notes.start()
        self.limits.start()
        if self._owner is not None:
            self._owner.startAnyhow()

    def look(self) -> None:
        """
        See L{StoreConnection.look}.
        """
        self._connection.look()

    async def close(self) -> None:
        """
        No more.
        """
        self.notes.stop()
        self.limits.stop()
        if self._owner is not None:
            await self._owner.stop()
        self.key.stop()
        await self._asked.close()
        await self._connection.close()
        self._thread.end()

    def refusals(self, keep: Callable[[], float]) -> IRefusalStore:
        """
        What was refused at all machines.  No mail waits for it.

        @param keep: for how long in seconds, what is added now.
        """
        return PostgresqlRefusals(self._asked, keep)

    def tellings(self, spool: ISpool, me: Identity) -> Tellings:
        """
        Which of all machines tells a recipient what was refused for it.

        @param spool: this process's, in which its digests become its own.
        @param me: this process.
        """
        return SharedTellings(OwnTellings(spool), self._asked, me, self._reactor)

    def show(self, status: Status) -> None:
        """
        Let operators see it.
        """
        status.show("notes", self._describe)
        if self._owner is not None:
            status.show("owner", self._owner.describe)

    def _describe(self) -> dict[str, object]:
        state = "working" if self._hasBegun and self._presence.isThere else "resting"
        return {"state": state, "last_error": self._presence.why}


def onDemand(
    settings: SpoolSettings, baseDir: str, reactor: IReactor, presence: Presence | None = None
) -> OnDemand:
    """
    A connection for what was refused.

    @param presence: of the database; by default this connection's own.
    """
    access, thread = Access.of(settings, baseDir), OwnThread(reactor, "deferrals-refusals")
    known = presence or Presence(reactor)
    connection = StoreConnection(access, thread, reactor, known, _REFUSALS)
    connection.begin.append(_preparing(settings))
    return OnDemand(connection, thread.end)


def keyFor(settings: SpoolSettings, baseDir: str, reactor: IReactor) -> StoreKey | None:
    """
    What links are signed with, for a process that has nothing else in the database; it is
    connected until it knows.

    @return: C{None} where nothing is shared.
    """
    if not settings.isShared:
        return None
    asked = onDemand(settings, baseDir, reactor)
    return StoreKey(asked, reactor, asked.close)


def _preparing(settings: SpoolSettings) -> Callable[[Connection], object]:
    return partial(upgrade, schema=settings.schema) if settings.upgrade else _checked


def identityOf(settings: SpoolSettings, hostname: str, worker: int) -> Identity:
    """
    What others see of a process.
    """
    machine = settings.machine or hostname
    return Identity(machine, worker, deferrals.__version__, settings.lease)


def spoolFor(
    settings: SpoolSettings,
    baseDir: str,
    directory: str,
    services: Services,
    worker: int,
    shared: SharedStore | None = None,
    waits: Callable[[], object] | None = None,
) -> str | ISpool:
    """
    Where the queue of a worker is.

    @param directory: that of its own spool, if it has one.
    @param shared: what else is shared in the database; it is opened with the queue.
    @param waits: is told if the start waits for the database; without it, the start fails.
    """
    if settings.use == "sqlite":
        return directory
    spool = PostgresqlSpool(
        Access.of(settings, baseDir),
        identityOf(settings, services.hostname, worker),
        os.path.join(services.stateDir, "contents", str(worker)),
        services.reactor,
        services.inThread,
        services.status,
        settings.upgrade,
        directoryOf(settings, baseDir),
        None if shared is None else shared.presence,
    )
    if spool.large.directory is not None:
        services.status.show("contents", spool.large.directory.describe)
    services.status.show("owner", spool.owned.describe)
    spool.beginning.waits = waits
    if shared is not None:
        shared.company.follow(spool.owned)
        spool.beside, spool.doubted = shared.open, shared.look
    return spool


def _checked(db: Connection) -> None:
    check(versionOf(db))


def _visible(db: Connection) -> None:
    """
    A note has to be found by others at once, and may be lost in a crash: that costs its
    sender an attempt.
    """
    db.execute("SET synchronous_commit = off")
