"""
The village's stages: their contracts, and a letter from end to end.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase
from village import (
    Ledger,
    LedgerSettings,
    Residents,
    ResidentsSettings,
    SmallBag,
    SmallBagSettings,
)
from zope.interface import implementer

from deferrals.interfaces import IContentStage, IDeliveryStage, IEnvelopeStage
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.verdict import Defer, EnvelopeVerdict
from deferrals.server import Services, buildStage
from deferrals.testing import (
    ContentStageContract,
    DeliveryStageContract,
    EnvelopeStageContract,
    FakeServices,
    MemoryServer,
)


class ResidentsTests(EnvelopeStageContract, SynchronousTestCase):
    """A recipient that lives here, or not."""

    def makeStage(self) -> IEnvelopeStage:
        return Residents(ResidentsSettings(("anna",)), FakeServices())


class SmallBagTests(ContentStageContract, SynchronousTestCase):
    """What fits, and what does not."""

    def makeStage(self) -> IContentStage:
        return SmallBag(SmallBagSettings(100), FakeServices())


class LedgerTests(DeliveryStageContract, SynchronousTestCase):
    """A line for each letter."""

    def makeStage(self) -> IDeliveryStage:
        directory = self.mktemp()
        os.mkdir(directory)
        return Ledger(LedgerSettings("ledger"), FakeServices(directory))


class VillageTests(SynchronousTestCase):
    """All of it, behind one server."""

    def test_letter(self) -> None:
        """One lives here, one does not; the letter that fits is in the ledger."""
        directory = self.mktemp()
        os.mkdir(directory)
        server = MemoryServer()
        services = Services(server.clock, hostname="mx.village.test", baseDir=directory)
        server = MemoryServer(
            envelope=[
                _Everybody(),
                buildStage(IEnvelopeStage, "residents", services, names=["anna"]),
            ],
            content=buildStage(IContentStage, "small-bag", services, largest="1K"),
            delivery=buildStage(IDeliveryStage, "ledger", services, path="ledger"),
        )
        said = server.dialogue(
            "EHLO c", "MAIL FROM:<a@b.test>", "RCPT TO:<anna@village.test>",
            "RCPT TO:<bert@village.test>", "DATA", "Subject: hello", "", "hello", ".",
        )  # fmt: skip
        codes = [line[:3] for line in said if line[3] == " "]
        self.assertEqual(codes[-4:], ["250", "550", "354", "250"])
        server.advance(1)
        with open(os.path.join(directory, "ledger"), encoding="utf-8") as file:
            self.assertIn("anna@village.test", file.read())


@implementer(IEnvelopeStage)
class _Everybody:
    """Defers all: it stands where the rules of a configuration stand."""

    def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> EnvelopeVerdict:
        return Defer()
