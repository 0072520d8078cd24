"""
Servers that are used without an extension for a while.
"""

from __future__ import annotations

from deferrals.model.envelope import Form
from tests.hops import HopsCase, codes, outgoing
from tests.peer import Peer
from tests.requirements import requirement


class DowngradeTests(HopsCase):
    """
    A server that keeps failing under an extension is used without it.
    """

    @requirement("D-26")
    def test_failing(self) -> None:
        """Three times in a row, and the next best form is used, for a day; it is in the status."""
        self.peer.drop = lambda sender: 5
        message = outgoing("a@x.example", "b@x.example")
        for _ in range(3):
            self.assertEqual(codes(self.sent(self.hop(), message)), [451, 451])
        self.peer.drop = lambda sender: None
        self.sent(self.hop(), message)
        self.assertEqual([line.split()[-1] for line in self.mails()], ["DEFERRALS"] * 3 + ["PRDR"])
        (note,) = self.hops.describe()["misgivings"]
        self.assertEqual((note["server"], note["without"]), ("hop:25", "DEFERRALS"))
        self.clock.advance(86400)
        self.assertEqual(self.hops.describe()["misgivings"], [])
        self.sent(self.hop(), message)
        self.assertEqual(self.mails()[-1].split()[-1], "DEFERRALS")

    def test_success(self) -> None:
        """An answer in between clears the record."""
        message = outgoing("a@x.example", "b@x.example")
        for drops in (True, True, False, True, True, False):
            self.peer.drop = lambda sender, drops=drops: 5 if drops else None
            self.sent(self.hop(), message)
        self.assertEqual({line.split()[-1] for line in self.mails()}, {"DEFERRALS"})
        self.assertEqual(self.hops.describe()["misgivings"], [])

    def test_shuttingDown(self) -> None:
        """A server that ends with 421 has answered: that is no problem with the extension."""
        self.peer.final, self.peer.enumerates = "421 4.3.2 shutting down", False
        for _ in range(4):
            message = outgoing("a@x.example", "b@x.example")
            self.assertEqual(codes(self.sent(self.hop(), message)), [421, 421])
        self.assertEqual(self.mails()[-1].split()[-1], "DEFERRALS")

    def test_badSenders(self) -> None:
        """Nor are senders that the server does not want, extension or not."""
        self.peer.mail = "501 5.1.7 bad sender"
        for _ in range(4):
            self.assertEqual(codes(self.sent(self.hop(), outgoing("a@x.example"))), [501])
        self.peer.mail = "250 2.1.0 ok"
        self.sent(self.hop(), outgoing("a@x.example"))
        self.assertEqual(self.mails()[-1].split()[-1], "DEFERRALS")
        self.assertEqual(self.hops.describe()["misgivings"], [])

    def test_violations(self) -> None:
        """Whatever breaks the protocol behind the data counts."""
        self.peer.final = "354 what"
        for _ in range(4):
            self.sent(self.hop(), outgoing("a@x.example", "b@x.example"))
        self.assertEqual(self.mails()[-1].split()[-1], "PRDR")

    def test_parameterRefused(self) -> None:
        """A server that refuses the parameter it offered gets the message without it at once."""
        peer = self.peer

        class Refusing(Peer):
            @property
            def mail(self) -> str:
                asked = self.commands[-1].endswith(("DEFERRALS", "PRDR"))
                return "555 5.5.4 what is that" if asked else "250 ok"

            @mail.setter
            def mail(self, value: str) -> None:
                pass

        peer = self.peer = self.network.peers["hop"] = Refusing()
        for _ in range(3):
            self.assertEqual(codes(self.sent(self.hop(), outgoing("a@x.example"))), [250])
        self.assertEqual(len(self.mails()), 6)
        self.assertEqual(len(peer.accepted), 3)
        self.sent(self.hop(forms=(Form.DEFERRALS,)), outgoing("a@x.example"))
        self.assertEqual(len(self.mails()), 7)

    def test_bounded(self) -> None:
        """The memory does not grow without end."""
        for number in range(10_100):
            self.hops._downgrades.problem(f"host-{number}", Form.PRDR, "x", 0.0)
        self.assertEqual(len(self.hops._downgrades._records), 10_000)
