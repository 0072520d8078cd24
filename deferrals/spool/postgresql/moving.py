"""
A queue in PostgreSQL as one end of a move (L{deferrals.spool.moving}).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import deferrals
from deferrals.errors import SpoolError
from deferrals.spool.message import MEMORY_OCTETS, Message
from deferrals.spool.moving import Carried
from deferrals.spool.postgresql import contents
from deferrals.spool.postgresql.connection import Access, explained, opened
from deferrals.spool.postgresql.directory import Directory
from deferrals.spool.postgresql.ledger import PostgresqlLedger, timeOf
from deferrals.spool.postgresql.owners import Identity, beat, bury, enroll, leave
from deferrals.spool.postgresql.schema import OWNERS_LOCK, durability, upgrade

if TYPE_CHECKING:
    from deferrals.spool.postgresql.connection import Connection

#: Not heard for so long it is dead, in seconds: it is heard with each message.
_LEASE_SECONDS = 120.0

#: In the place of a worker's number.
MOVE = -1


class PostgresqlEnd:
    """
    While it is there no other process can become an owner.

    @param machine: its machine's name, for the others.
    @param directory: the one that all machines share, for large contents.
    @raise SpoolError: it cannot be used, or a server uses it.
    """

    def __init__(self, access: Access, machine: str, directory: Directory | None = None) -> None:
        self._shared = directory
        self._db = db = opened(access, "deferrals spool move")
        self._directory = tempfile.TemporaryDirectory(prefix="deferrals-move-")
        try:
            with explained(db):
                upgrade(db, access.schema)
                durability(db)
                contents.begin(db, directory)
                me = Identity(machine, MOVE, deferrals.__version__, _LEASE_SECONDS)
                self._me = _alone(db, me)
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        self._db.close()
        self._directory.cleanup()

    def close(self) -> None:
        """
        Let others have it.
        """
        with contextlib.suppress(SpoolError), self._transaction():
            leave(self._db, self._me)
        self._end()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[PostgresqlLedger]:
        """
        @raise SpoolError: it was not committed, or that is not known.
        """
        with explained(self._db), self._db.transaction():
            yield PostgresqlLedger(self._db, timeOf(self._db), str(self._me), (), self._path)

    def _path(self, number: int) -> str:
        return os.path.join(self._directory.name, str(number))

    def numbers(self, after: int, limit: int) -> list[int]:
        """
        See L{QueueEnd.numbers}.
        """
        with explained(self._db):
            found = self._db.execute(
                "SELECT id FROM messages WHERE id > %s ORDER BY id LIMIT %s", (after, limit)
            )
            return [number for (number,) in found]

    def take(self, number: int) -> Carried:
        """
        See L{QueueEnd.take}.
        """
        with self._transaction() as ledger:
            stored = ledger.messages([number]).get(number)
            if stored is None:
                raise SpoolError("it is not there any longer")
            message = ledger.content(number, stored.size, stored.digest)
            if message.path is not None:
                self._fetch(number, message.path)
            return Carried.of(stored, ledger.rows(number), message, ledger.now)

    def _fetch(self, number: int, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        contents.fetch(self._db, self._shared, number, path)

    def known(self, number: int) -> tuple[int, bytes] | None:
        """
        See L{QueueEnd.known}.
        """
        with explained(self._db):
            found = self._db.execute(
                "SELECT size, digest FROM messages WHERE id = %s", (number,)
            ).fetchone()
        return None if found is None else (found[0], found[1])

    def put(self, carried: Carried) -> None:
        """
        See L{QueueEnd.put}.
        """
        number, message = carried.envelope[0], carried.message
        body = None
        with explained(self._db), message.open() as content:
            if not beat(self._db, self._me):
                raise SpoolError("the move was not heard for too long")
            if message.size <= MEMORY_OCTETS:
                body = content.read()
            else:
                contents.drop(self._db, number)  # of a move that was broken off
                self._put(number, message, content)
        with self._transaction() as ledger:
            ledger.insert([carried.insertion(body, ledger.now)])
            self._db.execute(
                "UPDATE messages SET since = to_timestamp(%s) WHERE id = %s",
                (ledger.now - carried.age, number),
            )
            carried.settle(ledger)

    def _put(self, number: int, message: Message, content: BinaryIO) -> None:
        """
        Have a large content.
        """
        if self._shared is not None:
            self._shared.write(self._me, number, content)
            contents.put(self._db, number, contents.FILE, message.beginning, self._me)
            return
        for seq, piece in enumerate(iter(lambda: content.read(contents.PIECE_OCTETS), b"")):
            contents.put(self._db, number, seq, piece, self._me)

    def remove(self, number: int) -> None:
        """
        See L{QueueEnd.remove}.
        """
        with self._transaction() as ledger:
            self._db.execute("DELETE FROM recipients WHERE message = %s", (number,))
            ledger.leave(number)
        for _, owner in ledger.files:
            with contextlib.suppress(OSError):  # a server finds it
                contents.named(self._shared).remove(owner, number)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(number))


def _alone(db: Connection, me: Identity) -> int:
    """
    Become the only owner.
    """
    found = db.execute(
        "SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))", (OWNERS_LOCK,)
    ).fetchone()
    with db.transaction():
        bury(db)
        if found is not None and found[0]:  # a move before this one has broken off
            for (number,) in db.execute("SELECT id FROM owners WHERE worker = %s", (MOVE,)):
                leave(db, number)
        rivals = db.execute("SELECT machine, worker FROM owners ORDER BY id").fetchall()
        if rivals or found is None or not found[0]:
            names = ", ".join(f"{machine}, worker {worker}" for machine, worker in rivals)
            raise SpoolError(f"a server uses the database: {names or 'it is about to start'}")
        return enroll(db, me).id
