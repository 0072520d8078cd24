"""
One stage of each kind, for a village whose post office has a list.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    IMessage,
    IServices,
)
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.settings import Octets
from deferrals.model.verdict import (
    ACCEPT,
    ContentVerdict,
    Delivered,
    EnvelopeVerdict,
    Outcome,
    Refuse,
    Retry,
)


@attrs.frozen
class ResidentsSettings:
    """
    @ivar names: the local parts that live here.
    """

    names: tuple[str, ...]


@implementer(IEnvelopeStage)
class Residents:
    """
    Refuses who does not live here, while the sender waits.  A stage that
    answers at once returns its verdict.
    """

    def __init__(self, settings: ResidentsSettings, services: IServices) -> None:
        self._names = frozenset(settings.names)

    def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> EnvelopeVerdict | None:
        if recipient.address.local.lower() in self._names:
            return None  # what the rules have said stands
        return Refuse(Reply(550, "5.1.1", "does not live in this village"))


@attrs.frozen
class SmallBagSettings:
    """
    @ivar largest: the largest message that fits.
    """

    largest: Octets


@implementer(IContentStage)
class SmallBag:
    """
    Refuses what does not fit into the bag.  A stage may be a coroutine.
    """

    def __init__(self, settings: SmallBagSettings, services: IServices) -> None:
        self._largest = settings.largest

    def cohort(self, recipient: Recipient) -> Hashable:
        return None  # the answer is everybody's

    async def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> ContentVerdict:
        # Computed once, however many stages or cohorts ask for it.
        size = await message.shared(__name__, lambda message: message.size)
        if size <= self._largest:
            return ACCEPT
        return Refuse(Reply(552, "5.3.4", "does not fit into the bag"))


@attrs.frozen
class LedgerSettings:
    """
    @ivar path: the file that gets a line for each letter.
    """

    path: str


@implementer(IDeliveryStage)
class Ledger:
    """
    Writes down who got what.  A stage may return a Deferred; what blocks runs
    in a thread.
    """

    def __init__(self, settings: LedgerSettings, services: IServices) -> None:
        self._path = os.path.join(services.baseDir, settings.path)
        self._services = services

    def destination(self, recipient: Recipient) -> str:
        return "ledger"

    def deliver(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Addressee]
    ) -> Deferred[Mapping[Addressee, Outcome]]:
        lines = "".join(f"{envelope.id} {addressee}\n" for addressee in recipients)
        d = self._services.inThread(self._write, lines)
        return d.addCallback(lambda outcome: dict.fromkeys(recipients, outcome))

    def _write(self, lines: str) -> Outcome:
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(lines)
        except OSError:
            return Retry(Reply(451, "4.2.0", "the ledger cannot be written"))
        return Delivered()
