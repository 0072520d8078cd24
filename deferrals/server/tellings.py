"""
Up to when recipients were told what was refused for them, and who tells them: one process
alone, or one of all machines that share a database.

That a recipient was told is noted in the spool in which the message became ours, in the
same transaction.  Where others could tell it, too, a process takes the recipient before in
their database, and says there afterwards that it has told: after a crash between these it
finds its own note, and says so then.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from deferrals.errors import SpoolError
from deferrals.interfaces import ISpool
from deferrals.model.refusal import DAY_SECONDS
from deferrals.spool.postgresql import digests
from deferrals.spool.postgresql.owners import Identity
from deferrals.spool.postgresql.refusals import Transacting

#: The first word of the notes' names, and how long they are kept.
NOTE, NOTE_SECONDS = "digest", 15 * DAY_SECONDS

#: A process that has taken a recipient tells it no more after so many seconds: it was
#: stopped, and another one may.
TAKEN_SECONDS = digests.AWAY_SECONDS / 2


class Tellings(Protocol):
    """
    Who was told, and who tells.
    """

    async def told(self) -> dict[str, float]:
        """
        @return: up to when recipients were told.
        """

    async def take(self, owner: str, until: float) -> float | None:
        """
        @return: since when a recipient is to be told by this process; C{None} where it was
            told, or another process does that.
        """

    def isOurs(self, owner: str) -> bool:
        """
        @return: whether it is still this process that tells one that it has taken.
        """

    async def done(self, owner: str, until: float) -> None:
        """
        One was told.
        """

    async def leave(self, owner: str) -> None:
        """
        It was not: another process may.
        """

    async def settle(self) -> None:
        """
        Say what could not be said when it was done.
        """


class OwnTellings:
    """
    Those of a server that has its recipients for itself.

    @param spool: has the notes.
    """

    def __init__(self, spool: ISpool) -> None:
        self._spool = spool
        self._known: dict[str, float] = {}

    async def told(self) -> dict[str, float]:
        """
        See L{Tellings}.
        """
        self._known = dict(_toldIn(await self._spool.notes()))
        return dict(self._known)

    async def take(self, owner: str, until: float) -> float | None:
        """
        See L{Tellings}.
        """
        known = self._known.get(owner, 0.0)
        return None if known >= until else known

    def isOurs(self, owner: str) -> bool:
        """
        See L{Tellings}.
        """
        return True

    async def done(self, owner: str, until: float) -> None:
        """
        See L{Tellings}.
        """
        self._known[owner] = until

    async def leave(self, owner: str) -> None:
        """
        See L{Tellings}.
        """

    async def settle(self) -> None:
        """
        See L{Tellings}.
        """


class SharedTellings:
    """
    Those of several machines.

    @param own: what this process has noted in its own spool.
    @param database: what all share.
    @param me: which process this is, after a restart, too.
    """

    def __init__(
        self, own: Tellings, database: Transacting, me: Identity, clock: IReactorTime
    ) -> None:
        self._own = own
        self._database = database
        self._me = me
        self._clock = clock
        self._taken: dict[str, float] = {}
        self._unsaid: dict[str, float] = {}

    async def told(self) -> dict[str, float]:
        """
        See L{Tellings}.
        """
        own, found = await self._own.told(), await self._database.run(digests.told)
        for owner, until in own.items():
            if until > found.get(owner, 0.0):
                self._unsaid[owner] = found[owner] = until
        await self.settle()
        return found

    async def take(self, owner: str, until: float) -> float | None:
        """
        See L{Tellings}.
        """
        note, before = noteName(owner), self._clock.seconds()
        found = await self._database.run(lambda db: digests.take(db, self._me, owner, note, until))
        if found is not None:
            self._taken[owner] = before
        return found

    def isOurs(self, owner: str) -> bool:
        """
        See L{Tellings}.
        """
        taken = self._taken.get(owner)
        return taken is not None and self._clock.seconds() - taken < TAKEN_SECONDS

    async def done(self, owner: str, until: float) -> None:
        """
        See L{Tellings}.
        """
        self._taken.pop(owner, None)
        self._unsaid[owner] = until
        await self._own.done(owner, until)
        with contextlib.suppress(SpoolError):  # it is noted: said when the database is back
            await self.settle()

    async def leave(self, owner: str) -> None:
        """
        See L{Tellings}.
        """
        self._taken.pop(owner, None)
        await self._database.run(lambda db: digests.leave(db, self._me, owner))

    async def settle(self) -> None:
        """
        See L{Tellings}.
        """
        for owner, until in list(self._unsaid.items()):
            await self._say(owner, until)
            if self._unsaid.get(owner) == until:  # two may say it at once
                del self._unsaid[owner]

    async def _say(self, owner: str, until: float) -> None:
        await self._database.run(lambda db: digests.done(db, self._me, owner, until))


def noteName(owner: str) -> str:
    """
    What the note is called that a recipient was told.
    """
    return json.dumps([NOTE, owner])


def _toldIn(notes: dict[str, str]) -> Iterator[tuple[str, float]]:
    for name, value in notes.items():
        try:
            kind, owner = json.loads(name)
            if kind == NOTE:
                yield str(owner), float(json.loads(value))
        except (ValueError, TypeError):
            continue
