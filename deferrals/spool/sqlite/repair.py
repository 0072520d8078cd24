"""
A good database in the place of one that is damaged or deleted.

What can be read goes on; what cannot is moved aside, and the log names it.
Everything here blocks: it runs in the database's thread, while clients are
asked to come again.  (L{putAside} runs before there is that thread.)
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Container, Iterator

from deferrals import durable
from deferrals.logger import Logger
from deferrals.model.ids import formatId
from deferrals.spool.sqlite.claims import setAside
from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock, createPrivate, removeFile
from deferrals.spool.sqlite.rows import Row
from deferrals.spool.sqlite.schema import prepare

_log = Logger(namespace="deferrals.spool")

#: Rows that are copied by one statement, as long as nothing is wrong.
_SLICE = 500

#: The tables of what is ours, with the column that says which message it is.
_TABLES = {"messages": "id", "bodies": "id", "recipients": "message"}


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
        text = rewrite(db, self._files.database)
        self._files.make()
        self._lock.renew()
        return text


def rewrite(db: sqlite3.Connection, path: str) -> str:
    """
    The database was deleted, and only C{db} still has it: write it anew.

    @return: a text for the log.
    """
    durable.makeDirectory(os.path.dirname(path))
    new = f"{path}.new"
    _removeDatabase(new)
    createPrivate(new)
    db.execute("VACUUM INTO ?", (new,))
    _install(new, path)
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
    path = files.database
    new = f"{path}.new"
    _removeDatabase(new)
    createPrivate(new)
    target = sqlite3.connect(new, isolation_level=None)
    try:
        target.execute("PRAGMA auto_vacuum=INCREMENTAL")
        target.execute("PRAGMA synchronous=OFF")
        prepare(target)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as source:
            text = _Salvage(source, target, now).run()
        kept = _bodiesAside(files, lambda number: number in incoming or _isComplete(target, number))
    finally:
        target.close()
    aside = _newDirectory(files, "spool")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + suffix, os.path.join(aside, os.path.basename(path) + suffix))
    _install(new, path)
    if kept:
        text += f"; {kept} contents of messages that are not complete are in {files.damaged}"
    return f"{path} was damaged, and is now in {aside}; {text}"


def _newDirectory(files: SpoolFiles, kind: str) -> str:
    """
    Make a directory for what is moved aside, which no other one overwrites.
    """
    name = os.path.join(files.damaged, time.strftime(f"{kind}-%Y%m%dT%H%M%S"))
    path, count = name, 1
    while os.path.exists(path):
        path, count = f"{name}-{count}", count + 1
    durable.makeDirectory(path)
    return path


def _isComplete(db: sqlite3.Connection, number: int) -> bool:
    sql = (
        "SELECT 1 FROM messages WHERE id = ?"
        " AND EXISTS (SELECT 1 FROM recipients WHERE message = messages.id)"
    )
    return db.execute(sql, (number,)).fetchone() is not None


def _bodiesAside(files: SpoolFiles, isKnown: Callable[[int], bool]) -> int:
    """
    Move the files of contents aside that the database does not know, and that
    may be mail of ours.

    @return: how many.
    """
    return sum(files.setBodyAside(number) for number in files.bodyNumbers() if not isKnown(number))


def _install(new: str, path: str) -> None:
    """
    Make a complete file durable under the database's name.
    """
    os.chmod(new, 0o600)
    for suffix in ("-wal", "-shm"):
        removeFile(path + suffix)
    durable.sync(new)
    os.rename(new, path)
    durable.sync(os.path.dirname(path))


def _removeDatabase(path: str) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        removeFile(path + suffix)


class _Salvage:
    """
    One damaged database, read as far as it goes.
    """

    def __init__(self, source: sqlite3.Connection, target: sqlite3.Connection, now: float) -> None:
        self._source = source
        self._target = target
        self._now = now

    def run(self) -> str:
        """
        @return: what was found.
        """
        target = self._target
        target.execute("BEGIN")
        target.execute("CREATE TEMP TABLE found (id INTEGER PRIMARY KEY)")
        for table, column in _TABLES.items():
            self._find(table, column)
        for table, column in _TABLES.items():
            self._copy(table, column)
        lost = self._incomplete()
        target.execute(
            "INSERT OR IGNORE INTO destinations (name, ready)"
            " SELECT destination, min(due) FROM recipients WHERE status = 0 GROUP BY destination"
        )
        (whole,) = target.execute("SELECT COUNT(*) FROM messages").fetchone()
        self._carryClock()
        target.execute("COMMIT")
        if not lost:
            return f"{whole} messages were carried over"
        named = ", ".join(lost[:20]) + (f" and {len(lost) - 20} more" if len(lost) > 20 else "")
        return f"{whole} messages were carried over, {len(lost)} are incomplete: {named}"

    def _find(self, table: str, column: str) -> None:
        """
        The numbers of all messages that a table, or an index of it, still
        names: from both ends, since what is in the middle may be unreadable.
        """
        for order, sign in (("ASC", ">"), ("DESC", "<")):
            for (number,) in self._walk(
                f"SELECT {column} FROM {table} WHERE {column} {sign} ? ORDER BY {column} {order}",
                -1 if sign == ">" else (1 << 63) - 1,
            ):
                if isinstance(number, int):
                    self._target.execute("INSERT OR IGNORE INTO found VALUES (?)", (number,))

    def _walk(self, sql: str, last: int) -> Iterator[Row]:
        """
        Read on from key to key until something cannot be read.
        """
        size = _SLICE
        while size:
            try:
                found = self._source.execute(f"{sql} LIMIT {size}", (last,)).fetchall()
            except sqlite3.Error:
                size //= 2
                continue
            yield from found
            if len(found) < size:
                return
            last = found[-1][0]

    def _copy(self, table: str, column: str) -> None:
        columns = ", ".join(
            name for _, name, *_ in self._target.execute(f"PRAGMA table_info({table})")
        )
        marks = ", ".join("?" * (columns.count(",") + 1))
        insert = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})"
        select = f"SELECT {columns} FROM {table} WHERE {column}"
        self._eachFound(
            lambda first, last: self._source.execute(
                f"{select} BETWEEN ? AND ?", (first, last)
            ).fetchall(),
            lambda rows: self._target.executemany(insert, rows),
        )

    def _eachFound(
        self,
        read: Callable[[int, int], list[Row]],
        write: Callable[[list[Row]], object],
    ) -> None:
        """
        Read all found messages' rows: in slices, and one by one where a slice
        cannot be read.
        """
        last = -1
        while True:
            found = self._target.execute(
                "SELECT id FROM found WHERE id > ? ORDER BY id LIMIT ?", (last, _SLICE)
            ).fetchall()
            if not found:
                return
            numbers = [number for (number,) in found]
            try:
                rows = read(numbers[0], numbers[-1])
            except sqlite3.Error:
                rows = []
                for number in numbers:
                    with contextlib.suppress(sqlite3.Error):
                        rows += read(number, number)
            for row in rows:
                with contextlib.suppress(sqlite3.Error):
                    write([row])
            last = numbers[-1]

    def _incomplete(self) -> list[str]:
        """
        Set aside what is not complete.  (A body that is in a file is looked for
        when it is to be delivered.)
        """
        target, lost = self._target, []
        found = target.execute(
            "SELECT id FROM found WHERE NOT EXISTS (SELECT 1 FROM messages WHERE messages.id ="
            " found.id) OR NOT EXISTS (SELECT 1 FROM recipients WHERE message = found.id)"
        )
        for (number,) in found.fetchall():
            lost.append(formatId(number))
            setAside(target, number, self._now, None)
        return lost

    def _carryClock(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            found = self._source.execute("SELECT name, value FROM info").fetchall()
            self._target.executemany("INSERT OR REPLACE INTO info VALUES (?, ?)", found)


def putAside(files: SpoolFiles, incoming: Container[int]) -> None:
    """
    The database is not there, but its write-ahead log is, or contents are:
    SQLite would delete the one, the housekeeping the others.

    @param incoming: the numbers of messages that are coming in.
    """
    path = files.database
    if os.path.exists(path):
        return
    count = _bodiesAside(files, lambda number: number in incoming)
    if count:
        _log.critical(
            "{path} is missing, but not the contents of {count} messages, which are now in"
            " {aside}: while the server does not run, put the database back, and them into bodies",
            path=path,
            count=count,
            aside=files.damaged,
        )
    log = f"{path}-wal"
    if not os.path.exists(log):
        return
    aside = _newDirectory(files, "log")
    os.rename(log, os.path.join(aside, os.path.basename(log)))
    _log.critical(
        "{path} is missing, but not its write-ahead log, which is now in {aside}: put both back"
        " while the server does not run",
        path=path,
        aside=aside,
    )
