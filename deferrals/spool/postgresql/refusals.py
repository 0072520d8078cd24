"""
Refusals in PostgreSQL, which all machines that have the database know.

They have a connection of their own, which is made when it is asked for something first:
no look-up of a sender's note waits while a thousand of them are read.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredLock, succeed
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import IRefusalStore
from deferrals.model.refusal import Refusal
from deferrals.spool.postgresql.connection import StoreConnection
from deferrals.spool.refusals import readRefusal

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

_T = TypeVar("_T")

#: So many are removed at once.
SLICE = 5000

#: So many are looked at for words.
LOOKED = 20_000

#: One process removes at a time.
_LOCK = 0x64656606

_ADD = (
    "INSERT INTO refusals (owner, reference, at, expires, said)"
    " SELECT owner, reference, to_timestamp(at),"
    " clock_timestamp() + make_interval(secs => %s), said"
    " FROM unnest(%s::text[], %s::text[], %s::float8[], %s::text[])"
    " AS v (owner, reference, at, said)"
    " ON CONFLICT (owner, reference) DO UPDATE"
    " SET at = excluded.at, expires = excluded.expires, said = excluded.said"
)

#: What is just being written over is left for the next time: no server waits for another.
_REMOVE = (
    "DELETE FROM refusals WHERE (owner, reference) IN"
    " (SELECT owner, reference FROM refusals {} ORDER BY at LIMIT %s FOR UPDATE SKIP LOCKED)"
)


class Transacting(Protocol):
    """
    Runs a function in a transaction.
    """

    def run(self, function: Callable[[Connection], _T]) -> Deferred[_T]:
        """
        @return: a Deferred of its result.
        """


class OnDemand:
    """
    A connection that is made when something is asked for first.

    @param connection: one that is not open yet.
    @param end: ends its thread.
    """

    def __init__(self, connection: StoreConnection, end: Callable[[], object]) -> None:
        self._connection = connection
        self._end = end
        self._opening = DeferredLock()
        self._isOpened = False

    def run(self, function: Callable[[Connection], _T]) -> Deferred[_T]:
        """
        Run a function in a transaction.
        """
        return Deferred.fromCoroutine(self._run(function))

    async def _run(self, function: Callable[[Connection], _T]) -> _T:
        if not self._isOpened:
            await self._opening.run(self._open)
        return await self._connection.run(function)

    async def _open(self) -> None:
        if self._isOpened:
            return
        try:
            with contextlib.suppress(SpoolError):  # that was logged, and it is tried again
                await self._connection.open()
        finally:
            self._isOpened = True

    def close(self) -> Deferred[None]:
        """
        No more.
        """
        self._isOpened = True
        return self._connection.close().addCallback(self._closed)

    def _closed(self, _: None) -> None:
        self._end()


@implementer(IRefusalStore)
class PostgresqlRefusals:
    """
    @param database: runs what is asked.
    @param keep: how long a refusal is kept that is added now, in seconds: whichever machine
        looks then removes it.
    """

    def __init__(self, database: Transacting, keep: Callable[[], float]) -> None:
        self._database = database
        self._keep = keep

    def add(self, refusals: Sequence[tuple[str, Refusal]]) -> Deferred[None]:
        rows = {(owner, one.id): one for owner, one in refusals}
        return self._database.run(lambda db: _add(db, rows, self._keep()))

    def find(self, owner: str, since: float, limit: int) -> Deferred[list[Refusal]]:
        return self._database.run(lambda db: _find(db, owner, since, limit))

    def about(self, words: str, since: float, limit: int) -> Deferred[list[Refusal]]:
        return self._database.run(lambda db: _about(db, words, since, limit))

    def named(self, reference: str, owner: str) -> Deferred[Refusal | None]:
        return self._database.run(lambda db: _named(db, reference, owner))

    def owners(self, since: float) -> Deferred[list[str]]:
        return self._database.run(lambda db: _owners(db, since))

    def trim(self, before: float, entries: int) -> Deferred[int]:
        return self._database.run(lambda db: _trim(db, before, entries))

    def close(self) -> Deferred[None]:
        return succeed(None)  # the connection is others', too


# In a thread that has a connection, in a transaction.


def _add(db: Connection, rows: Mapping[tuple[str, str], Refusal], keep: float) -> None:
    """
    In one order everywhere: of two that write the same at once one waits for the other.
    """
    ordered = sorted(rows.items(), key=lambda one: one[0])
    owners, references = ([key[place] for key, _ in ordered] for place in (0, 1))
    times = [one.time for _, one in ordered]
    said = [json.dumps(one.toJSON()) for _, one in ordered]
    db.execute(_ADD, (keep, owners, references, times, said))


def _find(db: Connection, owner: str, since: float, limit: int) -> list[Refusal]:
    rows = db.execute(
        "SELECT said FROM refusals WHERE owner = %s AND at >= to_timestamp(%s)"
        " ORDER BY at DESC, reference LIMIT %s",
        (owner, since, limit),
    ).fetchall()
    return [one for (text,) in rows if (one := readRefusal(text)) is not None]


def _about(db: Connection, words: str, since: float, limit: int) -> list[Refusal]:
    rows = db.execute(
        "SELECT said FROM refusals WHERE at >= to_timestamp(%s)"
        " ORDER BY at DESC, reference LIMIT %s",
        (since, LOOKED),
    ).fetchall()
    read = (readRefusal(text) for (text,) in rows)
    return [*islice((one for one in read if one is not None and one.isAbout(words)), limit)]


def _named(db: Connection, reference: str, owner: str) -> Refusal | None:
    row = db.execute(
        "SELECT said FROM refusals WHERE owner = %s AND reference = %s", (owner, reference)
    ).fetchone()
    return None if row is None else readRefusal(row[0])


def _owners(db: Connection, since: float) -> list[str]:
    rows = db.execute(
        "SELECT DISTINCT owner FROM refusals WHERE at >= to_timestamp(%s) ORDER BY owner", (since,)
    ).fetchall()
    return [owner for (owner,) in rows]


def _trim(db: Connection, before: float, entries: int) -> int:
    lock = "SELECT pg_try_advisory_xact_lock(%s, hashtext(current_schema()))"
    isAlone = db.execute(lock, (_LOCK,)).fetchall()[0][0]
    if isAlone:
        db.execute(_REMOVE.format("WHERE expires <= clock_timestamp()"), (SLICE,))
        db.execute(_REMOVE.format("WHERE at < to_timestamp(%s)"), (before, SLICE))
    count = int(db.execute("SELECT count(*) FROM refusals").fetchall()[0][0])
    surplus = min(SLICE, count - entries)
    if not isAlone or surplus <= 0:
        return count
    return count - db.execute(_REMOVE.format(""), (surplus,)).rowcount
