"""
The senders that a login may use.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.address import Mailbox
from deferrals.stages.envelope.ownsenders import ANY, OWN, ownAddress, parseSenders


class SendersTests(SynchronousTestCase):
    """
    L{Senders<deferrals.stages.envelope.ownsenders.Senders>}.
    """

    def test_words(self) -> None:
        """C{own} is nothing besides, C{any} is everything."""
        stranger = Mailbox.parse("ceo@example.net")
        self.assertIs(parseSenders("own"), OWN)
        self.assertFalse(OWN.allow(stranger, "alice"))
        self.assertTrue(ANY.allow(stranger, "alice"))
        self.assertIs(parseSenders("any"), ANY)

    def test_patterns(self) -> None:
        """Patterns, without case, with the login where C{{user}} stands, and nothing else."""
        senders = parseSenders(["{user}@example.org", "sales@example.net", "*@lists.example.net"])
        for text, user, wanted in (
            ("alice@example.org", "alice", True),
            ("Alice@EXAMPLE.org", "alice", True),
            ("bob@example.org", "alice", False),
            ("SALES@example.net", "alice", True),
            ("x@lists.example.net", "alice", True),
            ("x@deep.lists.example.net", "alice", False),
            ("prvs=0123456789=sales@example.net", "alice", True),
            ("prvs=0123456789=ceo@example.net", "alice", False),
            ("SRS0=abcd=XY=example.net=sales@example.com", "alice", False),
            ("ceo@example.net", "alice", False),
            ("alice@example.org", "alice@example.org", False),
            ("ceo@example.org", "*", False),
            ("ceo@example.org", "", False),
            ("ceo@example.org", "a b", False),
        ):
            self.assertEqual(senders.allow(Mailbox.parse(text), user), wanted, (text, user))
        whole = parseSenders(["{user}"])
        self.assertTrue(whole.allow(Mailbox.parse("a@b.example"), "a@b.example"))
        self.assertFalse(whole.allow(Mailbox.parse("ceo@b.example"), "*@b.example"))
        self.assertFalse(whole.allow(Mailbox.parse("ceo@b.example"), "*"))

    def test_nonsense(self) -> None:
        """What is no list of patterns is told what is one; no text is a list of letters."""
        for value in ("all", "a@b.example", 3, ["x"], [3], ["{user}.example"], ["{other}@x"], None):
            with self.assertRaisesRegex(ValueError, '"own", "any", or a list of patterns'):
                parseSenders(value)

    def test_own(self) -> None:
        """A login is an address, or the local part of one at this server."""
        self.assertEqual(str(ownAddress("a@b.example", "mx.example")), "a@b.example")
        self.assertEqual(str(ownAddress("a", "mx.example")), "a@mx.example")
        self.assertIsNone(ownAddress("a b", "mx.example"))
        self.assertIsNone(ownAddress("a@", "mx.example"))
