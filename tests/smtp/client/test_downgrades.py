"""
Servers that are used without an extension for a while.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, maybeDeferred

from deferrals.model.envelope import Form
from deferrals.server.notes import Notes
from deferrals.smtp.client.downgrades import SPARED_SECONDS, Downgrades
from deferrals.smtp.client.pool import NextHops
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

    def chunking(self, **override: str) -> Peer:
        """
        A server that offers CHUNKING.
        """
        peer = self.peer = self.network.peers["hop"] = Peer("PIPELINING", "8BITMIME", "CHUNKING")
        peer.override.update(override)
        return peer

    def test_noBDAT(self) -> None:
        """A server that offers CHUNKING and has no BDAT gets the message with DATA."""
        for code in (500, 501, 502, 503, 504):
            self.setUp()
            peer = self.chunking(BDAT=f"{code} 5.5.1 what is that")
            for _ in range(2):
                self.assertEqual(codes(self.sent(self.hop(), outgoing("a@x.example"))), [250])
            verbs = [line.partition(" ")[0] for line in peer.commands]
            self.assertEqual((verbs.count("BDAT"), verbs.count("DATA")), (1, 2))
            self.assertEqual(len(peer.accepted), 2)
            (note,) = self.hops.describe()["misgivings"]
            self.assertEqual((note["server"], note["without"]), ("hop:25", "CHUNKING"))

    def test_refusedChunk(self) -> None:
        """A server that takes BDAT, and refuses the message, is believed."""
        for reply in ("550 5.7.1 spam", "552 5.3.4 too large", "451 4.3.0 later"):
            peer = self.chunking(BDAT=reply)
            found = codes(self.sent(self.hop(), outgoing("a@x.example")))
            self.assertEqual(found, [int(reply[:3])])
            self.assertNotIn("DATA", peer.commands)
        self.assertEqual(self.hops.describe()["misgivings"], [])

    def test_binaryChunk(self) -> None:
        """What only BDAT can carry is not sent otherwise: the server's reply stands."""
        peer = self.network.peers["hop"] = Peer("CHUNKING", "BINARYMIME", "8BITMIME")
        peer.override["BDAT"] = "503 5.5.1 no"
        message = outgoing("a@x.example", binary=True)
        self.assertEqual(codes(self.sent(self.hop(), message)), [503])

    def test_lostChunks(self) -> None:
        """Nor is BDAT used where the connection breaks at it, three times in a row."""
        peer = self.chunking(BDAT="hang up")
        for _ in range(3):
            self.assertEqual(codes(self.sent(self.hop(), outgoing("a@x.example"))), [451])
        self.assertEqual(codes(self.sent(self.hop(), outgoing("a@x.example"))), [250])
        self.assertEqual(len(peer.accepted), 1)

    def test_pipelining(self) -> None:
        """A server that breaks off at commands in one piece gets them one by one."""
        self.peer.keywords = ["PIPELINING"]
        self.peer.override["MAIL"] = "hang up"
        for _ in range(3):
            self.assertEqual(codes(self.sent(self.hop(), outgoing("a@x.example"))), [451])
        (note,) = self.hops.describe()["misgivings"]
        self.assertEqual(note["without"], "PIPELINING")
        del self.peer.override["MAIL"]
        self.assertEqual(codes(self.sent(self.hop(), outgoing("a@x.example"))), [250])

    def test_noBody(self) -> None:
        """A server that offers 8BITMIME and refuses BODY gets the message without."""

        class Refusing(Peer):
            @property
            def mail(self) -> str:
                return "501 5.5.4 BODY?" if "BODY=" in self.commands[-1] else "250 ok"

            @mail.setter
            def mail(self, value: str) -> None:
                pass

        peer = self.network.peers["hop"] = Refusing("8BITMIME", "PRDR")
        self.peer = peer
        for _ in range(4):
            message = outgoing("a@x.example", eightBit=True)
            self.assertEqual(codes(self.sent(self.hop(), message)), [250])
        self.assertEqual(len([line for line in self.mails() if "BODY=" in line]), 6)
        without = {note["without"] for note in self.hops.describe()["misgivings"]}
        self.assertEqual(without, {"8BITMIME"})

    def test_restart(self) -> None:
        """What is done without is known to the next process, until its time is over."""
        notes = Notes(self.clock)
        for _ in range(2):
            self.hops = NextHops(
                self.clock, "mx.example.net", self.network.connect, maybeDeferred, notes
            )
            peer = self.chunking(BDAT="500 what")
            self.assertEqual(codes(self.sent(self.hop(), outgoing("a@x.example"))), [250])
        self.assertNotIn("BDAT", " ".join(peer.commands))
        self.clock.advance(86400)
        peer.override.clear()
        self.sent(self.hop(), outgoing("a@x.example"))
        self.assertIn("BDAT", " ".join(peer.commands))

    def test_others(self) -> None:
        """What another process has noted is done without from then on, for its time."""
        notes = Notes(self.clock)
        downgrades = Downgrades(self.clock, notes)

        def without() -> frozenset[str]:
            found = Deferred.fromCoroutine(downgrades.without("hop:25"))
            words: frozenset[str] = self.successResultOf(found)
            return words

        self.assertEqual(without(), frozenset())
        downgrades.problem("hop:25", "BDAT", "once")
        other = Downgrades(self.clock, notes)
        for keyword in ("BDAT", "SIZE"):
            other.problem("hop:25", keyword, "no", isExcessive=True)
        self.assertEqual(without(), {"BDAT", "SIZE"})
        self.clock.advance(SPARED_SECONDS)
        self.assertEqual(without(), frozenset())

    def test_strangeNotes(self) -> None:
        """A note that is none of ours means nothing."""
        notes = Notes(self.clock)
        for number, value in enumerate((None, 5, [], {}, {"until": "soon"})):
            notes.put("downgrade", "hop:25", f"X{number}", value, 60.0)
        found = Downgrades(self.clock, notes).without("hop:25")
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(found)), frozenset())

    def test_wrongClock(self) -> None:
        """A clock that was years ahead does not leave a server without for years."""
        notes = Notes(self.clock)
        for number, until in enumerate((2e9, float("inf"), float("nan"))):
            notes.put("downgrade", "hop:25", f"X{number}", {"until": until, "reason": "x"}, 60.0)
        downgrades = Downgrades(self.clock, notes)
        found = downgrades.without("hop:25")
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(found)), frozenset())
        self.assertEqual(downgrades.describe(), [])
        self.assertTrue(downgrades.problem("hop:25", "X0", "x", isExcessive=True))

    def test_bounded(self) -> None:
        """The memory does not grow without end."""
        for number in range(10_100):
            self.hops._downgrades.problem(f"host-{number}", "PRDR", "x")
        self.assertEqual(len(self.hops._downgrades._servers), 10_000)
