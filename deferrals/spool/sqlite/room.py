"""
The way out of a full disk: what the spool itself holds and does not need goes
back to the disk, a little at a time, and new messages are taken as soon as there
is room for them.

Everything here runs in the reactor's thread.
"""

from __future__ import annotations

import contextlib

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from deferrals.errors import SpoolError
from deferrals.logger import Logger
from deferrals.spool.sqlite import diskspace, upkeep
from deferrals.spool.sqlite.diskspace import NoRoom, Reserve
from deferrals.spool.sqlite.store import Store
from deferrals.threads import InThread

_log = Logger(namespace="deferrals.spool")

#: How often the room is looked at.
LOOK_SECONDS = 2.0

#: Pages given back at once; fewer where the log has no room for so many.
PAGES = 1000


class RoomKeeping:
    """
    @param store: the spool's.
    @param clock: timers.
    @param inThread: runs a function outside the reactor thread.
    @param reserve: is made again when there is room.
    """

    def __init__(
        self, store: Store, clock: IReactorTime, inThread: InThread, reserve: Reserve
    ) -> None:
        self._store = store
        self._inThread = inThread
        self._reserve = reserve
        self._pages = PAGES
        self._lacked = False
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._look()))
        self._loop.clock = clock
        self._ended: Deferred[LoopingCall] | None = None

    def start(self) -> None:
        """
        From now on.
        """
        self._ended = self._loop.start(LOOK_SECONDS)

    def stop(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when nothing is under way any longer.
        """
        if self._loop.running:
            self._loop.stop()
        return succeed(None) if self._ended is None else self._ended.addCallback(lambda _: None)

    async def _look(self) -> None:
        try:
            lack = await self._inThread(diskspace.lack, self._store.files.directory)
        except OSError:
            # It was taken away: any operation notices that, and has it mended.
            with contextlib.suppress(SpoolError):
                await self._store.run(upkeep.giveBack, 0)
            return
        self._say(lack)
        if lack:
            await self._giveBack()
        else:
            await self._inThread(self._reserve.make)

    @property
    def isLacking(self) -> bool:
        """
        Whether no mail is taken for want of room.
        """
        return self._lacked

    def _say(self, lack: str) -> None:
        if lack and not self._lacked:
            _log.critical("no mail is taken: {lack}", lack=lack)
        elif self._lacked and not lack:
            _log.info("there is room again: mail is taken")
        self._lacked = bool(lack)

    async def _giveBack(self) -> None:
        """
        The next pages that nothing uses, if there are any.
        """
        try:
            await self._store.run(upkeep.giveBack, self._pages)
            await self._store.checkpoint()
            self._pages = min(2 * self._pages, PAGES)
        except NoRoom:
            self._pages = max(1, self._pages // 4)
        except SpoolError as error:
            _log.debug("no room is given back: {error}", error=str(error))
