"""
What a spool does now and then, a little at a time: nothing here takes longer
than a moment of the database's thread, so acceptance never waits for it.

  - the spool's time is saved;
  - the history is kept short, notes that have expired are removed;
  - room that is not needed any longer is given back to the disk;
  - files of bodies that no message has are removed;
  - messages without recipients are removed, messages without a body moved aside.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from deferrals.model.ids import formatId, parseId
from deferrals.spool.sqlite.claims import setAside

_log = Logger(namespace="deferrals.spool")

EVERY_SECONDS = 60.0

#: Between two slices of work.
PAUSE_SECONDS = 1.0

#: Entries of the history that are kept.
HISTORY_ROWS = 100_000

#: Notes that are kept: of more, those that expire first are removed.
NOTES_ROWS = 100_000

#: Messages, files, or entries of the history looked at in one slice.
SLICE = 500

#: Pages given back in one slice, and how many may lie idle.
VACUUM_PAGES, IDLE_PAGES = 250, 2000

#: Files are looked through at the start, and every so many rounds.
FILES_ROUNDS = 60


class Housekeeping:
    """
    @param spool: the L{SqliteSpool<deferrals.spool.sqlite.spool.SqliteSpool>}.
    @param writing: the numbers of messages that are coming in now.
    """

    def __init__(
        self,
        spool: Any,
        reactor: Any,
        inThread: Callable[..., Deferred[Any]],
        writing: Collection[int],
    ) -> None:
        self._spool = spool
        self._reactor = reactor
        self._inThread = inThread
        self._writing = writing
        self._rounds = 0
        self._after = -1
        self._pause: Deferred[None] | None = None
        self._loop = LoopingCall(self._round)
        self._loop.clock = reactor
        self._ended: Deferred[Any] = succeed(None)

    def start(self) -> None:
        """
        From now on.
        """
        self._ended = self._loop.start(EVERY_SECONDS)

    def stop(self) -> Deferred[Any]:
        """
        @return: a Deferred that fires when nothing is under way any longer.
        """
        if self._loop.running:
            self._loop.stop()
        if self._pause is not None:
            self._pause.cancel()
        return self._ended

    @inlineCallbacks
    def _round(self) -> Any:
        self._rounds += 1
        run = self._spool.db.run
        try:
            yield run(saveClock, *self._spool.clock.saved())
            if self._rounds % FILES_ROUNDS == 1:
                yield self._files()
            now = self._spool.clock.now()
            for work, *args in ((trimHistory,), (trimNotes, now), (vacuum,)):
                while (yield run(work, *args)) and (yield self._goOn()):
                    pass
            yield self._rows()
        except Exception as error:
            _log.warn("housekeeping: {error}", error=str(error))

    @inlineCallbacks
    def _goOn(self) -> Any:
        """
        A pause.

        @return: a Deferred of whether to go on after it.
        """
        if not self._loop.running:
            return False
        self._pause = deferLater(self._reactor, PAUSE_SECONDS)
        self._pause.addErrback(lambda failure: None)
        yield self._pause
        self._pause = None
        return self._loop.running

    @inlineCallbacks
    def _files(self) -> Any:
        """
        A file that no message has, and that is not being written: its process
        died before the message was staged.
        """
        names = yield self._inThread(os.listdir, os.path.dirname(self._spool.bodyPath(0)))
        for start in range(0, len(names), SLICE):
            # In this order: what is being written now may have its row a moment later.
            numbers = [_number(name) for name in names[start : start + SLICE]]
            wanted = [n for n in numbers if n is not None and n not in self._writing]
            for number in (yield self._spool.db.run(unknown, wanted)):
                _log.info(
                    "removed the content of {transaction}, which never became ours",
                    transaction=formatId(number),
                )
                yield self._inThread(_unlink, self._spool.bodyPath(number))
            if not (yield self._goOn()):
                return

    @inlineCallbacks
    def _rows(self) -> Any:
        """
        The next messages, from where the last round ended.
        """
        found, self._after = yield self._spool.db.run(nextMessages, self._after)
        paths = [(number, self._spool.bodyPath(number)) for number in found]
        missing = yield self._inThread(_missing, paths)
        for number in (yield self._spool.db.run(setMissingAside, missing, self._spool.clock.now())):
            _log.critical(
                "{transaction} is damaged, and was moved aside: its content is missing",
                event="damaged",
                transaction=formatId(number),
            )


def _number(name: str) -> int | None:
    try:
        return parseId(name)
    except ValueError:
        return None


def _unlink(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def _missing(paths: list[tuple[int, str]]) -> list[int]:
    return [number for number, path in paths if not os.path.exists(path)]


def saveClock(db: sqlite3.Connection, wall: float, now: float) -> None:
    """
    For L{deferrals.spool.sqlite.recovery.savedClock}.
    """
    sql = "INSERT INTO info VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
    db.executemany(sql, [("clock.wall", wall), ("clock.now", now)])


def trimHistory(db: sqlite3.Connection) -> bool:
    """
    @return: whether there is more to do.
    """
    return (
        db.execute(
            "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE id <="
            " (SELECT max(id) FROM history) - ? ORDER BY id LIMIT ?)",
            (HISTORY_ROWS, SLICE),
        ).rowcount
        == SLICE
    )


def trimNotes(db: sqlite3.Connection, now: float) -> bool:
    """
    @param now: the spool's time.
    @return: whether there is more to do.
    """
    (count,) = db.execute("SELECT COUNT(*) FROM notes").fetchone()
    sql = "DELETE FROM notes WHERE name IN (SELECT name FROM notes {} ORDER BY expires LIMIT ?)"
    expired = db.execute(sql.format("WHERE expires <= ?"), (now, SLICE)).rowcount
    more = min(SLICE, count - expired - NOTES_ROWS)
    if more > 0:
        db.execute(sql.format(""), (more,))
    return expired == SLICE or more == SLICE


def vacuum(db: sqlite3.Connection) -> bool:
    """
    @return: whether there is more to do.
    """
    (idle,) = db.execute("PRAGMA freelist_count").fetchone()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    if idle < max(IDLE_PAGES, pages // 4):
        return False
    db.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
    return True


def unknown(db: sqlite3.Connection, numbers: list[int]) -> list[int]:
    """
    @return: those that no message has.
    """
    places = ", ".join("?" * len(numbers))
    found = db.execute(f"SELECT id FROM messages WHERE id IN ({places})", numbers)
    known = {number for (number,) in found}
    return [number for number in numbers if number not in known]


def nextMessages(db: sqlite3.Connection, after: int) -> tuple[list[int], int]:
    """
    Look at the next messages that are ours.  One without recipients has
    nobody to go to, and is removed.

    @return: those whose content should be in a file, and where to go on.
    """
    found = db.execute(
        "SELECT id, EXISTS (SELECT 1 FROM bodies WHERE bodies.id = messages.id),"
        " EXISTS (SELECT 1 FROM recipients WHERE message = messages.id)"
        " FROM messages WHERE id > ? AND state = 1 ORDER BY id LIMIT ?",
        (after, SLICE),
    ).fetchall()
    for number, hasBody, hasRecipients in found:
        if not hasRecipients:
            db.execute("DELETE FROM messages WHERE id = ?", (number,))
            if hasBody:
                db.execute("DELETE FROM bodies WHERE id = ?", (number,))
    inFiles = [number for number, hasBody, hasRecipients in found if hasRecipients and not hasBody]
    return inFiles, found[-1][0] if len(found) == SLICE else -1


def setMissingAside(db: sqlite3.Connection, numbers: list[int], now: float) -> list[int]:
    """
    Messages whose content is in no file: if they are still there, they are
    moved aside.

    @return: those that were.
    """
    aside = []
    for number in numbers:
        before = db.total_changes
        setAside(db, number, now, None)
        if db.total_changes > before:
            aside.append(number)
    return aside
