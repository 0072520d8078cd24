"""
What deliveries know beforehand that they can never deliver: asked at RCPT TO, and
again when the message is there, of the delivery that the recipient's mail goes to in
the end.

Where it would be filed, if its policy refused too late, is not asked: that delivery is
not the recipient's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.python.reflect import safe_repr

from deferrals.deferreds import asDeferred, atOnce
from deferrals.errors import StageError
from deferrals.interfaces import (
    IDeliveryStage,
    IForeseeingDelivery,
    IForeseeingMessageDelivery,
    IMessage,
)
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import EnvelopeVerdict, Refuse

_log = Logger(namespace="deferrals.stages")


class Foreseen:
    """
    @param deliveries: by name.
    @ivar seesMessages: whether one of them looks at messages, too.
    """

    def __init__(self, deliveries: Mapping[str, IDeliveryStage]) -> None:
        self._asked: dict[str, IForeseeingDelivery] = {
            name: one for name, one in deliveries.items() if IForeseeingDelivery.providedBy(one)
        }
        self._shown: dict[str, IForeseeingMessageDelivery] = {
            name: one
            for name, one in deliveries.items()
            if IForeseeingMessageDelivery.providedBy(one)
        }
        self.seesMessages = bool(self._shown)

    def judged(
        self, verdict: EnvelopeVerdict, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeVerdict:
        """
        @param verdict: what all others have said.
        @return: the same, or a refusal.
        @raise StageError: a delivery has answered with something else.
        """
        if isinstance(verdict, Refuse) or verdict.route is None:
            return verdict
        delivery = self._asked.get(verdict.route.delivery)
        if delivery is None:
            return verdict
        source = f"{type(delivery).__name__}.refusal"
        routed = recipient.routed(verdict.route)
        reply = _refusal(atOnce(delivery.refusal(envelope, routed), source), source)
        if reply is None:
            return verdict
        return Refuse(reply, why=f"the delivery {verdict.route.delivery}")

    async def refusals(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> dict[int, Reply]:
        """
        The message is there.

        @param recipients: each with its route.
        @return: how those refuse that can never be delivered, by their position.  A
            delivery that fails is in the log, and refuses nothing.
        """
        found = {}
        for index, recipient in enumerate(recipients):
            route = recipient.route
            delivery = None if route is None else self._shown.get(route.delivery)
            if delivery is not None:
                reply = await self._ofMessage(delivery, message, envelope, recipient)
                if reply is not None:
                    found[index] = reply
        return found

    async def _ofMessage(
        self,
        delivery: IForeseeingMessageDelivery,
        message: IMessage,
        envelope: Envelope,
        recipient: Recipient,
    ) -> Reply | None:
        source = f"{type(delivery).__name__}.refusalOf"
        try:
            reply = await asDeferred(delivery.refusalOf, message, envelope, recipient)
            return _refusal(reply, source)
        except CancelledError:
            raise
        except Exception:
            _log.raised(
                Failure(),
                "{transaction}: {stage} failed for <{recipient}>: {error}",
                transaction=envelope.id,
                stage=source,
                recipient=str(recipient),
            )
            return None


def _refusal(reply: Reply | None, source: str) -> Reply | None:
    """
    @raise StageError: it is no refusal, whatever its type promises.
    """
    if reply is None or (isinstance(reply, Reply) and reply.code >= 400):
        return reply
    raise StageError(f"{source} answered {safe_repr(reply)[:200]}, which is no refusal")
