"""
The queue and all that belongs to it, put together: the spool, the deliveries,
and the notices to senders.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from deferrals.deferreds import timeOfDay
from deferrals.interfaces import IQueue, IServices, ISpool, Work
from deferrals.logger import Logger
from deferrals.model.ids import TransactionIds
from deferrals.model.portion import Portion
from deferrals.model.selection import Selection
from deferrals.model.verdict import Outcome
from deferrals.relay.attempts import Deliveries
from deferrals.relay.destinations import NOTES
from deferrals.relay.notices import Author, Notifier
from deferrals.relay.scheduler import Scheduler
from deferrals.server.services import Services
from deferrals.server.stages import CurrentStages
from deferrals.spool.memory import MemorySpool
from deferrals.spool.postgresql.queue import PostgresqlQueue
from deferrals.spool.postgresql.spool import PostgresqlSpool
from deferrals.spool.sqlite.queue import SqliteQueue
from deferrals.spool.sqlite.spool import UNDER_WAY, UNDER_WAY_SECONDS, SqliteSpool

_log = Logger(namespace="deferrals")

#: The note that says at how many deaths what was in hand; at so many it is deadly.
DEATHS, DEADLY_DEATHS = "deaths", 3

#: A process that has lived for so long goes on as before, in seconds.
CAREFUL_SECONDS = 60.0


class Queue:
    """
    @param spool: a directory, or a spool; C{None} for one in memory.
    @param ids: makes the numbers of notices.
    @param isLeft: whether it is a second one, of a process that there is no longer.
    @ivar spool: what keeps the messages.
    @ivar view: the operator's; C{None} where the spool has none.
    @ivar maxDelivering: attempts that are under way at once.
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
        isLeft: bool = False,
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
            notes=services.ownNotes,
            status=services.status,
            isShared=isinstance(self.spool, PostgresqlSpool),
        )
        self._notes = services.ownNotes
        self._notes.watch(NOTES, self._scheduler.destinations.heard)
        self._limits = services.ownLimits
        self._isLeft = isLeft
        self._clock = reactor
        self._careful: IDelayedCall | None = None
        self.maxDelivering = maxDelivering
        self.view = self._viewed(services)
        if not isLeft:
            services.status.show("destinations", self._scheduler.destinations.troubles)

    def _viewed(self, services: IServices) -> IQueue | None:
        scheduler = self._scheduler
        if isinstance(self.spool, PostgresqlSpool):
            self.spool.changed = scheduler.again
            return PostgresqlQueue(
                self.spool,
                services.reactor.seconds,
                changed=scheduler.again,
                leaving=scheduler.putBack,
            )
        if not isinstance(self.spool, SqliteSpool):
            return None
        return SqliteQueue(
            self.spool.store,
            services.inThread,
            changed=scheduler.again,
            leaving=scheduler.putBack,
        )

    @property
    def isUsable(self) -> bool:
        """
        Whether the spool takes mail, as far as is known.
        """
        return self.spool.isThere

    @property
    def returnOctets(self) -> int:
        """
        No larger message is sent back whole in a notice.
        """
        return self._notifier.returnOctets

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
        if isinstance(self.spool, PostgresqlSpool):
            self.spool.numbered(self._ids.number)
        await self._holdDeadly()
        await (self._adopt() if self._isLeft else self._notes.load(self.spool))
        await self._scheduler.destinations.load()
        self._scheduler.start()

    def beCareful(self) -> None:
        """
        The process has died again and again: deliver one message after the other, and
        note which, so that it is known what it dies of; until it has lived for a while.
        """
        if isinstance(self.spool, SqliteSpool):
            self.spool.isCareful = True
            self._careful = self._clock.callLater(CAREFUL_SECONDS, self._carefree)
            self.replaced(None, None)

    def _carefree(self) -> None:
        self._blameNone()
        self.replaced(None, None)

    def _blameNone(self) -> None:
        """
        The process does not die of what is under way.
        """
        careful, self._careful = self._careful, None
        if careful is not None and isinstance(self.spool, SqliteSpool):
            if careful.active():
                careful.cancel()
            self.spool.isCareful = False
            self.spool.forget(UNDER_WAY)

    async def _holdDeadly(self) -> None:
        """
        Hold what this process has died of: it was delivered then, alone, and was in hand
        at each death before.
        """
        if self.view is None or not isinstance(self.spool, SqliteSpool):
            return
        notes: dict[str, str] = await self.spool.notes()
        deaths = _deaths(notes.get(DEATHS, "{}"), self.spool.interrupted)
        named = notes.get(UNDER_WAY, "").upper()
        isDeadly = deaths.get(named, 0) >= DEADLY_DEATHS
        if isDeadly:
            del deaths[named]
            _log.critical(
                "{transaction} is held: the process has died while it was delivered",
                event="deadly",
                transaction=named,
                recipients=await self._heldAll(self.view, named),
            )
        for name in notes.keys() & {UNDER_WAY, DEATHS}:
            self.spool.forget(name)
        if deaths:
            self.spool.note(DEATHS, json.dumps(deaths), UNDER_WAY_SECONDS)
            await self.spool.notes()  # it is durable before anything is delivered

    async def _heldAll(self, view: IQueue, named: str) -> int:
        """
        Hold all recipients of a message.

        @return: how many there are.
        """
        count, after = 0, None
        while True:
            held, _, after = await view.change("hold", Selection((named,)), after)
            count += held
            if after is None:
                return count

    async def _adopt(self) -> None:
        """
        What its process has known becomes this one's; the rest only it could need.
        """
        await self._notes.adopt(self.spool)
        await self._limits.adopt(self.spool)
        for name in await self.spool.notes():
            self.spool.forget(name)

    async def isEmpty(self) -> bool:
        """
        Whether nothing of it would be missed: no mail, and nothing set aside.
        """
        return not (any(await self.spool.waiting()) or (self.view and await self.view.aside()))

    def giveUp(self) -> None:
        """
        A start that waits for something is to end.
        """
        if isinstance(self.spool, PostgresqlSpool):
            self.spool.giveUp()

    def begun(self) -> None:
        """
        All that it needs at its start is known: from now on nothing waits for a database.
        """
        if isinstance(self.spool, PostgresqlSpool):
            self.spool.beginning.waits = None

    def stop(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when what was begun has ended, and the
            spool is closed.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._scheduler.stop()
        self._blameNone()
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
        self.maxDelivering = maxDelivering or self.maxDelivering
        if returnOctets is not None:
            self._notifier.returnOctets = returnOctets
        self._scheduler.reloaded(1 if self._careful else self.maxDelivering)

    def shareWith(self, portion: Portion) -> None:
        """
        Other servers deliver to the same destinations.

        @param portion: what this one has of the whole.
        """
        self._scheduler.shareWith(portion)


def _deaths(before: str, interrupted: Sequence[str]) -> dict[str, int]:
    """
    @param before: what was noted at the last start.
    @param interrupted: what the process had in hand when it died.
    @return: at how many deaths, one after the other, each of that was in hand.
    """
    known: dict[str, int] = json.loads(before)
    return {one: known.get(one, 0) + 1 for one in interrupted}


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
