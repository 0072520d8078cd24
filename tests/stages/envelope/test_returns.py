"""
Reverse paths that were rewritten, at RCPT TO.
"""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT
from deferrals.model.srs import DAY_SECONDS, SRS
from deferrals.model.verdict import Accept, Refuse, Route
from deferrals.stages.envelope.returns import R550_ONLY_REPORTS, Returns
from deferrals.testing import makeEnvelope, makeRecipient


class ReturnsTests(SynchronousTestCase):
    """
    L{Returns}.
    """

    def setUp(self) -> None:
        self.now = 0.0
        self.returns = Returns(
            SRS("mx.example.net", (b"secret",)),
            lambda: self.now,
            lambda sender: sender.domain == "ours.example",
            Route("", "back"),
        )

    def path(self, sender: str) -> str:
        return str(self.returns.reversePath(Mailbox.parse(sender)))

    def judge(self, address: str, sender: str = "", anySender: bool = False) -> Accept | Refuse:
        returns = attrs.evolve(self.returns, anySender=anySender)
        return returns.judge(makeEnvelope(sender), makeRecipient(address))

    def test_reversePath(self) -> None:
        """Those of our own domains stay, and what is rewritten already."""
        self.assertRegex(
            self.path("me@client.example"), "^SRS0=.*=client.example=me@mx.example.net"
        )
        for own in ("me@ours.example", "me@mx.example.net", self.path("me@client.example")):
            self.assertEqual(self.path(own), own)

    def test_reports(self) -> None:
        """From <> it is accepted, with where it goes."""
        verdict = self.judge(self.path("me@client.example"))
        self.assertEqual(verdict, Accept(route=Route("", "back")))
        self.assertIn("me@client.example", verdict.why)

    def test_others(self) -> None:
        """Only from <>, unless any sender may."""
        path = self.path("me@client.example")
        self.assertEqual(self.judge(path, "a@b.example"), Refuse(R550_ONLY_REPORTS))
        self.assertIsInstance(self.judge(path, "a@b.example", True), Accept)

    def test_own(self) -> None:
        """
        What leads to an address of ours was never made here: its mail would pass the
        rules of that address.
        """
        srs = self.returns.srs
        for own in ("victim@ours.example", "victim@mx.example.net"):
            path = str(srs.forward(Mailbox.parse(own), self.now))
            self.assertEqual(self.judge(path), Refuse(R550_UNKNOWN_RECIPIENT))

    def test_wrong(self) -> None:
        """A bad hash, and what is too old: for all senders."""
        path = self.path("me@client.example")
        for sender in ("", "a@b.example"):
            found = self.judge(path.replace("=me@", "=you@"), sender)
            self.assertEqual(found, Refuse(R550_UNKNOWN_RECIPIENT))
        self.now = 22.0 * DAY_SECONDS
        self.assertEqual(self.judge(path), Refuse(R550_UNKNOWN_RECIPIENT))

    def test_has(self) -> None:
        """Other addresses are none of its business."""
        self.assertTrue(self.returns.has(Mailbox.parse("srs0=a=b=c=d@mx.example.net")))
        self.assertFalse(self.returns.has(Mailbox.parse("me@mx.example.net")))
