"""
Envelopes as they are kept.
"""

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.envelope import (
    Client,
    Form,
    Recipient,
    envelopeFromJSON,
    envelopeToJSON,
    nameClient,
    recipientFromJSON,
    recipientToJSON,
)
from deferrals.testing import makeEnvelope, makeRecipient


class JSONTests(SynchronousTestCase):
    """
    The form in which the spool keeps envelopes.
    """

    def test_envelope(self) -> None:
        """What goes in comes out."""
        for envelope in (
            makeEnvelope(""),
            makeEnvelope(
                "\u00e4@b\u00fccher.example", smtputf8=True, form=Form.PRDR, ret="FULL", size=3
            ),
        ):
            data = envelopeToJSON(envelope)
            self.assertEqual(
                envelopeFromJSON(data, envelope.transaction, envelope.received), envelope
            )

    def test_hostname(self) -> None:
        """The client's name in DNS is kept, although clients are compared without it."""
        envelopes = [
            makeEnvelope(client=Client("192.0.2.1", hostname=name))
            for name in ("", "a.example", "b.example", "")
        ]
        for envelope in envelopes:
            data = envelopeToJSON(envelope)
            again = envelopeFromJSON(data, envelope.transaction, envelope.received)
            self.assertEqual(again.client.hostname, envelope.client.hostname)
        known = {envelopes[0]: 1}
        nameClient(envelopes[0].client, "late.example")
        self.assertEqual(envelopes[0].client.hostname, "late.example")
        self.assertEqual(known[envelopes[0]], 1)

    def test_recipient(self) -> None:
        """What goes in comes out, policy and delivery included."""
        for recipient in (
            makeRecipient("a@b.example"),
            Recipient(
                makeRecipient("B@C.example").address,
                frozenset(),
                "rfc822;x",
                makeRecipient("a@b.c").route,
            ),
        ):
            again = recipientFromJSON(recipientToJSON(recipient), "box")
            self.assertEqual(again, recipient)
            self.assertEqual(str(again), str(recipient))
