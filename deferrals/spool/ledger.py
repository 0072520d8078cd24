"""
What a store of the queue finds, loads and saves: the seam between the rules, which all
stores share, and their SQL.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

import attrs

from deferrals.interfaces import MailKind
from deferrals.spool.batch import Insert, Value
from deferrals.spool.message import Message
from deferrals.spool.rows import QueueRow

#: Where a look at destinations has ended: when that one was due, and its name.
Place: TypeAlias = tuple[float, str]


@attrs.frozen
class Stored:
    """
    What a store has of a message.

    @ivar envelope: the columns of L{ENVELOPE<deferrals.spool.rows.ENVELOPE>}.
    @ivar since: when it became a part of the queue.
    @ivar expires: when the first of its recipients is given up, once that is known.
    @ivar recipients: how many it has.
    """

    envelope: tuple[Value, ...]
    size: int
    digest: bytes
    since: float
    expires: float | None
    recipients: int


@attrs.frozen
class HistoryEntry:
    """
    An entry in the history of a message.
    """

    message: int
    seq: int
    event: str
    reply: str = ""
    host: str = ""


class Ledger(Protocol):
    """
    The queue within one transaction of a store.  Rows that it gives are locked: no other
    transaction changes them before this one has ended.

    @ivar now: the store's time.
    @ivar owner: on whose behalf it is changed.
    """

    now: float
    owner: str

    # Recipients.

    def rows(self, number: int, seqs: Collection[int] | None = None) -> list[QueueRow]:
        """
        @param seqs: which of a message's recipients; C{None} for all.
        """

    def save(self, rows: Sequence[QueueRow]) -> None:
        """
        They have become that.
        """

    def drop(self, rows: Sequence[QueueRow]) -> None:
        """
        They leave.
        """

    def endedLeases(self, limit: int) -> list[QueueRow]:
        """
        Recipients of released messages whose leases have run out.
        """

    def due(self, rooms: Mapping[str, int]) -> list[QueueRow]:
        """
        The recipients that are due at some destinations, of the messages that have waited
        longest for each, those of one destination and message together.

        @param rooms: of how many messages at most, by the destination's name.
        """

    def telling(self, limit: int) -> list[int]:
        """
        Messages of whose recipients some are to be told of now.
        """

    # Messages.

    def since(self, number: int) -> float | None:
        """
        When a message became a part of the queue; C{None} if it is not there.
        """

    def isStaged(self, number: int) -> bool:
        """
        Whether it is known that a message is its sender's still.
        """

    def messages(self, numbers: Collection[int]) -> Mapping[int, Stored]:
        """
        What is known of messages: of those that are there.
        """

    def content(self, number: int, size: int, digest: bytes) -> Message:
        """
        @raise ValueError: there is none.
        @raise OSError: it cannot be read.
        """

    def insert(self, inserts: Sequence[Insert]) -> None:
        """
        New messages.
        """

    def leave(self, number: int) -> bool:
        """
        Remove a message if it has no recipients.

        @return: whether it has none.
        """

    def tell(self, entries: Sequence[HistoryEntry]) -> None:
        """
        Enter something into the history.
        """

    # Destinations.

    def ready(self, limit: int) -> list[str]:
        """
        The destinations at which something may be done, those first that have waited
        longest.
        """

    def asked(self, names: Collection[str]) -> list[str]:
        """
        The same, of certain destinations.
        """

    def places(self, after: Place, limit: int) -> list[Place]:
        """
        The destinations at which something may be done, behind one of them.
        """

    def kinds(self, name: str, limit: int) -> tuple[MailKind, ...]:
        """
        What is due first at a destination.

        @param limit: how many recipients are looked at.
        """

    def waitFor(self, dues: Mapping[str, float]) -> None:
        """
        Recipients wait for these destinations now.

        @param dues: when the first of them is due.
        """

    def hurry(self, name: str) -> None:
        """
        A recipient is due at a destination at once, whatever that has done.
        """

    def served(self, names: Collection[str]) -> None:
        """
        Destinations have had their turn: each is behind the others now, or is forgotten
        where no recipient waits for it.
        """

    def shut(self, name: str, until: float) -> None:
        """
        A destination is left alone.
        """

    def reopen(self, name: str) -> None:
        """
        It is left alone no longer; it is forgotten where no recipient waits for it.
        """
