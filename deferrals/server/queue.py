"""
The queue and all that belongs to it, put together: the spool, the deliveries,
and the notices to senders.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from twisted.internet.defer import Deferred

from deferrals.deferreds import timeOfDay
from deferrals.interfaces import IQueue, IServices, ISpool, Work
from deferrals.model.ids import TransactionIds
from deferrals.model.verdict import Outcome
from deferrals.relay.attempts import Deliveries
from deferrals.relay.notices import Author, Notifier
from deferrals.relay.scheduler import Scheduler
from deferrals.server.services import Services
from deferrals.server.stages import CurrentStages
from deferrals.spool.memory import MemorySpool
from deferrals.spool.sqlite.queue import SqliteQueue
from deferrals.spool.sqlite.spool import SqliteSpool


class Queue:
    """
    @param spool: a directory, or a spool; C{None} for one in memory.
    @param ids: makes the numbers of notices.
    @ivar spool: what keeps the messages.
    @ivar view: the operator's; C{None} where the spool has none.
    """

    def __init__(
        self,
        spool: str | os.PathLike[str] | ISpool | None,
        services: Services,
        hostname: str,
        ids: TransactionIds,
        stages: CurrentStages,
        maxDelivering: int,
        returnOctets: int,
    ) -> None:
        reactor = services.reactor
        wall = partial(timeOfDay, reactor)
        self._ids = ids
        self.spool = _spool(spool, services, wall)
        self._notifier = Notifier(
            self.spool,
            Author(hostname, ids, wall),
            route=stages.routeBack,
            inThread=services.inThread,
            returnOctets=returnOctets,
            status=services.status,
        )
        self._scheduler = Scheduler(
            self.spool,
            reactor,
            Deliveries(stage=stages.delivery, schedule=stages.schedule),
            self._notifier,
            concurrency=maxDelivering,
            notes=services.notes,
            status=services.status,
        )
        self._notes = services.notes
        self._maxDelivering = maxDelivering
        self.view: IQueue | None = None
        if isinstance(self.spool, SqliteSpool):
            self.view = SqliteQueue(
                self.spool.store, services.inThread, changed=self._scheduler.again
            )
        services.status.show("destinations", self._scheduler.destinations.troubles)

    @property
    def isUsable(self) -> bool:
        """
        Whether the spool takes mail, as far as is known.
        """
        return not isinstance(self.spool, SqliteSpool) or self.spool.isUsable

    @property
    def backedOff(self) -> int:
        """
        How many destinations are left alone.
        """
        return self._scheduler.destinations.backedOff

    def start(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when mail can be taken, and fails where
            there is no spool.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self.spool.open()
        self._ids.use(self.spool.identity)
        await self._notes.load(self.spool)
        await self._scheduler.destinations.load()
        self._scheduler.start()

    def stop(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when what was begun has ended, and the
            spool is closed.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._scheduler.stop()
        await self.spool.close()

    def release(self, work: Work) -> None:
        """
        The final reply has been written: the message is ours.
        """
        self._scheduler.release(work)

    def hold(self, work: Work) -> None:
        """
        The same, for a message that waits until an operator releases it.
        """
        self._scheduler.hold(work)

    def attempt(self, work: Work, handsBack: bool) -> Deferred[dict[int, Outcome]]:
        """
        See L{Scheduler.releaseAndWait}.
        """
        return self._scheduler.releaseAndWait(work, handsBack)

    def replaced(self, maxDelivering: int | None, returnOctets: int | None) -> None:
        """
        There are other stages, and perhaps other limits.
        """
        self._maxDelivering = maxDelivering or self._maxDelivering
        if returnOctets is not None:
            self._notifier.returnOctets = returnOctets
        self._scheduler.reloaded(self._maxDelivering)


def _spool(
    spool: str | os.PathLike[str] | ISpool | None, services: IServices, wall: Callable[[], float]
) -> ISpool:
    """
    @raise TypeError: it is nothing of what a spool can be.
    """
    if spool is None:
        return MemorySpool(services.reactor)
    if ISpool.providedBy(spool):
        return spool
    if not isinstance(spool, str | os.PathLike):
        raise TypeError(f"spool: expected a directory or an ISpool, not {spool!r}")
    directory = os.path.abspath(os.fspath(spool))
    return SqliteSpool(directory, services.reactor, services.inThread, wall, services.status)
