"""
Whether a spool's database and its directory belong together.

A file in the directory says which spool it is, how far its database had come at
least (a number that grows at every start, every minute and at the end, first in the
database), and by which number the frames of its write-ahead log are known.  So a
database of another spool, one that is older, and a log that is missing or another
one's are noticed at the next start.

The file is written when something else is synced anyway: at a start, at the end,
and once a minute.  It never says more than the database holds, whenever the
process dies.  A disk that is full does not take it away.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3

import attrs

from deferrals import durable
from deferrals.logger import Logger
from deferrals.spool.sqlite.database import checkpoint
from deferrals.spool.sqlite.files import removeFile
from deferrals.spool.sqlite.pages import logSalt
from deferrals.spool.sqlite.schema import GENERATION, identity

_log = Logger(namespace="deferrals.spool")


@attrs.frozen
class Mark:
    """
    What the file says.

    @ivar spool: the spool's own number; empty before it has one.
    @ivar generation: how far the database had come at least.
    @ivar closed: whether it was closed, and has no write-ahead log.
    @ivar log: the first number of the log's frames; C{None} where it may be
        made anew just now, or be gone.
    """

    spool: str = ""
    generation: int = 0
    closed: bool = False
    log: int | None = None


def readMark(path: str) -> Mark | None:
    """
    @return: C{None} where there is none that can be read.
    """
    try:
        with open(path, encoding="ascii") as file:
            found = json.load(file)
        mark = Mark(found["spool"], found["generation"], found["closed"], found["log"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    isOne = (
        isinstance(mark.spool, str)
        and type(mark.generation) is int
        and type(mark.closed) is bool
        and (mark.log is None or type(mark.log) is int)
    )
    return mark if isOne else None


def generationOf(db: sqlite3.Connection) -> int:
    """
    How far the database has come.
    """
    found = db.execute("SELECT value FROM info WHERE name = ?", (GENERATION,)).fetchone()
    return found[0] if found is not None and type(found[0]) is int else 0


def raiseGeneration(db: sqlite3.Connection, least: int = 0) -> int:
    """
    Come further (in a transaction).

    @param least: and further than that.
    @return: how far.
    """
    now = max(generationOf(db), least) + 1
    db.execute("INSERT OR REPLACE INTO info VALUES (?, ?)", (GENERATION, now))
    return now


class Marker:
    """
    Keeps the file as the database is.  Its methods block.

    @param path: the file's.
    @param database: the database's.
    """

    def __init__(self, path: str, database: str) -> None:
        self._path = path
        self._log = f"{database}-wal"
        self.mark = Mark()

    def opening(self) -> None:
        """
        The database is about to be opened or closed: whether it has a log
        cannot be told if the process dies now.
        """
        self.mark = readMark(self._path) or self.mark
        self.write(attrs.evolve(self.mark, closed=False, log=None))

    def opened(self, db: sqlite3.Connection) -> None:
        """
        The database is open.
        """
        db.execute("BEGIN IMMEDIATE")
        try:
            generation = raiseGeneration(db, self.mark.generation)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        with contextlib.suppress(sqlite3.Error):
            checkpoint(db)
        self.write(Mark(identity(db), generation, False, logSalt(self._log)))

    def came(self, generation: int) -> None:
        """
        The database has come so far, durably.
        """
        self.write(Mark(self.mark.spool, generation, False, logSalt(self._log)))

    def closing(self, db: sqlite3.Connection) -> None:
        """
        The database has had its last change, and is about to be closed.
        """
        self.write(attrs.evolve(self.mark, generation=generationOf(db), closed=False, log=None))

    def closed(self) -> None:
        """
        The database is closed.
        """
        isClosed = not os.path.exists(self._log)
        self.write(attrs.evolve(self.mark, closed=isClosed, log=None))

    def write(self, mark: Mark) -> None:
        """
        Make it say that.
        """
        self.mark = mark
        text = json.dumps(attrs.asdict(mark)).encode("ascii") + b"\n"
        try:
            removeFile(f"{self._path}.new")
            durable.write(f"{self._path}.new", self._path, [text])
        except OSError as error:
            self._writeOver(text, error)

    def _writeOver(self, text: bytes, error: OSError) -> None:
        """
        The disk has no room for another file.
        """
        try:
            durable.overwrite(self._path, text)
        except OSError:
            # What it said may be more than what is true now.
            with contextlib.suppress(OSError):
                removeFile(self._path)
            _log.warn("cannot write {path}: {error}", path=self._path, error=str(error))
