"""
A spool without a disk, for tests and for trying things out: it keeps the
contract of L{ISpool<deferrals.interfaces.ISpool>} except that nothing survives
the process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from deferrals.errors import SpoolError
from deferrals.interfaces import ISpool
from deferrals.model.delivery import Addressee, Work
from deferrals.model.envelope import Envelope
from deferrals.model.verdict import Outcome, Retry
from deferrals.spool.message import BodyWriter, Message

LEASE_SECONDS = 300.0


@attrs.define
class _Entry:
    work: Work
    released: bool
    due: dict[int, float]
    left: dict[int, Addressee]


@implementer(ISpool)
class MemorySpool:
    """
    See L{ISpool}.

    @ivar full: makes L{stage} fail like a full disk.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._entries: dict[int, _Entry] = {}
        self.full = False

    def open(self) -> Deferred[None]:
        """
        See L{ISpool.open}.
        """
        now = self._reactor.seconds()
        for entry in self._entries.values():
            entry.released = True
            entry.due = dict.fromkeys(entry.due, now)
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
        return _MemoryWriter("", _noThread)

    def stage(
        self, envelope: Envelope, message: Message, addressees: Sequence[Addressee]
    ) -> Deferred[Work]:
        """
        See L{ISpool.stage}.
        """
        if self.full:
            return fail(SpoolError("full"))
        work = Work(envelope, message, tuple(addressees))
        due = self._reactor.seconds() + LEASE_SECONDS
        left = {addressee.seq: addressee for addressee in addressees}
        self._entries[envelope.transaction] = _Entry(work, False, dict.fromkeys(left, due), left)
        return succeed(work)

    def release(self, work: Work, keep: bool) -> None:
        """
        See L{ISpool.release}.
        """
        entry = self._entries[work.envelope.transaction]
        entry.released = True
        if not keep:
            entry.due = dict.fromkeys(entry.due, self._reactor.seconds())

    def abandon(self, work: Work) -> None:
        """
        See L{ISpool.abandon}.
        """
        self._entries.pop(work.envelope.transaction, None)

    def claim(self, limit: int) -> Deferred[list[Work]]:
        """
        See L{ISpool.claim}.
        """
        now = self._reactor.seconds()
        claimed = []
        for entry in list(self._entries.values()):
            due = [seq for seq, when in entry.due.items() if when <= now]
            if entry.released and due and len(claimed) < limit:
                entry.due.update(dict.fromkeys(due, now + LEASE_SECONDS))
                addressees = tuple(entry.left[seq] for seq in due)
                claimed.append(attrs.evolve(entry.work, addressees=addressees))
        return succeed(claimed)

    def record(
        self, work: Work, outcomes: Mapping[Addressee, Outcome], retryAt: float
    ) -> Deferred[None]:
        """
        See L{ISpool.record}.
        """
        entry = self._entries[work.envelope.transaction]
        for addressee, outcome in outcomes.items():
            entry.due.pop(addressee.seq, None)
            if isinstance(outcome, Retry):
                entry.due[addressee.seq] = retryAt
                entry.left[addressee.seq] = attrs.evolve(addressee, attempts=addressee.attempts + 1)
            else:
                entry.left.pop(addressee.seq, None)
        if not entry.left:
            del self._entries[work.envelope.transaction]
        return succeed(None)

    def waiting(self) -> Deferred[tuple[int, int]]:
        """
        See L{ISpool.waiting}.
        """
        return succeed((len(self._entries), sum(len(e.left) for e in self._entries.values())))


class _MemoryWriter(BodyWriter):
    def _flush(self) -> None:
        pass

    def finish(self) -> Deferred[Message]:
        body = b"".join(self._chunks)
        self._digest.update(body)
        return succeed(Message(len(body), self._digest.digest(), body, None, body))


def _noThread(function: Any, *args: Any) -> Deferred[Any]:
    raise AssertionError("the memory spool uses no threads")
