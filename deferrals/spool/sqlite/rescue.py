"""
What has been set aside, for an operator: listed, shown, taken back, removed.

Three kinds of things are: I{databases} with their logs, or logs alone, each in a
directory of its own in C{damaged}; I{contents} there; and I{messages} in the
database of which is not known to whom they should go.

What is taken back from a database is held: it may have been delivered since.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3

import attrs

from deferrals import durable
from deferrals.errors import SpoolError
from deferrals.model.ids import formatId, parseId
from deferrals.model.selection import RescuedMessage, SetAside
from deferrals.spool import rows
from deferrals.spool.changes import Changes
from deferrals.spool.claims import verify
from deferrals.spool.message import HEADER_OCTETS, Message
from deferrals.spool.rows import ASIDE, DAMAGED, HELD, RELEASED
from deferrals.spool.sqlite.aside import WHY
from deferrals.spool.sqlite.cells import Value
from deferrals.spool.sqlite.files import SpoolFiles, createPrivate, removeFile
from deferrals.spool.sqlite.leaving import leave
from deferrals.spool.sqlite.ledger import SqliteLedger
from deferrals.spool.sqlite.recovery import savedClock
from deferrals.spool.sqlite.repair import carry

#: Lines of a header that are shown.
_LINES = 50

#: The tables that a message has rows in, with the column of its number.
_TABLES = {"messages": "id", "bodies": "id", "recipients": "message"}


def number(name: str) -> int:
    """
    @return: of which message a content is.
    @raise ValueError: it is none.
    """
    return parseId(name.partition("-")[0])


@attrs.frozen
class Aside:
    """
    What lies in C{damaged}.  Its methods block: they are for a thread.

    @ivar files: those of the spool.
    """

    files: SpoolFiles

    def listed(self) -> list[SetAside]:
        """
        All that lies there.
        """
        found = []
        for name in self.files.namesAside():
            with contextlib.suppress(FileNotFoundError):
                found.append(self._one(name))
        return found

    def _one(self, name: str) -> SetAside:
        path = self.path(name)
        if os.path.isdir(path):
            octets = sum(
                os.path.getsize(os.path.join(where, one))
                for where, _, names in os.walk(path)
                for one in names
            )
            kind = "database" if os.path.exists(f"{path}/spool.sqlite") else "log"
            shown: SetAside = {"name": name, "kind": kind, "id": "", "octets": octets}
            shown["why"] = _why(path)
            return shown
        try:
            text = formatId(number(name))
        except ValueError:
            return {
                "name": name,
                "kind": "file",
                "id": "",
                "octets": os.path.getsize(path),
                "why": "it is not known what this is",
            }
        return {
            "name": name,
            "kind": "content",
            "id": text,
            "octets": os.path.getsize(path),
            "why": "no message has this content, or its message is damaged",
        }

    def path(self, name: str) -> str:
        """
        Where something is.

        @raise ValueError: it is not there.
        """
        if name not in self.files.namesAside():
            raise ValueError(f"nothing that is called {name} was set aside")
        return os.path.join(self.files.damaged, name)

    def header(self, name: str) -> list[str]:
        """
        The first lines of a content.
        """
        with open(self.path(name), "rb") as file:
            head = file.read(HEADER_OCTETS).partition(b"\r\n\r\n")[0]
        return [line.decode("utf-8", "replace") for line in head.split(b"\r\n")[:_LINES]]

    def carried(self, name: str, now: float) -> sqlite3.Connection:
        """
        @return: a temporary database with all that can be read of one; to be
            closed by L{done}.
        """
        path = self.path(name)
        temporary = self._temporary()
        for suffix in ("", "-journal"):
            removeFile(temporary + suffix)
        createPrivate(temporary)
        db = sqlite3.connect(temporary, isolation_level=None, check_same_thread=False)
        base = os.path.join(path, "spool.sqlite")
        carry(base, f"{base}-wal", db, now, self._hasContent)
        _shift(db, now)
        return db

    def done(self, db: sqlite3.Connection) -> None:
        """
        Close what L{carried} has returned.
        """
        db.close()
        removeFile(self._temporary())

    def _temporary(self) -> str:
        return os.path.join(self.files.directory, "rescue.sqlite")

    def _hasContent(self, message: int) -> bool:
        return self.content(message) is not None

    def content(self, message: int) -> str | None:
        """
        Where the file of a message's content is.
        """
        if self.files.hasBody(message):
            return self.files.found(message)
        for name in self.files.namesAside():
            path = os.path.join(self.files.damaged, name)
            inCopy = os.path.join(path, "bodies", formatId(message))
            if os.path.isfile(inCopy):
                return inCopy
            with contextlib.suppress(ValueError):
                if number(name) == message and os.path.isfile(path):
                    return path
        return None

    def moveBack(self, path: str, message: int) -> None:
        """
        Put a content into its place.

        @raise SpoolError: there is another one.
        """
        own = self.files.body(message)
        if path != own:
            if os.path.lexists(own):
                raise SpoolError(f"{own} is there already")
            os.rename(path, own)
            durable.sync(os.path.dirname(own))
            durable.sync(os.path.dirname(path))

    def remove(self, name: str) -> None:
        """
        Remove it for good.
        """
        path = self.path(name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            removeFile(path)


def _shift(db: sqlite3.Connection, now: float) -> None:
    """
    Times in a database are those of its own spool: the time for which it was aside
    does not count, and another spool's time may be years from ours.

    @param now: the time of the spool that it is taken back to.
    """
    then = savedClock(db)
    if then is None:
        return
    (newest,) = db.execute("SELECT max(since) FROM messages").fetchone()
    by = now - max(then[1], newest or 0.0)
    db.execute("UPDATE messages SET since = since + ?", (by,))
    db.execute(
        "UPDATE recipients SET due = due + ?, expires = expires + ?, notice = notice + ?",
        (by, by, by),
    )


def _why(path: str) -> str:
    try:
        with open(os.path.join(path, WHY), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "it was damaged"


@attrs.frozen
class Restorable:
    """
    A message that can be taken back.

    @ivar number: its number.
    @ivar rows: what the tables have of it, by table.
    @ivar path: the file of its content; C{None}, where that is in the database.
    """

    number: int
    rows: dict[str, list[tuple[Value, ...]]]
    path: str | None


def candidates(db: sqlite3.Connection) -> list[int]:
    """
    @return: the messages in a temporary database of which is known to whom they
        should go.
    """
    found = db.execute(
        "SELECT id FROM messages WHERE EXISTS (SELECT 1 FROM recipients WHERE message = id)"
        " ORDER BY id"
    )
    return [one for (one,) in found]


def candidate(db: sqlite3.Connection, aside: Aside, message: int) -> Restorable | str:
    """
    @return: why it cannot be taken back, where it cannot.
    """
    found = {
        table: db.execute(f"SELECT * FROM {table} WHERE {column} = ?", (message,)).fetchall()
        for table, column in _TABLES.items()
    }
    if not found["messages"] or not found["recipients"]:
        return "it is not known from whom it is, or to whom it should go"
    size, digest = found["messages"][0][4:6]
    if found["bodies"]:
        kept, path = Message(size, digest, found["bodies"][0][1], None, b"", False), None
    else:
        path = aside.content(message)
        if path is None:
            return "its content is missing"
        kept = Message(size, digest, None, path, b"", False)
    wrong = verify(kept)
    return wrong or Restorable(message, found, path)


def insert(db: sqlite3.Connection, one: Restorable) -> bool:
    """
    Take a message back, held (in the database's thread, in a transaction).

    @return: whether it was not there.
    """
    there = "SELECT 1 FROM messages WHERE id = ? AND EXISTS (SELECT 1 FROM recipients WHERE" + (
        " message = id)"
    )
    if db.execute(there, (one.number,)).fetchone() is not None:
        return False
    for table, some in one.rows.items():
        for row in some:
            marks = ", ".join("?" * len(row))
            db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
    db.execute("UPDATE messages SET state = ? WHERE id = ?", (RELEASED, one.number))
    db.execute("DELETE FROM leaving WHERE message = ?", (one.number,))
    db.execute(
        "UPDATE recipients SET status = ?, owner = NULL WHERE message = ?", (HELD, one.number)
    )
    return True


def retried(db: sqlite3.Connection, message: int, now: float, wall: float) -> int:
    """
    A damaged message's content is back (in the database's thread).

    @return: how many recipients are due now.
    """
    seqs = db.execute(
        "SELECT seq FROM recipients WHERE message = ? AND status = ?", (message, DAMAGED)
    ).fetchall()
    return Changes(SqliteLedger(db, now, wall=wall)).make(
        "retry", [(message, seq) for (seq,) in seqs]
    )


def expected(db: sqlite3.Connection, message: int) -> tuple[int, bytes] | None:
    """
    @return: the size and the digest of a message's content, where it has
        recipients.
    """
    found: tuple[int, bytes] | None = db.execute(
        "SELECT size, digest FROM messages WHERE id = ?"
        " AND EXISTS (SELECT 1 FROM recipients WHERE message = id)",
        (message,),
    ).fetchone()
    return found


def without(db: sqlite3.Connection) -> list[SetAside]:
    """
    The messages in the database of which is not known to whom they should go.
    """
    found = db.execute("SELECT id, size FROM messages WHERE state = ? LIMIT 1000", (ASIDE,))
    return [
        {
            "name": formatId(one),
            "kind": "message",
            "id": formatId(one),
            "octets": size,
            "why": "it is not known to whom it should go",
        }
        for one, size in found
    ]


def drop(db: sqlite3.Connection, message: int) -> bool:
    """
    Remove one of these (in the database's thread).

    @return: whether it was one.
    """
    found = db.execute("SELECT 1 FROM messages WHERE id = ? AND state = ?", (message, ASIDE))
    if found.fetchone() is None:
        return False
    leave(db, message)
    return True


def told(db: sqlite3.Connection, message: int) -> RescuedMessage:
    """
    What a temporary database says of a message.
    """
    row = db.execute(f"SELECT {rows.ENVELOPE}, size FROM messages WHERE id = ?", (message,))
    *envelope, size = row.fetchone()
    try:
        sender = rows.envelope(tuple(envelope)).senderText
    except ValueError:
        sender = "(cannot be read)"
    recipients = []
    for text, delivery in db.execute(
        "SELECT recipient, delivery FROM recipients WHERE message = ? ORDER BY seq", (message,)
    ):
        try:
            recipients.append(str(rows.recipient(text, delivery)))
        except Exception:
            recipients.append("(cannot be read)")
    return {"id": formatId(message), "sender": sender, "recipients": recipients, "size": size}
