"""
What an operator may do with the embedded spool (L{IQueue}), while a server has
it and while none does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.deferreds import Kept
from deferrals.errors import SpoolError
from deferrals.interfaces import IMessage, IQueue
from deferrals.logger import Logger
from deferrals.model.ids import formatId, parseId
from deferrals.model.selection import Selection, SetAside, Shown
from deferrals.spool.changes import CHANGED, NUMBERS_SECONDS, Changes
from deferrals.spool.claims import verify
from deferrals.spool.commanded import CommandedQueue
from deferrals.spool.message import Message
from deferrals.spool.sqlite import queries, rescue
from deferrals.spool.sqlite.diskspace import NoRoom
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.store import Store
from deferrals.threads import InThread

_log = Logger(namespace="deferrals.operator")

_T = TypeVar("_T")
_P = ParamSpec("_P")

#: Names moved aside that are shown.
SHOWN = 100


@implementer(IQueue)
class SqliteQueue(CommandedQueue):
    """
    The operator's view of a spool in a directory.  See L{CommandedQueue}.

    @param store: the spool's.
    @param inThread: runs a function outside the reactor thread.
    @param idle: whether there is no server that delivers.
    """

    def __init__(
        self,
        store: Store,
        inThread: InThread,
        *,
        idle: bool = False,
        changed: Callable[[], object] = lambda: None,
        leaving: Callable[[Collection[int]], object] = lambda numbers: None,
    ) -> None:
        super().__init__(changed, leaving)
        self._store = store
        self._inThread = inThread
        self._idle = idle
        self._aside = rescue.Aside(store.files)
        self._numbers = Kept(
            store.clock.now,
            lambda: self._read(queries.numbers, store.clock.now()),
            NUMBERS_SECONDS,
        )

    def _read(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Deferred[_T]:
        path = self._store.files.database
        return self._inThread(_reading, path, lambda db: function(db, *args, **kwargs))

    def recipients(
        self, selection: Selection, limit: int, after: Sequence[int] | None
    ) -> Deferred[tuple[list[Shown], Sequence[int] | None]]:
        cursor = None if after is None else (after[0], after[1])
        return self._read(
            queries.recipients, selection, limit=limit, after=cursor, now=self._store.clock.now()
        )

    def show(self, number: int) -> Deferred[Shown | None]:
        return self._read(queries.message, number, self._store.clock.now())

    async def made(self, command: str, keys: list[tuple[int, int]]) -> tuple[int, int]:
        """
        On a full disk as many at once as there is room for in the log.
        """
        count, active, size = 0, 0, len(keys)
        while keys:
            try:
                changed, done = await self._store.run(self._apply, command, keys[:size])
            except NoRoom:
                if size == 1:
                    raise
                size = max(1, size // 8)
                continue
            for number in done.emptied:
                await self._inThread(self._store.files.removeAll, number)
            count, active, keys = count + changed, active + done.active, keys[size:]
        return count, active

    def _apply(
        self, db: sqlite3.Connection, command: str, keys: list[tuple[int, int]]
    ) -> tuple[int, Changes]:
        """
        In the database's thread.
        """
        clock = self._store.clock
        changes = Changes(SqliteLedger(db, clock.now(), wall=clock.wall()), self._idle)
        return changes.make(command, keys), changes

    def content(self, number: int) -> Deferred[IMessage | None]:
        files = self._store.files
        paths = files.body(number), files.part(number), files.damagedBody(number)
        found: Deferred[IMessage | None] = self._read(queries.content, number, paths)
        return found.addCallback(lambda known: known or self._inThread(queries.unknown, paths))

    def inspect(self, after: int | None) -> Deferred[tuple[list[Shown], int, int | None]]:
        return Deferred.fromCoroutine(self._inspect(after))

    async def _inspect(self, after: int | None) -> tuple[list[Shown], int, int | None]:
        try:
            return await self._read(queries.problems, after, self._store.files.found)
        except SpoolError as error:
            if after is not None:
                raise
            return [{"id": "", "problem": str(error)}], 0, None

    def numbers(self) -> Deferred[Shown]:
        return Deferred.fromCoroutine(self._allNumbers())

    async def _allNumbers(self) -> Shown:
        found = await self._numbers.get()
        names = await self._inThread(self._store.files.namesAside)
        return {**found, "moved_aside": names[:SHOWN]}

    # What has been set aside.

    def aside(self) -> Deferred[list[SetAside]]:
        return Deferred.fromCoroutine(self._listed())

    async def _listed(self) -> list[SetAside]:
        found = await self._inThread(self._aside.listed)
        return [*found, *await self._read(rescue.without)]

    def rescue(self, command: str, name: str) -> Deferred[SetAside]:
        commands = {"show": self._shown, "restore": self._restored, "remove": self._removed}
        if command not in commands:
            raise ValueError(f"no such command: {command}")
        return Deferred.fromCoroutine(commands[command](name))

    async def _found(self, name: str) -> SetAside:
        for one in await self._listed():
            if one["name"] == name:
                return one
        raise ValueError(f"nothing that is called {name} was set aside")

    async def _shown(self, name: str) -> SetAside:
        one = await self._found(name)
        if one["kind"] in ("database", "log"):
            db = await self._inThread(self._aside.carried, name, self._store.clock.now())
            try:
                some = rescue.candidates(db)
                told = [rescue.told(db, number) for number in some[:CHANGED]]
            finally:
                self._aside.done(db)
            return {**one, "messages": told, "count": len(some)}
        if one["kind"] == "content":
            return {**one, "header": await self._inThread(self._aside.header, name)}
        return one

    async def _removed(self, name: str) -> SetAside:
        one = await self._found(name)
        if one["kind"] == "message":
            await self._store.run(rescue.drop, parseId(name))
        else:
            await self._inThread(self._aside.remove, name)
        _log.info("removed {name}, which had been set aside", name=name)
        return one

    async def _restored(self, name: str) -> SetAside:
        one = await self._found(name)
        if one["kind"] in ("database", "log"):
            done = await self._fromDatabase(name)
        elif one["kind"] == "content":
            done = await self._content(name)
        else:
            raise SpoolError(f"{name} cannot be taken back: {one['why']}; `export` shows it")
        _log.info("took back from {name}: {count}", name=name, count=len(done["restored"]))
        self._changed()
        return {**one, **done}

    async def _fromDatabase(self, name: str, only: int | None = None) -> SetAside:
        """
        Take back what is whole and not here.
        """
        restored: list[str] = []
        skipped: dict[str, str] = {}
        db = await self._inThread(self._aside.carried, name, self._store.clock.now())
        try:
            for number in rescue.candidates(db):
                if only in (None, number):
                    why = await self._back(db, number)
                    if why:
                        skipped[formatId(number)] = why
                    else:
                        restored.append(formatId(number))
        finally:
            self._aside.done(db)
        return {"restored": restored, "skipped": skipped, "status": "held"}

    async def _back(self, db: sqlite3.Connection, number: int) -> str:
        one = await self._inThread(rescue.candidate, db, self._aside, number)
        if isinstance(one, str):
            return one
        if await self._read(rescue.expected, number) is not None:
            return "it is in the queue"
        if one.path is not None:
            await self._inThread(self._aside.moveBack, one.path, number)
        return "" if await self._store.run(rescue.insert, one) else "it is in the queue"

    async def _content(self, name: str) -> SetAside:
        """
        Give a content back to its message: that is in the queue, or in a database
        that has been set aside.
        """
        number = rescue.number(name)
        text = formatId(number)
        expected = await self._read(rescue.expected, number)
        if expected is None:
            for one in await self._inThread(self._aside.listed):
                if one["kind"] in ("database", "log"):
                    done = await self._fromDatabase(one["name"], number)
                    if done["restored"]:
                        return done
            raise SpoolError(
                f"{name} cannot be taken back: no database that is here knows to whom it should"
                f" go; `deferrals queue export {text}` writes it"
            )
        path = self._aside.path(name)
        wrong = await self._inThread(verify, Message(*expected, None, path, b"", False))
        if wrong:
            raise SpoolError(f"{name} cannot be taken back: {wrong}")
        await self._inThread(self._aside.moveBack, path, number)
        clock = self._store.clock
        await self._store.run(rescue.retried, number, clock.now(), clock.wall())
        return {"restored": [text], "skipped": {}, "status": "queued"}


def _reading(path: str, function: Callable[[sqlite3.Connection], _T]) -> _T:
    """
    In a thread of the pool, with a connection of its own.

    @raise SpoolError: the database cannot be read.
    """
    try:
        db = queries.readOnly(path)
        try:
            return function(db)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise SpoolError(f"{path}: {error}") from None
