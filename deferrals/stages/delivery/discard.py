"""
Delivery into nothing: for tests, benchmarks, and addresses whose mail nobody
wants although it is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from zope.interface import implementer

from deferrals.interfaces import IDeliveryStage
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.verdict import Delivered, Outcome


@attrs.frozen
class DiscardSettings:
    """
    There is nothing to set.
    """


@implementer(IDeliveryStage)
class DiscardDelivery:
    """
    See the module.
    """

    takesBinary = True

    def __init__(self, settings: DiscardSettings, services: Any) -> None:
        pass

    def destination(self, recipient: Recipient) -> str:
        """
        See L{IDeliveryStage.destination}.
        """
        return "discard"

    def deliver(
        self, message: Any, envelope: Envelope, recipients: Sequence[Addressee]
    ) -> dict[Addressee, Outcome]:
        """
        See L{IDeliveryStage.deliver}.
        """
        return dict.fromkeys(recipients, Delivered())
