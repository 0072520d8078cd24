"""
Delivery of what is sent to a reverse path that this server has rewritten: to the sender
that it stands for, on the way that notices for it go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.interfaces import (
    IDeliveryStage,
    IForeseeingDelivery,
    IMessage,
    IReportingDelivery,
    IServices,
)
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.srs import SRS, SRSError
from deferrals.model.verdict import Failed, Outcome, Route
from deferrals.stages.delivery.copies import Report, ReportingDelivery, deliverApart
from deferrals.stages.delivery.forward import ForwardDelivery, deliverThrough

_log = Logger(namespace="deferrals.delivery")


@implementer(IForeseeingDelivery, IReportingDelivery)
class ReturnDelivery(ReportingDelivery):
    """
    See the module.

    @param srs: reads the addresses.
    @param services: L{IServices<deferrals.interfaces.IServices>}.
    @param routeBack: finds where notices for a sender go; C{None} where there is no way.
    """

    def __init__(
        self, srs: SRS, services: IServices, routeBack: Callable[[Mailbox], Route | None]
    ) -> None:
        self._srs = srs
        self._services = services
        self._routeBack = routeBack

    def _origin(self, recipient: Recipient) -> Recipient | None:
        """
        @return: the sender that the address stands for, with its route; C{None} where it
            stands for none, or there is no way there.
        """
        try:
            address = self._srs.reverse(recipient.address, None)
        except SRSError:
            return None
        route = self._routeBack(address)
        return None if route is None else attrs.evolve(recipient, address=address, route=route)

    def _delivery(self, origin: Recipient) -> IDeliveryStage | None:
        """
        What delivers there; where that forwards, what it goes through.
        """
        route = origin.route
        found = None if route is None else self._services.delivery(route.delivery)
        return found.through if isinstance(found, ForwardDelivery) else found

    def destination(self, recipient: Recipient) -> str:
        origin = self._origin(recipient)
        delivery = None if origin is None else self._delivery(origin)
        if origin is None or delivery is None:
            return "no sender"
        return delivery.destination(origin)

    def refusal(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        origin = self._origin(recipient)
        if origin is None:
            return R550_UNKNOWN_RECIPIENT
        delivery = self._delivery(origin)
        if not IForeseeingDelivery.providedBy(delivery):
            return None
        return delivery.refusal(envelope, origin)

    def deliverReporting(
        self,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Report,
    ) -> Deferred[dict[Addressee, Outcome]]:
        if envelope.sender is not None:
            sender = self._services.reversePath(envelope.sender)
            envelope = attrs.evolve(envelope, sender=sender)

        async def one(addressees: Sequence[Addressee], heard: Report) -> dict[Addressee, Outcome]:
            (addressee,) = addressees
            origin = self._origin(addressee.recipient)
            if origin is None:
                return {addressee: Failed(R550_UNKNOWN_RECIPIENT)}
            back = attrs.evolve(addressee, recipient=origin)
            _log.info(
                "{transaction} to=<{recipient}> goes back to <{origin}>",
                transaction=envelope.id,
                recipient=str(addressee),
                origin=str(origin),
            )

            delivery = self._delivery(origin)
            return await deliverThrough(delivery, message, envelope, {addressee: back}, heard)

        return deliverApart(envelope, [[one] for one in recipients], one, report)
