"""
Whether what lies in a spool's directory belongs together; what does not is set
aside, and nothing of it is removed.

Everything here blocks, and runs before the database is open.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Container

from deferrals import durable
from deferrals.errors import SpoolError
from deferrals.logger import Logger
from deferrals.model.ids import formatId
from deferrals.spool.sqlite import aside, repair
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.marker import Mark, generationOf, readMark
from deferrals.spool.sqlite.pages import LOG_HEADER, logSalt, readLog
from deferrals.spool.sqlite.queries import readOnly
from deferrals.spool.sqlite.schema import identity
from deferrals.spool.sqlite.upkeep import SLICE, withoutMessage

_log = Logger(namespace="deferrals.spool")

#: So often a log may have begun anew since the mark was written.
_ANEW = 1 << 16

_TELL = "`deferrals queue rescue` lists it, and takes it back"


def judge(files: SpoolFiles, now: float, incoming: Container[int]) -> None:
    """
    Look at the directory, before SQLite does.

    @param now: the spool's time, where a database must be mended.
    @param incoming: the numbers of messages that are coming in.
    """
    finished = repair.finish(files)
    if finished:
        _log.critical("{text}; " + _TELL, text=finished, event="set-aside")
    mark = readMark(files.mark)
    if not _size(files.database):
        return _withoutDatabase(files, mark, incoming)
    isMissing = mark is not None and _judgeLog(files, mark)
    isDamaged = _sayDamagedLog(files)
    if mark is None:
        return _setUnsureAside(files, incoming)
    state = _state(files.database)
    if state is None:
        return None  # damaged, or of an older format: seen when it is opened
    why = _misfit(state, mark)
    if why:
        return _setAside(files, why, incoming)
    if isMissing:
        _afterLostLog(files, now, incoming)
    if isMissing or isDamaged:
        _setUnsureAside(files, incoming)
    return None


def _contents(files: SpoolFiles) -> list[int]:
    return [*files.bodyNumbers(), *files.unfinished()]


def _setUnsureAside(files: SpoolFiles, incoming: Container[int]) -> None:
    """
    Rows may be missing: content without one may have been acknowledged even if its
    name says that it was not.
    """
    numbers = [number for number in files.unfinished() if number not in incoming]
    if not numbers:
        return
    with contextlib.suppress(sqlite3.Error), contextlib.closing(readOnly(files.database)) as db:
        for start in range(0, len(numbers), SLICE):
            for number in withoutMessage(db, numbers[start : start + SLICE]):
                setContentAside(files, number)


def _size(path: str) -> int:
    """
    @raise OSError: it cannot be looked at: it is not known to be missing.
    """
    return durable.octetsOf(path) or 0


def _withoutDatabase(files: SpoolFiles, mark: Mark | None, incoming: Container[int]) -> None:
    wasUsed = mark is not None and bool(mark.spool)
    contents = [number for number in _contents(files) if number not in incoming]
    if wasUsed or contents or _size(files.log):
        there = "is of 0 octets" if os.path.exists(files.database) else "is missing"
        _setAside(files, f"{files.database} {there}", incoming)


def _misfit(state: tuple[str, int], mark: Mark) -> str:
    """
    @return: why a database is not that of the directory; empty if it is.
    """
    spool, generation = state
    if mark.spool and spool != mark.spool:
        return f"the database is that of another spool ({spool}, not {mark.spool})"
    if generation < mark.generation:
        return f"the database is older than the directory ({generation}, not {mark.generation})"
    return ""


def _state(path: str) -> tuple[str, int] | None:
    """
    @return: which spool's a database is, and how far it has come; C{None}, where
        it does not say.
    """
    try:
        with contextlib.closing(readOnly(path)) as db:
            return identity(db), generationOf(db)
    except (sqlite3.Error, SpoolError):
        return None


def _judgeLog(files: SpoolFiles, mark: Mark) -> bool:
    """
    Set a write-ahead log aside that is not the database's.

    @return: whether its own is missing.
    """
    salt = logSalt(files.log)
    if salt is None:
        return mark.log is not None
    if mark.closed:
        why = "the database was closed, and had no write-ahead log: this is another one's"
    elif mark.log is not None and not 0 <= (salt - mark.log) % (1 << 32) < _ANEW:
        why = "this write-ahead log is not the database's"
    else:
        return False
    path = aside.moveDatabase(files, "log", why, log=True)
    _log.critical("{why}: set aside as {path}; " + _TELL, why=why, path=path, event="set-aside")
    return not mark.closed


def _afterLostLog(files: SpoolFiles, now: float, incoming: Container[int]) -> None:
    """
    What the database says may be a minute old; and it may be damaged.
    """
    _log.critical(
        "the write-ahead log of {path} is missing, or damaged: what has come in the last minute is"
        " not in the database, and what was delivered in it may be delivered again",
        path=files.database,
        event="set-aside",
    )
    with contextlib.closing(readOnly(files.database)) as db, contextlib.suppress(sqlite3.Error):
        if db.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]:
            return
    _log.critical("{text}", text=repair.salvage(files, now, incoming), event="set-aside")


def _sayDamagedLog(files: SpoolFiles) -> bool:
    """
    SQLite takes a write-ahead log up to the first frame that is not whole, writes
    over the rest, and says nothing.

    @return: whether that is said now.
    """
    why = _damageOfLog(files.log)
    if not why:
        return False
    path = aside.copyLog(files, why)
    _log.critical(
        "the write-ahead log of {path} is {why}: a copy is set aside as {aside}; " + _TELL,
        path=files.database,
        why=why,
        aside=path,
        event="set-aside",
    )
    return True


def _damageOfLog(path: str) -> str:
    """
    One transaction behind the first frame that is not whole may never have been
    confirmed; of two, one was.  Nothing is behind a header that is not written and
    synced.

    @return: what is wrong; empty if nothing is.
    """
    log = readLog(path)
    if log is None:
        return "damaged: it cannot be read" if _size(path) > LOG_HEADER else ""
    if not log.hasHeader:
        return f"damaged at its beginning: {log.behind} transactions cannot be applied"
    if log.behind < 2:
        return ""
    return f"damaged in the middle: {log.behind} transactions behind it cannot be applied"


def _setAside(files: SpoolFiles, why: str, incoming: Container[int]) -> None:
    path = aside.moveDatabase(files, "spool", why)
    count = 0
    for number in _contents(files):
        if number not in incoming:
            count += files.setBodyAside(number)
    _log.critical(
        "{why}: set aside as {path}, with {count} contents of messages, and a new database is"
        " begun; " + _TELL,
        why=why,
        path=path,
        count=count,
        event="set-aside",
    )


def setContentAside(files: SpoolFiles, number: int) -> None:
    """
    No message has this content any longer: its row was lost.
    """
    if files.setBodyAside(number):
        _log.critical(
            "no message has the content of {transaction}, which may have been acknowledged: set"
            " aside; " + _TELL,
            transaction=formatId(number),
            event="set-aside",
        )
