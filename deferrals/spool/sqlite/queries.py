"""
The embedded spool as an operator sees it: what is read.

Each function reads a part, and says where to go on: so a queue of millions
costs a moment at a time, and no memory.  They use a connection of their own,
which never makes the server's wait.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator

from deferrals.interfaces import IMessage
from deferrals.model.ids import formatId
from deferrals.model.selection import Selection, Shown
from deferrals.spool import rows, shown
from deferrals.spool.message import HEADER_OCTETS, Message
from deferrals.spool.rows import DAMAGED, HELD, HOLD, LEASED, STAGED, STATUS_NAMES

#: Recipients looked through per call.
SLICE = 5000

#: Messages whose content is compared per call.
CHECKED = 50

#: Where a call ended: the number of a message, and that of a recipient in it.
Cursor = tuple[int, int]

_COLUMNS = ", ".join((*shown.COLUMNS, "state"))


def readOnly(path: str) -> sqlite3.Connection:
    """
    Open the database for reading alone.
    """
    db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, isolation_level=None)
    db.execute("PRAGMA busy_timeout=5000")
    return db


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def recipients(
    db: sqlite3.Connection, selection: Selection, *, limit: int, after: Cursor | None, now: float
) -> tuple[list[Shown], Cursor | None]:
    """
    See L{IQueue.recipients<deferrals.interfaces.IQueue.recipients>}.

    @param now: the spool's time.
    """
    found: list[Shown] = []
    last = after or (-1, -1)
    ids, values = _ids(selection)
    read = db.execute(
        f"SELECT {_COLUMNS} FROM recipients JOIN messages ON id = message"
        f" WHERE (message, seq) > (?, ?) {ids} ORDER BY message, seq LIMIT ?",
        (*last, *values, SLICE),
    )
    count = 0
    for row in read:
        count += 1
        last = row[0], row[1]
        one = _recipient(row, now)
        if selection.matches(one):
            found.append(one)
            if len(found) >= limit:
                return found, last
    return found, last if count == SLICE else None


def _ids(selection: Selection) -> tuple[str, list[int]]:
    numbers = shown.numbersOf(selection)
    if numbers is None:
        return "", []
    return f"AND message IN ({', '.join('?' * len(numbers))})", numbers


def _recipient(row: rows.Row, now: float) -> Shown:
    *columns, state = row
    return shown.recipient(tuple(columns), now, state == STAGED)


def message(db: sqlite3.Connection, number: int, now: float) -> Shown | None:
    """
    See L{IQueue.show<deferrals.interfaces.IQueue.show>}.
    """
    history = shown.history(
        db.execute(
            "SELECT seq, at, event, reply, host FROM history WHERE message = ? ORDER BY id",
            (number,),
        )
    )
    row = db.execute(
        "SELECT state, received, envelope, size, digest FROM messages WHERE id = ?", (number,)
    ).fetchone()
    if row is None:
        return shown.message(number, None, [], history)
    state, *columns = row
    known = shown.ShownMessage(state == STAGED, *columns)
    return shown.message(number, known, list(_recipients(db, number, now)), history)


def _recipients(db: sqlite3.Connection, number: int, now: float) -> Iterator[Shown]:
    selection, after = Selection(ids=(formatId(number),)), None
    while True:
        found, after = recipients(db, selection, limit=SLICE, after=after, now=now)
        yield from found
        if after is None:
            return


def content(db: sqlite3.Connection, number: int, paths: tuple[str, ...]) -> IMessage | None:
    """
    See L{IQueue.content<deferrals.interfaces.IQueue.content>}.

    @param paths: where its file may be.
    """
    row = db.execute(
        "SELECT size, digest, body FROM messages LEFT JOIN bodies USING (id) WHERE id = ?",
        (number,),
    ).fetchone()
    if row is None:
        return None
    size, digest, body = row
    if body is not None:
        return Message(size, digest, body, None, body[:HEADER_OCTETS], False)
    path = next(filter(os.path.exists, paths), None)
    return None if path is None else Message(size, digest, None, path, b"", False)


def unknown(paths: tuple[str, ...]) -> IMessage | None:
    """
    Content that no message has.

    @param paths: where it may be.
    """
    path = next(filter(os.path.exists, paths), None)
    return None if path is None else Message(os.path.getsize(path), b"", None, path, b"", False)


def problems(
    db: sqlite3.Connection, after: int | None, path: Callable[[int], str]
) -> tuple[list[Shown], int, int | None]:
    """
    See L{IQueue.inspect<deferrals.interfaces.IQueue.inspect>}.
    """
    found: list[Shown] = []
    if after is None:
        found += [
            {"id": "", "problem": f"the database: {text}"}
            for (text,) in db.execute("PRAGMA quick_check(20)")
            if text != "ok"
        ]
    numbers = db.execute(
        f"SELECT {rows.ENVELOPE} FROM messages WHERE id > ? ORDER BY id LIMIT ?",
        (-1 if after is None else after, CHECKED),
    ).fetchall()
    for row in numbers:
        found += [{"id": formatId(row[0]), "problem": why} for why in _wrong(db, row, path)]
    more = numbers[-1][0] if len(numbers) == CHECKED else None
    return found, len(numbers), more


def _wrong(db: sqlite3.Connection, row: rows.Row, path: Callable[[int], str]) -> list[str]:
    """
    What is wrong with one message.
    """
    wrong = []
    try:
        rows.envelope(row)
    except ValueError as error:
        wrong.append(str(error))
    aside = False
    for columns in db.execute(
        f"SELECT {rows.ADDRESSEE}, status FROM recipients WHERE message = ?", (row[0],)
    ):
        aside = aside or columns[-1] == DAMAGED
        try:
            rows.addressee(columns[:-1])
        except ValueError as error:
            wrong.append(str(error))
        if columns[-1] not in range(len(STATUS_NAMES)):
            wrong.append(f"recipient {columns[0]} has the status {columns[-1]}")
    kept = content(db, row[0], (path(row[0]),))
    if kept is None:
        gone = db.execute("SELECT 1 FROM messages WHERE id = ?", (row[0],)).fetchone() is None
        wrong += [] if gone else ["its content is missing"]
    else:
        wrong += filter(None, [_content(kept)])
    return [f"{why}; it was moved aside" if aside else why for why in wrong]


def _content(kept: IMessage) -> str:
    try:
        return "" if kept.isIntact() else "its content is not what was stored"
    except FileNotFoundError:
        return ""  # delivered meanwhile
    except OSError as error:
        return f"its content cannot be read: {error}"


def numbers(db: sqlite3.Connection, now: float) -> Shown:
    """
    See L{IQueue.numbers<deferrals.interfaces.IQueue.numbers>}.
    """
    groups = []
    for delivery, status, count, first in db.execute(
        f"SELECT delivery, iif(status = {LEASED} AND action = '{HOLD}', {HELD}, status) AS shown,"
        " COUNT(*), MIN(message) FROM recipients GROUP BY delivery, shown"
    ).fetchall():
        row = db.execute("SELECT since FROM messages WHERE id = ?", (first,)).fetchone()
        groups.append((delivery, status, count, 0.0 if row is None else now - row[0]))
    messages, oldest = db.execute("SELECT COUNT(*), min(since) FROM messages").fetchone()
    age = None if oldest is None else now - oldest
    waiting = db.execute(shown.DESTINATIONS.format(age="? - since"), (now,)).fetchall()
    return shown.numbers(messages, age, groups, waiting)
