"""
Contents above 256 KiB, for a server: here while they are received and delivered, and in
the database or the directory as long as they have a message.  Into the database they are
put while they are received (L{deferrals.spool.postgresql.incoming}).

A content is there before the row of its message, and is removed after that.  What is left
when a process dies in between belongs to an owner
(L{owners<deferrals.spool.postgresql.owners>}): it is removed when that owner is dead, or
by itself, where it knows that no message is coming.  No clock says what is old.

Where the directory cannot be used, large mail is told to come again, small mail is
taken, and what waits with a content there waits on.
"""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import UnderWay
from deferrals.errors import SpoolError, StoreAway
from deferrals.logger import Logger
from deferrals.spool.message import Follower, Message
from deferrals.spool.postgresql import contents
from deferrals.spool.postgresql.connection import StoreConnection
from deferrals.spool.postgresql.contents import FILE, PIECE_OCTETS, Contents
from deferrals.spool.postgresql.directory import Directory, wrongSize
from deferrals.spool.postgresql.incoming import IncomingContents
from deferrals.spool.postgresql.owners import Owner
from deferrals.spool.postgresql.patience import PatientThread
from deferrals.spool.postgresql.writing import File
from deferrals.threads import InThread

_log = Logger(namespace="deferrals.spool")

_T = TypeVar("_T")
_P = ParamSpec("_P")

#: So long the directory may take for anything, and so much longer for each MiB.
ANSWER_SECONDS, MEBIBYTE_SECONDS = 30.0, 1.0

#: So long a content that was shown stays on this machine: operators read it in parts.
SHOWN_SECONDS = 60.0

#: So many contents are looked for in the database at once.
_SLICE = 5000


class SharedDirectory:
    """
    The directory, in a thread of its own.

    @ivar why: what is wrong with it, for people; empty if nothing is known to be.
    """

    def __init__(self, directory: Directory, inThread: InThread, clock: IReactorTime) -> None:
        self._directory = directory
        self._patience = PatientThread(inThread, clock, f"spool.bodies: {directory.path}")
        self.why = ""

    def describe(self) -> dict[str, object]:
        """
        For the status.
        """
        return {"state": "resting" if self.why else "working", "last_error": self.why}

    def close(self) -> None:
        """
        What has not begun is not done.
        """
        self._patience.close()

    async def begin(self, connection: StoreConnection, identity: str) -> None:
        """
        See that it is the queue's, or becomes that.

        @raise SpoolError: it cannot be used.
        """
        known, new = await connection.alone(contents.tokenOf), secrets.token_hex(8)
        found = await self.ask(0, self._directory.begin, identity, known, new)
        token = await connection.alone(contents.noteToken, found)
        await self.ask(0, self._directory.use, identity, token)

    def ask(
        self, size: int, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]:
        """
        @param size: of the content that it is about.
        @param function: one of the directory's.
        """
        seconds = ANSWER_SECONDS + MEBIBYTE_SECONDS * size / PIECE_OCTETS
        return self._patience.run(seconds, function, *args, **kwargs)

    def open(self, owner: int) -> Deferred[None]:
        """
        See L{Directory.open}.
        """
        return self.ask(0, self._directory.open, owner)

    async def write(self, owner: int, number: int, message: Message) -> None:
        """
        Have a content.

        @raise SpoolError: it cannot; that is said once, until it can.
        """
        try:
            await self.ask(message.size, self._write, owner, number, message)
        except (OSError, SpoolError) as error:
            why = str(error)
            if not self.why:
                _log.error(
                    "large mail cannot be taken: {error}", event="bodies", state="away", error=why
                )
            self.why = why
            raise SpoolError(why) from None
        if self.why:
            self.why = ""
            _log.info("large mail can be taken again", event="bodies", state="back")

    def _write(self, owner: int, number: int, message: Message) -> None:
        """
        In the thread.
        """
        with message.open() as content:
            self._directory.write(owner, number, content)

    async def read(self, owner: int, number: int, size: int, path: str) -> str:
        """
        Copy a content to this machine.

        @return: what is wrong with it; empty if nothing is known to be.
        @raise SpoolError: the directory cannot be asked now.
        @raise OSError: likewise.
        """
        try:
            await self.ask(size, self._directory.read, owner, number, path)
        except FileNotFoundError as error:
            return f"its content is missing: {error.filename}"
        return ""

    async def missing(self, owner: int, number: int, size: int) -> str:
        """
        @return: what is wrong with a content, as far as its size tells.
        """
        try:
            found = await self.ask(0, self._directory.octets, owner, number)
        except (OSError, SpoolError) as error:
            return f"its content cannot be looked for: {error}"
        return wrongSize(found, size)

    def removed(self, files: Iterable[File]) -> None:
        """
        Contents have no message any longer.
        """
        for number, owner in files:
            self._remove(number, owner)

    def _remove(self, number: int, owner: int) -> Deferred[None]:
        """
        What cannot be removed now is found by a sweep.
        """
        return self.ask(0, self._directory.remove, owner, number).addErrback(lambda _: None)

    async def sweep(
        self, connection: StoreConnection, me: Owner, coming: Callable[[], set[int]]
    ) -> None:
        """
        Remove what has no message, and will have none.
        """
        living = await connection.alone(contents.living)
        for owner in await self.ask(0, self._directory.owners):
            if owner == me.id or owner not in living:
                await self._sweep(connection, me, owner, coming)
                if owner not in living:
                    await self.ask(0, self._directory.clear, owner)

    async def _sweep(
        self, connection: StoreConnection, me: Owner, owner: int, coming: Callable[[], set[int]]
    ) -> None:
        """
        In portions: mail that comes, or is delivered, has its turns between them, and no
        number of contents is taken for a directory that does not answer.
        """
        numbers: list[int] = []
        leaves = await self.ask(0, self._directory.leaves, owner)
        while leaves or numbers:
            while leaves and len(numbers) < _SLICE:
                numbers += await self.ask(0, self._directory.numbers, owner, leaves.pop())
            some, numbers = numbers[:_SLICE], numbers[_SLICE:]
            now = coming()  # after they were looked for
            lost = await connection.alone(contents.lost, owner, some, now, owner == me.id)
            for number in lost:
                await self._remove(number, owner)


class LargeContents:
    """
    @param local: those on this machine.
    @param connection: for what is in the database.
    @param me: whose they are.
    @param inThread: runs a function outside the reactor thread.
    @param directory: the one that all machines share; C{None} where contents are in the
        database.
    @ivar coming: messages that may be about to have their rows.
    """

    def __init__(
        self,
        local: Contents,
        connection: StoreConnection,
        me: Owner,
        inThread: InThread,
        clock: IReactorTime,
        directory: SharedDirectory | None,
    ) -> None:
        self._local = local
        self._connection = connection
        self._me = me
        self._inThread = inThread
        self._clock = clock
        self.directory = directory
        self.coming: set[int] = set()
        self._incoming = IncomingContents(connection, me, clock, self.coming, self.forget)
        self._fetches: UnderWay[str] = UnderWay()
        self._copies = itertools.count()
        self._shown: dict[str, IDelayedCall] = {}
        self._isLeft = False

    async def begin(self, identity: str) -> None:
        """
        @raise SpoolError: contents cannot be had, or not be kept.
        """
        if self.directory is not None:
            await self.directory.begin(self._connection, identity)
        elif await self._connection.alone(contents.hasFiles):
            contents.named(None)

    async def open(self) -> None:
        """
        This process has become an owner.
        """
        if self.directory is not None:
            await self.directory.open(self._me.id)

    def close(self) -> None:
        """
        No more.
        """
        self._incoming.close()
        for path, call in self._shown.items():
            call.cancel()
            self._remove(path)
        if self.directory is not None:
            self.directory.close()

    # On the way in.

    def follow(self, number: int, path: str, caughtUp: Callable[[], None]) -> Follower | None:
        """
        A content has begun to come in, and is large: a
        L{Follow<deferrals.spool.message.Follow>} of its number.
        """
        if self.directory is not None:
            return None
        return self._incoming.follow(number, path, caughtUp)

    async def put(self, number: int, message: Message) -> None:
        """
        Have a content for all.  What there is of it is the caller's to remove from now on.

        @raise SpoolError: it cannot be had.
        """
        path, owner = message.path, self._me.id
        if path is None:
            return
        if self.directory is not None:
            await self.directory.write(owner, number, message)
            beginning = message.beginning
            await self._connection.alone(contents.put, number, FILE, beginning, owner)
            return
        await self._incoming.put(number, path, message.size)

    def forget(self, number: int, owner: int) -> None:
        """
        A content, or a part of it, has no message, and will have none.

        @param owner: who has begun to put it there.
        """
        dropped = self._connection.alone(contents.drop, number)
        self._logged(dropped.addErrback(self._notDropped))
        self.removed([(number, owner)])

    def _notDropped(self, failure: Failure) -> Failure:
        self._isLeft = True
        return failure

    def isBack(self) -> None:
        """
        The database is there again: what could not be removed is tried once more at once,
        and then with all else, now and then.
        """
        if self._isLeft and self._me.row is not None:
            self._isLeft = False
            self._logged(self._removeLost())

    # On the way out.

    def removed(self, files: Iterable[File]) -> None:
        """
        Messages have left whose contents are in the directory.
        """
        if self.directory is not None:  # otherwise a machine that has it sweeps it
            self.directory.removed(files)

    async def fetched(self, number: int, message: Message) -> str:
        """
        Have a content on this machine.

        @return: what is wrong with it.
        """
        if message.path is not None:
            # Several may want it at the same time.
            wrong = await self._fetches.wait(message.path, self._copy, number, message)
            if wrong:
                return wrong
        return await self._inThread(contents.wrongOf, message)

    async def show(self, number: int, message: Message) -> None:
        """
        The same, for an operator, who does not say when it is not needed any longer.

        @raise SpoolError: it is missing.
        """
        path = message.path
        if path is None:
            return
        wrong = await self._fetches.wait(path, self._copy, number, message)
        if wrong:
            raise SpoolError(wrong)
        if path in self._shown:
            self._shown[path].reset(SHOWN_SECONDS)
        else:
            self._shown[path] = self._clock.callLater(SHOWN_SECONDS, self._wasShown, path)

    def _wasShown(self, path: str) -> None:
        del self._shown[path]
        self._remove(path)

    def _copy(self, number: int, message: Message) -> Deferred[str]:
        return Deferred.fromCoroutine(self._fetch(number, message))

    async def _fetch(self, number: int, message: Message) -> str:
        """
        It has its name when it is whole: what is broken off is begun anew.
        """
        path = message.path
        assert path is not None
        if os.path.exists(path):
            return ""
        part = f"{path}.{next(self._copies)}"
        try:
            wrong = await self._read(number, message.size, part)
            if not wrong:
                await self._inThread(os.rename, part, path)
        except BaseException:
            self._remove(part)
            raise
        return wrong

    async def _read(self, number: int, size: int, part: str) -> str:
        owner = await self._connection.alone(contents.fileOf, number)
        if owner is not None:
            if self.directory is None:
                contents.named(None)
                return ""
            return await self.directory.read(owner, number, size, part)
        seq = 0
        while (piece := await self._connection.alone(contents.get, number, seq)) is not None:
            await self._inThread(contents.append, part, piece)
            seq += 1
        return "" if seq else "its content is missing"

    def _remove(self, path: str) -> None:
        self._logged(self._inThread(self._local.remove, path))

    def _logged(self, d: Deferred[_T]) -> None:
        d.addErrback(_unremoved)

    # Now and then.

    async def keepUp(self) -> None:
        """
        What came in here, and has no message, is removed; and what the dead have left in
        the directory.
        """
        await self._removeLost()
        if self.directory is not None:
            await self.directory.sweep(self._connection, self._me, lambda: set(self.coming))

    def _removeLost(self) -> Deferred[None]:
        """
        Remove from the database what came in here, and has no message.
        """
        return self._connection.run(contents.dropOwn, self._me.id, set(self.coming))

    async def missing(self, number: int, owner: int, size: int) -> str:
        """
        @return: what is wrong with a content in the directory, as far as its size tells.
        """
        if self.directory is None:
            return "its content cannot be looked for: spool.bodies has to name its directory"
        return await self.directory.missing(owner, number, size)


def _unremoved(failure: Failure) -> None:
    if not failure.check(StoreAway):  # that was logged, and it is tried again
        _log.error("{error}", error=failure.getErrorMessage())
