"""
The stages that a server has, checked and put together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from deferrals.errors import StageError
from deferrals.interfaces import (
    IBinaryDelivery,
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    IMarkedDelivery,
    IOnwardDelivery,
    ISenderStage,
    ITransactionObserver,
)
from deferrals.model.address import Mailbox
from deferrals.model.disposition import NOT_TOLD
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_STAGE_FAILED, R550_RELAYING_DENIED, R550_SENDER_ROUTING
from deferrals.model.schedule import Schedule
from deferrals.model.status import Status
from deferrals.model.verdict import (
    Accept,
    ContentVerdict,
    EnvelopeAnswer,
    Expand,
    Refuse,
    Route,
)
from deferrals.plugins.finding import checkStage
from deferrals.stages.content.judge import ContentJudge, Lift
from deferrals.stages.envelope.chain import askInTurn
from deferrals.stages.envelope.foreseen import Foreseen
from deferrals.stages.envelope.rules import Onward, RuleTable

_T = TypeVar("_T")

#: The names of the policy and of the delivery that have been given none.
CONTENT, DELIVERY = "content", "delivery"

#: When a delivery is tried again that has no schedule of its own, or that is
#: there no longer.
_ORDINARY = Schedule()

# As text: the lowest supported zope.interface has no C{|}.
Envelopes: TypeAlias = "IEnvelopeStage | Sequence[IEnvelopeStage]"
Contents = Sequence[IContentStage] | Mapping[str, Sequence[IContentStage]]
Deliveries: TypeAlias = "IDeliveryStage | Mapping[str, IDeliveryStage]"
Schedules = Schedule | Mapping[str, Schedule]
RouteBack = Callable[[Mailbox], Route | None]
ReversePath = Callable[[Mailbox], Mailbox]


def unchanged(sender: Mailbox) -> Mailbox:
    """
    Mail is sent on as its sender's.
    """
    return sender


Notices = str | RouteBack | None


@attrs.frozen
class Choices:
    """
    What L{MailServer<deferrals.server.MailServer>} is given, and has to be checked.
    """

    envelope: Envelopes
    content: Contents
    delivery: Deliveries
    schedule: Schedules
    notices: Notices
    quarantines: Mapping[str, str] | None
    reversePath: ReversePath | None

    def stages(self) -> Stages:
        """
        @raise TypeError: as L{Stages.make}.
        @raise ValueError: as L{Stages.make}.
        """
        return Stages.make(
            envelope=self.envelope,
            content=self.content,
            delivery=self.delivery,
            schedule=self.schedule,
            notices=self.notices,
            quarantines={} if self.quarantines is None else self.quarantines,
            reversePath=self.reversePath or unchanged,
        )


@attrs.frozen(kw_only=True)
class Stages:
    """
    What new transactions meet, and what queued mail goes to.

    @ivar senders: the stages that decide about senders.
    @ivar observers: the stages that are told how transactions end.
    @ivar envelope: decides at RCPT TO.
    @ivar content: the content stages of each policy.
    @ivar deliveries: delivery stages by name.
    @ivar schedules: when what they could not deliver is tried again, by name.
    @ivar routeBack: finds where a notice for a sender goes; C{None} if there is
        no way.
    @ivar quarantines: the deliveries that get what policies refuse of messages
        that had to be accepted, by policy.
    @ivar reversePath: finds the one under which mail of a sender is sent on.
    """

    senders: Sequence[ISenderStage]
    observers: Sequence[ITransactionObserver]
    envelope: IEnvelopeStage
    content: Mapping[str, Sequence[IContentStage]]
    deliveries: Mapping[str, IDeliveryStage]
    schedules: Mapping[str, Schedule]
    routeBack: RouteBack
    quarantines: Mapping[str, str]
    reversePath: ReversePath

    @classmethod
    def make(
        cls,
        *,
        envelope: Envelopes,
        content: Contents,
        delivery: Deliveries,
        schedule: Schedules,
        notices: Notices,
        quarantines: Mapping[str, str],
        reversePath: ReversePath = unchanged,
    ) -> Stages:
        """
        Out of what L{MailServer<deferrals.server.MailServer>} is given.

        @raise TypeError: an object is no such stage, or cannot be hashed.
        @raise ValueError: a name is no policy's, or no delivery's.
        """
        policies = _policies(content)
        deliveries = dict(delivery) if isinstance(delivery, Mapping) else {DELIVERY: delivery}
        _check(IDeliveryStage, deliveries.values())
        if not deliveries:
            raise ValueError("delivery: expected one at least")
        _checkNames("content", policies)
        _checkNames("delivery", deliveries)
        if isinstance(schedule, Schedule):
            schedule = dict.fromkeys(deliveries, schedule)
        _names("schedule", "delivery", _mapping("schedule", schedule), deliveries)
        for one in schedule.values():
            if not isinstance(one, Schedule):
                raise TypeError(f"schedule: expected a Schedule, not {one!r}")
        _names("quarantines", "policy", _mapping("quarantines", quarantines), policies)
        _names("quarantines", "delivery", quarantines.values(), deliveries)
        first = _first(envelope, policies, deliveries, quarantines)
        every = _every(first, policies, deliveries)
        return cls(
            senders=[stage for stage in every if ISenderStage.providedBy(stage)],
            observers=[stage for stage in every if ITransactionObserver.providedBy(stage)],
            envelope=first,
            content=policies,
            deliveries=deliveries,
            schedules=dict(schedule),
            routeBack=_routeBack(notices, deliveries),
            quarantines=dict(quarantines),
            reversePath=reversePath,
        )

    @property
    def takesBinary(self) -> bool:
        """
        Whether BODY=BINARYMIME can go everywhere as it is.
        """
        return all(IBinaryDelivery.providedBy(one) for one in self.deliveries.values())


class CurrentStages:
    """
    The stages of this moment: others may be set at any time, and what asks
    through here needs not know of it.

    @param maxJudging: messages in the content stages at once.
    @param hostname: this server's name.
    @param status: where judgements are counted.
    @param lift: see L{ContentJudge}.
    @ivar content: the judge over all policies.
    @ivar foreseen: what all deliveries know beforehand.
    """

    def __init__(
        self,
        first: Stages,
        maxJudging: int,
        hostname: str = "",
        status: Status | None = None,
        lift: Lift = lambda *_: None,
    ) -> None:
        self._lift = lift
        self._maxJudging = maxJudging
        self._hostname = hostname
        self._status = status
        self.set(first)

    def set(self, stages: Stages) -> None:
        """
        Let new transactions meet these.
        """
        self.now = stages
        self.content = ContentJudge(
            stages.content,
            self._maxJudging,
            self._hostname,
            self._status,
            self._settled,
            self._lift,
        )
        self.foreseen = Foreseen(stages.deliveries)

    def _settled(self, verdict: ContentVerdict, recipient: Recipient) -> ContentVerdict:
        """
        What becomes of accepted mail: a stage wants it in quarantine, or the
        recipient's delivery does not take what is marked.
        """
        route = recipient.route
        if route is None or not isinstance(verdict, Accept) or verdict.nowhere:
            return verdict
        quarantine = self.now.quarantines.get(route.policy)
        if verdict.isQuarantined:
            return _quarantined(verdict, route, quarantine)
        if not verdict.marks.junk:
            return verdict
        delivery = self.delivery(route.delivery)
        if not IMarkedDelivery.providedBy(delivery):
            return verdict
        return delivery.judgeMarked(verdict, recipient, quarantine)

    def delivery(self, name: str) -> IDeliveryStage | None:
        """
        The delivery of a name; C{None} where there is none any longer.
        """
        return self.now.deliveries.get(name)

    def reversePath(self, sender: Mailbox) -> Mailbox:
        """
        The reverse path under which mail of a sender is sent on.
        """
        return self.now.reversePath(sender)

    def schedule(self, name: str) -> Schedule:
        """
        When what it could not deliver is tried again.
        """
        return self.now.schedules.get(name, _ORDINARY)

    def routeBack(self, sender: Mailbox) -> Route | None:
        """
        Where a notice for a sender goes; C{None} if there is no way.
        """
        return self.now.routeBack(sender)

    def canWriteTo(self, sender: Mailbox) -> bool:
        """
        Whether there is a way for notices to a sender.
        """
        return self.now.routeBack(sender) not in (None, NOT_TOLD)


def _quarantined(verdict: Accept, route: Route, quarantine: str | None) -> ContentVerdict:
    if quarantine is None:
        return Refuse(R451_STAGE_FAILED, why=f"no quarantine for it ({verdict.why})")
    why = f"filed by {quarantine} ({verdict.why})"
    return attrs.evolve(verdict, route=attrs.evolve(route, delivery=quarantine), why=why)


@implementer(IEnvelopeStage)
class EnvelopeChain:
    """
    The envelope stages of a program that embeds the server, as one.

    They are asked in their order; a refusal ends it; the last opinion counts.
    A recipient that none of them lets in is refused, 550 5.7.1.  Names that a
    verdict leaves out are filled in where there is one policy, one delivery.

    @ivar stages: the stages.
    @param policies: the names of all policies.
    @param quarantines: the names of the deliveries that some of them have.
    """

    def __init__(
        self,
        stages: Sequence[IEnvelopeStage],
        policies: Iterable[str],
        deliveries: Mapping[str, IDeliveryStage],
        quarantines: Mapping[str, str],
    ) -> None:
        self.stages = stages
        self._policies = list(policies)
        self._deliveries = deliveries
        names = {name for name, one in deliveries.items() if IOnwardDelivery.providedBy(one)}
        self._onward = Onward(names, quarantines)
        self._foreseen = Foreseen(deliveries)

    def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> Deferred[EnvelopeAnswer]:
        return Deferred.fromCoroutine(self._judge(envelope, recipient))

    async def _judge(self, envelope: Envelope, recipient: Recipient) -> EnvelopeAnswer:
        verdict = await self._asked(envelope, recipient)
        if isinstance(verdict, Refuse | Expand):
            return verdict
        if self._onward.refuses(recipient.address, verdict.route):
            return Refuse(R550_SENDER_ROUTING)
        return self._foreseen.judged(verdict, envelope, recipient)

    async def _asked(self, envelope: Envelope, recipient: Recipient) -> EnvelopeAnswer:
        """
        What the stages say, and the delivery's own envelope stage behind them.
        """
        refuse = Refuse(R550_RELAYING_DENIED)
        verdict = await askInTurn(self.stages, envelope, recipient, refuse)
        if isinstance(verdict, Refuse | Expand):
            return verdict
        route = self._completed(verdict.route)
        verdict = attrs.evolve(verdict, route=route)
        delivery = self._deliveries[route.delivery]
        if not IEnvelopeStage.providedBy(delivery) or delivery in self.stages:
            return verdict
        routed = recipient.routed(route)
        verdict = await askInTurn([delivery], envelope, routed, verdict)
        if isinstance(verdict, Refuse | Expand):
            return verdict
        return attrs.evolve(verdict, route=self._completed(verdict.route))

    def _completed(self, route: Route | None) -> Route:
        route = route or Route("", "")
        policy = _chosen("policy", route.policy, self._policies)
        delivery = _chosen("delivery", route.delivery, list(self._deliveries))
        return attrs.evolve(route, policy=policy, delivery=delivery)


def _chosen(what: str, name: str, names: Sequence[str]) -> str:
    """
    @raise StageError: there is no such name; or none was given, and there are
        several.
    """
    if not name and len(names) == 1:
        return names[0]
    if name not in names:
        raise StageError(f"no {what} is named {name!r}; there are: {', '.join(names)}")
    return name


def _policies(content: Contents) -> dict[str, Sequence[IContentStage]]:
    if not isinstance(content, Mapping):
        content = {CONTENT: content}
    for stages in content.values():
        if not isinstance(stages, Sequence):
            raise TypeError(f"content: expected a sequence of IContentStage, not {stages!r}")
    policies = {name: tuple(stages) for name, stages in content.items()}
    for stages in policies.values():
        _check(IContentStage, stages)
    return dict(policies)


def _first(
    envelope: Envelopes,
    policies: Iterable[str],
    deliveries: Mapping[str, IDeliveryStage],
    quarantines: Mapping[str, str],
) -> RuleTable | EnvelopeChain:
    """
    The stage that a session asks.  The rules of a configuration name a policy
    and a delivery for each recipient, and ask the delivery themselves.
    """
    if isinstance(envelope, RuleTable):
        return envelope
    stages = tuple(envelope) if isinstance(envelope, Sequence) else (envelope,)
    _check(IEnvelopeStage, stages)
    if not stages:
        raise ValueError("envelope: expected a stage; without one every recipient is refused")
    return EnvelopeChain(stages, policies, deliveries, quarantines)


def _every(
    first: RuleTable | EnvelopeChain,
    policies: Mapping[str, Sequence[IContentStage]],
    deliveries: Mapping[str, IDeliveryStage],
) -> list[object]:
    """
    All stages, each once, in the order in which mail meets them.
    """
    contents = itertools.chain.from_iterable(policies.values())
    every = [*first.stages, *contents, *deliveries.values()]
    return list({id(stage): stage for stage in every}.values())


def _check(interface: type[Interface], stages: Iterable[object]) -> None:
    for stage in stages:
        try:
            checkStage(interface, stage, "this is")
        except ValueError as error:
            raise TypeError(f"expected {error}") from None


def _checkNames(where: str, named: Iterable[str]) -> None:
    """
    The spool remembers them, and lines of the log have them.
    """
    for name in named:
        if not isinstance(name, str):
            raise TypeError(f"{where}: expected text as a name, not {name!r}")
        if not name or not name.isprintable():
            raise ValueError(f"{where}: expected a name that can be printed, not {name!r}")


def _mapping(where: str, given: Mapping[str, _T]) -> Mapping[str, _T]:
    if not isinstance(given, Mapping):
        raise TypeError(f"{where}: expected a mapping, by name, not {given!r}")
    return given


def _names(where: str, what: str, given: Iterable[str], there: Iterable[str]) -> None:
    unknown = [name for name in given if name not in there]
    if unknown:
        names = ", ".join(there)
        raise ValueError(f"{where}: no {what} is named {unknown[0]!r}; there are: {names}")


def _routeBack(notices: Notices, deliveries: Iterable[str]) -> RouteBack:
    if callable(notices):
        return notices
    if notices is not None:
        _names("notices", "delivery", [notices], deliveries)
    route = None if notices is None else Route("", notices)
    return lambda sender: route
