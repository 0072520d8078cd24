"""
Return paths that are written anew for each message.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.taggedsenders import everyForm, forwarded, itself, untagged

BATV = (
    "prvs=0123456789=boss@shop.example",
    "PRVS=0123456789=boss@shop.example",
    "prvs=boss/0123456789@shop.example",
    "btv1==0123456789a==boss@shop.example",
    "msprvs1=17590sBlRp2vO=boss@shop.example",
)

SRS = (
    "SRS0=abcd=XY=shop.example=boss@forward.example",
    "srs0+abcd=XY=shop.example=boss@forward.example",
    "SRS0-abcd=XY=Shop.Example=boss@forward.example",
    "SRS1=abcd=first.example==efgh=XY=shop.example=boss@forward.example",
    "SRS1+abcd=first.example=+efgh=XY=shop.example=boss@forward.example",
    "prvs=0123456789=SRS0=abcd=XY=shop.example=boss@forward.example",
    "SRS0=abcd=XY=shop.example=prvs=0123456789=boss@forward.example",
)

NONE = (
    "boss@shop.example",
    "prvs=boss@shop.example",
    "prvs=1=boss@shop.example",
    "btv1=0123456789a=boss@shop.example",
    "prvs=0123456789=@shop.example",
    "srs0=shop.example=boss@forward.example",
    "SRS0=abcd=XY=not a domain=boss@forward.example",
)


def keys(mailboxes: list[Mailbox]) -> list[str]:
    return [one.key for one in mailboxes]


class TaggedSendersTests(SynchronousTestCase):
    """
    L{untagged}, L{forwarded}, L{itself} and L{everyForm}.
    """

    def test_signed(self) -> None:
        """BATV in its forms: the sender's own."""
        for text in BATV:
            sender = Mailbox.parse(text)
            self.assertEqual(untagged(sender).key, "boss@shop.example", text)
            self.assertIsNone(forwarded(sender))
            self.assertEqual(keys(itself(sender)), [sender.key, "boss@shop.example"])
            self.assertEqual(itself(sender), everyForm(sender))

    def test_rewritten(self) -> None:
        """SRS: only what refuses believes it."""
        for text in SRS:
            local, _, domain = text.rpartition("@")
            sender = Mailbox(local, domain)
            self.assertNotIn("boss@shop.example", keys(itself(sender)))
            self.assertEqual(keys(everyForm(sender))[-1], "boss@shop.example", text)

    def test_plain(self) -> None:
        """All else is what it is."""
        for text in NONE:
            local, _, domain = text.rpartition("@")
            sender = Mailbox(local, domain)
            self.assertEqual(everyForm(sender), [sender], text)
