"""
The table C{sqlite}: a SQLite file, read in threads.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import urllib.parse

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.interfaces import IServices, ITable
from deferrals.model.settings import checked
from deferrals.model.tablekeys import TableKeys, TableRow
from deferrals.stages.tables.query import DEFAULT_QUERY, checkQuery, firstRow
from deferrals.threads import Threads

#: Look-ups at once: the thread pool has other things to do, too.
THREADS = 4

#: A query is ended after so many seconds, or when its answer is not waited for any longer.
QUERY_SECONDS = 10.0

#: How many of SQLite's steps there are between two checks of the clock.
PROGRESS_STEPS = 10_000


@attrs.frozen
class SqliteTableSettings:
    """
    @ivar path: a SQLite file.
    @ivar query: the SELECT that gives a row; C{:address}, C{:local} and C{:domain}
        stand for the address, in lower case, C{:user} for its local part without a
        subaddress.  The first row counts.
    """

    path: str
    query: str = attrs.field(default=DEFAULT_QUERY, validator=checked(checkQuery))


@implementer(ITable)
class SqliteTable:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: SqliteTableSettings, services: IServices) -> None:
        self._path = os.path.abspath(os.path.join(services.baseDir, settings.path))
        self._query = settings.query
        self._threads = Threads(services.inThread, THREADS)

    def lookUp(self, keys: TableKeys) -> Deferred[TableRow | None]:
        isOver = threading.Event()
        d = self._threads.run(self._find, keys, isOver)
        return d.addErrback(_ended, isOver)

    def _find(self, keys: TableKeys, isOver: threading.Event) -> TableRow | None:
        """
        Ask (in a thread).  Whatever file has the name now is opened: it may
        have been replaced.

        @raise sqlite3.Error: there is none, or it took too long.
        """
        uri = f"file:{urllib.parse.quote(self._path)}?mode=ro"
        end = time.monotonic() + QUERY_SECONDS
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=QUERY_SECONDS)) as database:
            database.set_progress_handler(
                lambda: isOver.is_set() or time.monotonic() > end, PROGRESS_STEPS
            )
            database.row_factory = sqlite3.Row
            database.text_factory = _text

            def find(names: dict[str, str]) -> TableRow | None:
                row = database.execute(self._query, names).fetchone()
                return None if row is None else dict(row)

            return firstRow(self._query, keys, find)


def _text(octets: bytes) -> str:
    """
    A text that is not UTF-8 is none of the table's failures, which concern all rows.
    """
    return octets.decode("utf-8", "replace")


def _ended(failure: Failure, isOver: threading.Event) -> Failure:
    isOver.set()
    return failure
