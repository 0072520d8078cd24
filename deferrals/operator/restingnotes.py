"""
Whom recipients let in, while no server runs: among the notes of its spools, or in the
database that several machines share.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from deferrals.model.admission import KIND, OWNERS, Admission, noted, noteNames
from deferrals.spool.postgresql import notes as stored
from deferrals.spool.postgresql.refusals import Transacting
from deferrals.spool.sqlite.offline import OfflineSpool

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: By the owner; and in that of one owner by what tells it from its others.
Found = dict[tuple[str, str], Admission]


class RestingNotes(Protocol):
    """
    Where admissions are.
    """

    async def add(self, owner: str, admission: Admission, seconds: float) -> None:
        """
        @param seconds: how long it is kept.
        """

    async def found(self, owner: str | None) -> Found:
        """
        @param owner: whose; C{None} for all.
        @return: those that have not ended.
        """

    async def remove(self, owner: str | None) -> int:
        """
        @return: how many there were.
        """


class SpoolNotes:
    """
    @param spools: have them; the first one gets new ones.
    """

    def __init__(self, spools: Sequence[OfflineSpool]) -> None:
        self._spools = spools

    async def add(self, owner: str, admission: Admission, seconds: float) -> None:
        """
        See L{RestingNotes}.
        """
        now = time.time()
        name, ofOwner = noteNames(owner, admission)
        version = int(now * 1e6)
        said = [admission.toJSON(), version, admission.until]
        self._spools[0].note(name, json.dumps(said), seconds)
        until = _latest(await self.found(owner), admission)
        self._spools[0].note(ofOwner, json.dumps([None, version, until]), until - now)

    async def found(self, owner: str | None) -> Found:
        """
        See L{RestingNotes}.
        """
        return {
            (whose, one.key): one
            for spool in self._spools
            for whose, one in noted(spool.notes()).values()
            if owner in (None, whose) and one.until > time.time()
        }

    async def remove(self, owner: str | None) -> int:
        """
        See L{RestingNotes}.
        """
        found = await self.found(owner)
        for (whose, _), one in found.items():
            for spool in self._spools:
                spool.forget(noteNames(whose, one)[0])
        return len(found)


class DatabaseNotes:
    """
    @param database: has them.
    """

    def __init__(self, database: Transacting) -> None:
        self._database = database

    async def add(self, owner: str, admission: Admission, seconds: float) -> None:
        """
        See L{RestingNotes}.
        """
        until = _latest(await self.found(owner), admission)

        def put(db: Connection) -> None:
            lasts = until - time.time()
            stored.put(db, (KIND, OWNERS, owner), None, lasts, None)
            stored.put(db, (KIND, owner, admission.key), admission.toJSON(), seconds, None)

        await self._database.run(put)

    async def found(self, owner: str | None) -> Found:
        """
        See L{RestingNotes}.
        """
        return await self._database.run(lambda db: _read(db, owner))

    async def remove(self, owner: str | None) -> int:
        """
        See L{RestingNotes}.
        """
        found = await self.found(owner)

        def forget(db: Connection) -> None:
            for whose, key in found:
                stored.forget(db, KIND, whose, key)
            for whose in {whose for whose, _ in found}:
                stored.forget(db, KIND, OWNERS, whose)

        await self._database.run(forget)
        return len(found)


def _read(db: Connection, owner: str | None) -> Found:
    owners = [owner] if owner is not None else [key for key, *_ in _group(db, OWNERS)]
    found: Found = {}
    for whose in owners:
        for key, text, _ in _group(db, whose):
            one = Admission.fromJSON(json.loads(text))
            if one is not None and one.until > time.time():
                found[whose, key] = one
    return found


def _group(db: Connection, group: str) -> list[stored.Stored]:
    place = stored.placeOf(KIND, group)
    return stored.find(db, [place])[place]


def _latest(known: Found, admission: Admission) -> float:
    return max([admission.until, *(one.until for one in known.values())])
