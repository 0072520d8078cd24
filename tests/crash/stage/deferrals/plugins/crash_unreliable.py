"""
A delivery for tests, whose next hops fail as the address says: C{gone-…} is
refused for good; C{dead-…} has a hop that does not answer, as long as there is
no file C{alive} in the state directory; C{slow-…} takes two seconds; everybody
else has it at once.  The next hop is the domain.
"""

import os
from typing import Any

import attrs
from twisted.internet.task import deferLater
from twisted.plugin import IPlugin
from zope.interface import implementer

from deferrals.interfaces import IDeliveryStage, IStagePlugin
from deferrals.model.reply import Reply
from deferrals.model.verdict import Delivered, Failed, Retry

GONE = Failed(Reply(550, "5.1.1", "nobody of that name"), "mx.gone.example")
DEAD = Retry(Reply(451, "4.4.1", "no answer"), "mx.dead.example")
TAKEN = Delivered(Reply(250, "2.0.0", "taken"), "mx.live.example", "relayed")


@attrs.frozen
class Settings:
    """
    There is nothing to set.
    """


@implementer(IDeliveryStage)
class Unreliable:
    def __init__(self, services: Any) -> None:
        self._reactor = services.reactor
        self._alive = os.path.join(services.stateDir, "alive")

    def destination(self, recipient: Any) -> str:
        return f"hop {recipient.address.domain}"

    def deliver(self, message: Any, envelope: Any, recipients: Any) -> Any:
        outcomes = {recipient: self._outcome(str(recipient)) for recipient in recipients}
        if any(str(recipient).startswith("slow-") for recipient in recipients):
            return deferLater(self._reactor, 2.0, lambda: outcomes)
        return outcomes

    def _outcome(self, address: str) -> Any:
        if address.startswith("gone-"):
            return GONE
        if address.startswith("dead-") and not os.path.exists(self._alive):
            return DEAD
        return TAKEN


@implementer(IPlugin, IStagePlugin)
class UnreliablePlugin:
    name = "unreliable"
    stage = IDeliveryStage
    settings = Settings

    def build(self, settings: Any, services: Any) -> Any:
        return Unreliable(services)


unreliable = UnreliablePlugin()
