"""
What an operator may do with the queue in PostgreSQL (L{IQueue}), from any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from deferrals.deferreds import Kept
from deferrals.interfaces import IMessage, IQueue
from deferrals.logger import Logger
from deferrals.model.ids import formatId
from deferrals.model.json import JSON
from deferrals.model.selection import Selection, SetAside
from deferrals.spool.changes import NUMBERS_SECONDS, Changes
from deferrals.spool.commanded import CommandedQueue
from deferrals.spool.message import Message
from deferrals.spool.postgresql import queries
from deferrals.spool.postgresql.ledger import PostgresqlLedger, timeOf

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

_log = Logger(namespace="deferrals.operator")

_T = TypeVar("_T")

#: A recipient as it is shown.
_Shown = dict[str, JSON]


class QueueHolder(Protocol):
    """
    What has the queue: a server's spool, or a command.
    """

    def read(self, function: Callable[[Connection], _T]) -> Deferred[_T]:
        """
        Look at what is there.
        """

    def change(self, function: Callable[[PostgresqlLedger], _T]) -> Deferred[_T]:
        """
        Change what is there.
        """

    async def contentOf(self, number: int) -> Message | None:
        """
        @return: the content of a message, which is on this machine then.
        """

    async def missing(self, number: int, owner: int, size: int) -> str:
        """
        @param owner: who has written the content into the directory.
        @return: what is wrong with it, as far as its size tells.
        """


@implementer(IQueue)
class PostgresqlQueue(CommandedQueue):
    """
    See L{CommandedQueue}.

    @param seconds: what time it is, for what is counted now and then.
    """

    def __init__(
        self,
        spool: QueueHolder,
        seconds: Callable[[], float],
        *,
        changed: Callable[[], object] = lambda: None,
        leaving: Callable[[Collection[int]], object] = lambda numbers: None,
    ) -> None:
        super().__init__(changed, leaving)
        self._spool = spool
        self._numbers = Kept(seconds, self._count, NUMBERS_SECONDS)

    def _count(self) -> Deferred[_Shown]:
        return self._spool.read(lambda db: queries.numbers(db, timeOf(db)))

    def recipients(
        self, selection: Selection, limit: int, after: Sequence[int] | None
    ) -> Deferred[tuple[list[_Shown], Sequence[int] | None]]:
        cursor = None if after is None else (after[0], after[1])
        return self._spool.read(
            lambda db: queries.recipients(db, selection, limit, cursor, timeOf(db))
        )

    def show(self, number: int) -> Deferred[_Shown | None]:
        return self._spool.read(lambda db: queries.message(db, number, timeOf(db)))

    async def made(self, command: str, keys: list[tuple[int, int]]) -> tuple[int, int]:
        def make(ledger: PostgresqlLedger) -> tuple[int, int]:
            changes = Changes(ledger)
            return changes.make(command, keys), changes.active

        return await self._spool.change(make)

    def content(self, number: int) -> Deferred[IMessage | None]:
        return Deferred.fromCoroutine(self._content(number))

    async def _content(self, number: int) -> Message | None:
        return await self._spool.contentOf(number)

    def inspect(self, after: int | None) -> Deferred[tuple[list[_Shown], int, int | None]]:
        return Deferred.fromCoroutine(self._inspect(after))

    async def _inspect(self, after: int | None) -> tuple[list[_Shown], int, int | None]:
        found, count, last = await self._spool.read(lambda db: queries.problems(db, after))
        for number, owner, size in await self._spool.read(
            lambda db: queries.files(db, after, last)
        ):
            problem = await self._spool.missing(number, owner, size)
            if problem:
                found.append({"id": formatId(number), "problem": problem})
        return found, count, last

    def numbers(self) -> Deferred[_Shown]:
        return Deferred.fromCoroutine(self._allNumbers())

    async def _allNumbers(self) -> _Shown:
        return {**await self._numbers.get(), "moved_aside": []}

    def aside(self) -> Deferred[list[SetAside]]:
        """
        The database mends itself, or is restored from a backup: nothing of it is set aside.
        """
        return succeed([])

    def rescue(self, command: str, name: str) -> Deferred[SetAside]:
        return fail(ValueError(f"nothing that is called {name} was set aside"))
