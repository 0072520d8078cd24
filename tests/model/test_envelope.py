"""
Envelopes as they are kept.
"""

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
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
from deferrals.model.verdict import Route
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

    def test_spool(self) -> None:
        """The number of a spool is kept with the message, and makes it one of its own."""
        envelope = attrs.evolve(makeEnvelope(), spool="1f")
        data = envelopeToJSON(envelope)
        self.assertEqual(envelopeFromJSON(data, envelope.transaction, 1e9), envelope)
        self.assertEqual(envelope.uniqueId, f"{envelope.id}-1f")
        for wrong in ("../../x", 5, "a/b"):
            with self.assertRaises((TypeError, ValueError)):
                envelopeFromJSON({**data, "spool": wrong}, envelope.transaction, 1e9)

    def test_noSpool(self) -> None:
        """What an earlier version has kept goes by its number alone, as it did."""
        envelope = makeEnvelope()
        self.assertNotIn("spool", envelopeToJSON(envelope))
        self.assertEqual(envelope.uniqueId, envelope.id)

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

    def test_routed(self) -> None:
        """What is remembered of a recipient keeps the spelling of the one who asks."""
        route = Route("open", "box")
        for domain in ("b.example", "B.Example", "b.example"):
            self.assertEqual(str(makeRecipient(f"a@{domain}").routed(route)), f"a@{domain}")

    def test_recipient(self) -> None:
        """What goes in comes out, policy and delivery included."""
        for recipient in (
            makeRecipient("a@b.example"),
            makeRecipient("a+b@b.example", subaddress="+"),
            Recipient(
                makeRecipient("B@C.example").address,
                frozenset(),
                "rfc822;x",
                makeRecipient("a@b.c").route,
            ),
        ):
            again = recipientFromJSON(recipientToJSON(recipient), "box")
            self.assertEqual(again, recipient)
            self.assertEqual(again.detail, recipient.detail)
            self.assertEqual(str(again), str(recipient))

    def test_member(self) -> None:
        """Of a member's aliases the one that was named is kept; before there were none."""
        one = makeRecipient("anna@b.example")
        aliases = (Mailbox.parse("All@B.example"), Mailbox.parse("some@b.example"))
        data = recipientToJSON(attrs.evolve(one, aliases=aliases))
        again = recipientFromJSON(data, "box")
        self.assertEqual((again.alias, str(again.alias)), (aliases[0], "All@B.example"))
        self.assertEqual(again.routed(Route("x", "y")).alias, again.alias)
        del data["alias"]
        self.assertIsNone(recipientFromJSON(data, "box").alias)

    def test_own(self) -> None:
        """What its route says for a stage; nothing where it has none."""
        route = Route("x", "y", (("reply", "all"), ("milter.reply", "one")))
        recipient = makeRecipient("a@example.net")
        self.assertEqual(recipient.routed(route).own("milter", "reply"), "one")
        self.assertEqual(recipient.routed(route).own("rspamd", "reply"), "all")
        self.assertIsNone(recipient.routed(route).own("milter", "other"))
        self.assertIsNone(attrs.evolve(recipient, route=None).own("milter", "reply"))

    def test_parted(self) -> None:
        """An address without its subaddress, as its rule has it, or as a stage does."""
        recipient = makeRecipient("anna+a-b@x.example", subaddress="+")
        for mark, user, detail in ((None, "anna", "a-b"), ("-", "anna+a", "b"), ("", "", "")):
            mailbox, found = recipient.parted(mark)
            self.assertEqual((mailbox.local, found), (user or "anna+a-b", detail))
        self.assertEqual(recipient.detail, "a-b")
        self.assertEqual(makeRecipient("anna+x@x.example").detail, "")
        self.assertEqual(Recipient(recipient.address).detail, "")
