"""
Faults that are put into a server on purpose: a rig has to scream at each.  They are
patches of the running process, which C{DEFERRALS_RIG_SABOTAGE} asks for.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import succeed
from twisted.internet.task import deferLater

from deferrals.deferreds import withDeadline
from deferrals.model import block
from deferrals.model.block import Block
from deferrals.model.disposition import Remove
from deferrals.model.verdict import Delivered, Retry
from deferrals.relay import attempts, scheduler
from deferrals.relay.recording import Recorder
from deferrals.relay.waiters import Waiters
from deferrals.smtp.server.deliverfirst import Immediate
from deferrals.spool import rules
from deferrals.spool.claims import Claims
from deferrals.spool.message import Message
from deferrals.spool.rows import STAGED
from deferrals.spool.sqlite import spool
from deferrals.spool.sqlite.spool import SqliteSpool

#: The environment's name for it.
VARIABLE = "DEFERRALS_RIG_SABOTAGE"

#: What no kill can show, and what shows it.
INVISIBLE = {
    "no-sync": (
        "a kill takes nothing from the system's memory, so a missing sync is invisible here:"
        " the power-loss rig is for it"
    )
}


def patch(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """
    @param around: is called with what was there, and with the arguments.
    """
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **more: around(original, *args, **more))


def replyBeforeCommit() -> None:
    """A message is acknowledged before it is written."""

    def stage(original: Any, self: Any, envelope: Any, message: Any, addressees: Any) -> Any:
        original(self, envelope, message, addressees).addErrback(lambda _: None)
        return succeed(self._insertion(envelope, message, addressees, STAGED).work)

    patch(SqliteSpool, "stage", stage)


def noRemoval() -> None:
    """What was delivered to all is never removed."""

    def write(original: Any, db: Any, batch: Any, directory: str) -> None:
        original(db, attrs.evolve(batch, removed={}), directory)

    patch(spool, "write", write)


def noPartialRemoval() -> None:
    """A recipient that was served is not, where others are left or more was said."""

    def disposed(original: Any, row: Any, what: Any, **more: Any) -> Any:
        return row if isinstance(what, Remove) else original(row, what, **more)

    patch(rules, "disposed", disposed)


def removedEarly() -> None:
    """A message is removed before it is delivered."""

    def release(original: Any, self: Any, work: Any, later: Any) -> None:
        original(self, work, later)
        self._batches.flush()
        self._remove(work)

    patch(SqliteSpool, "release", release)


def recipientDropped() -> None:
    """The last of several recipients is not written."""

    def stage(original: Any, self: Any, envelope: Any, message: Any, addressees: Any) -> Any:
        return original(self, envelope, message, addressees[: max(1, len(addressees) - 1)])

    patch(SqliteSpool, "stage", stage)


def ownerNotChecked() -> None:
    """What is leased is handed out to the next claim, too."""

    def endLeases(original: Any, self: Any) -> None:
        self.ledger.db.execute("UPDATE recipients SET due = 0 WHERE status = 1")
        original(self)

    patch(Claims, "_endLeases", endLeases)


def stagedForgotten() -> None:
    """
    A start drops what was written, and perhaps acknowledged, but not released.  The
    instant between is made longer, so that few kills are needed to hit it.
    """

    def recover(original: Any, db: Any, now: float) -> Any:
        staged = f"(SELECT id FROM messages WHERE state = {STAGED})"
        db.execute(f"DELETE FROM recipients WHERE message IN {staged}")
        db.execute(f"DELETE FROM messages WHERE id IN {staged}")
        return original(db, now)

    def release(original: Any, self: Any, work: Any, later: Any) -> None:
        self._batches._clock.callLater(0.4, original, self, work, later)

    patch(spool, "recover", recover)
    patch(SqliteSpool, "release", release)


def wholeNotChecked() -> None:
    """A message whose recipients of one destination are served is removed as a whole."""

    def record(original: Any, self: Any, work: Any, dispositions: Any, messages: Any = ()) -> Any:
        return original(self, attrs.evolve(work, whole=True), dispositions, messages)

    patch(SqliteSpool, "record", record)


def refuserServed() -> None:
    """Who refuses gets a copy with those who accept."""
    patch(Block, "accepted", lambda original, self: list(range(len(self.verdicts))))


def noticeDropped() -> None:
    """A sender is not told, although it is recorded that it was."""

    def record(original: Any, self: Any, work: Any, dispositions: Any, messages: Any = ()) -> Any:
        return original(self, work, dispositions, ())

    patch(SqliteSpool, "record", record)


def bodyTooEarly() -> None:
    """The content's file is removed with the first recipient."""

    def apply(original: Any, self: Any, *args: Any) -> bool:
        original(self, *args)
        return True

    patch(SqliteSpool, "_apply", apply)


def retryForgotten() -> None:
    """That a recipient is to be tried again is not written."""
    patch(rules, "_rescheduled", lambda original, row, disposition, since, now: row)


def contentCut() -> None:
    """The last octets of a content are missing."""

    def cut(original: Any, self: Any) -> Any:
        with original(self) as file:
            return io.BytesIO(file.read()[:-3])

    patch(Message, "open", cut)


def handedBackKept() -> None:
    """A recipient that was handed back to its sender is tried again by us, too."""

    def start(original: Any, self: Any, done: Any) -> None:
        d = withDeadline(self._clock, self._seconds, self._backend.attempt, self._work, False)
        self._waiting = d.addErrback(self._unknown).addCallback(self._over, done)

    patch(Immediate, "start", start)


def toldEarly() -> None:
    """
    A recipient is handed back before that is written.  The instant between is made
    longer, so that few kills are needed to hit it.
    """

    def answer(original: Any, self: Any, number: int, outcomes: Any) -> Any:
        found = original(self, number, outcomes)
        waiter = self._waiters.get(number)
        if waiter is not None:
            waiter.attempted(outcomes)
        return found

    def record(original: Any, self: Any, *args: Any) -> Any:
        return deferLater(self._clock, 1.2, original, self, *args)

    patch(Waiters, "answer", answer)
    patch(Recorder, "record", record)


def retryBelieved() -> None:
    """What a next hop refused for now counts as delivered."""

    def believed(original: Any, *args: Any) -> Any:
        found = original(*args)
        outcomes = {
            one: Delivered() if isinstance(outcome, Retry) else outcome
            for one, outcome in found.outcomes.items()
        }
        return attrs.evolve(found, outcomes=outcomes)

    patch(attempts, "checked", believed)
    patch(scheduler, "checked", believed)


def repliesSwapped() -> None:
    """Recipients are told each other's answers."""

    def swapped(original: Any, one: Any, position: int) -> Any:
        return original(one, len(one.listed) - 1 - position)

    patch(block, "ownReply", swapped)


SABOTAGES: dict[str, Callable[[], None]] = {
    "reply-before-commit": replyBeforeCommit,
    "no-removal": noRemoval,
    "no-partial-removal": noPartialRemoval,
    "removed-early": removedEarly,
    "recipient-dropped": recipientDropped,
    "owner-not-checked": ownerNotChecked,
    "staged-forgotten": stagedForgotten,
    "whole-not-checked": wholeNotChecked,
    "refuser-served": refuserServed,
    "notice-dropped": noticeDropped,
    "body-too-early": bodyTooEarly,
    "retry-forgotten": retryForgotten,
    "content-cut": contentCut,
    "handed-back-kept": handedBackKept,
    "told-early": toldEarly,
    "retry-believed": retryBelieved,
    "replies-swapped": repliesSwapped,
}

#: The kinds of mail that show a sabotage which few others do.
FOCUS = {"told-early": ("first, LMTP", "one")}
