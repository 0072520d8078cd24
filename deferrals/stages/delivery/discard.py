"""
Delivery into nothing: for tests, benchmarks, and addresses whose mail is
accepted and not wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from zope.interface import implementer

from deferrals.interfaces import IBinaryDelivery, ILocalDelivery, IMessage, IServices
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.verdict import Delivered, Outcome


@attrs.frozen
class DiscardSettings:
    """
    There is nothing to set.
    """


@implementer(IBinaryDelivery, ILocalDelivery)
class DiscardDelivery:
    """
    See the module.
    """

    def __init__(self, settings: DiscardSettings, services: IServices) -> None:
        pass

    def destination(self, recipient: Recipient) -> str:
        return "discard"

    def deliver(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Addressee]
    ) -> dict[Addressee, Outcome]:
        return dict.fromkeys(recipients, Delivered())
