"""
The way back to senders of what was forwarded.
"""

from __future__ import annotations

from typing import Any

import attrs

from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import NOT_TOLD
from deferrals.model.envelope import Parameters
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT
from deferrals.model.sending import R550_NO_REQUIRETLS
from deferrals.model.srs import DAY_SECONDS, SRS
from deferrals.model.verdict import Delivered, Failed, Retry, Route
from deferrals.stages.delivery.forward import ForwardDelivery, ForwardSettings
from deferrals.stages.delivery.returned import ReturnDelivery
from deferrals.testing import (
    FakeDelivery,
    FakeServices,
    ReportingDeliveryContract,
    makeAddressees,
    makeEnvelope,
    makeRecipient,
)
from tests.remote import RemoteCase

OURS = SRS("mx.example.net", (b"secret",))


def path(sender: str, seconds: float = 0.0) -> str:
    """
    The reverse path that stands for a sender.
    """
    return str(OURS.forward(Mailbox.parse(sender), seconds))


class ReturnCase(RemoteCase):
    """
    C{[srs]} with C{smtp} as the way back.
    """

    def makeStage(self, way: str = "out") -> Any:
        self.deliveries = {"out": super().makeStage(), "box": FakeDelivery()}
        services = FakeServices("/etc", self.clock, deliveries=self.deliveries)
        settings = ForwardSettings(through="out")
        services._deliveries["fwd"] = ForwardDelivery(settings, services)
        services.reversePaths["other@client.example"] = Mailbox("rewritten", "mx.example.net")

        def routeBack(sender: Mailbox) -> Route | None:
            if sender.domain == "nowhere.example":
                return None
            if sender.domain == "untold.example":
                return NOT_TOLD
            return Route("", "box" if sender.domain == "ours.example" else way)

        return ReturnDelivery(OURS, services, routeBack)


class ReturnContractTests(ReturnCase, ReportingDeliveryContract):
    """
    L{ReturnDelivery} as a delivery stage.
    """

    def makeAddressees(self) -> list[Addressee]:
        return makeAddressees(path("a@example.org"), path("b@example.org"))

    def makeHalting(self) -> ReturnDelivery:
        self.peer.rcpt = {"b@example.org": "silence"}
        stage: ReturnDelivery = self.makeStage()
        return stage


class ReturnTests(ReturnCase):
    """
    L{ReturnDelivery}.
    """

    def test_back(self) -> None:
        """To the sender, from the null path; also where the way forwards."""
        for way in ("out", "fwd"):
            stage = self.makeStage(way)
            addressees = makeAddressees(path("me@client.example"))
            (outcome,) = self.outcomes(addressees, envelope=makeEnvelope(""), stage=stage)
            self.assertIsInstance(outcome, Delivered)
            self.assertEqual(self.peer.accepted[-1][:2], ("", "me@client.example"))
            self.assertEqual(stage.destination(addressees[0].recipient), "smtp tcp:hop.example:25")

    def test_fails(self) -> None:
        """What the way there says is said of the address that was named."""
        self.peer.rcpt = {"gone@client.example": "550 5.1.1 who"}
        addressees = makeAddressees(path("gone@client.example"), path("me@client.example"))
        gone, me = self.outcomes(addressees, envelope=makeEnvelope(""))
        self.assertEqual((type(gone), gone.reply.enhanced), (Failed, "5.1.1"))
        self.assertIsInstance(me, Delivered)

    def test_own(self) -> None:
        """A sender whose mail comes to this server by now."""
        stage = self.makeStage()
        addressees = makeAddressees(path("me@ours.example"))
        self.outcomes(addressees, envelope=makeEnvelope(""), stage=stage)
        ((_, addressee, _),) = self.deliveries["box"].delivered
        self.assertEqual(str(addressee), "me@ours.example")
        self.assertEqual(stage.destination(addressees[0].recipient), "test")

    def test_old(self) -> None:
        """It was good when the mail came."""
        addressees = makeAddressees(path("me@client.example", -100.0 * DAY_SECONDS))
        (outcome,) = self.outcomes(addressees, envelope=makeEnvelope(""))
        self.assertIsInstance(outcome, Delivered)

    def test_anySender(self) -> None:
        """Mail of a stranger goes back under a path of our own, too."""
        envelope = makeEnvelope("other@client.example")
        self.outcomes(makeAddressees(path("me@client.example")), envelope=envelope)
        self.assertEqual(self.peer.accepted[0][0], "rewritten@mx.example.net")

    def test_wrong(self) -> None:
        """An address that no secret has signed any longer, and a sender without a way."""
        stage = self.makeStage()
        other = str(SRS("mx.example.net", (b"other",)).forward(Mailbox("a", "b.example"), 0))
        for address in (other, path("me@nowhere.example")):
            (outcome,) = self.outcomes(makeAddressees(address), stage=stage)
            self.assertEqual(outcome, Failed(R550_UNKNOWN_RECIPIENT))
            recipient = makeRecipient(address)
            self.assertEqual(stage.destination(recipient), "no sender")
            self.assertEqual(stage.refusal(makeEnvelope(""), recipient), R550_UNKNOWN_RECIPIENT)

    def test_untold(self) -> None:
        """Where there is no such delivery any longer, it waits."""
        (outcome,) = self.outcomes(makeAddressees(path("me@untold.example")))
        self.assertIsInstance(outcome, Retry)

    def test_foreseen(self) -> None:
        """What the way there knows beforehand."""
        self.makeStage()
        stage = self.makeStage()
        recipient = makeRecipient(path("me@client.example"))
        self.assertIsNone(stage.refusal(makeEnvelope(""), recipient))
        self.assertIsNone(stage.refusal(makeEnvelope(""), makeRecipient(path("a@ours.example"))))
        self.patch(
            self.deliveries["out"], "refusal", lambda envelope, recipient: R550_NO_REQUIRETLS
        )
        envelope = attrs.evolve(makeEnvelope(""), parameters=Parameters(requireTLS=True))
        self.assertEqual(stage.refusal(envelope, recipient), R550_NO_REQUIRETLS)
