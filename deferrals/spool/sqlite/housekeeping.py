"""
What a spool does now and then, a little at a time, so that acceptance never
waits for it:

  - the spool's time is saved;
  - the history is kept short, notes that have expired are removed;
  - room that is not needed any longer is given back to the disk: at once where
    the disk is full (L{RoomKeeping});
  - files of bodies whose messages have left, or never got a row, are removed;
    others that no message has are moved aside;
  - messages without recipients, or without a body, are set aside.

Everything here runs in the reactor's thread.  What is done to the database is
in L{deferrals.spool.sqlite.upkeep} and runs in its thread; what is done to
files is in L{deferrals.spool.sqlite.files} and runs in a thread of the pool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater

from deferrals import durable
from deferrals.logger import Logger
from deferrals.model.ids import formatId
from deferrals.spool.damage import logDamaged
from deferrals.spool.sqlite import upkeep
from deferrals.spool.sqlite.belonging import setContentAside
from deferrals.spool.sqlite.leaving import leaving, left
from deferrals.spool.sqlite.marker import raiseGeneration
from deferrals.spool.sqlite.recovery import saveClock
from deferrals.spool.sqlite.store import Store
from deferrals.threads import InThread

_log = Logger(namespace="deferrals.spool")

EVERY_SECONDS = 60.0

#: Between two slices of work.
PAUSE_SECONDS = 1.0

#: Files are looked through at the start, and every so many rounds.
FILES_ROUNDS = 60


class Housekeeping:
    """
    @param store: the spool's.
    @param clock: timers.
    @param inThread: runs a function outside the reactor thread.
    @param incoming: the numbers of messages that are coming in.
    """

    def __init__(
        self, store: Store, clock: IReactorTime, inThread: InThread, incoming: Container[int]
    ) -> None:
        self._store = store
        self._clock = clock
        self._inThread = inThread
        self._incoming = incoming
        self._rounds = 0
        self._after = -1
        self._pause: Deferred[None] | None = None
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._round()))
        self._loop.clock = clock
        self._ended: Deferred[LoopingCall] | None = None

    def start(self) -> None:
        """
        From now on.
        """
        self._ended = self._loop.start(EVERY_SECONDS)

    def stop(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when nothing is under way any longer.
        """
        if self._loop.running:
            self._loop.stop()
        if self._pause is not None:
            self._pause.cancel()
        return succeed(None) if self._ended is None else self._ended.addCallback(lambda _: None)

    async def _round(self) -> None:
        self._rounds += 1
        run, clock = self._store.run, self._store.clock
        try:
            await run(saveClock, *clock.saved())
            await run(raiseGeneration)
            await self._leaving()
            if self._rounds % FILES_ROUNDS == 1:
                await self._files()
            now = clock.now()
            while await run(upkeep.trimHistory) and await self._goOn():
                pass
            while await run(upkeep.trimNotes, now) and await self._goOn():
                pass
            while await run(upkeep.vacuum) and await self._goOn():
                pass
            await self._store.checkpoint()
            await self._messages()
        except Exception as error:
            _log.warn("housekeeping: {error}", error=str(error))

    async def _goOn(self) -> bool:
        """
        Pause.

        @return: whether to go on after that.
        """
        if not self._loop.running:
            return False
        self._pause = deferLater(self._clock, PAUSE_SECONDS)
        with contextlib.suppress(CancelledError):
            await self._pause
        self._pause = None
        return self._loop.running

    async def _leaving(self) -> None:
        """
        Remove the files of messages that have left.
        """
        while numbers := await self._store.run(leaving):
            for number in numbers:
                await self._inThread(self._store.files.removeBody, number)
            await self._inThread(durable.sync, self._store.files.bodies)
            await self._store.run(left, numbers)
            if not await self._goOn():
                return

    async def _files(self) -> None:
        """
        Remove content whose message never got a row: its process died before that,
        and so before a reply.  Set files aside that a message had, as their names
        say, and none has.
        """
        files = self._store.files
        await self._unfinished()
        numbers = await self._inThread(files.bodyNumbers)
        for start in range(0, len(numbers), upkeep.SLICE):
            # In this order: what is coming in now may have its row a moment later.
            some = numbers[start : start + upkeep.SLICE]
            complete = [number for number in some if number not in self._incoming]
            for number in await self._store.run(upkeep.withoutMessage, complete):
                await self._inThread(setContentAside, files, number)
            if not await self._goOn():
                return

    async def _unfinished(self) -> None:
        """
        What has a row gets its name.
        """
        files = self._store.files
        numbers = await self._inThread(files.unfinished)
        for start in range(0, len(numbers), upkeep.SLICE):
            # In this order: what is coming in now may have its row a moment later.
            some = [
                one for one in numbers[start : start + upkeep.SLICE] if one not in self._incoming
            ]
            without = await self._store.run(upkeep.withoutMessage, some)
            for number in some:
                isOurs = number not in without
                await self._inThread(files.finish if isOurs else files.removeUnfinished, number)

    async def _messages(self) -> None:
        """
        Look at the next messages, from where the last round ended.
        """
        store = self._store
        found, aside, self._after = await store.run(upkeep.nextMessages, self._after)
        for number in aside:
            _log.critical(
                "{transaction} was set aside: it is not known to whom it should go;"
                " `deferrals queue rescue` lists it",
                event="set-aside",
                transaction=formatId(number),
            )
        missing = await self._inThread(store.files.withoutBody, found)
        for number in await store.run(upkeep.setMissingAside, missing, store.clock.now()):
            logDamaged(number, "its content is missing")
