"""
The queue as an operator changes it, in whatever store it is.

Everything here runs inside a transaction of the store.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from deferrals.spool import rules
from deferrals.spool.ledger import HistoryEntry, Ledger
from deferrals.spool.rows import LEASED, QueueRow

#: Recipients changed per call.
CHANGED = 500

#: Where it takes a while to count the queue, it is counted so often, in seconds, however
#: many ask.
NUMBERS_SECONDS = 15.0

#: What L{Changes.make} knows.
COMMANDS = ("retry", "hold", "release", "remove")

#: What is done to messages only where nothing of them is under way.
LEAVING = ("hold", "remove")


@attrs.define
class Changes:
    """
    One command for some recipients.

    @ivar idle: whether there is no server that delivers: what is leased then
        waits, too.
    @ivar active: how many of those recipients are leased: are being delivered, or not
        ours yet.
    @ivar emptied: the messages that have no recipients left.
    """

    ledger: Ledger
    idle: bool = False
    active: int = 0
    emptied: list[int] = attrs.field(factory=list)
    _hurried: set[str] = attrs.field(factory=set, init=False)

    def make(self, command: str, keys: Sequence[tuple[int, int]]) -> int:
        """
        @return: how many were changed.
        """
        count = 0
        for number, seq in keys:
            for row in self.ledger.rows(number, [seq]):
                count += self._change(command, row)
        for name in sorted(self._hurried):  # destinations are locked last
            self.ledger.hurry(name)
        return count

    def _change(self, command: str, row: QueueRow) -> bool:
        seen = self._seen(row)
        self.active += seen.status == LEASED
        made = rules.operated(seen, command, self.ledger.now)
        if not made.isChanged:
            return False
        if made.row is None:
            self._remove(row)
        else:
            isUnderWay = seen.status == LEASED
            self.ledger.save(
                [attrs.evolve(made.row, status=row.status) if isUnderWay else made.row]
            )
        if made.isQueued:
            self._hurried.add(row.destination)
        self.ledger.tell([HistoryEntry(row.message, row.seq, f"{command} by operator")])
        return True

    def _seen(self, row: QueueRow) -> QueueRow:
        """
        Where no server delivers, nothing is under way; elsewhere what is not ours yet is.
        """
        if self.idle:
            return rules.waiting(row)
        return attrs.evolve(row, status=LEASED) if self.ledger.isStaged(row.message) else row

    def _remove(self, row: QueueRow) -> None:
        """
        No sender is told.
        """
        self.ledger.drop([row])
        if self.ledger.leave(row.message):
            self.emptied.append(row.message)
