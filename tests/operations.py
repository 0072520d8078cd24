"""
Random sequences of what a spool is asked for, and of what an operator does with it: all
stores have to give the same results, and end in the same state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from deferrals.errors import SpoolError
from deferrals.interfaces import ISpool, Work
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
from deferrals.model.reply import Reply
from deferrals.spool.rows import QueueRow
from deferrals.testing import makeAddressees, makeEnvelope

#: Sequences that are tried, and how long each is.
SEQUENCES, STEPS = 400, 40

DESTINATIONS = ("", "mx a", "mx b", "mx c")

REPLIES = (None, Reply(451, "4.3.0", "later"), Reply(550, "5.1.1", "gone"))

COMMANDS = ("retry", "hold", "release", "remove")

#: What is told of one recipient: its message's place among all, and its number there.
Name = tuple[int, int]


@attrs.define
class Store:
    """
    A spool as a test has it.

    @ivar wait: gives the result of a Deferred.
    @ivar advance: lets so many seconds pass.
    @ivar operate: is an operator's command for recipients, by (message, recipient); it
        gives how many were changed, and how many are under way.
    @ivar rows: all recipients in it.
    @ivar began: its time at the beginning.
    """

    spool: ISpool
    wait: Callable[[Deferred[Any]], Any]
    advance: Callable[[float], object]
    operate: Callable[[str, Sequence[tuple[int, int]]], tuple[int, int]]
    rows: Callable[[], list[QueueRow]]
    began: float = 0.0


class RandomSequence:
    """
    One sequence, as its number makes it.

    @ivar seen: what the store has said.
    """

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._spool = store.spool
        self._random = random.Random(number)
        self._numbers: list[int] = []
        self._staged: list[Work] = []
        self._works: list[Work] = []
        self._told: list[Work] = []
        self.seen: list[Any] = []

    def run(self, steps: int = STEPS) -> list[Any]:
        """
        Do it all.

        @return: what was said, and what is left in the end.
        """
        kinds = (
            *[self._stage] * 3,
            *[self._release] * 3,
            self._abandon,
            *[self._claim] * 3,
            *[self._record] * 4,
            *[self._tell] * 2,
            self._answer,
            self._renew,
            self._backOff,
            self._turns,
            *[self._operate] * 2,
            *[self._wait] * 3,
            self._count,
        )
        for _ in range(steps):
            kind = self._random.choice(kinds)
            kind()
        self._wait()
        return [*self.seen, sorted(map(self._shown, self._store.rows()))]

    def _say(self, what: str, *more: Any) -> None:
        self.seen.append((what, *more))

    def _name(self, work: Work, addressee: Addressee) -> tuple[Any, ...]:
        place = self._numbers.index(work.envelope.transaction)
        shown = str(addressee.reply), addressee.host, addressee.action, addressee.attempts
        return place, addressee.seq, *shown

    def _names(self, work: Work) -> list[Any]:
        names = [self._name(work, one) for one in work.addressees]
        expires = None if work.expireSeconds is None else round(work.expireSeconds, 3)
        return [*names, round(work.ageSeconds, 3), expires, work.message.size]

    def _shown(self, row: QueueRow) -> tuple[Any, ...]:
        """
        A row without what differs from store to store.
        """
        times = [-1.0 if t is None else round(t - self._store.began, 3) for t in self._times(row)]
        place = self._numbers.index(row.message)
        values = [row.destination, row.attempts, bool(row.warned), row.action or ""]
        said = [row.reply or "", row.host or "", row.delivery, row.recipient, row.marks or ""]
        return (place, row.seq, row.status, row.owner is not None, *times, *values, *said)

    def _times(self, row: QueueRow) -> tuple[float | None, ...]:
        # what is held, ended for good or stuck has no use for a time to be tried again
        due = row.due if row.status in (0, 1, 3) else None
        return due, row.expires, row.notice

    def _stage(self) -> None:
        count = self._random.choice((1, 1, 1, 2, 3))
        envelope = makeEnvelope(self._random.choice(("", "a@b.example", "c@d.example")))
        self._numbers.append(envelope.transaction)
        writer = self._spool.newBody(envelope.transaction)
        writer.write(b"Subject: x\r\n\r\n" + b"x" * self._random.randrange(50))
        message = self._store.wait(writer.finish())
        addressees = makeAddressees(*(f"r{number}@b.example" for number in range(count)))
        self._staged.append(self._store.wait(self._spool.stage(envelope, message, addressees)))

    def _taken(self, works: list[Work]) -> Work | None:
        return works.pop(self._random.randrange(len(works))) if works else None

    def _release(self) -> None:
        work = self._taken(self._staged)
        if work is None:
            return
        later = {one: self._later() for one in work.addressees if self._random.random() < 0.4}
        self._spool.release(work, later)
        self._count()
        self._store.advance(1.0)  # that it is released is written a moment later
        self._count()
        mine = tuple(one for one in work.addressees if one not in later)
        if mine:
            self._works.append(attrs.evolve(work, addressees=mine, whole=not later))

    def _later(self) -> Reschedule:
        chance = self._random
        return Reschedule(
            chance.choice(DESTINATIONS),
            chance.choice((0.0, 1.0, 60.0, 400.0)),
            chance.choice((500.0, 1000.0, 5000.0)),
            chance.choice((0.0, 300.0, 2000.0)),
            chance.choice(REPLIES),
            chance.choice(("", "mx.example")),
            chance.random() < 0.8,
            chance.random() < 0.1,
        )

    def _abandon(self) -> None:
        work = self._taken(self._staged)
        if work is not None:
            self._spool.abandon(work)

    def _claim(self) -> None:
        chance = self._random
        shares = {name: chance.randrange(3) for name in DESTINATIONS if chance.random() < 0.2}
        only = None if chance.random() < 0.7 else chance.sample(DESTINATIONS, 2)
        share = chance.choice((1, 2, 10))
        works = self._store.wait(self._spool.claim(chance.choice((1, 5, 20)), shares, share, only))
        self._say("claimed", *map(self._names, works))
        self._works += works

    def _record(self) -> None:
        work = self._taken(self._works)
        if work is None:
            return
        some = [one for one in work.addressees if self._random.random() < 0.9]
        self._write(work, {one: self._disposition() for one in some})

    def _disposition(self) -> Disposition:
        chance = self._random
        return chance.choice(
            (
                DELIVERED,
                DELIVERED,
                Remove("relayed", REPLIES[1], "mx"),
                self._later(),
                self._later(),
                self._later(),
                NotifyThenRemove("failed", chance.choice(REPLIES), "mx.example"),
                Undeliverable(chance.choice((100.0, 1000.0))),
            )
        )

    def _write(
        self, work: Work, dispositions: dict[Addressee, Disposition], notices: bool = False
    ) -> None:
        if not dispositions:
            return
        messages = []
        if notices:
            envelope = makeEnvelope("")
            self._numbers.append(envelope.transaction)
            writer = self._spool.newBody(envelope.transaction)
            writer.write(b"\r\nsorry\r\n")
            message = self._store.wait(writer.finish())
            messages = [(envelope, message, makeAddressees("s@c.example"))]
        result = self._store.wait(
            self._spool.record(work, dispositions, messages).addErrback(_failed)
        )
        if isinstance(result, str):
            self._say(result)
        else:
            self._works += result

    def _tell(self) -> None:
        known = [work.envelope.transaction for work in self._works]
        one = self._random.choice(known) if known and self._random.random() < 0.3 else None
        works = self._store.wait(self._spool.notices(1000, one))
        works.sort(key=lambda work: self._numbers.index(work.envelope.transaction))
        self._say("told", *map(self._names, works))
        self._told += works

    def _answer(self) -> None:
        work = self._taken(self._told)
        if work is not None:
            isLate = all(one.action == "delayed" for one in work.addressees)
            what = DelayNotified() if isLate else self._random.choice((Remove("told"), None))
            told: Disposition = what or Undeliverable(500.0)
            self._write(work, dict.fromkeys(work.addressees, told), self._random.random() < 0.7)

    def _renew(self) -> None:
        self._spool.renew([one for one in self._works if self._random.random() < 0.5])

    def _backOff(self) -> None:
        seconds = self._random.choice((0.0, 30.0, 500.0))
        self._spool.backOff(self._random.choice(DESTINATIONS), seconds)

    def _turns(self) -> None:
        turns, _ = self._store.wait(self._spool.turns(None))
        self._say("turns", *((one.destination, one.kinds) for one in turns))

    def _operate(self) -> None:
        self._count()  # all that was said before is written
        keys = [(number, seq) for number in self._numbers for seq in range(3)]
        some = [key for key in keys if self._random.random() < 0.2]
        self._say("operated", self._store.operate(self._random.choice(COMMANDS), some))

    def _wait(self) -> None:
        self._count()  # what is written is written at its time
        self._store.advance(self._random.choice((0.0, 1.0, 30.0, 100.0, 301.0, 1000.0)))

    def _count(self) -> None:
        self._say("waiting", self._store.wait(self._spool.waiting()))


def _failed(failure: Any) -> str:
    failure.trap(SpoolError)
    return "overtaken"
