"""
The embedded spool as one end of a move (L{deferrals.spool.moving}).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from twisted.python.failure import Failure

from deferrals import durable
from deferrals.errors import SpoolError
from deferrals.spool.batch import WriteBatch
from deferrals.spool.message import MEMORY_OCTETS
from deferrals.spool.moving import Carried
from deferrals.spool.rows import ASIDE
from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.offline import OfflineSpool
from deferrals.spool.sqlite.schema import prepare
from deferrals.spool.sqlite.writing import write

_T = TypeVar("_T")


def make(directory: str) -> None:
    """
    Make a spool where there is none.

    @raise OSError: it cannot be made.
    @raise sqlite3.Error: the same.
    """
    files = SpoolFiles(directory)
    files.make()
    if not os.path.exists(files.database):
        db = connect(files.database)
        prepare(db)
        db.close()


class SqliteEnd:
    """
    @param directory: where the spool is.
    @raise SpoolError: it is in use, is not there, or cannot be read.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._spool = OfflineSpool(directory)
        self._files = self._spool.store.files

    def close(self) -> None:
        """
        Let others have it.
        """
        self._spool.close()

    def _run(self, function: Callable[[SqliteLedger], _T]) -> _T:
        clock = self._spool.store.clock

        def run(db: sqlite3.Connection) -> _T:
            return function(SqliteLedger(db, clock.now(), "", clock.wall(), self._files))

        results: list[_T | Failure] = []
        self._spool.run(run).addBoth(results.append)
        (result,) = results  # nothing here waits
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def numbers(self, after: int, limit: int) -> list[int]:
        """
        See L{QueueEnd.numbers}.
        """
        sql = "SELECT id FROM messages WHERE id > ? ORDER BY id LIMIT ?"
        return self._run(lambda ledger: [one for (one,) in ledger.db.execute(sql, (after, limit))])

    def take(self, number: int) -> Carried:
        """
        See L{QueueEnd.take}.
        """
        return self._run(lambda ledger: _taken(ledger, number))

    def known(self, number: int) -> tuple[int, bytes] | None:
        """
        See L{QueueEnd.known}.
        """
        found = self._run(lambda ledger: ledger.messages([number])).get(number)
        return None if found is None else (found.size, found.digest)

    def put(self, carried: Carried) -> None:
        """
        See L{QueueEnd.put}.
        """
        number, message = carried.envelope[0], carried.message
        body = None
        with message.open() as content:
            if message.size <= MEMORY_OCTETS:
                body = content.read()
            else:
                path = self._files.part(number)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                with open(os.open(path, flags, 0o600), "wb") as file:
                    shutil.copyfileobj(content, file)
                durable.syncWithName(path)

        def insert(ledger: SqliteLedger) -> None:
            inserts = [carried.insertion(body, ledger.now)]
            write(ledger.db, WriteBatch(inserts=inserts), self._directory)
            carried.settle(ledger)

        self._run(insert)
        self._files.finish(number)

    def remove(self, number: int) -> None:
        """
        See L{QueueEnd.remove}.
        """
        batch = WriteBatch(removed={number: self._files.body(number)})
        self._run(lambda ledger: write(ledger.db, batch, self._directory))
        self._files.removeAll(number)


def _taken(ledger: SqliteLedger, number: int) -> Carried:
    state = ledger.db.execute("SELECT state FROM messages WHERE id = ?", (number,)).fetchone()
    stored = ledger.messages([number]).get(number)
    if state is None or stored is None:
        raise SpoolError("it is not there any longer")
    if state[0] == ASIDE:
        raise ValueError("it was set aside: its recipients are not known")
    message = ledger.content(number, stored.size, stored.digest)
    return Carried.of(stored, ledger.rows(number), message, ledger.now)
