"""
Delivery onwards to other mail servers, in such a way that they take it: through C{mx}
or C{smtp}, under a reverse path of this server's own (L{deferrals.model.srs}).

The message's octets stay as they are, so that its signatures hold; what is said of it
in front is what every copy that goes on has, and for a member of an alias that it was
there.  Connections, limits and bad days are
those of the delivery that it goes through.  Notices about it go to its sender: it is
only on the way out that it has another one.

The way back is L{deferrals.stages.delivery.returned}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal
from weakref import WeakKeyDictionary

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.deferreds import asDeferred
from deferrals.interfaces import (
    IAskableDelivery,
    IDeliveryStage,
    IForeseeingDelivery,
    IForeseeingMessageDelivery,
    IMarkedDelivery,
    IMessage,
    IOnwardDelivery,
    IReportingDelivery,
    IServices,
)
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.outgoing import Hop
from deferrals.model.reply import R451_LOCAL_ERROR, Reply
from deferrals.model.trace import placesBefore
from deferrals.model.verdict import (
    Accept,
    ContentVerdict,
    Details,
    Failed,
    Marks,
    Outcome,
    Refuse,
    Retry,
)
from deferrals.stages.delivery.copies import Report, ReportingDelivery, deliverApart
from deferrals.stages.delivery.copy import byMarks, headOf
from deferrals.stages.foreign import withHead

_log = Logger(namespace="deferrals.delivery")

#: Where messages were before: found out once for each, not once for each recipient.
_places: WeakKeyDictionary[IMessage, frozenset[str]] = WeakKeyDictionary()

R554_DELIVERED_BEFORE = Reply(
    554, "5.4.6", "the message has been at this address before: it is in a loop"
)
R550_MARKED = Reply(550, "5.7.1", "not forwarded: it looks like spam")


#: The configuration was changed since the mail came.
_MISSING = Retry(
    R451_LOCAL_ERROR, details=Details("the delivery that it goes through is not there", isOurs=True)
)


@attrs.frozen(kw_only=True)
class ForwardSettings:
    """
    @ivar through: the name of one of C{[deliveries]} that leads out: C{mx}, C{smtp}.
    @ivar marked: what becomes of mail that is marked as junk: C{"fail"}, it is refused;
        C{"forward"}, it goes on, marked; C{"file"}, it goes where the recipient's policy
        has its C{quarantine}.
    @ivar arc: whether it is sealed (ARC) with an RSA key of C{[[dkim]]} for the domain of
        C{[srs]}; by default where there is one.
    """

    through: str
    marked: Literal["fail", "forward", "file"] = "fail"
    arc: bool | None = None


@implementer(
    IAskableDelivery,
    IForeseeingMessageDelivery,
    IMarkedDelivery,
    IOnwardDelivery,
    IReportingDelivery,
)
class ForwardDelivery(ReportingDelivery):
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: ForwardSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services

    @property
    def through(self) -> IDeliveryStage | None:
        """
        The delivery that it goes through; C{None} where there is none any longer.
        """
        return self._services.delivery(self._settings.through)

    def destination(self, recipient: Recipient) -> str:
        through = self.through
        if through is None:
            return f"no delivery {self._settings.through}"
        return through.destination(recipient)

    async def hops(self, recipient: Recipient) -> Sequence[Hop] | Failed | Retry:
        through = self.through
        if not IAskableDelivery.providedBy(through):
            return _MISSING
        found: Sequence[Hop] | Failed | Retry = await asDeferred(through.hops, recipient)
        return found

    def judgeMarked(
        self, verdict: Accept, recipient: Recipient, quarantine: str | None
    ) -> ContentVerdict:
        marked = self._settings.marked
        if marked == "forward":
            return verdict
        route = recipient.route
        if marked == "fail" or quarantine is None or route is None:
            return Refuse(R550_MARKED, why=f"marked as junk, not forwarded ({verdict.why})")
        why = f"marked as junk, filed by {quarantine} ({verdict.why})"
        return attrs.evolve(verdict, route=attrs.evolve(route, delivery=quarantine), why=why)

    def refusal(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        through = self.through
        if not IForeseeingDelivery.providedBy(through):
            return None
        return through.refusal(self._outwards(envelope), recipient)

    async def refusalOf(
        self, message: IMessage, envelope: Envelope, recipient: Recipient
    ) -> Reply | None:
        if _wasHere(message, recipient):
            return R554_DELIVERED_BEFORE
        through = self.through
        if not IForeseeingMessageDelivery.providedBy(through):
            return None
        outwards = self._outwards(envelope)
        reply: Reply | None
        reply = await asDeferred(through.refusalOf, message, outwards, recipient)
        return reply

    def _outwards(self, envelope: Envelope) -> Envelope:
        """
        The envelope under which it goes on.
        """
        if envelope.sender is None:
            return envelope
        return attrs.evolve(envelope, sender=self._services.reversePath(envelope.sender))

    def deliverReporting(
        self,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Report,
    ) -> Deferred[dict[Addressee, Outcome]]:
        looping: dict[Addressee, Outcome] = {
            one: Failed(R554_DELIVERED_BEFORE)
            for one in recipients
            if _wasHere(message, one.recipient)
        }
        for addressee, outcome in looping.items():
            report(addressee, outcome)
        traced = {_traced(one): one for one in recipients if one not in looping}
        groups = [[traced[other] for other in group] for group in byMarks(list(traced))]
        outwards = self._outwards(envelope)
        self._tell(envelope, outwards, list(traced))

        async def send(group: Sequence[Addressee], heard: Report) -> dict[Addressee, Outcome]:
            marks = _traced(group[0]).marks
            leaving, marks = await self._sealed(message, envelope, marks)
            renamed = {one: attrs.evolve(one, marks=marks) for one in group}
            return await deliverThrough(self.through, leaving, outwards, renamed, heard)

        delivering = deliverApart(envelope, groups, send, report)
        return delivering.addCallback(lambda rest: looping | rest)

    async def _sealed(
        self, message: IMessage, envelope: Envelope, marks: Marks
    ) -> tuple[IMessage, Marks]:
        """
        The message as it goes on with these marks; and what is left of them.
        """
        sealer = self._services.sealer
        if self._settings.arc is False or not sealer.hasKeys:
            return message, marks
        head = headOf(message, self._services.hostname, False).marked(marks)
        seal = await sealer.seal(message, withHead(message, b"", head), envelope)
        left = attrs.evolve(marks, removed=(), subjectPrefix="", edits=())  # that is done
        return withHead(message, seal, head), left

    def _tell(self, was: Envelope, now: Envelope, addressees: Sequence[Addressee]) -> None:
        """
        What the next hop's log has, and what this server's has, are one message.
        """
        if now.sender != was.sender:
            for one in addressees:
                _log.info(
                    "{transaction} to=<{recipient}> goes on from <{reverse_path}>",
                    transaction=was.id,
                    recipient=str(one),
                    reverse_path=now.senderText,
                )


def _wasHere(message: IMessage, recipient: Recipient) -> bool:
    """
    Whether a message was at an address before, or at an alias that leads to it.
    """
    places = _places.get(message)
    if places is None:
        places = _places[message] = placesBefore(message.fields())
    return any(one.key in places for one in (recipient.address, *recipient.aliases))


def _traced(addressee: Addressee) -> Addressee:
    """
    The copy for a member of an alias says that it was there: should it come back, it is
    in a loop.
    """
    alias = addressee.recipient.alias
    if alias is None or alias.needsUTF8:
        return addressee
    headers = (("Delivered-To", str(alias)), *addressee.marks.headers)
    return attrs.evolve(addressee, marks=attrs.evolve(addressee.marks, headers=headers))


async def deliverThrough(
    through: IDeliveryStage | None,
    message: IMessage,
    envelope: Envelope,
    addressees: Mapping[Addressee, Addressee],
    report: Report,
) -> dict[Addressee, Outcome]:
    """
    Hand addressees to another delivery.

    @param through: C{None} where there is none any longer.
    @param addressees: each with what it is for the other one.
    @return: an outcome for each of them.
    """
    back = {other: one for one, other in addressees.items()}
    known: dict[Addressee, Outcome] = {}

    def heard(addressee: Addressee, outcome: Outcome) -> None:
        if addressee in back:
            known.setdefault(back[addressee], outcome)
            report(back[addressee], outcome)

    outcomes: Mapping[Addressee, Outcome] = {}
    if IReportingDelivery.providedBy(through):
        deliver = through.deliverReporting
        outcomes = await asDeferred(deliver, message, envelope, list(back), heard)
    elif through is not None:
        outcomes = await asDeferred(through.deliver, message, envelope, list(back))
    found = {back[other]: outcome for other, outcome in outcomes.items() if other in back}
    unknown = _MISSING if through is None else Retry(R451_LOCAL_ERROR)
    return dict.fromkeys(addressees, unknown) | found | known
