"""
Delivery to nowhere.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.delivery.discard import DiscardDelivery, DiscardSettings
from deferrals.testing import (
    DeliveryStageContract,
    FakeServices,
)


class DiscardTests(DeliveryStageContract, SynchronousTestCase):
    """
    L{DiscardDelivery}.
    """

    def makeStage(self) -> DiscardDelivery:
        return DiscardDelivery(DiscardSettings(), FakeServices())
