"""
What the village offers to configurations.
"""

from __future__ import annotations

import attrs
import village
from twisted.plugin import IPlugin
from zope.interface import Interface, implementer

from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    IServices,
    IStagePlugin,
)


@implementer(IStagePlugin, IPlugin)
@attrs.frozen
class Plugin:
    name: str
    stage: type[Interface]
    settings: type
    make: type

    def build(self, settings: object, services: IServices) -> object:
        return self.make(settings, services)


residents = Plugin("residents", IEnvelopeStage, village.ResidentsSettings, village.Residents)
smallBag = Plugin("small-bag", IContentStage, village.SmallBagSettings, village.SmallBag)
ledger = Plugin("ledger", IDeliveryStage, village.LedgerSettings, village.Ledger)
