"""
What is due: recipients are handed out, leased, from the embedded spool.

Everything here runs in the database's thread, inside a transaction; except for
L{verify}, which is for a thread of the pool.  What cannot be read is set aside,
one recipient or one message at a time; it never makes a claim fail as a whole.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Mapping

import attrs

from deferrals.interfaces import Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import KEEP_SECONDS, LEASE_SECONDS
from deferrals.spool.message import HEADER_OCTETS, Message
from deferrals.spool.sqlite import rows
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.schema import DAMAGED, ENDED, HELD, LEASED, QUEUED, STUCK

#: Leases that have run out, looked at per claim.
_EXPIRED = 500

_DAMAGE = {errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}

#: By its key: the plus signs keep SQLite from walking through all that is due.
_BY_DESTINATION = "message = ? AND +status = 0 AND +destination = ? AND +due <= ?"


@attrs.define
class Claims:
    """
    One claim.

    @ivar now: the spool's time.
    @ivar owner: the claimant.
    @ivar files: those of the spool.
    @ivar damaged: messages that cannot be read, as (number, why); filled here.
    @ivar later: messages that could not be read this time; filled here.
    """

    db: sqlite3.Connection
    now: float
    owner: str
    files: SpoolFiles
    damaged: list[tuple[int, str]] = attrs.field(factory=list)
    later: list[tuple[int, str]] = attrs.field(factory=list)

    def due(self, limit: int, shares: Mapping[str, int], share: int) -> list[Work]:
        """
        See L{ISpool.claim<deferrals.interfaces.ISpool.claim>}.
        """
        self._endLeases()
        works: list[Work] = []
        for name in self._ready(limit, shares):
            room = min(shares.get(name, share), limit - len(works))
            if room <= 0:
                break
            for number in self._first(name, room):
                works += self._lease(number, _BY_DESTINATION, (number, name, self.now))
            self._served(name)
        return works

    def _first(self, name: str, limit: int) -> list[int]:
        """
        The messages that have waited longest for a destination.
        """
        found: dict[int, None] = {}
        due = self.db.execute(
            "SELECT message FROM recipients WHERE status = 0 AND destination = ? AND due <= ?"
            " ORDER BY due",
            (name, self.now),
        )
        for (number,) in due:
            found[number] = None
            if len(found) == limit:
                break
        due.close()
        return list(found)

    def _ready(self, limit: int, shares: Mapping[str, int]) -> list[str]:
        full = {name for name, share in shares.items() if share <= 0}
        found = self.db.execute(
            "SELECT name FROM destinations WHERE ready <= ? ORDER BY ready LIMIT ?",
            (self.now, limit + len(full)),
        )
        return [name for (name,) in found if name not in full][:limit]

    def _served(self, name: str) -> None:
        """
        A destination has been served: it is behind the others now, or has no
        recipients left.
        """
        first = self.db.execute(
            "SELECT due FROM recipients WHERE status = 0 AND destination = ? ORDER BY due LIMIT 1",
            (name,),
        ).fetchone()
        if first is None:
            self.db.execute(
                "DELETE FROM destinations WHERE name = ? AND gate <= ?", (name, self.now)
            )
        else:
            self.db.execute(
                "UPDATE destinations SET ready = max(gate, ?) WHERE name = ?",
                (max(first[0], self.now), name),
            )

    def _endLeases(self) -> None:
        """
        What was leased for too long is due: its worker is dead.
        """
        ended = self.db.execute(
            "SELECT message, seq, destination FROM recipients JOIN messages ON id = message"
            " WHERE status = 1 AND due <= ? AND state = 1 LIMIT ?",
            (self.now, _EXPIRED),
        ).fetchall()
        for number, seq, _ in ended:
            self.db.execute(
                f"UPDATE recipients SET status = {QUEUED}, owner = NULL, due = ?"
                " WHERE message = ? AND seq = ?",
                (self.now, number, seq),
            )
        for name in {name for _, _, name in ended}:
            waitFor(self.db, name, self.now)

    def _lease(self, number: int, where: str, values: rows.Row) -> list[Work]:
        """
        Hand out some recipients of a message.
        """
        found = self.db.execute(
            f"SELECT {rows.ADDRESSEE} FROM recipients WHERE {where}", values
        ).fetchall()
        self.db.execute(
            f"UPDATE recipients SET status = {LEASED}, owner = ?, due = ? WHERE {where}",
            (self.owner, self.now + LEASE_SECONDS, *values),
        )
        work = self._work(number, [(row, "") for row in found], self._message)
        if work is None:
            return []
        (recipients,) = self.db.execute(
            "SELECT count(*) FROM recipients WHERE message = ?", (number,)
        ).fetchone()
        return [attrs.evolve(work, whole=recipients == len(work.addressees))]

    def _work(
        self,
        number: int,
        found: list[tuple[rows.Row, str]],
        content: Callable[[int, int, bytes], Message],
    ) -> Work | None:
        """
        @param found: rows of recipients, each with what its sender is to be
            told.
        @param content: finds the content by number, size and digest.
        """
        addressees: list[Addressee] = []
        for row, action in found:
            try:
                addressees.append(rows.addressee(row, action))
            except ValueError as error:
                self._damaged(number, str(error), [row[0]])
        if not addressees:
            return None
        try:
            row = self.db.execute(
                f"SELECT {rows.ENVELOPE}, size, digest, since,"
                " (SELECT min(expires) FROM recipients WHERE message = id)"
                " FROM messages WHERE id = ?",
                (number,),
            ).fetchone()
            if row is None:
                raise ValueError("its envelope is missing")
            *columns, size, digest, since, expires = row
            envelope = rows.envelope(tuple(columns))
            message = content(number, size, digest)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and not isDamage(error):
                self.later.append((number, str(error)))  # with the end of its lease
            else:
                self._damaged(number, str(error), [addressee.seq for addressee in addressees])
            return None
        return Work(
            envelope,
            message,
            tuple(addressees),
            ageSeconds=self.now - since,
            expireSeconds=None if expires is None else expires - since,
        )

    def _message(self, number: int, size: int, digest: bytes) -> Message:
        """
        @raise ValueError: there is no content.
        """
        body = self.db.execute("SELECT body FROM bodies WHERE id = ?", (number,)).fetchone()
        if body is not None:
            return Message(size, digest, body[0], None, body[0][:HEADER_OCTETS], False)
        path = self.files.found(number)
        try:
            with open(path, "rb") as file:
                head = file.read(HEADER_OCTETS)
        except FileNotFoundError:
            raise ValueError("its content is missing") from None
        return Message(size, digest, None, path, head, False)

    def _remains(self, number: int, size: int, digest: bytes) -> Message:
        """
        What there is of the content: a sender can be told without it.
        """
        try:
            return self._message(number, size, digest)
        except (ValueError, OSError):
            return Message(0, digest, b"", None, b"", False)

    def _damaged(self, number: int, why: str, seqs: list[int]) -> None:
        """
        A recipient that was set aside before, and about which the sender
        should be told now, is left to the operator: otherwise it would be found
        again and again.
        """
        self.damaged.append((number, why))
        setAside(self.db, number, self.now, seqs)
        self.db.executemany(
            "UPDATE recipients SET notice = NULL, owner = NULL"
            f" WHERE message = ? AND seq = ? AND status = {DAMAGED} AND notice <= ?",
            [(number, seq, self.now + LEASE_SECONDS) for seq in seqs],
        )

    # Notices.

    def notices(self, limit: int, transaction: int | None) -> list[Work]:
        """
        See L{ISpool.notices<deferrals.interfaces.ISpool.notices>}.
        """
        if transaction is not None:
            numbers = [transaction]
        else:
            ended = f"SELECT message FROM recipients WHERE status = {ENDED} AND due <= ?"
            late = "SELECT message FROM recipients WHERE notice <= ?" + (
                f" AND status IN ({QUEUED}, {STUCK}, {DAMAGED})"
            )
            numbers = []
            for sql in (ended, late):
                found = self.db.execute(f"{sql} LIMIT ?", (self.now, limit * 10))
                numbers += [number for (number,) in found]
        works = []
        for number in list(dict.fromkeys(numbers))[:limit]:
            work = self._telling(number)
            if work is not None:
                works.append(work)
        return works

    def _telling(self, number: int) -> Work | None:
        """
        The recipients of a message about which the sender is to be told.
        """
        found = self.db.execute(
            f"SELECT {rows.ADDRESSEE}, status, coalesce(expires, notice) FROM recipients"
            " WHERE message = ? AND (status = 3 OR (status IN (0, 4, 5) AND notice <= ?))",
            (number, self.now),
        ).fetchall()
        told: list[tuple[rows.Row, str]] = []
        for *row, status, expires in found:
            action = {ENDED: "", STUCK: "stuck", DAMAGED: "damaged"}.get(status)
            if action is None:
                action = "expired" if expires <= self.now else "delayed"
            told.append((tuple(row), action))
            self._leaseNotice(number, row[0], status, action)
        return self._work(number, told, self._remains)

    def _leaseNotice(self, number: int, seq: int, status: int, action: str) -> None:
        """
        A recipient that is merely late may still be delivered meanwhile; all
        others are ours alone.
        """
        until = self.now + LEASE_SECONDS
        if action == "delayed":
            sql = "UPDATE recipients SET notice = ? WHERE message = ? AND seq = ?"
            self.db.execute(sql, (until, number, seq))
            return
        if status == QUEUED:
            status = LEASED
        self.db.execute(
            "UPDATE recipients SET status = ?, owner = ?, due = ?,"
            " notice = iif(status IN (4, 5), ?, notice) WHERE message = ? AND seq = ?",
            (status, self.owner, until, until, number, seq),
        )


def waitFor(db: sqlite3.Connection, name: str, due: float) -> None:
    """
    A recipient waits for this destination now.

    @param due: when it is due.
    """
    db.execute(
        "INSERT INTO destinations (name, ready) VALUES (?, ?) ON CONFLICT (name)"
        " DO UPDATE SET ready = max(gate, min(ready, excluded.ready))",
        (name, due),
    )


def setAside(db: sqlite3.Connection, number: int, now: float, seqs: list[int] | None) -> None:
    """
    A message, or some of its recipients, cannot be read: those recipients are
    not due any longer, and the sender is told when they would have been given
    up.

    @param now: the spool's time.
    @param seqs: the numbers of those recipients; C{None} for all.
    """
    if seqs is None:
        found = db.execute("SELECT seq FROM recipients WHERE message = ?", (number,))
        seqs = [seq for (seq,) in found]
    for seq in seqs:
        db.execute(
            f"UPDATE recipients SET status = {DAMAGED}, owner = NULL,"
            " notice = max(coalesce(expires, 0), ?) WHERE message = ? AND seq = ?"
            f" AND status NOT IN ({HELD}, {DAMAGED})",
            (now + KEEP_SECONDS, number, seq),
        )


def verify(message: Message) -> str:
    """
    Compare a message's content with what was stored.  Blocks: for a thread of
    the pool.

    @return: what is wrong; empty if nothing is.
    """
    size, digest = message.measured()
    if size != message.size:
        return f"its content has {size} octets, not {message.size}"
    if digest != message.digest:
        return "its content is not what was stored"
    return ""


def isDamage(error: BaseException) -> bool:
    """
    Whether an error is the content's own; otherwise (no more files may be
    open, no memory, no permission) it can be read another time.
    """
    return isinstance(error, OSError) and error.errno in _DAMAGE
