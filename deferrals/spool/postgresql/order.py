"""
What is asked of the queue comes behind what was said of it before.

New messages are leased to this process, and so is what leaves: no claim can find them, so
none waits until they are written, with all that is synced for them.  A claim does wait
behind what it could find: outcomes, an operator's commands, and whatever has left whose
lease has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from deferrals.spool.batch import BatchWriter
from deferrals.spool.claims import Claims
from deferrals.spool.postgresql.connection import StoreConnection
from deferrals.spool.postgresql.held import Held
from deferrals.spool.postgresql.ledger import PostgresqlLedger
from deferrals.spool.rows import QueueRow

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

_T = TypeVar("_T")

#: What is done with a claim, and with what it is made of.
Look: TypeAlias = Callable[[Claims, PostgresqlLedger], _T]

#: How often a claim ends the leases of this process that it has not renewed, in seconds.
LEASES_SECONDS = 1.0


@attrs.define(eq=False)
class Order:
    """
    @ivar writes: the connection that commits.
    @ivar claims: the one that claims.
    @ivar batches: what is to be written.
    @ivar held: what this process has.
    @ivar clock: the time.
    @ivar ledger: makes one of a connection, in its thread.
    """

    writes: StoreConnection
    claims: StoreConnection
    batches: BatchWriter
    held: Held
    clock: IReactorTime
    ledger: Callable[[Connection], PostgresqlLedger]
    _changing: int = 0
    _endLeasesAt: float = 0.0

    def endLeases(self) -> None:
        """
        The next one that asks waits for all that was said.
        """
        self._endLeasesAt = 0.0

    async def ask(self, look: Look[_T]) -> _T:
        """
        Look for what is due, or lease it.
        """
        now = self.clock.seconds()
        if not self._changing and now < self._endLeasesAt:
            return await self._look(look, False)
        self._endLeasesAt = now + LEASES_SECONDS
        self._changing += 1
        try:
            self.batches.retry()
            self.batches.flush()
            await self.writes.alone(_nothing)
            return await self._look(look, True)
        except BaseException:
            self.endLeases()
            raise
        finally:
            self._changing -= 1

    async def _look(self, look: Look[_T], endsLeases: bool) -> _T:
        def looked(db: Connection) -> tuple[_T, list[QueueRow]]:
            ledger = self.ledger(db)
            claims = Claims(ledger, endsLeases)
            return look(claims, ledger), claims.freed

        result, freed = await self.claims.run(looked)
        for row in freed:
            self.held.leave(row.message, [row.seq])
        return result

    async def change(self, function: Callable[[PostgresqlLedger], _T]) -> _T:
        """
        Change what is queued: who asks next finds it changed.
        """
        self._changing += 1
        try:
            return await self.writes.run(lambda db: function(self.ledger(db)))
        finally:
            self._changing -= 1

    def said(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when all is written that was said before.
        """
        return self.writes.alone(_nothing)


def _nothing(db: Connection) -> None:
    """
    Be behind what was asked for before.
    """
