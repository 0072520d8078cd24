"""
A spool without a disk, for tests and for trying things out: it keeps the
contract of L{ISpool<deferrals.interfaces.ISpool>} except that nothing survives
the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import ISpool, Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import (
    DelayNotified,
    Disposition,
    NotifyThenRemove,
    Remove,
    Reschedule,
    Undeliverable,
)
from deferrals.model.envelope import Envelope
from deferrals.spool.message import BodyWriter, Message

LEASE_SECONDS = 300.0
TELL_SECONDS = 60.0


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
    places: dict[int, _Row]


@implementer(ISpool)
class MemorySpool:
    """
    See L{ISpool}.

    @ivar full: makes L{stage} fail like a full disk.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._entries: dict[int, _Entry] = {}
        self._gates: dict[str, float] = {}
        self._turns: dict[str, int] = {}
        self._notes: dict[str, tuple[str, float]] = {}
        self.full = False

    def open(self) -> Deferred[None]:
        """
        See L{ISpool.open}.
        """
        now = self._reactor.seconds()
        self._gates.clear()
        for entry in self._entries.values():
            entry.released = True
            for place in entry.places.values():
                place.due = now
                if place.status == "active":
                    place.status = "queued"
        return succeed(None)

    def close(self) -> Deferred[None]:
        """
        See L{ISpool.close}.
        """
        return succeed(None)

    def newBody(self, transaction: int) -> BodyWriter:
        """
        See L{ISpool.newBody}; nothing goes to a file.
        """
        return _MemoryWriter("", _noThread, lambda: None)

    def stage(
        self, envelope: Envelope, message: Message, addressees: Sequence[Addressee]
    ) -> Deferred[Work]:
        """
        See L{ISpool.stage}.
        """
        if self.full:
            return fail(SpoolError("full"))
        return succeed(self._enter(envelope, message, addressees, False))

    def _enter(
        self, envelope: Envelope, message: Message, addressees: Sequence[Addressee], ours: bool
    ) -> Work:
        now = self._reactor.seconds()
        work = Work(envelope, message, tuple(addressees), True)
        places = {one.seq: _Row(one, now + LEASE_SECONDS) for one in addressees}
        self._entries[envelope.transaction] = _Entry(work, ours, now, places)
        return work

    def release(self, work: Work, later: Mapping[Addressee, Reschedule]) -> None:
        """
        See L{ISpool.release}.
        """
        self._entries[work.envelope.transaction].released = True
        if later:
            self.record(work, later)

    def abandon(self, work: Work) -> None:
        """
        See L{ISpool.abandon}.
        """
        self._entries.pop(work.envelope.transaction, None)

    def claim(self, limit: int, shares: Mapping[str, int], share: int) -> Deferred[list[Work]]:
        """
        See L{ISpool.claim}.
        """
        now = self._reactor.seconds()
        due: dict[str, list[tuple[_Entry, list[_Row]]]] = {}
        for entry in self._entries.values():
            for name, places in self._dueOf(entry, now).items():
                due.setdefault(name, []).append((entry, places))
        claimed: list[Work] = []
        for name in sorted(due, key=lambda name: self._turns.get(name, 0)):
            for entry, places in due[name][: shares.get(name, share)]:
                if len(claimed) < limit:
                    self._turns[name] = max([0, *self._turns.values()]) + 1
                    claimed.append(self._lease(entry, places, now))
        return succeed(claimed)

    def _dueOf(self, entry: _Entry, now: float) -> dict[str, list[_Row]]:
        found: dict[str, list[_Row]] = {}
        for place in entry.places.values():
            gate = self._gates.get(place.destination, 0.0)
            waits = place.status == "active" or (place.status == "queued" and gate <= now)
            if entry.released and waits and place.due <= now:
                found.setdefault(place.destination, []).append(place)
        return found

    def _lease(self, entry: _Entry, places: list[_Row], now: float) -> Work:
        for place in places:
            place.status, place.due = "active", now + LEASE_SECONDS
        return attrs.evolve(
            entry.work,
            addressees=tuple(place.addressee for place in places),
            whole=False,
            ageSeconds=now - entry.since,
        )

    def renew(self, works: Sequence[Work]) -> None:
        """
        See L{ISpool.renew}.
        """
        for work in works:
            for place in self._placesOf(work):
                place.due = self._reactor.seconds() + LEASE_SECONDS

    def _placesOf(self, work: Work) -> Iterator[_Row]:
        entry = self._entries.get(work.envelope.transaction)
        for addressee in work.addressees if entry is not None else ():
            if addressee.seq in entry.places:
                yield entry.places[addressee.seq]

    def check(self, work: Work) -> Deferred[None] | None:
        """
        See L{ISpool.check}.
        """
        return None

    def record(
        self,
        work: Work,
        dispositions: Mapping[Addressee, Disposition],
        messages: Sequence[tuple[Envelope, Message, Sequence[Addressee]]] = (),
    ) -> Deferred[list[Work]]:
        """
        See L{ISpool.record}.
        """
        number = work.envelope.transaction
        entry = self._entries[number]
        for addressee, disposition in dispositions.items():
            if isinstance(disposition, Remove):
                entry.places.pop(addressee.seq, None)
            elif addressee.seq in entry.places:
                self._stands(entry, entry.places[addressee.seq], disposition)
        if not entry.places:
            del self._entries[number]
        return succeed([self._enter(*message, True) for message in messages])

    def _stands(self, entry: _Entry, place: _Row, disposition: Disposition) -> None:
        now = self._reactor.seconds()
        if isinstance(disposition, Reschedule):
            place.status, place.due = "queued", now + disposition.seconds
            place.destination = disposition.destination
            place.expires = place.notice = entry.since + disposition.expireSeconds
            if disposition.warnSeconds and not place.warned:
                place.notice = min(entry.since + disposition.warnSeconds, place.expires)
            place.addressee = attrs.evolve(
                place.addressee,
                attempts=place.addressee.attempts + disposition.attempted,
                reply=disposition.reply or place.addressee.reply,
                host=disposition.host or place.addressee.host,
            )
        elif isinstance(disposition, DelayNotified):
            place.warned, place.notice = True, place.expires
        elif isinstance(disposition, NotifyThenRemove):
            place.status, place.due, place.notice = "ended", now + TELL_SECONDS, None
            place.addressee = attrs.evolve(
                place.addressee,
                action=disposition.action,
                reply=disposition.reply,
                host=disposition.host,
            )
        elif isinstance(disposition, Undeliverable):
            place.status, place.notice = "stuck", now + disposition.keepSeconds

    def backOff(self, destination: str, seconds: float) -> None:
        """
        See L{ISpool.backOff}.
        """
        self._gates[destination] = self._reactor.seconds() + seconds

    def notices(self, limit: int, transaction: int | None = None) -> Deferred[list[Work]]:
        """
        See L{ISpool.notices}.
        """
        now = self._reactor.seconds()
        works = []
        for number, entry in self._entries.items():
            told = []
            for place in entry.places.values():
                if transaction in (None, number) and len(works) < limit:
                    told += self._told(place, now, transaction is not None)
            if told:
                expires = [p.expires for p in entry.places.values() if p.expires is not None]
                works.append(
                    attrs.evolve(
                        entry.work,
                        addressees=tuple(told),
                        whole=False,
                        ageSeconds=now - entry.since,
                        expireSeconds=min(expires) - entry.since if expires else None,
                    )
                )
        return succeed(works)

    def _told(self, place: _Row, now: float, anyway: bool) -> list[Addressee]:
        if place.status == "ended" and (anyway or place.due <= now):
            place.due = now + LEASE_SECONDS
            return [place.addressee]
        if place.notice is None or place.notice > now:
            return []
        if place.status == "stuck":
            place.notice = now + LEASE_SECONDS
            return [attrs.evolve(place.addressee, action="stuck")]
        if place.status != "queued":
            return []
        assert place.expires is not None
        if place.expires <= now:
            place.status, place.due = "active", now + LEASE_SECONDS
            return [attrs.evolve(place.addressee, action="expired")]
        place.notice = now + LEASE_SECONDS
        return [attrs.evolve(place.addressee, action="delayed")]

    def notes(self) -> Deferred[dict[str, str]]:
        """
        See L{ISpool.notes}.
        """
        now = self._reactor.seconds()
        return succeed({name: value for name, (value, end) in self._notes.items() if end > now})

    def note(self, name: str, value: str, seconds: float) -> None:
        """
        See L{ISpool.note}.
        """
        self._notes[name] = (value, self._reactor.seconds() + seconds)

    def forget(self, name: str) -> None:
        """
        See L{ISpool.forget}.
        """
        self._notes.pop(name, None)

    def waiting(self) -> Deferred[tuple[int, int]]:
        """
        See L{ISpool.waiting}.
        """
        return succeed((len(self._entries), sum(len(e.places) for e in self._entries.values())))


class _MemoryWriter(BodyWriter):
    def _flush(self) -> None:
        pass

    def finish(self) -> Deferred[Message]:
        body = b"".join(self._chunks)
        self._digest.update(body)
        return succeed(Message(len(body), self._digest.digest(), body, None, body))


def _noThread(function: Any, *args: Any) -> Deferred[Any]:
    raise AssertionError("the memory spool uses no threads")
