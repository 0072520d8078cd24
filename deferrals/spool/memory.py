"""
A spool without a disk, for tests and for trying things out: it keeps the
contract of L{ISpool<deferrals.interfaces.ISpool>} except that nothing survives
the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import IMessage, ISpool, Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import (
    LEASE_SECONDS,
    TELL_SECONDS,
    DelayNotified,
    Disposition,
    NotifyThenRemove,
    Remove,
    Reschedule,
    Undeliverable,
)
from deferrals.model.envelope import Envelope
from deferrals.model.ids import newSpoolNumber
from deferrals.spool.message import BodyWriter, Message

_T = TypeVar("_T")
_P = ParamSpec("_P")


@attrs.define
class _Row:
    """
    One recipient in the queue.
    """

    addressee: Addressee
    due: float
    status: str = "active"
    destination: str = ""
    expires: float | None = None
    notice: float | None = None
    warned: bool = False


@attrs.define
class _Entry:
    work: Work
    released: bool
    since: float
    rows: dict[int, _Row]

    @property
    def expireSeconds(self) -> float | None:
        """The age at which the first of its recipients is given up."""
        expires = [row.expires for row in self.rows.values() if row.expires is not None]
        return min(expires) - self.since if expires else None


@implementer(ISpool)
class MemorySpool:
    """
    A spool in memory, which is gone with the process.

    @ivar full: makes L{stage} fail like a full disk.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._entries: dict[int, _Entry] = {}
        self._gates: dict[str, float] = {}
        self._served: dict[str, int] = {}
        self._notes: dict[str, tuple[str, float]] = {}
        self.identity = newSpoolNumber()
        self.full = False

    def open(self) -> Deferred[None]:
        now = self._reactor.seconds()
        self._gates.clear()
        for entry in self._entries.values():
            entry.released = True
            for row in entry.rows.values():
                row.due = now
                if row.status == "active":
                    row.status = "queued"
        return succeed(None)

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
        return succeed(self._enter(envelope, message, addressees, False))

    def _enter(
        self, envelope: Envelope, message: IMessage, addressees: Sequence[Addressee], ours: bool
    ) -> Work:
        now = self._reactor.seconds()
        work = Work(envelope, message, tuple(addressees), True)
        rows = {one.seq: _Row(one, now + LEASE_SECONDS) for one in addressees}
        self._entries[envelope.transaction] = _Entry(work, ours, now, rows)
        return work

    def release(self, work: Work, later: Mapping[Addressee, Reschedule]) -> None:
        self._entries[work.envelope.transaction].released = True
        if later:
            self.record(work, later)

    def abandon(self, work: Work) -> None:
        self._entries.pop(work.envelope.transaction, None)

    def claim(self, limit: int, shares: Mapping[str, int], share: int) -> Deferred[list[Work]]:
        now = self._reactor.seconds()
        due: dict[str, list[tuple[_Entry, list[_Row]]]] = {}
        for entry in self._entries.values():
            for name, rows in self._dueOf(entry, now).items():
                due.setdefault(name, []).append((entry, rows))
        claimed: list[Work] = []
        for name in sorted(due, key=lambda name: self._served.get(name, 0)):
            for entry, rows in due[name][: shares.get(name, share)]:
                if len(claimed) < limit:
                    self._served[name] = max([0, *self._served.values()]) + 1
                    claimed.append(self._lease(entry, rows, now))
        return succeed(claimed)

    def _dueOf(self, entry: _Entry, now: float) -> dict[str, list[_Row]]:
        found: dict[str, list[_Row]] = {}
        for row in entry.rows.values():
            gate = self._gates.get(row.destination, 0.0)
            waits = row.status == "active" or (row.status == "queued" and gate <= now)
            if entry.released and waits and row.due <= now:
                found.setdefault(row.destination, []).append(row)
        return found

    def _lease(self, entry: _Entry, rows: list[_Row], now: float) -> Work:
        for row in rows:
            row.status, row.due = "active", now + LEASE_SECONDS
        return attrs.evolve(
            entry.work,
            addressees=tuple(row.addressee for row in rows),
            whole=False,
            ageSeconds=now - entry.since,
            expireSeconds=entry.expireSeconds,
        )

    def renew(self, works: Iterable[Work]) -> None:
        for work in works:
            for row in self._rowsOf(work):
                row.due = self._reactor.seconds() + LEASE_SECONDS

    def _rowsOf(self, work: Work) -> Iterator[_Row]:
        entry = self._entries.get(work.envelope.transaction)
        rows = {} if entry is None else entry.rows
        for addressee in work.addressees:
            if addressee.seq in rows:
                yield rows[addressee.seq]

    def check(self, work: Work) -> Deferred[None] | None:
        return None

    def record(
        self,
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        messages: Sequence[tuple[Envelope, IMessage, Sequence[Addressee]]] = (),
    ) -> Deferred[list[Work]]:
        number = work.envelope.transaction
        entry = self._entries.get(number)
        if entry is not None:
            for addressee, disposition in dispositions.items():
                if addressee.seq in entry.rows:
                    self._dispose(entry, addressee.seq, disposition)
            if not entry.rows:
                del self._entries[number]
        return succeed([self._enter(*message, True) for message in messages])

    def _dispose(self, entry: _Entry, seq: int, disposition: Disposition) -> None:
        now = self._reactor.seconds()
        row = entry.rows[seq]
        if isinstance(disposition, Remove):
            del entry.rows[seq]
        elif isinstance(disposition, Reschedule):
            row.status = "held" if disposition.isHeld else "queued"
            row.due = now + disposition.seconds
            row.destination = disposition.destination
            row.expires = row.notice = entry.since + disposition.expireSeconds
            if disposition.warnSeconds and not row.warned:
                row.notice = min(entry.since + disposition.warnSeconds, row.expires)
            row.addressee = attrs.evolve(
                row.addressee,
                attempts=row.addressee.attempts + disposition.attempted,
                reply=disposition.reply or row.addressee.reply,
                host=disposition.host or row.addressee.host,
            )
        elif isinstance(disposition, DelayNotified):
            row.warned, row.notice = True, row.expires
        elif isinstance(disposition, NotifyThenRemove):
            row.status, row.due, row.notice = "ended", now + TELL_SECONDS, None
            row.addressee = attrs.evolve(
                row.addressee,
                action=disposition.action,
                reply=disposition.reply,
                host=disposition.host,
            )
        elif isinstance(disposition, Undeliverable):
            row.status, row.notice = "stuck", now + disposition.keepSeconds

    def backOff(self, destination: str, seconds: float) -> None:
        self._gates[destination] = self._reactor.seconds() + seconds

    def notices(self, limit: int, transaction: int | None = None) -> Deferred[list[Work]]:
        now = self._reactor.seconds()
        works: list[Work] = []
        for number, entry in self._entries.items():
            told = []
            for row in entry.rows.values():
                if transaction in (None, number) and len(works) < limit:
                    told += self._told(row, now, transaction is not None)
            if told:
                works.append(
                    attrs.evolve(
                        entry.work,
                        addressees=tuple(told),
                        whole=False,
                        ageSeconds=now - entry.since,
                        expireSeconds=entry.expireSeconds,
                    )
                )
        return succeed(works)

    def _told(self, row: _Row, now: float, anyway: bool) -> list[Addressee]:
        if row.status == "ended" and (anyway or row.due <= now):
            row.due = now + LEASE_SECONDS
            return [row.addressee]
        if row.notice is None or row.notice > now:
            return []
        if row.status == "stuck":
            row.notice = now + LEASE_SECONDS
            return [attrs.evolve(row.addressee, action="stuck")]
        if row.status != "queued":
            return []
        assert row.expires is not None
        if row.expires <= now:
            row.status, row.due = "active", now + LEASE_SECONDS
            return [attrs.evolve(row.addressee, action="expired")]
        row.notice = now + LEASE_SECONDS
        return [attrs.evolve(row.addressee, action="delayed")]

    def notes(self) -> Deferred[dict[str, str]]:
        now = self._reactor.seconds()
        return succeed({name: value for name, (value, end) in self._notes.items() if end > now})

    def note(self, name: str, value: str, seconds: float) -> None:
        self._notes[name] = (value, self._reactor.seconds() + seconds)

    def forget(self, name: str) -> None:
        self._notes.pop(name, None)

    def waiting(self) -> Deferred[tuple[int, int]]:
        return succeed((len(self._entries), sum(len(e.rows) for e in self._entries.values())))


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
