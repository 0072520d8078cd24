"""
What an outcome makes of a queued recipient.

The queue's promise is on this page: a recipient leaves the queue when its copy
is delivered, or when its outcome stands and the sender has been told or need
not be (RFC 5321 §6.1, RFC 3461 §5.2).  Until then it is tried again.
"""

from __future__ import annotations

import attrs

from deferrals.model.delivery import Addressee
from deferrals.model.dsn import isWanted
from deferrals.model.reply import Reply
from deferrals.model.schedule import Schedule
from deferrals.model.verdict import NO_DETAILS, Delivered, Details, Failed, Outcome, Retry, Route

#: How long what has been handed out belongs to the one that has it; after that it
#: is due for another one.
LEASE_SECONDS = 300.0

#: When an outcome stands and the process dies before the sender was told,
#: another process tells it after so long.
TELL_SECONDS = 60.0

#: How long it is kept where nothing more can be done: a message that cannot be
#: read, unless it has an expiry of its own; a recipient of a sender whom there is
#: no way to tell.
KEEP_SECONDS = 432000.0

#: What becomes of a notice that does not fit its way: a smaller one is written.
UNFIT = "unfit"

#: Details of enhanced codes that are about a message's size or encoding (RFC 3463,
#: RFC 6531).
_FORMS = frozenset({"2.3", "3.4", "6.1", "6.3", "6.5", "6.7", "6.8", "6.9"})

#: What a delivery that has succeeded is called besides.
_OTHERWISE = ("relayed", "passed", "expanded")

#: The way to senders that are not told, which is meant.
NOT_TOLD = Route("", "")


@attrs.frozen
class Remove:
    """
    The recipient leaves the queue, and the sender need not be told.

    @ivar event: why, in a word, for the message's history.
    @ivar details: for the operator: kept in the message's history alone.
    """

    event: str = "delivered"
    reply: Reply | None = None
    host: str = ""
    details: Details = attrs.field(default=NO_DETAILS, eq=False, kw_only=True)


#: The recipient has its copy, and there is no more to say: what nearly all dispositions are.
DELIVERED = Remove()


@attrs.frozen
class Reschedule:
    """
    The recipient is due again.

    @ivar destination: the next hop that it waits for; all recipients that wait
        for the same next hop have the same text.
    @ivar seconds: until then.
    @ivar expireSeconds: the age of the message at which it is given up.
    @ivar warnSeconds: the age at which the sender is told that it is late; 0
        for never.
    @ivar attempted: whether there has been an attempt; otherwise the recipient
        has merely been put back.
    @ivar isHeld: whether it waits until an operator releases it.
    @ivar details: for the operator: kept in the message's history alone.
    """

    destination: str
    seconds: float
    expireSeconds: float
    warnSeconds: float
    reply: Reply | None = None
    host: str = ""
    attempted: bool = True
    isHeld: bool = False
    details: Details = attrs.field(default=NO_DETAILS, eq=False, kw_only=True)


@attrs.frozen
class NotifyThenRemove:
    """
    The outcome stands; the recipient leaves the queue when the sender has been
    told.

    @ivar action: C{"failed"}, C{"expired"}, C{"delivered"}, C{"relayed"} or
        C{"expanded"}; or L{UNFIT}, of a notice.
    @ivar details: for the operator: kept in the message's history alone.
    """

    action: str
    reply: Reply | None = None
    host: str = ""
    details: Details = attrs.field(default=NO_DETAILS, eq=False, kw_only=True)


@attrs.frozen
class DelayNotified:
    """
    The sender has been told that the recipient's copy is late.
    """


@attrs.frozen
class Undeliverable:
    """
    The outcome stands and the sender should be told, but there is no way to
    tell it: the recipient is kept for the operator.

    @ivar keepSeconds: for how long.
    """

    keepSeconds: float


#: What becomes of a recipient after an attempt, or after its sender was told.
Disposition = Remove | Reschedule | NotifyThenRemove | DelayNotified | Undeliverable


@attrs.frozen(kw_only=True)
class Queued:
    """
    What is known of a queued recipient when an attempt has ended.

    @ivar hasSender: whether there is a reverse-path that a notice could go to.
    @ivar isNotice: whether the message is a notice of ours.
    @ivar destination: the next hop.
    @ivar schedule: of its delivery.
    @ivar ageSeconds: how long the message has been in the queue.
    @ivar chance: a number from 0 to 1, which decides about the jitter.
    """

    hasSender: bool
    destination: str
    schedule: Schedule
    ageSeconds: float
    chance: float
    isNotice: bool = False


def disposition(outcome: Outcome, addressee: Addressee, queued: Queued) -> Disposition:
    """
    What the outcome of an attempt makes of a recipient.
    """
    if isinstance(outcome, Retry) and queued.ageSeconds < queued.schedule.expire:
        seconds = queued.schedule.wait(addressee.attempts + 1, outcome.after, queued.chance)
        waits = _reschedule(queued, seconds, outcome.reply, outcome.host, attempted=True)
        return attrs.evolve(waits, details=outcome.details)
    if queued.isNotice and isinstance(outcome, Failed) and isUnfit(outcome.reply):
        return NotifyThenRemove(UNFIT, outcome.reply, outcome.host, details=outcome.details)
    action = finalAction(outcome)
    mayTell = action != "passed" and not (isinstance(outcome, Failed) and outcome.told)
    if mayTell and queued.hasSender and isWanted(addressee.recipient.notify, action):
        return NotifyThenRemove(action, outcome.reply, outcome.host, details=outcome.details)
    isPlain = outcome.reply is None and not outcome.host and outcome.details is NO_DETAILS
    if isPlain and action == "delivered":
        return DELIVERED
    event = "delivered" if isinstance(outcome, Delivered) else action
    return Remove(event, outcome.reply, outcome.host, details=outcome.details)


def isUnfit(reply: Reply) -> bool:
    """
    Whether a refusal is about a message's form, so that a smaller one of 7 bits
    may be taken.
    """
    return reply.code == 552 or (reply.enhanced or "").partition(".")[2] in _FORMS


def finalAction(outcome: Outcome) -> str:
    """
    An outcome that stands, in the words of L{NotifyThenRemove.action}; or
    C{"passed"}: the next hop tells the sender (RFC 3461 §5.2.1).
    """
    if isinstance(outcome, Delivered):
        return outcome.action if outcome.action in _OTHERWISE else "delivered"
    return "failed" if isinstance(outcome, Failed) else "expired"


def putBack(queued: Queued, reply: Reply | None, host: str) -> Reschedule:
    """
    There was no attempt: the recipient is due at once.

    @param reply: why not, if a server has said it.
    @param host: that server.
    """
    return _reschedule(queued, 0.0, reply, host, attempted=False)


def _reschedule(
    queued: Queued, seconds: float, reply: Reply | None, host: str, *, attempted: bool
) -> Reschedule:
    schedule = queued.schedule
    return Reschedule(
        queued.destination, seconds, schedule.expire, schedule.warn, reply, host, attempted
    )


def afterNotice(addressee: Addressee) -> Disposition:
    """
    What becomes of a recipient once there is nothing more to tell the sender.

    @param addressee: with the C{action} that was to be told.
    """
    if addressee.action == "delayed":
        return DelayNotified()
    event = "given up" if addressee.action == "stuck" else addressee.action
    return Remove(event, addressee.reply, addressee.host)


def handedBack(outcome: Outcome) -> Outcome:
    """
    An outcome whose sender keeps every recipient that it is told to be
    refused, for good or for now (S-6, RFC 2033 §4.2): there is no notice, and
    nothing is tried again.
    """
    if isinstance(outcome, Failed):
        return attrs.evolve(outcome, told=True)
    if isinstance(outcome, Retry):
        return Failed(outcome.reply, outcome.host, True, details=outcome.details)
    return outcome
