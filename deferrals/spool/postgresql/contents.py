"""
Large contents of a queue in PostgreSQL: on this machine while they are received and
delivered, in the database in pieces.

What is on this machine is a copy, or has no message yet: nothing of it is missed.  Each
piece is a transaction of its own, and is there before the message that has it: so no
transaction is open while a client sends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection
from typing import TYPE_CHECKING

from deferrals import durable
from deferrals.errors import SpoolError
from deferrals.model.ids import formatId
from deferrals.spool.claims import verify
from deferrals.spool.message import Message

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: How large a piece is.
PIECE_OCTETS = 1024 * 1024

_PUT = (
    "INSERT INTO pieces (message, seq, owner, body) SELECT %s, %s, id, %s FROM owners WHERE id = %s"
)


class Contents:
    """
    The directory of contents on this machine, which one process has at a time; and the
    name by which that process is known to the others.

    @param directory: absolute path; made if it is not there, with mode 0700.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._owner = os.path.join(directory, "owner")
        self._lock = -1

    def take(self) -> None:
        """
        Begin, with nothing in it.  Blocks.

        @raise SpoolError: another process has it, or it cannot be made.
        """
        try:
            durable.makeDirectory(self._directory)
            durable.keepPrivate(self._directory)
            self._lock = os.open(
                f"{self._directory}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in os.listdir(self._directory):
                if name not in ("lock", "owner"):
                    os.unlink(os.path.join(self._directory, name))
        except BlockingIOError:
            self.leave()
            raise SpoolError(f"{self._directory} is in use by another process") from None
        except OSError as error:
            self.leave()
            raise SpoolError(f"cannot make the spool: {error}") from None

    def leave(self) -> None:
        """
        Another process may have it.
        """
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def isTaken(self) -> bool:
        """Whether this process has it."""
        return self._lock >= 0

    def path(self, number: int) -> str:
        """
        Where the content of a message is.
        """
        return os.path.join(self._directory, formatId(number))

    def remove(self, path: str) -> None:
        """
        A content is not needed here any longer.  Blocks.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def predecessor(self, identity: str) -> int | None:
        """
        The owner that was the process before, in the database with that identity.
        """
        try:
            with open(self._owner, encoding="ascii") as file:
                known, _, number = file.read().partition(" ")
            return int(number) if known == identity else None
        except (OSError, ValueError):
            return None

    def remember(self, identity: str, owner: int) -> None:
        """
        For L{predecessor}, in the next process.  Blocks.
        """
        with contextlib.suppress(OSError):  # then its lease has to end first
            durable.write(f"{self._owner}.new", self._owner, [f"{identity} {owner}".encode()])


def put(db: Connection, number: int, seq: int, piece: bytes, owner: int) -> None:
    """
    Add a piece of a content.

    @raise SpoolError: its owner is not there any longer.
    """
    if not db.execute(_PUT, (number, seq, piece, owner)).rowcount:
        raise SpoolError("this process was not heard for too long: others have its work")


def get(db: Connection, number: int, seq: int) -> bytes | None:
    """
    @return: a piece of a content; C{None} behind the last one.
    """
    found = db.execute(
        "SELECT body FROM pieces WHERE message = %s AND seq = %s", (number, seq)
    ).fetchone()
    return None if found is None else found[0]


def drop(db: Connection, number: int) -> None:
    """
    A content has no message.
    """
    db.execute("DELETE FROM pieces WHERE message = %s", (number,))


def dropOwn(db: Connection, owner: int, coming: Collection[int]) -> None:
    """
    Contents that came in here, and have no message.

    @param coming: messages whose contents are on their way in.
    """
    db.execute(
        "DELETE FROM pieces AS p WHERE owner = %s AND message <> ALL(%s)"
        " AND NOT EXISTS (SELECT 1 FROM messages WHERE id = p.message)",
        (owner, [*coming]),
    )


def piece(path: str, seq: int) -> bytes:
    """
    @return: a piece of a content that is on this machine; empty behind its end.  Blocks.
    """
    with open(path, "rb") as file:
        file.seek(seq * PIECE_OCTETS)
        return file.read(PIECE_OCTETS)


def append(path: str, content: bytes) -> None:
    """
    Write the next piece of a content.  Blocks.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)


def wrongOf(message: Message) -> str:
    """
    @return: what is wrong with a content on this machine; empty if nothing is.  Blocks.
    @raise OSError: it cannot be read now, which says nothing of what the database has.
    """
    try:
        return verify(message)
    except FileNotFoundError as error:
        return f"its content cannot be read: {error}"
