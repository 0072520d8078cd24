"""
What became of recipients, written into whatever store has them.

Everything here runs inside a transaction of the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from deferrals.errors import Overtaken
from deferrals.interfaces import Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import (
    DELIVERED,
    DelayNotified,
    Disposition,
    NotifyThenRemove,
    Remove,
    Reschedule,
    Undeliverable,
)
from deferrals.model.ids import formatId
from deferrals.spool import rules
from deferrals.spool.batch import Insert
from deferrals.spool.ledger import HistoryEntry, Ledger
from deferrals.spool.rows import QUEUED, QueueRow


def isAllDelivered(work: Work, dispositions: Mapping[Addressee, Disposition]) -> bool:
    """
    Whether a message leaves as a whole: none of its recipients is left, and there is
    nothing to tell of any.
    """
    delivered = all(one is DELIVERED or one == DELIVERED for one in dispositions.values())
    return work.whole and delivered and len(dispositions) == len(work.addressees)


@attrs.define
class Outcomes:
    """
    One call of L{ISpool.record<deferrals.interfaces.ISpool.record>}: what is leased to
    another owner than the ledger's does not change.
    """

    ledger: Ledger

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
        since = self.ledger.since(number)
        disposed = {one.seq: (one, disposition) for one, disposition in dispositions}
        self.ledger.tell([e for one in disposed.values() for e in _entries(number, *one)])
        rows = {row.seq: row for row in self.ledger.rows(number, disposed)}
        became: list[tuple[QueueRow, QueueRow | None]] = []
        for seq, (addressee, disposition) in disposed.items():
            row = rows.get(seq)
            if row is not None and self._mayDispose(row, disposition):
                became.append((row, self._disposed(row, disposition, since)))
            elif notices:
                raise Overtaken(f"{formatId(number)}: <{addressee}> was dealt with meanwhile")
        self._save(became)
        if notices:
            self.ledger.insert(notices)
        return self.ledger.leave(number)

    def _mayDispose(self, row: QueueRow, disposition: Disposition) -> bool:
        return isinstance(disposition, DelayNotified) or rules.isOurs(row, self.ledger.owner)

    def _disposed(
        self, row: QueueRow, disposition: Disposition, since: float | None
    ) -> QueueRow | None:
        now, owner = self.ledger.now, self.ledger.owner
        begun = now if since is None else since
        return rules.disposed(row, disposition, owner=owner, since=begun, now=now)

    def _save(self, became: list[tuple[QueueRow, QueueRow | None]]) -> None:
        saved = [row for _, row in became if row is not None]
        self.ledger.save(saved)
        self.ledger.drop([before for before, row in became if row is None])
        waiting: dict[str, float] = {}
        for before, row in became:
            if row is not None and row.status == QUEUED and _place(row) != _place(before):
                waiting[row.destination] = min(row.due, waiting.get(row.destination, row.due))
        self.ledger.waitFor(waiting)


def _place(row: QueueRow) -> tuple[int, str, float]:
    return row.status, row.destination, row.due


def _entries(number: int, addressee: Addressee, disposition: Disposition) -> list[HistoryEntry]:
    """
    What the history tells of it: with what was said, and what only the operator is told.
    """
    seq = addressee.seq
    if isinstance(disposition, DelayNotified):
        return [HistoryEntry(number, seq, "warned")]
    if isinstance(disposition, Undeliverable):
        return [HistoryEntry(number, seq, "stuck")]
    if isinstance(disposition, Reschedule):
        if not disposition.attempted:
            return [HistoryEntry(number, seq, "held")] if disposition.isHeld else []
        event = "retry"
    else:
        event = _event(disposition)
    reply = "" if disposition.reply is None else str(disposition.reply)
    details = disposition.details.line()
    said = f"{reply} ({details})".lstrip() if details else reply
    return [HistoryEntry(number, seq, event, said, disposition.host)]


def _event(disposition: NotifyThenRemove | Remove) -> str:
    if isinstance(disposition, NotifyThenRemove):
        return disposition.action
    return disposition.event


def backOff(ledger: Ledger, name: str, seconds: float) -> None:
    """
    See L{ISpool.backOff<deferrals.interfaces.ISpool.backOff>}.
    """
    if seconds > 0:
        ledger.shut(name, ledger.now + seconds)
    else:
        ledger.reopen(name)
