"""
The pool of connections to other servers, against servers without sockets.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import maybeDeferred
from zope.interface.verify import verifyObject

from deferrals.errors import HopError
from deferrals.interfaces import INextHops
from deferrals.smtp.client.pool import DIFFERING_SECONDS, OFFERED_SECONDS, NextHops
from tests.hops import HopsCase, outgoing


class PoolTests(HopsCase):
    """
    L{NextHops}: the way to all servers.
    """

    def test_interface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(INextHops, self.hops))

    def test_close(self) -> None:
        """When the server stops, goodbye is said on what is idle."""
        self.sent(self.hop(), outgoing("b@x.example"))
        closed = self.hops.close()
        self.network.run()
        self.successResultOf(closed)
        self.assertEqual((self.peer.commands[-1], self.peer.sessions), ("QUIT", []))
        self.sent(self.hop(), outgoing("b@x.example"))
        self.network.run()
        self.assertEqual(self.peer.sessions, [])


class OfferTests(HopsCase):
    """
    What servers are known to offer.
    """

    def session(self, *keywords: str) -> None:
        """
        A session in which a server lists these.
        """
        self.hops.close()
        self.network.run()
        self.peer.keywords = keywords
        d = self.hops.ask(self.hop(), "", "a@x.example")
        self.network.run()
        self.successResultOf(d)

    def test_known(self) -> None:
        """It is known for a short while: a server may be another one then."""
        self.assertIsNone(self.hops.offered(self.hop()))
        self.session("SIZE 100")
        self.assertEqual(self.hops.offered(self.hop()), {"SIZE": ["100"]})
        self.clock.advance(OFFERED_SECONDS + 1)
        self.assertIsNone(self.hops.offered(self.hop()))

    def test_differing(self) -> None:
        """Servers of one name that differ, or one that has changed, say nothing for a while."""
        self.session("SIZE 100")
        self.session("SIZE 200")
        self.session("SIZE 200")
        self.assertIsNone(self.hops.offered(self.hop()))
        self.clock.advance(DIFFERING_SECONDS + 1)
        self.session("SIZE 200")
        self.assertEqual(self.hops.offered(self.hop()), {"SIZE": ["200"]})

    def test_later(self) -> None:
        """A change is one, however long ago the session before was."""
        self.session("SIZE 100")
        self.clock.advance(10 * DIFFERING_SECONDS)
        self.session("SIZE 100", "SMTPUTF8")
        self.assertIsNone(self.hops.offered(self.hop()))

    def test_gone(self) -> None:
        """A server that cannot be reached may be another one when it is back."""
        self.session("SIZE 100")
        self.hops.close()
        self.network.run()
        del self.network.peers["hop"]
        self.failureResultOf(self.start(self.hop(), outgoing("b@x.example")), HopError)
        self.assertIsNone(self.hops.offered(self.hop()))

    def test_public(self) -> None:
        """Of the world's servers nothing is kept: it would be strangers' text."""
        hop = self.hop(isPublic=True)
        self.sent(hop, outgoing("b@x.example"))
        self.assertIsNone(self.hops.offered(hop))


class AskTests(HopsCase):
    """
    Questions without a message.
    """

    def ask(self, recipient: str, **settings: Any) -> Any:
        d = self.hops.ask(self.hop(**settings), "", recipient)
        self.network.run()
        return d

    def test_ask(self) -> None:
        """MAIL, RCPT, RSET in one piece; never DATA; one connection for many questions."""
        self.peer.rcpt = {"b@x.example": "550 5.1.1 who"}
        for recipient, code in (("a@x.example", 250), ("b@x.example", 550)):
            mail, rcpt = self.successResultOf(self.ask(recipient))
            self.assertEqual((mail.code, rcpt.code), (250, code))
        self.assertEqual(self.peer.connections, 1)
        self.assertEqual(self.peer.commands[1:4], ["MAIL FROM:<>", "RCPT TO:<a@x.example>", "RSET"])
        self.assertNotIn("DATA", self.peer.commands)

    def test_checked(self) -> None:
        """What is no address is refused at once, and so is a name that is none."""
        bad = "a@x>\r\nRCPT TO:<b@x"
        self.assertRaises(ValueError, self.hops.ask, self.hop(), bad, "b@x.example")
        self.assertRaises(ValueError, self.hops.ask, self.hop(), "", bad)
        self.assertRaises(ValueError, self.hops.ask, self.hop(), "", "")
        self.assertEqual(self.network.tried, [])
        self.assertRaises(
            ValueError, NextHops, self.clock, "two words", self.network.connect, maybeDeferred
        )

    def test_notPipelined(self) -> None:
        """One after the other, where PIPELINING is not offered."""
        self.peer.keywords = ["SIZE"]
        self.successResultOf(self.ask("a@x.example"))

    def test_stale(self) -> None:
        """A connection that the server had closed is replaced."""
        self.successResultOf(self.ask("a@x.example"))
        self.peer.override["MAIL"] = "hang up"
        d = self.hops.ask(self.hop(), "", "a@x.example")
        self.clock.callLater(0, self.peer.override.clear)
        self.network.run()
        self.successResultOf(d)

    def test_none(self) -> None:
        """No answer is a HopError."""
        self.peer.override["RCPT"] = "hang up"
        self.failureResultOf(self.ask("a@x.example"), HopError)

    def test_needsUTF8(self) -> None:
        """
        An address that the server cannot be told (no SMTPUTF8) is refused
        without being asked about (RFC 6531 §3.2), also over a connection that
        has been used before.
        """
        for _ in range(3):
            mail, rcpt = self.successResultOf(self.ask("\u00e4@x.example"))
            self.assertEqual((mail.isPositive, rcpt.code, rcpt.enhanced), (True, 553, "5.6.7"))
        self.assertEqual(self.peer.connections, 1)
        self.assertEqual(self.peer.commands, ["EHLO mx.example.net"])
        self.peer.keywords.append("SMTPUTF8")
        self.clock.advance(31)
        self.network.run()
        self.successResultOf(self.ask("\u00e4@x.example"))
        self.assertIn("MAIL FROM:<> SMTPUTF8", self.peer.commands)
