"""
The embedded spool as an operator changes it.

Everything here runs in the database's thread, inside a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import attrs

from deferrals.spool.sqlite.claims import waitFor
from deferrals.spool.sqlite.leaving import leave
from deferrals.spool.sqlite.outcomes import Outcomes
from deferrals.spool.sqlite.schema import DAMAGED, ENDED, HELD, LEASED, QUEUED, STAGED, STUCK

_KEY = " WHERE message = ? AND seq = ?"


@attrs.define
class Changes:
    """
    One command for some recipients.

    @ivar now: the spool's time.
    @ivar wall: the time of day, for the history.
    @ivar idle: whether there is no server that delivers: what is leased then
        waits, too.
    @ivar emptied: the messages that have no recipients left.
    """

    db: sqlite3.Connection
    now: float
    wall: float
    idle: bool = False
    emptied: list[int] = attrs.field(factory=list)

    def make(self, command: str, keys: Sequence[tuple[int, int]]) -> int:
        """
        @return: how many were changed.
        """
        change: Callable[[int, int, int, str], bool] = getattr(self, f"_{command}")
        history = Outcomes(self.db, self.now, self.wall, "")
        count = 0
        for number, seq in keys:
            row = self.db.execute(
                "SELECT status, destination FROM recipients JOIN messages ON id = message"
                f"{_KEY} AND (state != {STAGED} OR ?)",
                (number, seq, self.idle),
            ).fetchone()
            if row is None:
                continue
            status = QUEUED if row[0] == LEASED and self.idle else row[0]
            if change(number, seq, status, row[1]):
                history.note(number, seq, f"{command} by operator")
                count += 1
        return count

    def _retry(self, number: int, seq: int, status: int, destination: str) -> bool:
        """
        Now, whatever its destination has done.
        """
        if status == STUCK:
            sql = f"UPDATE recipients SET status = {ENDED}, due = ?, notice = NULL{_KEY}"
            self.db.execute(sql, (self.now, number, seq))
        elif status in (QUEUED, DAMAGED):
            self._queue(number, seq, destination)
        return status in (QUEUED, DAMAGED, STUCK)

    def _hold(self, number: int, seq: int, status: int, destination: str) -> bool:
        if status == QUEUED:
            self.db.execute(
                f"UPDATE recipients SET status = {HELD}, owner = NULL{_KEY}", (number, seq)
            )
        return status == QUEUED

    def _release(self, number: int, seq: int, status: int, destination: str) -> bool:
        if status == HELD:
            self._queue(number, seq, destination)
        return status == HELD

    def _remove(self, number: int, seq: int, status: int, destination: str) -> bool:
        """
        No sender is told.
        """
        if status == LEASED:
            return False
        self.db.execute(f"DELETE FROM recipients{_KEY}", (number, seq))
        left = self.db.execute("SELECT 1 FROM recipients WHERE message = ? LIMIT 1", (number,))
        if left.fetchone() is None:
            leave(self.db, number)
            self.emptied.append(number)
        return True

    def _queue(self, number: int, seq: int, destination: str) -> None:
        self.db.execute(
            f"UPDATE recipients SET status = {QUEUED}, owner = NULL, due = ?,"
            f" notice = iif(status = {DAMAGED}, expires, notice){_KEY}",
            (self.now, number, seq),
        )
        self.db.execute("UPDATE destinations SET gate = 0 WHERE name = ?", (destination,))
        waitFor(self.db, destination, self.now)
