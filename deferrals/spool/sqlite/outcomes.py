"""
What became of recipients, written into the embedded spool.

Everything here runs in the database's thread, inside a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import attrs

from deferrals.errors import Overtaken
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import (
    TELL_SECONDS,
    DelayNotified,
    Disposition,
    NotifyThenRemove,
    Remove,
    Reschedule,
    Undeliverable,
)
from deferrals.model.ids import formatId
from deferrals.spool.sqlite.batch import Insert, WriteBatch
from deferrals.spool.sqlite.claims import waitFor
from deferrals.spool.sqlite.leaving import leave
from deferrals.spool.sqlite.rows import replyText
from deferrals.spool.sqlite.schema import ENDED, HELD, QUEUED, STUCK

#: What is leased to us; or was, and has not been leased again since.
_OURS = f" WHERE message = ? AND seq = ? AND (owner = ? OR (owner IS NULL AND status = {QUEUED}))"


@attrs.define
class Outcomes:
    """
    One call of L{ISpool.record<deferrals.interfaces.ISpool.record>}.

    @ivar now: the spool's time.
    @ivar wall: the time of day, for the history.
    @ivar owner: the recorder: what is leased to another one does not change.
    """

    db: sqlite3.Connection
    now: float
    wall: float
    owner: str

    def record(
        self,
        number: int,
        dispositions: Iterable[tuple[Addressee, Disposition]],
        notices: Sequence[Insert],
    ) -> bool:
        """
        @return: whether no recipient of the message is left.
        @raise Overtaken: a recipient has left or is leased to another owner now,
            and there are notices that would not be true.
        """
        since = self.db.execute("SELECT since FROM messages WHERE id = ?", (number,)).fetchone()
        for addressee, disposition in dispositions:
            changed = self._dispose(
                number, addressee.seq, disposition, since[0] if since else self.now
            )
            if notices and not changed:
                raise Overtaken(f"{formatId(number)}: <{addressee}> was dealt with meanwhile")
        if notices:
            WriteBatch(inserts=list(notices)).apply(self.db)
        left = self.db.execute("SELECT 1 FROM recipients WHERE message = ? LIMIT 1", (number,))
        if left.fetchone() is not None:
            return False
        leave(self.db, number)
        return True

    def _dispose(self, number: int, seq: int, disposition: Disposition, since: float) -> bool:
        """
        @return: whether the recipient was ours.
        """
        key = (number, seq, self.owner)
        if isinstance(disposition, Reschedule):
            return self._reschedule(key, disposition, since)
        if isinstance(disposition, DelayNotified):
            self.note(number, seq, "warned")
            sql = "UPDATE recipients SET warned = 1, notice = expires WHERE message = ? AND seq = ?"
            return self._changed(sql, (number, seq))
        if isinstance(disposition, NotifyThenRemove):
            self._noteSaid(number, seq, disposition.action, disposition)
            sql = (
                f"UPDATE recipients SET status = {ENDED}, due = ?, action = ?, reply = ?, host = ?"
            )
            reply = replyText(disposition.reply)
            values = (self.now + TELL_SECONDS, disposition.action, reply, disposition.host)
            return self._changed(sql + _OURS, (*values, *key))
        if isinstance(disposition, Undeliverable):
            self.note(number, seq, "stuck")
            sql = f"UPDATE recipients SET status = {STUCK}, notice = ?, expires = ?"
            until = self.now + disposition.keepSeconds
            return self._changed(sql + _OURS, (until, until, *key))
        self._noteSaid(number, seq, disposition.event, disposition)
        return self._changed("DELETE FROM recipients" + _OURS, key)

    def _reschedule(self, key: tuple[int, int, str], disposition: Reschedule, since: float) -> bool:
        if disposition.attempted:
            self._noteSaid(key[0], key[1], "retry", disposition)
        elif disposition.isHeld:
            self.note(key[0], key[1], "held")
        expires = since + disposition.expireSeconds
        warn = min(since + disposition.warnSeconds, expires) if disposition.warnSeconds else expires
        due = self.now + disposition.seconds
        changed = self._changed(
            "UPDATE recipients SET status = ?, owner = NULL, destination = ?, due = ?,"
            " attempts = attempts + ?, expires = ?, notice = iif(warned, ?, ?),"
            " reply = coalesce(?, reply), host = coalesce(?, host)" + _OURS,
            (
                HELD if disposition.isHeld else QUEUED,
                *(disposition.destination, due, int(disposition.attempted), expires, expires, warn),
                *(replyText(disposition.reply), disposition.host or None, *key),
            ),
        )
        if changed and not disposition.isHeld:
            waitFor(self.db, disposition.destination, due)
        return changed

    def _changed(self, sql: str, values: tuple[object, ...]) -> bool:
        return self.db.execute(sql, values).rowcount == 1

    def _noteSaid(
        self, number: int, seq: int, event: str, said: NotifyThenRemove | Remove | Reschedule
    ) -> None:
        """
        An entry with what was said, and with what only the operator is told.
        """
        reply = "" if said.reply is None else str(said.reply)
        details = said.details.line()
        self.note(
            number, seq, event, f"{reply} ({details})".lstrip() if details else reply, said.host
        )

    def note(self, number: int, seq: int, event: str, reply: str = "", host: str = "") -> None:
        """
        An entry in the history of a message.
        """
        self.db.execute(
            "INSERT INTO history (message, seq, at, event, reply, host) VALUES (?, ?, ?, ?, ?, ?)",
            (number, seq, self.wall, event, reply or None, host),
        )


def backOff(db: sqlite3.Connection, name: str, now: float, seconds: float) -> None:
    """
    See L{ISpool.backOff<deferrals.interfaces.ISpool.backOff>}.
    """
    if seconds > 0:
        until = now + seconds
        db.execute(
            "INSERT INTO destinations (name, ready, gate) VALUES (?, ?, ?) ON CONFLICT (name)"
            " DO UPDATE SET gate = excluded.gate, ready = max(ready, excluded.gate)",
            (name, until, until),
        )
        return
    first = db.execute(
        "SELECT due FROM recipients WHERE status = 0 AND destination = ? ORDER BY due LIMIT 1",
        (name,),
    ).fetchone()
    if first is None:
        db.execute("DELETE FROM destinations WHERE name = ?", (name,))
    else:
        db.execute(
            "UPDATE destinations SET gate = 0, ready = ? WHERE name = ?", (max(first[0], now), name)
        )
