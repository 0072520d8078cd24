"""
Large contents of a queue in PostgreSQL: on this machine while they are received and
delivered; in the database in pieces, or in a directory that all machines share.

What is on this machine is a copy, or has no message yet: nothing of it is missed.  Each
piece is a transaction of its own, and is there before the message that has it: so no
transaction is open while a client sends.  What is put there a second time, since it is not
known whether it is there, is there once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING

from deferrals import durable
from deferrals.errors import SpoolError
from deferrals.model.ids import formatId
from deferrals.spool.claims import verify
from deferrals.spool.message import Message
from deferrals.spool.postgresql.directory import Directory

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: How large a piece is.
PIECE_OCTETS = 1024 * 1024

#: What the name of a copy ends with that an operator reads.
SHOWN = ".shown"

#: In the place of a piece's number: the content is a file of the directory.  Its owner is
#: the one that has written the file, and its body is how the content begins.
FILE = -1

#: Contents of one owner in the directory that have no message, and are not about to have
#: one.  Who is seen to be dead has committed nothing that is not seen.
_LOST = (
    "SELECT n FROM unnest(%(numbers)s::bigint[]) AS n WHERE n <> ALL(%(coming)s::bigint[])"
    " AND (%(isMine)s OR NOT EXISTS (SELECT 1 FROM owners WHERE id = %(owner)s))"
    " AND NOT EXISTS (SELECT 1 FROM messages AS m JOIN pieces AS p ON p.message = m.id"
    f" WHERE m.id = n AND p.seq = {FILE} AND p.owner = %(owner)s)"
)

_PUT = (
    "INSERT INTO pieces AS p (message, seq, owner, body)"
    " SELECT %s, %s, id, %s FROM owners WHERE id = %s"
    " ON CONFLICT (message, seq) DO UPDATE SET body = excluded.body WHERE p.owner = excluded.owner"
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


def putFrom(db: Connection, number: int, seq: int, path: str, octets: int, owner: int) -> None:
    """
    The same, from this machine: of all that wait for the database, one has a piece in
    memory.  Blocks.

    @param octets: how many the piece has.
    @raise SpoolError: its owner is not there any longer; or it is not on this machine.
    """
    try:
        found = piece(path, seq)
    except OSError as error:
        raise SpoolError(f"cannot read {path}: {error}") from None
    if len(found) < octets:
        raise SpoolError(f"cannot read {path}: it is shorter than it was")
    put(db, number, seq, found[:octets], owner)


def get(db: Connection, number: int, seq: int) -> bytes | None:
    """
    @return: a piece of a content; C{None} behind the last one.
    """
    found = db.execute(
        "SELECT body FROM pieces WHERE message = %s AND seq = %s", (number, seq)
    ).fetchone()
    return None if found is None else found[0]


def fileOf(db: Connection, number: int) -> int | None:
    """
    @return: who has written a content into the directory; C{None} where it is not there.
    """
    found = db.execute(
        "SELECT owner FROM pieces WHERE message = %s AND seq = %s", (number, FILE)
    ).fetchone()
    return None if found is None else found[0]


def fetch(db: Connection, directory: Directory | None, number: int, path: str) -> None:
    """
    Have a content on this machine.  Blocks.

    @raise OSError: it cannot be read.
    @raise SpoolError: the directory that has it is not there.
    """
    owner = fileOf(db, number)
    if owner is not None:
        return named(directory).read(owner, number, path)
    seq = 0
    while (body := get(db, number, seq)) is not None:
        append(path, body)
        seq += 1
    return None


def named(directory: Directory | None) -> Directory:
    """
    @return: the directory that a content is in.
    @raise SpoolError: this machine's configuration does not say.
    """
    if directory is None:
        raise SpoolError("contents of this queue are in a directory: spool.bodies has to name it")
    return directory


def begin(db: Connection, directory: Directory | None) -> None:
    """
    For a command: see that the directory is the queue's, or becomes that.  Blocks.

    @raise SpoolError: it cannot be used; or contents are in one, and none is named.
    """
    if directory is None:
        if hasFiles(db):
            named(None)
        return
    (identity,) = db.execute("SELECT value FROM info WHERE name = 'identity'").fetchall()[0]
    token = directory.begin(identity, tokenOf(db), secrets.token_hex(8))
    directory.use(identity, noteToken(db, token))


def tokenOf(db: Connection) -> str | None:
    """
    @return: which directory the queue has; C{None} where it has none.
    """
    found = db.execute("SELECT value FROM info WHERE name = 'bodies'").fetchone()
    return None if found is None else found[0]


def noteToken(db: Connection, token: str) -> str:
    """
    A directory becomes the queue's, if it has none.

    @return: which one the queue has.
    """
    db.execute("INSERT INTO info VALUES ('bodies', %s) ON CONFLICT DO NOTHING", (token,))
    return tokenOf(db) or token


def hasFiles(db: Connection) -> bool:
    """
    Whether contents are in a directory.
    """
    if tokenOf(db) is None:
        return False
    sql = "SELECT 1 FROM pieces WHERE seq = %s LIMIT 1"
    return db.execute(sql, (FILE,)).fetchone() is not None


def lost(
    db: Connection, owner: int, numbers: Collection[int], coming: Collection[int], isMine: bool
) -> list[int]:
    """
    @param owner: whose contents they are.
    @param numbers: which of them the directory has.
    @param coming: messages whose contents are on their way in here.
    @param isMine: whether that owner is this process.
    @return: those that have no message, and will have none.
    """
    values = {"numbers": [*numbers], "coming": [*coming], "owner": owner, "isMine": isMine}
    return [number for (number,) in db.execute(_LOST, values)]


def living(db: Connection) -> set[int]:
    """
    @return: all owners.
    """
    return {number for (number,) in db.execute("SELECT id FROM owners")}


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
