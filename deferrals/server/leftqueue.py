"""
The queue of a process that there is no longer, of a server that was several: its mail is
delivered, its senders are told, an operator may change it; nothing is added.  When it is
empty, its directory is removed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from deferrals.deferreds import SharedResult
from deferrals.errors import SpoolError
from deferrals.interfaces import IQueue
from deferrals.logger import Logger
from deferrals.model.portion import Portion
from deferrals.server.queue import Queue
from deferrals.spool.sqlite.emptied import removeEmpty
from deferrals.threads import InThread

_log = Logger(namespace="deferrals")

#: How often it is looked whether it can be opened, or is empty.
LOOK_SECONDS = 10.0


class LeftQueue:
    """
    @param directory: of its spool.
    @param make: makes the queue of it.
    @param inThread: runs a function outside the reactor thread.
    """

    def __init__(
        self, directory: str, make: Callable[[], Queue], clock: IReactorTime, inThread: InThread
    ) -> None:
        self._directory = directory
        self._make = make
        self._inThread = inThread
        self._queue: Queue | None = None
        self._hasFailed = False
        self._stays = False  # there is more in it than a queue
        self._looked = SharedResult[None](None)
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._look()))
        self._loop.clock = clock

    @property
    def view(self) -> IQueue | None:
        """
        An operator's; C{None} where it is not open.
        """
        return None if self._queue is None else self._queue.view

    @property
    def isAway(self) -> bool:
        """
        Whether it cannot be opened yet.
        """
        return self._loop.running and self._hasFailed and self._queue is None

    def start(self) -> None:
        """
        Deliver what is there, as soon as no other process has it.
        """
        looked = self._loop.start(LOOK_SECONDS)
        self._looked = SharedResult(looked.addCallbacks(lambda _: None, _notLooked))

    async def _look(self) -> None:
        if self._queue is None:
            await self._open()
        if self._queue is None or self._stays or not await self._queue.isEmpty():
            return
        queue, self._queue = self._queue, None
        await queue.stop()
        if await self._inThread(self._remove):
            _log.info("{path} was empty, and is removed", path=self._directory)
            if self._loop.running:
                self._loop.stop()
        else:
            self._stays = True  # and is opened again
            _log.warn("{path} has no mail, and stays: something is in it", path=self._directory)

    async def _open(self) -> None:
        queue = self._make()
        try:
            await queue.start()
        except SpoolError as error:
            if not self._hasFailed:
                _log.error("left mail waits: {error}", error=str(error))
            self._hasFailed = True
            return
        if not self._loop.running:
            return await queue.stop()  # the server ends
        self._queue = queue
        _log.info("delivering what was left in {path}", path=self._directory)

    def _remove(self) -> bool:
        """
        @return: whether it is gone: what is not the spool's own, and what another process
            has taken in meanwhile, stays.
        """
        isGone = removeEmpty(self._directory)
        if isGone:
            with contextlib.suppress(OSError):  # what is there beside it is not ours
                os.rmdir(os.path.dirname(self._directory))
        return isGone

    async def stop(self) -> None:
        """
        Begin nothing more.  What is being opened, or removed, comes to its end first.
        """
        if self._loop.running:
            self._loop.stop()
        await self._looked.wait()
        queue, self._queue = self._queue, None
        if queue is not None:
            await queue.stop()

    def replaced(self, maxDelivering: int | None, returnOctets: int | None) -> None:
        """
        See L{Queue.replaced}.
        """
        if self._queue is not None:
            self._queue.replaced(maxDelivering, returnOctets)

    def shareWith(self, portion: Portion) -> None:
        """
        See L{Queue.shareWith}.
        """
        if self._queue is not None:
            self._queue.shareWith(portion)


def _notLooked(failure: Failure) -> None:
    _log.failure("what was left is not looked after", failure)
