"""
Attempts: which recipients of a message are tried together, and what a delivery
stage's answer says of each of them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.reflect import safe_repr

from deferrals.deferreds import atOnce
from deferrals.errors import StageError
from deferrals.interfaces import IDeliveryStage, ILocalDelivery, ISharingDelivery, Work
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

#: The destination of recipients that refuse a message which was accepted for
#: all (L{Addressee.refusal}): their copies go nowhere.
NOWHERE = "nowhere: refused"

_UNKNOWN = Retry(R451_LOCAL_ERROR)

#: What L{Delivered.action} can be.
ACTIONS = ("delivered", "relayed", "passed")

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

    def isLocal(self, name: str) -> bool:
        """
        Whether a delivery waits for no other machine.
        """
        stage = self.stage(name)
        return stage is None or ILocalDelivery.providedBy(stage)

    def concurrency(self, name: str) -> int | None:
        """
        How many messages may be on their way at once where the configuration does not
        say; C{None} for as many as there are.
        """
        return None if ISharingDelivery.providedBy(self.stage(name)) else CONCURRENCY

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
        except BaseException as error:  # as with what its deliver raises
            _log.error(
                "{transaction}: delivery {delivery} ({stage}) has no destination for"
                " <{recipient}>: {error}",
                transaction=work.envelope.id,
                delivery=name,
                stage=type(stage).__name__,
                recipient=str(addressee),
                error=f"{type(error).__name__}: {_shown(error)}",
            )
            return f"delivery {name}"


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

    def part(self, addressees: Iterable[Addressee]) -> Work:
        """
        Take recipients whose outcome is known out of L{work}.

        @return: the message for these.
        """
        taken = set(addressees)
        found: list[Addressee] = []
        left: list[Addressee] = []
        for one in self.work.addressees:
            (found if one in taken else left).append(one)
        work = self.work
        if not left:
            self.work = attrs.evolve(work, addressees=())
            return work
        self.work = attrs.evolve(work, addressees=tuple(left), whole=False)
        return attrs.evolve(work, addressees=tuple(found), whole=False)

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

    @property
    def kind(self) -> Hashable:
        """Which attempts it shares its slots with: those that one client could make slow."""
        envelope = self.work.envelope
        return self.delivery, envelope.sender is None, envelope.client.user

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


def attemptsOf(work: Work, deliveries: Deliveries, now: float) -> list[Attempt]:
    """
    Part a message's recipients by delivery and next hop.
    """
    groups: dict[tuple[str, str], list[Addressee]] = {}
    for addressee in work.addressees:
        route = addressee.recipient.route
        name = "" if route is None else route.delivery
        groups.setdefault((name, deliveries.destination(name, work, addressee)), []).append(
            addressee
        )
    attempts = []
    for (name, destination), group in groups.items():
        part = work
        if len(groups) > 1:
            part = attrs.evolve(work, addressees=tuple(group), whole=False)
        schedule = deliveries.schedule(name)
        isLocal = destination == NOWHERE or deliveries.isLocal(name)
        limit = schedule.concurrency or deliveries.concurrency(name)
        attempts.append(Attempt(part, name, destination, schedule, now, isLocal, limit))
    return attempts


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
        if not isinstance(answer, Mapping):
            return CheckedAnswer({}, [f"answered {_shown(answer)}, not a mapping of outcomes"])
        given = list(answer.items())
        said = {key: value for key, value in given if _isA(key, Addressee)}
        foreign = [key for key, _ in given if not _isA(key, Addressee)]
    except BaseException as error:
        return CheckedAnswer({}, [f"answered a mapping that cannot be read: {_shown(error)}"])
    outcomes: dict[Addressee, Outcome] = {}
    problems: list[str] = []
    for addressee in heard:
        said.pop(addressee, None)
    for addressee in addressees:
        found = said.pop(addressee, None)
        if isOutcome(found):
            outcomes[addressee] = found
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
