"""
The queue in PostgreSQL as an operator sees it: what is read.

Each function reads a part, and says where to go on.  They run in a thread that has a
connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deferrals.model.ids import formatId
from deferrals.model.json import JSON
from deferrals.model.selection import Selection
from deferrals.spool import rows, shown
from deferrals.spool.message import HEADER_OCTETS, Message
from deferrals.spool.postgresql.contents import FILE
from deferrals.spool.postgresql.ledger import epoch
from deferrals.spool.rows import HELD, HOLD, LEASED, STATUS_NAMES

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: Recipients looked through per call; messages whose content is compared.
SLICE, CHECKED = 5000, 50

#: Where a call ended: the number of a message, and that of a recipient in it.
Cursor = tuple[int, int]

_TIMES = ("due", "expires", "since", "received")

_COLUMNS = ", ".join(epoch(name) if name in _TIMES else name for name in shown.COLUMNS)


def recipients(
    db: Connection, selection: Selection, limit: int, after: Cursor | None, now: float
) -> tuple[list[dict[str, JSON]], Cursor | None]:
    """
    See L{IQueue.recipients<deferrals.interfaces.IQueue.recipients>}.

    @param now: the store's time.
    """
    last = after or (-1, -1)
    numbers = shown.numbersOf(selection)
    some = "" if numbers is None else "AND message = ANY(%(numbers)s)"
    read = db.execute(
        f"SELECT {_COLUMNS} FROM recipients JOIN messages ON id = message"
        f" WHERE (message, seq) > (%(number)s, %(seq)s) {some} ORDER BY message, seq LIMIT {SLICE}",
        {"number": last[0], "seq": last[1], "numbers": numbers},
    ).fetchall()
    found: list[dict[str, JSON]] = []
    for row in read:
        last = row[0], row[1]
        one = shown.recipient(row, now, False)
        if selection.matches(one):
            found.append(one)
            if len(found) >= limit:
                return found, last
    return found, last if len(read) == SLICE else None


def message(db: Connection, number: int, now: float) -> dict[str, JSON] | None:
    """
    See L{IQueue.show<deferrals.interfaces.IQueue.show>}.
    """
    history = shown.history(
        db.execute(
            f"SELECT seq, {epoch('at')}, event, reply, host FROM history WHERE message = %s"
            " ORDER BY id",
            (number,),
        )
    )
    row = db.execute(
        f"SELECT {epoch('received')}, envelope, size, digest FROM messages WHERE id = %s",
        (number,),
    ).fetchone()
    if row is None:
        return shown.message(number, None, [], history)
    known = shown.ShownMessage(False, *row)
    return shown.message(number, known, _recipients(db, number, now), history)


def _recipients(db: Connection, number: int, now: float) -> list[dict[str, JSON]]:
    all_: list[dict[str, JSON]] = []
    selection, after = Selection(ids=(formatId(number),)), None
    while True:
        found, after = recipients(db, selection, SLICE, after, now)
        all_ += found
        if after is None:
            return all_


def content(db: Connection, number: int, path: str) -> Message | None:
    """
    What is known of a content, which is not read yet where it is large.

    @param path: where a large one is, or is to be.
    """
    row = db.execute("SELECT size, digest, body FROM messages WHERE id = %s", (number,)).fetchone()
    if row is None:
        return None
    size, digest, body = row
    if body is None:
        return Message(size, digest, None, path, b"", False)
    return Message(size, digest, body, None, body[:HEADER_OCTETS], False)


def problems(db: Connection, after: int | None) -> tuple[list[dict[str, JSON]], int, int | None]:
    """
    See L{IQueue.inspect<deferrals.interfaces.IQueue.inspect>}; without the contents that
    are in the directory (L{files}).
    """
    found: list[dict[str, JSON]] = []
    numbers = db.execute(
        f"SELECT id, {epoch('received')}, envelope FROM messages WHERE id > %s"
        f" ORDER BY id LIMIT {CHECKED}",
        (-1 if after is None else after,),
    ).fetchall()
    for row in numbers:
        found += [{"id": formatId(row[0]), "problem": why} for why in _wrong(db, row)]
    return found, len(numbers), numbers[-1][0] if len(numbers) == CHECKED else None


def files(db: Connection, after: int | None, last: int | None) -> list[tuple[int, int, int]]:
    """
    @param after: the message behind which it is looked.
    @param last: the last one; C{None} for all.
    @return: of each content in the directory its number, who has written it, and its size.
    """
    found = db.execute(
        "SELECT id, owner, size FROM messages JOIN pieces ON message = id AND seq = %s"
        " WHERE id > %s AND (%s::bigint IS NULL OR id <= %s) ORDER BY id",
        (FILE, -1 if after is None else after, last, last),
    )
    return [(row[0], row[1], row[2]) for row in found]


def _wrong(db: Connection, row: rows.Row) -> list[str]:
    """
    What is wrong with one message.
    """
    wrong = []
    try:
        rows.envelope(row)
    except ValueError as error:
        wrong.append(str(error))
    for columns in db.execute(
        f"SELECT {rows.ADDRESSEE}, status FROM recipients WHERE message = %s", (row[0],)
    ).fetchall():
        try:
            rows.addressee(columns[:-1])
        except ValueError as error:
            wrong.append(str(error))
        if columns[-1] not in range(len(STATUS_NAMES)):
            wrong.append(f"recipient {columns[0]} has the status {columns[-1]}")
    return [*wrong, *_content(db, row[0])]


def _content(db: Connection, number: int) -> list[str]:
    """
    What is wrong with its content: the database itself compares.
    """
    row = db.execute(
        "SELECT size = coalesce(length(body), (SELECT CASE min(seq) WHEN %s THEN size"
        " ELSE sum(length(body)) END FROM pieces WHERE message = id)),"
        " body IS NULL OR sha256(body) = digest FROM messages WHERE id = %s",
        (FILE, number),
    ).fetchone()
    if row is None:
        return []  # delivered meanwhile
    if row[0] is None:
        return ["its content is missing"]
    return [] if all(row) else ["its content is not what was stored"]


def numbers(db: Connection, now: float) -> dict[str, JSON]:
    """
    See L{IQueue.numbers<deferrals.interfaces.IQueue.numbers>}.
    """
    groups = db.execute(
        f"SELECT delivery, CASE WHEN status = {LEASED} AND action = '{HOLD}' THEN {HELD}"
        f" ELSE status END AS shown, count(*), %s - {epoch('min(since)')}"
        " FROM recipients JOIN messages ON id = message GROUP BY delivery, shown",
        (now,),
    ).fetchall()
    messages, oldest = db.execute(
        f"SELECT count(*), %s - {epoch('min(since)')} FROM messages", (now,)
    ).fetchall()[0]
    waiting = db.execute(shown.DESTINATIONS.format(age=f"%s - {epoch('since')}"), (now,)).fetchall()
    return shown.numbers(
        messages,
        oldest,
        ((one[0], one[1], one[2], one[3]) for one in groups),
        ((one[0], one[1], one[2]) for one in waiting),
    )
