"""
Envelopes as they are kept.
"""

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.envelope import (
    Form,
    Recipient,
    envelopeFromJSON,
    envelopeToJSON,
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
