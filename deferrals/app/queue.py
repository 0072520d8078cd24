"""
The queue and all that belongs to it, put together: the spool, the deliveries,
the notices to senders, and the operator's socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import inlineCallbacks, maybeDeferred

from deferrals.config.tables import Config
from deferrals.interfaces import Work
from deferrals.model.ids import TransactionIds
from deferrals.model.schedule import Schedule
from deferrals.operator.control import Operator, listen
from deferrals.relay.board import Board, Expectation
from deferrals.relay.notices import Notifier
from deferrals.relay.scheduler import Scheduler
from deferrals.spool.sqlite.queue import View
from deferrals.spool.sqlite.spool import SqliteSpool

_ORDINARY = Schedule()


class Queue:
    """
    @param services: L{IServices<deferrals.interfaces.IServices>}.
    @param ids: makes the numbers of notices.
    @param house: what the configuration makes of the stages, now.
    @ivar spool: L{ISpool<deferrals.interfaces.ISpool>}.
    """

    def __init__(
        self, config: Config, services: Any, ids: TransactionIds, house: Callable[[], Any]
    ) -> None:
        reactor = services.reactor
        self.spool = SqliteSpool(config.spoolDirectory, reactor, services.inThread, time.time)
        self._board = Board()
        self._scheduler = Scheduler(
            self.spool,
            lambda name: self._board.watch(house().deliveries.get(name)),
            lambda name: house().schedules.get(name, _ORDINARY),
            reactor,
            config.max_delivering,
        )
        self._notifier = Notifier(
            self.spool,
            reactor,
            self._scheduler.take,
            lambda sender: house().routeBack(sender),
            ids,
            time.time,
            config.hostname,
            services.inThread,
            config.bounce_size,
        )
        self._scheduler.tell = self._notifier.tell
        view = View(self.spool, services.inThread, changed=self._scheduler.again)
        self._operator = Operator(view, services.inThread, services.status.snapshot)
        self._controlPath = config.controlPath
        self._control: Any = None
        self._reactor = reactor
        services.status.show("destinations", self._scheduler.destinations.troubles)

    @inlineCallbacks
    def start(self) -> Any:
        """
        @return: a Deferred that fires when mail can be taken, and fails where
            there is no spool.
        """
        yield self.spool.open()
        self._scheduler.start()
        self._notifier.start()
        self._control = listen(self._reactor, self._controlPath, self._operator)

    @inlineCallbacks
    def stop(self) -> Any:
        """
        @return: a Deferred that fires when what was begun has ended, and the
            spool is closed.
        """
        if self._control is not None:
            yield maybeDeferred(self._control.stopListening)
        yield self._scheduler.stop()
        yield self._notifier.stop()
        yield self.spool.close()

    def release(self, work: Work) -> None:
        """
        The final reply has been written: the message is ours.
        """
        self._scheduler.release(work)

    def attempt(self, work: Work, handsBack: bool) -> Expectation:
        """
        The same, for who waits for the outcome (S-6).
        """
        expectation = self._board.expect(work, handsBack)
        self._scheduler.release(work)
        return expectation

    def reloaded(self, config: Config) -> None:
        """
        There is a new configuration.
        """
        self._notifier.returnOctets = config.bounce_size
        self._scheduler.reloaded(config.max_delivering)
