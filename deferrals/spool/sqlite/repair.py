"""
A good database in the place of one that is damaged or deleted.

What can be read goes on; what cannot is moved aside, and the log names it.
Everything here blocks: it runs in the database's thread, while clients are
asked to come again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Container

from deferrals import durable
from deferrals.spool.sqlite import aside
from deferrals.spool.sqlite.carving import Carving, Report
from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.database import configure
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock, createPrivate, removeFile
from deferrals.spool.sqlite.marker import Mark, generationOf, readMark
from deferrals.spool.sqlite.pages import Pages
from deferrals.spool.sqlite.schema import GENERATION, IDENTITY, prepare


class Repair:
    """
    What the database's thread calls when its file is damaged or deleted.

    @param files: those of the spool.
    @param clock: the spool's time.
    @param incoming: the numbers of messages that are coming in.
    @param lock: the spool's.
    """

    def __init__(
        self, files: SpoolFiles, clock: SpoolClock, incoming: Container[int], lock: SpoolLock
    ) -> None:
        self._files = files
        self._clock = clock
        self._incoming = incoming
        self._lock = lock

    def mend(self, db: sqlite3.Connection | None) -> str:
        """
        See L{Database<deferrals.spool.sqlite.database.Database>}.
        """
        if db is None:
            return salvage(self._files, self._clock.now(), self._incoming)
        text = rewrite(db, self._files)
        self._files.make()
        self._lock.renew()
        return text


def rewrite(db: sqlite3.Connection, files: SpoolFiles) -> str:
    """
    The database was deleted, and only C{db} still has it: write it anew.  What
    has been put in its place is set aside.

    @return: a text for the log.
    """
    path, new = files.database, _new(files)
    db.execute("VACUUM INTO ?", (new,))
    _install(files, new, f"it, or its write-ahead log, was deleted or replaced in {path}")
    (count,) = db.execute("SELECT COUNT(*) FROM messages").fetchone()
    return f"{path} was deleted while in use: written anew, with all its {count} messages"


def salvage(files: SpoolFiles, now: float, incoming: Container[int]) -> str:
    """
    The database is damaged: carry over what can be read, move it aside, and
    with it the contents of messages that are not complete.

    @param now: the spool's time.
    @param incoming: the numbers of messages that are coming in.
    @return: a text for the log.
    """
    new = _new(files)
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as target:
        report = carry(files.database, files.log, target, now, files.hasBody)
        _keepMark(target, readMark(files.mark))
        kept = sum(
            files.setBodyAside(number)
            for number in [*files.bodyNumbers(), *files.unfinished()]
            if number not in incoming and not _isKnown(target, number)
        )
    _install(files, new, f"it was damaged: {report}")
    text = f"{files.database} was damaged, and is set aside in {files.damaged}; {report}"
    if kept:
        text += f"; {kept} contents of messages that are not complete are in {files.damaged}"
    return text


def carry(
    path: str,
    log: str,
    target: sqlite3.Connection,
    now: float,
    hasFile: Callable[[int], bool],
) -> Report:
    """
    Carry over what can be read of a database into a new one.

    @param log: its write-ahead log.
    @param target: a connection to an empty file.
    @param now: the spool's time.
    @param hasFile: whether there is a file of a message's content.
    """
    configure(target)
    target.execute("PRAGMA journal_mode=OFF").fetchall()
    target.execute("PRAGMA synchronous=OFF")
    prepare(target)
    pages = Pages(path, log)
    try:
        target.execute("BEGIN")
        report = Carving(pages, target, now, hasFile).run()
        target.execute("COMMIT")
    finally:
        pages.close()
    return report


def finish(files: SpoolFiles) -> str:
    """
    A process died while it put a new database in the place of another one: go
    on with that.

    @return: a text for the log; empty where nothing was to be done.
    """
    whole = f"{files.database}.whole"
    if not os.path.exists(whole):
        return ""
    _replace(files, whole, "it was damaged")
    return f"{files.database} was damaged; all that could be read has been carried over"


def _new(files: SpoolFiles) -> str:
    """
    @return: the name of an empty file for a new database.
    """
    durable.makeDirectory(files.directory)
    path = f"{files.database}.new"
    for suffix in ("", "-wal", "-shm", "-journal"):
        removeFile(path + suffix)  # one that another process did not finish
    createPrivate(path)
    return path


def _install(files: SpoolFiles, new: str, why: str) -> None:
    """
    Put a complete file in the database's place.  From the moment when it has the
    second name, the next process finishes that.
    """
    os.chmod(new, 0o600)
    durable.sync(new)
    whole = f"{files.database}.whole"
    os.rename(new, whole)
    durable.sync(files.directory)
    _replace(files, whole, why)


def _replace(files: SpoolFiles, whole: str, why: str) -> None:
    names = (files.database, files.log, f"{files.database}-shm")
    if any(map(os.path.exists, names)):
        aside.moveDatabase(files, "spool", why, mark=False)
    os.rename(whole, files.database)
    durable.sync(files.directory)


def _isKnown(db: sqlite3.Connection, number: int) -> bool:
    sql = "SELECT 1 FROM messages WHERE id = ? UNION SELECT 1 FROM leaving WHERE message = ?"
    return db.execute(sql, (number, number)).fetchone() is not None


def _keepMark(db: sqlite3.Connection, mark: Mark | None) -> None:
    """
    It is still the same spool, and has come as far as that.
    """
    if mark is not None and mark.spool:
        found = [(IDENTITY, mark.spool), (GENERATION, max(mark.generation, generationOf(db)))]
        db.executemany("INSERT OR REPLACE INTO info VALUES (?, ?)", found)
