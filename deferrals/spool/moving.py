"""
A queue carried from one store into another, message by message, while no server has
either: durable there, then removed here.  So a break leaves each message in one of them,
or in both; what is in both is known by its number and its digest, and is not taken twice.

What is held stays held, and schedules go on: times are carried as what is left of them.
What was leased when its server ended waits, as it would at that server's next start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import attrs

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.interfaces import Work
from deferrals.spool import rules
from deferrals.spool.batch import Insert, Value
from deferrals.spool.claims import verify
from deferrals.spool.ledger import Ledger, Stored
from deferrals.spool.message import Message
from deferrals.spool.rows import LEASED, QUEUED, RELEASED, QueueRow, Row, envelope

#: So many messages are looked for at once.
_SLICE = 500


@attrs.frozen
class Carried:
    """
    A message on its way.

    @ivar envelope: the columns of L{ENVELOPE<deferrals.spool.rows.ENVELOPE>}.
    @ivar age: how long it has been in the queue.
    @ivar rows: its recipients; their times are what is left of them.
    """

    envelope: Row
    age: float
    rows: Sequence[QueueRow]
    message: Message

    @classmethod
    def of(cls, stored: Stored, rows: Sequence[QueueRow], message: Message, now: float) -> Carried:
        """
        @param now: the time of the store that it comes from.
        """
        left = [
            _shifted(rules.freed(row, now) if row.status == LEASED else row, -now) for row in rows
        ]
        return cls(stored.envelope, now - stored.since, left, message)

    def insertion(self, body: bytes | None, now: float) -> Insert:
        """
        What a store takes.

        @param body: the content, where it belongs into its row.
        @param now: the time of the store that it goes to.
        @raise ValueError: its envelope is damaged.
        """
        number, received, text = self.envelope
        size, digest = self.message.size, self.message.digest
        row = (number, RELEASED, received, text, size, digest, now - self.age)
        work = Work(envelope(self.envelope), self.message, ())
        return Insert(row, body, [*map(_fresh, self.rows)], work)

    def settle(self, ledger: Ledger) -> None:
        """
        Its recipients are what they were (in the transaction that has inserted them).
        """
        rows = [_shifted(row, ledger.now) for row in self.rows]
        ledger.save(rows)
        dues: dict[str, float] = {}
        for row in rows:
            if row.status == QUEUED:
                dues[row.destination] = min(row.due, dues.get(row.destination, row.due))
        ledger.waitFor(dues)


def _shifted(row: QueueRow, seconds: float) -> QueueRow:
    return attrs.evolve(
        row,
        owner=None,
        due=row.due + seconds,
        expires=None if row.expires is None else row.expires + seconds,
        notice=None if row.notice is None else row.notice + seconds,
    )


def _fresh(row: QueueRow) -> tuple[Value, ...]:
    """
    The columns of a recipient that is inserted.
    """
    to = row.delivery, row.recipient, row.marks, row.refusal
    return (row.message, row.seq, LEASED, 0.0, None, *to)


class QueueEnd(Protocol):
    """
    A store that no server has meanwhile.
    """

    def numbers(self, after: int, limit: int) -> list[int]:
        """
        The numbers of its first messages behind one.
        """

    def take(self, number: int) -> Carried:
        """
        @raise ValueError: it is damaged.
        @raise OSError: its content cannot be read.
        """

    def known(self, number: int) -> tuple[int, bytes] | None:
        """
        The size and the digest of a message that it has.
        """

    def put(self, carried: Carried) -> None:
        """
        Have a message, durably.
        """

    def remove(self, number: int) -> None:
        """
        It is elsewhere.
        """


def move(source: QueueEnd, target: QueueEnd) -> Iterator[tuple[int, str]]:
    """
    @return: of each message why it stays; empty where it was moved.
    @raise StoreAway: one of them is not there any longer.
    """
    after = -1
    while numbers := source.numbers(after, _SLICE):
        for number in numbers:
            yield number, _carried(source, target, number)
        after = numbers[-1]


def _carried(source: QueueEnd, target: QueueEnd, number: int) -> str:
    try:
        carried = source.take(number)
        wrong = verify(carried.message)
        known = target.known(number)
        if wrong:
            return wrong
        if known is None:
            target.put(carried)
        elif known != (carried.message.size, carried.message.digest):
            return "another message has its id there"
        source.remove(number)
    except (StoreAway, OutcomeUnknown):
        raise
    except (ValueError, OSError, SpoolError) as error:
        return str(error)
    return ""
