"""
What deliveries know beforehand that they can never deliver: asked at RCPT TO, of
the delivery that the recipient's mail goes to in the end, and of the one where it
would be filed if its policy refused too late.
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.python.reflect import safe_repr

from deferrals.deferreds import atOnce
from deferrals.errors import StageError
from deferrals.interfaces import IDeliveryStage, IForeseeingDelivery
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import EnvelopeVerdict, Refuse


class Foreseen:
    """
    @param deliveries: by name.
    @param quarantines: the delivery of what is refused too late, by policy.
    """

    def __init__(
        self, deliveries: Mapping[str, IDeliveryStage], quarantines: Mapping[str, str]
    ) -> None:
        self._asked: dict[str, IForeseeingDelivery] = {
            name: one for name, one in deliveries.items() if IForeseeingDelivery.providedBy(one)
        }
        self._quarantines = quarantines

    def judged(
        self, verdict: EnvelopeVerdict, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeVerdict:
        """
        @param verdict: what all others have said.
        @return: the same, or a refusal.
        @raise StageError: a delivery has answered with something else.
        """
        if isinstance(verdict, Refuse) or verdict.route is None or not self._asked:
            return verdict
        route = verdict.route
        for name in (route.delivery, self._quarantines.get(route.policy)):
            delivery = None if name is None else self._asked.get(name)
            if delivery is not None:
                reply = _asked(delivery, envelope, recipient.routed(route))
                if reply is not None:
                    return Refuse(reply, why=f"the delivery {name}")
        return verdict


def _asked(delivery: IForeseeingDelivery, envelope: Envelope, recipient: Recipient) -> Reply | None:
    source = f"{type(delivery).__name__}.refusal"
    reply = atOnce(delivery.refusal(envelope, recipient), source)
    if reply is None or (isinstance(reply, Reply) and reply.code >= 400):
        return reply
    raise StageError(f"{source} answered {safe_repr(reply)[:200]}, which is no refusal")
