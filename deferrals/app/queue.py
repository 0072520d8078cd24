"""
The queue and all that belongs to it, put together: the spool, the deliveries,
the notices to senders, and the operator's socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort

from deferrals.app.stages import StageSet
from deferrals.config.tables import Config
from deferrals.interfaces import IServices, Work
from deferrals.model.ids import TransactionIds
from deferrals.model.schedule import Schedule
from deferrals.model.verdict import Outcome
from deferrals.operator.control import Operator, listen
from deferrals.relay.attempts import Deliveries
from deferrals.relay.notices import Author, Notifier
from deferrals.relay.scheduler import Scheduler
from deferrals.spool.sqlite.queue import SqliteQueue
from deferrals.spool.sqlite.spool import SqliteSpool

_ORDINARY = Schedule()


class Queue:
    """
    @param services: what the server lends.
    @param ids: makes the numbers of notices.
    @param stages: what the configuration makes of the stages, now.
    @ivar spool: the embedded spool.
    """

    def __init__(
        self,
        config: Config,
        services: IServices,
        ids: TransactionIds,
        stages: Callable[[], StageSet],
    ) -> None:
        reactor = services.reactor
        self.spool = SqliteSpool(config.spoolDirectory, reactor, services.inThread, time.time)
        self._notifier = Notifier(
            self.spool,
            Author(config.hostname, ids, time.time),
            route=lambda sender: stages().routeBack(sender),
            inThread=services.inThread,
            returnOctets=config.bounce_size,
        )
        self._scheduler = Scheduler(
            self.spool,
            reactor,
            Deliveries(
                stage=lambda name: stages().deliveries.get(name),
                schedule=lambda name: stages().schedules.get(name, _ORDINARY),
            ),
            self._notifier,
            concurrency=config.max_delivering,
        )
        queue = SqliteQueue(self.spool.store, services.inThread, changed=self._scheduler.again)
        self._operator = Operator(queue, services.inThread, services.status.snapshot)
        self._controlPath = config.controlPath
        self._control: IListeningPort | None = None
        self._reactor = reactor
        services.status.show("destinations", self._scheduler.destinations.troubles)

    def start(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when mail can be taken, and fails where
            there is no spool.
        """
        return self.spool.open().addCallback(self._opened)

    def _opened(self, _: None) -> None:
        self._scheduler.start()
        self._control = listen(self._reactor, self._controlPath, self._operator)

    def stop(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when what was begun has ended, and the
            spool is closed.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._control is not None:
            await maybeDeferred(self._control.stopListening)
        await self._scheduler.stop()
        await self.spool.close()

    def release(self, work: Work) -> None:
        """
        The final reply has been written: the message is ours.
        """
        self._scheduler.release(work)

    def attempt(self, work: Work, handsBack: bool) -> Deferred[dict[int, Outcome]]:
        """
        See L{Scheduler.releaseAndWait}.
        """
        return self._scheduler.releaseAndWait(work, handsBack)

    def reloaded(self, config: Config) -> None:
        """
        There is a new configuration.
        """
        self._notifier.returnOctets = config.bounce_size
        self._scheduler.reloaded(config.max_delivering)
