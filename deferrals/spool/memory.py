"""
A spool without a disk, for tests and for trying things out: it keeps the
contract of L{ISpool<deferrals.interfaces.ISpool>} except that nothing survives
the process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import IMessage, ISpool, MailKind, Turn, Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import LEASE_SECONDS, Disposition, Reschedule
from deferrals.model.envelope import Envelope
from deferrals.model.ids import newSpoolNumber
from deferrals.spool import rules
from deferrals.spool.batch import Insert
from deferrals.spool.claims import Claims, free
from deferrals.spool.ledger import HistoryEntry, Ledger, Place, Stored
from deferrals.spool.message import BodyWriter, Message, ownMessage
from deferrals.spool.outcomes import Outcomes, backOff
from deferrals.spool.rows import (
    ENDED,
    LEASED,
    QUEUED,
    RELEASED,
    STAGED,
    Lease,
    QueueRow,
    freshRow,
    insertion,
    kind,
)

_T = TypeVar("_T")
_P = ParamSpec("_P")


@attrs.define
class _Entry:
    """
    A message.
    """

    envelope: str
    work: Work
    released: bool
    since: float
    rows: dict[int, QueueRow]


@attrs.define
class _Destination:
    ready: float
    gate: float = 0.0


@attrs.define
class Memory:
    """
    What is in the queue.  Nothing of it survives the process.
    """

    identity: str = attrs.field(factory=newSpoolNumber)
    entries: dict[int, _Entry] = attrs.field(factory=dict)
    destinations: dict[str, _Destination] = attrs.field(factory=dict)


@attrs.define
class MemoryLedger(Ledger):
    """
    What is found there, loaded and saved.
    """

    memory: Memory
    now: float
    owner: str

    # Recipients.

    def rows(self, number: int, seqs: Collection[int] | None = None) -> list[QueueRow]:
        entry = self.memory.entries.get(number)
        found = {} if entry is None else entry.rows
        return [found[seq] for seq in sorted(found) if seqs is None or seq in seqs]

    def save(self, rows: Sequence[QueueRow]) -> None:
        for row in rows:
            self.memory.entries[row.message].rows[row.seq] = row

    def drop(self, rows: Sequence[QueueRow]) -> None:
        for row in rows:
            del self.memory.entries[row.message].rows[row.seq]

    def all(self) -> list[QueueRow]:
        """
        Whatever is there.
        """
        return [row for entry in self.memory.entries.values() for row in entry.rows.values()]

    def endedLeases(self, limit: int) -> list[QueueRow]:
        return [row for row in self.all() if self._isEnded(row)][:limit]

    def _isEnded(self, row: QueueRow) -> bool:
        isReleased = self.memory.entries[row.message].released
        return isReleased and row.status == LEASED and row.due <= self.now

    def due(self, rooms: Mapping[str, int]) -> list[QueueRow]:
        return [row for name, room in rooms.items() for row in self._taken(name, room)]

    def _taken(self, name: str, messages: int) -> list[QueueRow]:
        rows = self._dueAt(name)
        first = list(dict.fromkeys(row.message for row in rows))[:messages]
        return [row for number in first for row in self.rows(number) if row in rows]

    def _dueAt(self, name: str) -> list[QueueRow]:
        rows = [row for row in self._waitingAt(name) if row.due <= self.now]
        return sorted(rows, key=lambda row: (row.due, row.message, row.seq))

    def _waitingAt(self, name: str) -> Iterator[QueueRow]:
        return (row for row in self.all() if row.status == QUEUED and row.destination == name)

    def telling(self, limit: int) -> list[int]:
        found = (row for row in self.all() if rules.told(row, self.owner, self.now))
        return list(dict.fromkeys(row.message for row in found))[:limit]

    # Messages.

    def since(self, number: int) -> float | None:
        entry = self.memory.entries.get(number)
        return None if entry is None else entry.since

    def isStaged(self, number: int) -> bool:
        entry = self.memory.entries.get(number)
        return entry is not None and not entry.released

    def messages(self, numbers: Collection[int]) -> Mapping[int, Stored]:
        return {one: self._stored(one) for one in numbers if one in self.memory.entries}

    def _stored(self, number: int) -> Stored:
        entry = self.memory.entries[number]
        message, received = entry.work.message, entry.work.envelope.received
        expires = [row.expires for row in entry.rows.values() if row.expires is not None]
        return Stored(
            (number, received, entry.envelope),
            message.size,
            message.digest,
            entry.since,
            min(expires, default=None),
            len(entry.rows),
        )

    def content(self, number: int, size: int, digest: bytes) -> Message:
        return ownMessage(self.memory.entries[number].work.message)

    def insert(self, inserts: Sequence[Insert]) -> None:
        for insert in inserts:
            _, state, _, envelope, *_ = insert.message
            found = {row.seq: row for row in map(freshRow, insert.recipients)}
            entry = _Entry(str(envelope), insert.work, state == RELEASED, self.now, found)
            self.memory.entries[insert.number] = entry

    def leave(self, number: int) -> bool:
        entry = self.memory.entries.get(number)
        if entry is None or not entry.rows:
            self.memory.entries.pop(number, None)
            return True
        return False

    def tell(self, entries: Sequence[HistoryEntry]) -> None:
        pass  # there is no operator who would read it

    # Destinations.

    def _places(self) -> list[Place]:
        known = self.memory.destinations.items()
        return sorted((one.ready, name) for name, one in known if one.ready <= self.now)

    def ready(self, limit: int) -> list[str]:
        return [name for _, name in self._places()][:limit]

    def asked(self, names: Collection[str]) -> list[str]:
        return [name for _, name in self._places() if name in names]

    def places(self, after: Place, limit: int) -> list[Place]:
        return [place for place in self._places() if place > after][:limit]

    def kinds(self, name: str, limit: int) -> tuple[MailKind, ...]:
        entries = self.memory.entries
        found = [(row.delivery, entries[row.message].envelope) for row in self._dueAt(name)]
        return tuple(dict.fromkeys(kind(*one) for one in found[:limit]))

    def waitFor(self, dues: Mapping[str, float]) -> None:
        for name, due in dues.items():
            known = self.memory.destinations.setdefault(name, _Destination(due))
            known.ready = max(known.gate, min(known.ready, due))

    def hurry(self, name: str) -> None:
        known = self.memory.destinations.get(name)
        if known is not None:
            known.gate = 0.0
        self.waitFor({name: self.now})

    def served(self, names: Collection[str]) -> None:
        for name in names:
            self._served(name)

    def _served(self, name: str) -> None:
        known, first = self.memory.destinations[name], self._first(name)
        if first is not None:
            known.ready = max(known.gate, first, self.now)
        elif known.gate <= self.now:
            del self.memory.destinations[name]

    def _first(self, name: str) -> float | None:
        return min((row.due for row in self._waitingAt(name)), default=None)

    def shut(self, name: str, until: float) -> None:
        known = self.memory.destinations.setdefault(name, _Destination(until))
        known.gate, known.ready = until, max(known.ready, until)

    def reopen(self, name: str) -> None:
        first = self._first(name)
        if first is None:
            self.memory.destinations.pop(name, None)
        elif name in self.memory.destinations:
            self.memory.destinations[name] = _Destination(max(first, self.now))


@implementer(ISpool)
class MemorySpool:
    """
    A spool in memory, which is gone with the process.

    @param memory: what is in it, where several spools of a process share that.
    @ivar full: makes L{stage} fail like a full disk.
    """

    def __init__(self, reactor: IReactorTime, memory: Memory | None = None) -> None:
        self._reactor = reactor
        self._memory = memory or Memory()
        self._notes: dict[str, tuple[str, float]] = {}
        self.identity = self._memory.identity
        self.owner = newSpoolNumber()
        self.full = False

    @property
    def _ledger(self) -> MemoryLedger:
        """
        What is in it, now.
        """
        return MemoryLedger(self._memory, self._reactor.seconds(), self.owner)

    isThere = True

    def open(self) -> Deferred[None]:
        ledger = self._ledger
        self.end()
        rows = [row for row in ledger.all() if row.status in (QUEUED, ENDED)]
        ledger.save([attrs.evolve(row, due=ledger.now) for row in rows])
        for name in self._memory.destinations:
            self._memory.destinations[name] = _Destination(ledger.now)
        return succeed(None)

    def end(self) -> None:
        """
        This owner is dead: what it had is due for all others.
        """
        ledger = self._ledger
        rows = [row for row in ledger.all() if row.owner == self.owner]
        for row in rows:
            self._memory.entries[row.message].released = True
        ended = [attrs.evolve(row, due=ledger.now) for row in rows if row.status == ENDED]
        ledger.save(ended)
        free(ledger, [row for row in rows if row.status == LEASED])

    def close(self) -> Deferred[None]:
        return succeed(None)

    def newBody(self, transaction: int) -> BodyWriter:
        """
        Its content does not go to a file, whatever its size.
        """
        return _MemoryWriter("", _noThread, lambda: None)

    def stage(
        self, envelope: Envelope, message: IMessage, addressees: Sequence[Addressee]
    ) -> Deferred[Work]:
        if self.full:
            return fail(SpoolError("full"))
        insert = self._insertion(envelope, message, addressees, STAGED)
        self._ledger.insert([insert])
        return succeed(insert.work)

    def _insertion(
        self, envelope: Envelope, message: IMessage, addressees: Sequence[Addressee], state: int
    ) -> Insert:
        now = self._reactor.seconds()
        lease = Lease(self.owner, now + LEASE_SECONDS)
        own = ownMessage(message)
        return insertion(envelope, own, addressees, state=state, now=now, lease=lease)

    def release(self, work: Work, later: Mapping[Addressee, Reschedule]) -> None:
        entry = self._memory.entries.get(work.envelope.transaction)
        if entry is not None and any(row.owner == self.owner for row in entry.rows.values()):
            entry.released = True
        if later:
            self.record(work, later)

    def abandon(self, work: Work) -> None:
        ledger, number = self._ledger, work.envelope.transaction
        ledger.drop([row for row in ledger.rows(number) if rules.isOurs(row, self.owner)])
        ledger.leave(number)

    def claim(
        self,
        limit: int,
        shares: Mapping[str, int],
        share: int,
        only: Collection[str] | None = None,
    ) -> Deferred[list[Work]]:
        return succeed(Claims(self._ledger).due(limit, shares, share, only))

    def turns(self, after: Hashable) -> Deferred[tuple[list[Turn], Hashable]]:
        place = after if isinstance(after, tuple) else None
        return succeed(Claims(self._ledger).turns(place))

    def renew(self, works: Iterable[Work]) -> None:
        ledger = self._ledger
        for work in works:
            found = ledger.rows(work.envelope.transaction, {one.seq for one in work.addressees})
            renewed = [rules.renewed(row, ledger.owner, ledger.now) for row in found]
            ledger.save([row for row in renewed if row is not None])

    def check(self, work: Work) -> Deferred[None] | None:
        return None

    def record(
        self,
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        messages: Sequence[tuple[Envelope, IMessage, Sequence[Addressee]]] = (),
    ) -> Deferred[list[Work]]:
        inserts = [self._insertion(*one, RELEASED) for one in messages]
        try:
            outcomes = Outcomes(self._ledger)
            outcomes.record(work.envelope.transaction, dispositions.items(), inserts)
        except SpoolError:
            return fail()
        return succeed([insert.work for insert in inserts])

    def backOff(self, destination: str, seconds: float) -> None:
        backOff(self._ledger, destination, seconds)

    def notices(self, limit: int, transaction: int | None = None) -> Deferred[list[Work]]:
        return succeed(Claims(self._ledger).notices(limit, transaction))

    def notes(self) -> Deferred[dict[str, str]]:
        now = self._reactor.seconds()
        return succeed({name: value for name, (value, end) in self._notes.items() if end > now})

    def note(self, name: str, value: str, seconds: float) -> None:
        self._notes[name] = (value, self._reactor.seconds() + seconds)

    def forget(self, name: str) -> None:
        self._notes.pop(name, None)

    def waiting(self) -> Deferred[tuple[int, int]]:
        entries = self._memory.entries.values()
        return succeed((len(entries), sum(len(entry.rows) for entry in entries)))


class _MemoryWriter(BodyWriter):
    @property
    def congested(self) -> bool:
        return False  # there is no disk that could be behind

    def _flush(self) -> None:
        pass

    def finish(self) -> Deferred[IMessage]:
        body = b"".join(self._chunks)
        self._digest.update(body)
        return succeed(Message(len(body), self._digest.digest(), body, None, body))


def _noThread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
    raise AssertionError("the memory spool uses no threads")
