"""
The queue in PostgreSQL for an operator's commands, from any machine, whether servers run
or not.  What it does, it does at once: the Deferreds have fired.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred, execute

from deferrals.errors import SpoolError
from deferrals.spool.message import Message
from deferrals.spool.postgresql import contents, queries
from deferrals.spool.postgresql.connection import Access, explained, opened
from deferrals.spool.postgresql.directory import Directory, wrongSize
from deferrals.spool.postgresql.ledger import PostgresqlLedger, timeOf
from deferrals.spool.postgresql.owners import bury
from deferrals.spool.postgresql.schema import check, durability, versionOf
from deferrals.spool.postgresql.writing import File

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

_T = TypeVar("_T")


class OfflineDatabase:
    """
    What L{PostgresqlQueue<deferrals.spool.postgresql.queue.PostgresqlQueue>} asks.

    @param directory: the one that all machines share, for large contents.

    @raise SpoolError: it cannot be used.
    """

    def __init__(self, access: Access, directory: Directory | None = None) -> None:
        self._shared = directory
        self._away = ""
        self._db = opened(access, "deferrals queue")
        self._directory = tempfile.TemporaryDirectory(prefix="deferrals-queue-")
        try:
            with explained(self._db):
                check(versionOf(self._db))
                durability(self._db)
                self._see()
        except BaseException:
            self.close()
            raise

    def _see(self) -> None:
        """
        Without the directory all can be done that needs none of its contents.  No command
        makes one the queue's: that is a server's.
        """
        if contents.tokenOf(self._db) is None:
            return
        try:
            contents.begin(self._db, self._shared)
        except SpoolError as error:
            self._away = str(error)

    def close(self) -> None:
        """
        No more.
        """
        self._db.close()
        self._directory.cleanup()

    def read(self, function: Callable[[Connection], _T]) -> Deferred[_T]:
        """
        Look at what is there.
        """
        return execute(self._run, function)

    def run(self, function: Callable[[Connection], _T]) -> Deferred[_T]:
        """
        Run a function in a transaction.
        """
        return execute(self._run, function)

    def change(self, function: Callable[[PostgresqlLedger], _T]) -> Deferred[_T]:
        """
        Change what is there; what the dead have had is free before.
        """

        def change(db: Connection) -> tuple[_T, list[File]]:
            bury(db)
            ledger = PostgresqlLedger(db, timeOf(db), "")
            return function(ledger), ledger.files

        return execute(self._run, change).addCallback(self._left)

    def _left(self, changed: tuple[_T, list[File]]) -> _T:
        result, files = changed
        if self._shared is not None and not self._away:
            for number, owner in files:
                with contextlib.suppress(OSError):  # a server finds it
                    self._shared.remove(owner, number)
        return result

    def _run(self, function: Callable[[Connection], _T]) -> _T:
        with explained(self._db), self._db.transaction():
            return function(self._db)

    async def contentOf(self, number: int) -> Message | None:
        """
        @return: the content of a message, which is on this machine then.
        """
        path = os.path.join(self._directory.name, str(number))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with explained(self._db):
            found = queries.content(self._db, number, path)
            if found is not None and found.path is not None:
                if self._away and contents.fileOf(self._db, number) is not None:
                    raise SpoolError(self._away)
                contents.fetch(self._db, self._shared, number, path)
        return found

    async def missing(self, number: int, owner: int, size: int) -> str:
        """
        @return: what is wrong with a content in the directory, as far as its size tells.
        """
        try:
            if self._away:
                raise SpoolError(self._away)
            return wrongSize(contents.named(self._shared).octets(owner, number), size)
        except (OSError, SpoolError) as error:
            return f"its content cannot be looked for: {error}"


class LazyDatabase:
    """
    The same for commands that may not need it: it is opened when it is asked first.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._opened: OfflineDatabase | None = None

    def run(self, function: Callable[[Connection], _T]) -> Deferred[_T]:
        """
        See L{OfflineDatabase.run}.
        """
        return execute(self._open).addCallback(lambda database: database.run(function))

    def _open(self) -> OfflineDatabase:
        if self._opened is None:
            self._opened = OfflineDatabase(self._access)
        return self._opened

    def close(self) -> None:
        """
        No more.
        """
        if self._opened is not None:
            self._opened.close()
