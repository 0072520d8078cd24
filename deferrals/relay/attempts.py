"""
Attempts: which recipients of a message are tried together, and what a delivery
stage's answer says of each of them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr

from deferrals.deferreds import atOnce
from deferrals.errors import StageError
from deferrals.interfaces import (
    IDeliveryStage,
    ILocalDelivery,
    ISharingDelivery,
    MailKind,
    Work,
)
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import Queued
from deferrals.model.dsn import isNotice
from deferrals.model.reply import R451_LOCAL_ERROR, Reply
from deferrals.model.schedule import CONCURRENCY, Schedule
from deferrals.model.verdict import Delivered, Failed, Outcome, Retry

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_log = Logger(namespace="deferrals.delivery")

#: The destination of recipients whose outcome is known (L{Addressee.refusal}): those
#: that refuse a message which was accepted for all, and aliases that were expanded.
#: Their copies go nowhere.
NOWHERE = "nowhere: refused"

_UNKNOWN = Retry(R451_LOCAL_ERROR)

#: What L{Delivered.action} can be.
ACTIONS = ("delivered", "relayed", "passed", "expanded")

#: So many recipients of an attempt are named in the log.
NAMED = 20

#: So much of a value that is none of ours is shown in the log.
SHOWN_LETTERS = 200


@attrs.frozen(kw_only=True)
class Deliveries:
    """
    What the configuration says of deliveries, by the name that a recipient's
    route gives.

    @ivar stage: finds the stage; C{None} where there is none of this name.
    @ivar schedule: finds the L{Schedule}.
    """

    stage: Callable[[str], IDeliveryStage | None]
    schedule: Callable[[str], Schedule]

    def isLocal(self, name: str, destination: str) -> bool:
        """
        Whether a delivery to a next hop waits for no other machine.
        """
        return _isLocal(self.stage(name), destination)

    def attempt(self, name: str, destination: str, work: Work, now: float) -> Attempt:
        """
        What is tried for the recipients that share a next hop.

        Where the configuration does not say how many messages may be on their way at
        once, a stage that shares its work takes as many as there are.
        """
        stage, schedule = self.stage(name), self.schedule(name)
        isLocal = _isLocal(stage, destination)
        usual = None if ISharingDelivery.providedBy(stage) else CONCURRENCY
        limit = schedule.concurrency or usual
        return Attempt(work, name, destination, schedule, now, isLocal, limit)

    def destination(self, name: str, work: Work, addressee: Addressee) -> str:
        """
        The next hop of one recipient's copy.
        """
        if addressee.refusal is not None:
            return NOWHERE
        stage = self.stage(name)
        if stage is None:
            return f"no delivery {name}"
        try:
            return _destination(stage, addressee)
        except BaseException:  # as with what its deliver raises
            _log.raised(
                Failure(),
                "{transaction}: delivery {delivery} ({stage}) has no destination for"
                " <{recipient}>: {error}",
                transaction=work.envelope.id,
                delivery=name,
                stage=type(stage).__name__,
                recipient=str(addressee),
            )
            return f"delivery {name}"


def _isLocal(stage: IDeliveryStage | None, destination: str) -> bool:
    return destination == NOWHERE or stage is None or ILocalDelivery.providedBy(stage)


def settled(addressee: Addressee) -> Outcome:
    """
    The outcome of one that goes nowhere.
    """
    reply = addressee.refusal
    assert reply is not None
    return Failed(reply) if reply.code >= 400 else Delivered(reply, action="expanded")


def _destination(stage: IDeliveryStage, addressee: Addressee) -> str:
    """
    @raise StageError: the stage did not answer with text, at once.
    """
    source = f"{type(stage).__name__}.destination"
    found = atOnce(stage.destination(addressee.recipient), source)
    if not isText(found):
        raise StageError(f"{source} answered {_shown(found)}, not text")
    return found


@attrs.define(eq=False)
class Attempt:
    """
    One delivery of a message to the recipients that share a next hop.

    @ivar work: the message, for those of these recipients whose outcome is not being
        recorded yet.
    @ivar delivery: the name of the delivery.
    @ivar destination: the next hop.
    @ivar schedule: what applies to the delivery.
    @ivar began: when it was leased to us.
    @ivar isLocal: whether it waits for no other machine.
    @ivar kind: which attempts it shares its slots with: those that one client could make
        slow.
    @ivar limit: how many may be under way to its destination; C{None} for as many as
        may be under way at all.
    @ivar delivering: the delivery's Deferred, while it is under way.
    @ivar isOver: whether nothing more is heard of the delivery.
    @ivar outcomes: what has been heard of it, by recipient.
    @ivar recording: parts of the message whose outcomes are being recorded.
    @ivar timer: records what has been reported.
    """

    work: Work
    delivery: str
    destination: str
    schedule: Schedule
    began: float
    isLocal: bool = False
    limit: int | None = CONCURRENCY
    delivering: Deferred[Mapping[Addressee, Outcome]] | None = None
    isOver: bool = False
    outcomes: dict[Addressee, Outcome] = attrs.field(factory=dict)
    recording: dict[Work, None] = attrs.field(factory=dict)
    timer: IDelayedCall | None = None
    kind: MailKind = attrs.field(init=False)

    @kind.default
    def _kind(self) -> MailKind:
        envelope = self.work.envelope
        return MailKind(self.delivery, envelope.sender is None, envelope.client.user)

    @property
    def works(self) -> list[Work]:
        """What of it is still leased to us."""
        return [*self.recording, *([self.work] if self.work.addressees else [])]

    def heard(self, addressee: Addressee, outcome: Outcome) -> str:
        """
        A stage reports an outcome.

        @return: what is wrong with that; empty where it is good.
        """
        if self.isOver:
            return f"reported {_shown(outcome)} when it was over"
        if not _isA(addressee, Addressee):
            return f"reported {_shown(outcome)} for {_shown(addressee)}, no addressee"
        known = self.outcomes.get(addressee)
        if known is None:
            found = checked({addressee: outcome}, self.work.addressees)
            if not found.outcomes:
                return f"reported {_shown(outcome)} for <{addressee}>, unasked or no outcome"
            self.outcomes.update(found.outcomes)
        elif known is not outcome and known != outcome:
            return f"reported {_shown(outcome)} for <{addressee}> behind {_shown(known)}"
        return ""

    def over(self) -> None:
        """
        The delivery has ended, or is not waited for any longer.
        """
        self.delivering, self.isOver = None, True
        if self.timer is not None and self.timer.active():
            self.timer.cancel()

    def part(self, taken: Container[Addressee]) -> Work:
        """
        Take recipients whose outcome is known out of L{work}.

        @param taken: these recipients.
        @return: the message for these.
        """
        work = self.work
        left = [one for one in work.addressees if one not in taken]
        self.work = _for(work, left)
        if not left:
            return work
        return _for(work, [one for one in work.addressees if one in taken])

    @property
    def recipients(self) -> str:
        """Its recipients for the log: the first ones, and how many there are."""
        addressees = self.work.addressees
        named = ", ".join(f"<{one}>" for one in addressees[:NAMED])
        more = len(addressees) - NAMED
        return named if more <= 0 else f"{named} and {more} more"

    @property
    def keys(self) -> set[tuple[int, int]]:
        """The numbers of its recipients, each with that of the message."""
        number = self.work.envelope.transaction
        return {(number, one.seq) for work in self.works for one in work.addressees}

    @property
    def number(self) -> int:
        """The number of its message."""
        return self.work.envelope.transaction

    @property
    def line(self) -> Hashable:
        """Which attempts it waits behind: those of its destination and its kind."""
        return self.destination, self.kind

    def queued(self, now: float, chance: float) -> Queued:
        """
        What its recipients have in common when it ends.
        """
        return Queued(
            hasSender=self.work.envelope.sender is not None,
            destination=self.destination,
            schedule=self.schedule,
            ageSeconds=self.work.ageSeconds + now - self.began,
            chance=chance,
            isNotice=isNotice(self.work.envelope),
        )


def _for(work: Work, addressees: Iterable[Addressee]) -> Work:
    """
    The same message, for some of its recipients.
    """
    age, expire = work.ageSeconds, work.expireSeconds
    return Work(work.envelope, work.message, tuple(addressees), False, age, expire)


def attemptsOf(work: Work, deliveries: Deliveries, now: float) -> list[Attempt]:
    """
    Part a message's recipients by delivery and next hop.
    """
    groups: dict[tuple[str, str], list[Addressee]] = {}
    for addressee in work.addressees:
        route = addressee.recipient.route
        name = "" if route is None else route.delivery
        key = name, deliveries.destination(name, work, addressee)
        if key in groups:
            groups[key].append(addressee)
        else:
            groups[key] = [addressee]
    if len(groups) == 1:
        return [deliveries.attempt(*key, work, now)]
    return [deliveries.attempt(*key, _for(work, group), now) for key, group in groups.items()]


@attrs.frozen
class CheckedAnswer:
    """
    What a delivery stage has answered.

    @ivar outcomes: those of the recipients that it was asked about.
    @ivar problems: what else it has said, or has not said; for the log.
    """

    outcomes: Mapping[Addressee, Outcome]
    problems: Sequence[str] = ()


def checked(
    answer: object, addressees: Iterable[Addressee], heard: Iterable[Addressee] = ()
) -> CheckedAnswer:
    """
    Separate what a stage's answer says from nonsense.

    @param answer: whatever the stage has returned.
    @param addressees: the recipients that it was asked about.
    @param heard: those whose outcome it has reported; that counts.
    """
    try:
        if type(answer) is not dict and not isinstance(answer, Mapping):
            return CheckedAnswer({}, [f"answered {_shown(answer)}, not a mapping of outcomes"])
        given = list(answer.items())
        said = {key: value for key, value in given if issubclass(type(key), Addressee)}
        foreign = [key for key, _ in given if not issubclass(type(key), Addressee)]
    except BaseException as error:
        return CheckedAnswer({}, [f"answered a mapping that cannot be read: {_shown(error)}"])
    outcomes: dict[Addressee, Outcome] = {}
    problems: list[str] = []
    for addressee in heard:
        said.pop(addressee, None)
    good: Outcome | None = None  # many recipients have the same one
    for addressee in addressees:
        found = said.pop(addressee, None)
        if good is not None and found is good:
            outcomes[addressee] = good
        elif isOutcome(found):
            outcomes[addressee] = good = found
        else:
            problems.append(f"answered {_letGo(found)} for <{addressee}>, not an outcome")
    problems += [f"answered for {_shown(one)}, unasked" for one in (*said, *foreign)]
    return CheckedAnswer(outcomes, problems)


def _letGo(value: object) -> str:
    """
    Leave nothing alone that would wait.

    @return: the value for the log.
    """
    shown = _shown(value)
    with contextlib.suppress(StageError):
        atOnce(value, "a delivery")
    return shown


def _isA(value: object, *kinds: type) -> bool:
    """
    The same as C{isinstance}, which asks the value where its type says no.
    """
    return issubclass(type(value), kinds)


def isOutcome(value: object) -> TypeIs[Outcome]:
    """
    Whether a value is an outcome, and what is in it can be recorded.
    """
    if not (
        _isA(value, Delivered, Failed, Retry) and isinstance(value, Delivered | Failed | Retry)
    ):
        return False
    if not isText(value.host):
        return False
    if isinstance(value, Delivered):
        return value.action in ACTIONS and (value.reply is None or _isReply(value.reply))
    if isinstance(value, Failed):
        return isinstance(value.told, bool) and _isReply(value.reply)
    return _isReply(value.reply) and (value.after is None or _isNumber(value.after))


def _isReply(value: object) -> bool:
    return (
        isinstance(value, Reply)
        and isinstance(value.code, int)
        and 200 <= value.code < 600
        and (value.enhanced is None or isText(value.enhanced))
        and isinstance(value.text, str)
    )


def _isNumber(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def isText(value: object) -> bool:
    """
    Whether a value is text that can be stored and logged: UTF-8 has no lone
    surrogates.
    """
    if not isinstance(value, str):
        return False
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    """
    A value of which nothing is known, for the log.
    """
    text = safe_repr(value)
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}..."


def complete(
    outcomes: Mapping[Addressee, Outcome], addressees: Iterable[Addressee]
) -> dict[Addressee, Outcome]:
    """
    A recipient of which nothing is known is tried again.
    """
    return {addressee: outcomes.get(addressee, _UNKNOWN) for addressee in addressees}
