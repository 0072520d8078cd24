"""
What a recipient in the queue may become: leased, freed, told of, changed by an operator,
gone.  Each rule is a function of a row that gives the row it becomes, without any store:
every store finds rows, asks here, and saves.

Times are the store's, in seconds.
"""

from __future__ import annotations

import attrs

from deferrals.model.disposition import (
    KEEP_SECONDS,
    LEASE_SECONDS,
    TELL_SECONDS,
    DelayNotified,
    Disposition,
    NotifyThenRemove,
    Reschedule,
    Undeliverable,
)
from deferrals.spool.rows import (
    DAMAGED,
    ENDED,
    HELD,
    HOLD,
    LEASED,
    QUEUED,
    STUCK,
    QueueRow,
    replyText,
)

#: What the sender of a recipient that is kept is told when that is given up.
_KEPT = {STUCK: "stuck", DAMAGED: "damaged"}


def leased(row: QueueRow, owner: str, now: float) -> QueueRow:
    """
    It is handed out.
    """
    return attrs.evolve(row, status=LEASED, owner=owner, due=now + LEASE_SECONDS)


def renewed(row: QueueRow, owner: str, now: float) -> QueueRow | None:
    """
    Its owner is still at it.

    @return: C{None} where it is leased to that owner no longer.
    """
    if row.status != LEASED or row.owner != owner:
        return None
    return attrs.evolve(row, due=now + LEASE_SECONDS)


def freed(row: QueueRow, now: float) -> QueueRow:
    """
    Its lease has ended: it is due, or held where it was to be.
    """
    return attrs.evolve(waiting(row), owner=None, due=now, action=_notHolding(row))


def waiting(row: QueueRow) -> QueueRow:
    """
    What is leased waits, or is held, where it is not under way.
    """
    if row.status != LEASED:
        return row
    return attrs.evolve(row, status=HELD if row.action == HOLD else QUEUED)


def _notHolding(row: QueueRow) -> str | None:
    return None if row.action == HOLD else row.action


def isOurs(row: QueueRow, owner: str) -> bool:
    """
    Whether an owner may say what has become of it: it is leased to that one; or was, and
    has not been leased again since: that waits, or is held, and would be delivered twice
    if it stayed.
    """
    return row.owner == owner or (row.owner is None and row.status in (QUEUED, HELD))


def disposed(
    row: QueueRow, disposition: Disposition, *, owner: str, since: float, now: float
) -> QueueRow | None:
    """
    Its attempt has ended, or its sender was told.

    @param owner: who says so.
    @param since: when its message became a part of the queue.
    @return: C{None} where it leaves.
    """
    if isinstance(disposition, Reschedule):
        return _rescheduled(row, disposition, since, now)
    if isinstance(disposition, DelayNotified):
        return attrs.evolve(row, warned=1, notice=row.expires)
    if isinstance(disposition, NotifyThenRemove):
        return attrs.evolve(
            row,
            status=ENDED,
            owner=owner,
            due=now + TELL_SECONDS,
            action=disposition.action,
            reply=replyText(disposition.reply),
            host=disposition.host,
        )
    if isinstance(disposition, Undeliverable):
        until = now + disposition.keepSeconds
        return attrs.evolve(row, status=STUCK, notice=until, expires=until, action=_notHolding(row))
    return None


def _rescheduled(row: QueueRow, disposition: Reschedule, since: float, now: float) -> QueueRow:
    """
    What was held meanwhile, or is to be, stays so.
    """
    isHeld = disposition.isHeld or row.action == HOLD or row.status == HELD
    expires = notice = since + disposition.expireSeconds
    if disposition.warnSeconds and not row.warned:
        notice = min(since + disposition.warnSeconds, expires)
    return attrs.evolve(
        row,
        status=HELD if isHeld else QUEUED,
        owner=None,
        due=now + disposition.seconds,
        destination=disposition.destination,
        attempts=row.attempts + disposition.attempted,
        expires=expires,
        notice=notice,
        action=_notHolding(row),
        reply=replyText(disposition.reply) or row.reply,
        host=disposition.host or row.host,
    )


def told(
    row: QueueRow, owner: str, now: float, anyway: bool = False
) -> tuple[str, QueueRow] | None:
    """
    Whether its sender is to be told something.

    @param owner: who would tell it.
    @param anyway: whether it has just ended there, and need not wait until it is due.
    @return: what, in a word (empty: its C{action}), and the row while that is done: one
        that is merely late may still be delivered meanwhile, all others are that owner's
        alone.
    """
    until = now + LEASE_SECONDS
    if row.status == ENDED:
        isTheirs = anyway and row.owner in (None, owner)
        return (
            ("", attrs.evolve(row, owner=owner, due=until)) if isTheirs or row.due <= now else None
        )
    if row.notice is None or row.notice > now:
        return None
    if row.status in _KEPT:
        return _KEPT[row.status], attrs.evolve(row, owner=owner, due=until, notice=until)
    if row.status != QUEUED:
        return None
    if (row.notice if row.expires is None else row.expires) <= now:
        return "expired", leased(row, owner, now)
    return "delayed", attrs.evolve(row, notice=until)


def damaged(row: QueueRow, now: float) -> QueueRow | None:
    """
    It cannot be read, or its message cannot: it is not due any longer, and its sender is
    told when it would have been given up.

    @return: C{None} where it waits for the operator already.
    """
    if row.status in (HELD, DAMAGED):
        return None
    notice = max(row.expires or 0.0, now + KEEP_SECONDS)
    return attrs.evolve(row, status=DAMAGED, owner=None, notice=notice, action=_notHolding(row))


def untellable(row: QueueRow, now: float) -> QueueRow:
    """
    It cannot be read where its sender should be told: it is left to the operator.
    """
    aside = damaged(row, now) or row
    isNext = aside.notice is not None and aside.notice <= now + LEASE_SECONDS
    if aside.status == DAMAGED and isNext:
        return attrs.evolve(aside, notice=None, owner=None)
    return aside


@attrs.frozen
class Operated:
    """
    What a command of an operator's makes of a recipient.

    @ivar row: what it becomes; C{None} where it leaves.
    @ivar isChanged: whether that is anything else.
    @ivar isQueued: whether it is due at once, whatever its destination has done.
    """

    row: QueueRow | None
    isChanged: bool = True
    isQueued: bool = False


def operated(row: QueueRow, command: str, now: float) -> Operated:
    """
    @param row: as the operator sees it: C{LEASED} where it is under way.
    @param command: C{"retry"}, C{"hold"}, C{"release"} or C{"remove"}.
    """
    if row.status == LEASED:
        return _operatedUnderWay(row, command)
    if command == "remove":
        return Operated(None)
    if command == "hold" and row.status == QUEUED:
        return Operated(attrs.evolve(row, status=HELD, owner=None))
    if command == "retry" and row.status == STUCK:
        return Operated(attrs.evolve(row, status=ENDED, due=now, notice=None))
    isWaiting = row.status in ((HELD,) if command == "release" else (QUEUED, DAMAGED))
    if command in ("retry", "release") and isWaiting:
        return Operated(_again(row, now), isQueued=True)
    return Operated(row, isChanged=False)


def _operatedUnderWay(row: QueueRow, command: str) -> Operated:
    """
    What is under way ends, and is held if that does not deliver it.
    """
    if command == "hold" and row.action != HOLD:
        return Operated(attrs.evolve(row, action=HOLD))
    if command == "release" and row.action == HOLD:
        return Operated(attrs.evolve(row, action=None))
    return Operated(row, isChanged=False)


def _again(row: QueueRow, now: float) -> QueueRow:
    notice = row.expires if row.status == DAMAGED else row.notice
    return attrs.evolve(row, status=QUEUED, owner=None, due=now, notice=notice, action=None)
