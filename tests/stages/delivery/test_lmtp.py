"""
Delivery by LMTP, against servers without sockets.
"""

from __future__ import annotations

from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Recipient
from deferrals.model.sending import R550_NO_REQUIRETLS
from deferrals.model.verdict import Delivered, Failed, Retry
from deferrals.stages.delivery.lmtp import LMTPDelivery, LMTPSettings
from deferrals.testing import (
    DeliveryStageContract,
    FakeServices,
    makeAddressees,
    makeEnvelope,
)
from tests.remote import RemoteCase
from tests.requirements import requirement


class LMTPContractTests(RemoteCase, DeliveryStageContract):
    """
    L{LMTPDelivery} as a delivery stage.
    """

    keywords = ("PIPELINING",)
    lmtp = True


class LMTPTests(RemoteCase):
    """
    L{LMTPDelivery}.
    """

    keywords = ("PIPELINING", "8BITMIME")
    lmtp = True

    @requirement("S-5")
    def test_each(self) -> None:
        """2xx delivered, 4xx retried, 5xx failed; one session for all (RFC 2033)."""
        self.peer.rcpt = {"d@x.example": "550 5.1.1 who"}
        self.peer.block = {"b@x.example": "552 5.2.2 full", "c@x.example": "451 4.2.0 later"}
        a, b, c, d = self.outcomes(makeAddressees(*(f"{x}@x.example" for x in "abcd")))
        self.assertEqual((type(a), a.action, a.reply.code), (Delivered, "delivered", 250))
        self.assertEqual((type(b), b.reply.enhanced), (Failed, "5.2.2"))
        self.assertEqual((type(c), c.reply.enhanced), (Retry, "4.2.0"))
        self.assertEqual((type(d), d.reply.enhanced, d.host), (Failed, "5.1.1", "hop.example"))
        self.assertEqual(self.peer.connections, 1)
        self.assertEqual(sum(line.startswith("MAIL") for line in self.peer.commands), 1)

    def test_onlyWhatWasOffered(self) -> None:
        """A store that offers neither SIZE nor DSN is sent neither (Dovecot says 555)."""
        recipient = Recipient(Mailbox.parse("a@x.example"), frozenset({"NEVER"}), "rfc822;a")
        envelope = makeEnvelope(ret="HDRS", envid="e", size=99)
        self.outcomes([Addressee(recipient)], envelope=envelope)
        self.assertEqual(
            self.peer.commands[1:3], ["MAIL FROM:<sender@example.com>", "RCPT TO:<a@x.example>"]
        )

    def test_refusal(self) -> None:
        """REQUIRETLS is refused in the envelope where another machine reads along."""
        recipient = Recipient(Mailbox.parse("a@x.example"))
        for endpoint, tls, isRefused in (
            ("unix:/run/store", "none", False),
            ("tcp:127.0.0.1:24", "none", False),
            ("tcp:store.example:24", "none", True),
            ("tcp:store.example:24", "required", True),
            ("tcp:store.example:24", "verified", False),
            ("tls:store.example:24", "none", False),
        ):
            self.services.connect = lambda endpoint: None
            stage = LMTPDelivery(LMTPSettings(endpoint=endpoint, tls=tls), self.services)
            self.assertIsNone(stage.refusal(makeEnvelope(), recipient))
            found = stage.refusal(makeEnvelope(requireTLS=True), recipient)
            self.assertEqual(found, R550_NO_REQUIRETLS if isRefused else None, endpoint)

    def test_endpoint(self) -> None:
        """An endpoint that is none is an error of the configuration."""
        with self.assertRaisesRegex(ValueError, "a client endpoint such as"):
            LMTPDelivery(LMTPSettings(endpoint="nonsense"), FakeServices())
