"""
The embedded spool while no server has it, for an operator's commands.  What it
does, it does at once: the Deferreds have fired.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from deferrals.errors import SpoolError
from deferrals.model.ids import formatId
from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.recovery import savedClock
from deferrals.spool.sqlite.schema import prepare


class OfflineSpool:
    """
    It is locked meanwhile: no server can start.

    @param directory: where the spool is.
    @ivar clock: the spool's time.
    @raise SpoolError: it is in use, is not there, or cannot be read.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.path = os.path.join(directory, "spool.sqlite")
        self.clock = SpoolClock(time.monotonic, time.time)
        self.db = self
        if not os.path.exists(self.path):
            raise SpoolError(f"{self.path} is not there")
        self._lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._db = connect(self.path)
            prepare(self._db)
            saved = savedClock(self._db)
        except BlockingIOError:
            os.close(self._lock)
            raise SpoolError(f"{directory} is in use by a server that does not answer") from None
        except (sqlite3.Error, SpoolError) as error:
            os.close(self._lock)
            raise SpoolError(f"{self.path}: {error}") from None
        if saved is not None:
            self.clock.resume(*saved)

    def run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """
        Run C{function(connection, *args)} in a transaction.
        """
        return maybeDeferred(self._run, function, args)

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            result = function(self._db, *args)
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        return result

    def bodyPath(self, transaction: int) -> str:
        """
        The file of a large message.
        """
        return os.path.join(self._directory, "bodies", formatId(transaction))

    def asidePath(self, transaction: int) -> str:
        """
        The same, when it has been moved aside.
        """
        return os.path.join(self._directory, "damaged", formatId(transaction))

    def close(self) -> None:
        """
        Let others have it.
        """
        self._db.close()
        os.close(self._lock)
