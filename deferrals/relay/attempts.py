"""
Attempts: which recipients of a message are tried together, and what a delivery
stage's answer says of each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from deferrals.interfaces import IDeliveryStage, Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import Queued
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.schedule import Schedule
from deferrals.model.verdict import Delivered, Failed, Outcome, Retry

_log = Logger(namespace="deferrals.delivery")

#: The destination of recipients that refuse a message which was accepted for
#: all (L{Addressee.refusal}): their copies go nowhere.
NOWHERE = "nowhere: refused"


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

    def destination(self, name: str, addressee: Addressee) -> str:
        """
        The next hop of one recipient's copy.
        """
        if addressee.refusal is not None:
            return NOWHERE
        stage = self.stage(name)
        if stage is None:
            return f"no delivery {name}"
        try:
            return str(stage.destination(addressee.recipient))
        except Exception:
            _log.failure("delivery {delivery} has no destination", delivery=name)
            return f"delivery {name}"


@attrs.define(eq=False)
class Attempt:
    """
    One delivery of a message to the recipients that share a next hop.

    @ivar work: the message, for these recipients.
    @ivar delivery: the name of the delivery.
    @ivar destination: the next hop.
    @ivar schedule: what applies to the delivery.
    @ivar began: when it was leased to us.
    @ivar delivering: the delivery's Deferred, while it is under way.
    """

    work: Work
    delivery: str
    destination: str
    schedule: Schedule
    began: float
    delivering: Deferred[Mapping[Addressee, Outcome]] | None = None

    @property
    def keys(self) -> set[tuple[int, int]]:
        """The numbers of its recipients, each with that of the message."""
        return {(self.work.envelope.transaction, one.seq) for one in self.work.addressees}

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
        )


def attemptsOf(work: Work, deliveries: Deliveries, now: float) -> list[Attempt]:
    """
    Part a message's recipients by delivery and next hop.
    """
    groups: dict[tuple[str, str], list[Addressee]] = {}
    for addressee in work.addressees:
        route = addressee.recipient.route
        name = "" if route is None else route.delivery
        groups.setdefault((name, deliveries.destination(name, addressee)), []).append(addressee)
    attempts = []
    for (name, destination), group in groups.items():
        part = work
        if len(groups) > 1:
            part = attrs.evolve(work, addressees=tuple(group), whole=False)
        attempts.append(Attempt(part, name, destination, deliveries.schedule(name), now))
    return attempts


def known(answer: object, addressees: Iterable[Addressee]) -> dict[Addressee, Outcome]:
    """
    What a stage's answer says of the recipients that it was asked about: only
    what is an outcome.
    """
    if not isinstance(answer, Mapping):
        return {}
    found = {addressee: answer.get(addressee) for addressee in addressees}
    return {
        addressee: outcome
        for addressee, outcome in found.items()
        if isinstance(outcome, Delivered | Failed | Retry)
    }


def complete(
    outcomes: Mapping[Addressee, Outcome], addressees: Iterable[Addressee]
) -> dict[Addressee, Outcome]:
    """
    A recipient of which nothing is known is tried again.
    """
    unknown = Retry(R451_LOCAL_ERROR)
    return {addressee: outcomes.get(addressee, unknown) for addressee in addressees}
