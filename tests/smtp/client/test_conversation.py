"""
One connection to a server: what is an answer, and what is not.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import PeerError
from deferrals.smtp.client.auth import choose
from deferrals.smtp.client.replies import MAX_DIALOGUE_OCTETS
from tests.smtp.client.test_session import GREETING, Scripted, codes


class UnaskedTests(SynchronousTestCase):
    """
    What comes before its question is no answer: the next command is not sent.
    """

    def greeted(self, *keywords: str) -> Scripted:
        server = Scripted()
        server.say(GREETING)
        server.say(*(f"250-{word}" for word in ("mx", *keywords)), "250 SIZE")
        self.successResultOf(server.opened)
        return server

    def test_open(self) -> None:
        """Behind the greeting, and behind EHLO: there is no session."""
        for said in ([GREETING, "250 mx"], [GREETING, "25"]):
            server = Scripted()
            self.assertEqual(server.say(*said), [])
            self.failureResultOf(server.opened, PeerError)
            self.assertTrue(server.transport.aborted)
        server = Scripted()
        server.say(GREETING)
        server.say("250 mx", "250 more")
        self.assertFalse(server.session.usable)

    def test_command(self) -> None:
        """Behind a reply in the envelope, a half one included: what was told before stands."""
        for more in ("250 2.1.5 ok", "550 5.1.1 who", "250-half"):
            server = self.greeted()
            server.send("b@example.net", "c@example.net")
            self.assertEqual(server.say("250 ok", more), [])
            self.assertEqual(codes(self.successResultOf(server.result)), [451, 451])
            server = self.greeted()
            server.send("b@example.net", "c@example.net")
            server.say("250 ok")
            self.assertEqual(server.say("550 no", more), [])
            self.assertEqual(codes(self.successResultOf(server.result)), [550, 451])
            self.assertTrue(server.transport.aborted)

    def test_commands(self) -> None:
        """Nor is a whole piece of commands."""
        server = self.greeted("PIPELINING")
        server.session._replies.append(server.session._parser.feed(b"250 ok\r\n")[0][0])
        self.assertEqual(server.send("b@example.net"), [])
        self.assertEqual(codes(self.successResultOf(server.result)), [451])

    def test_closing(self) -> None:
        """A server that says, beside its reply, that it closes is taken at its word."""
        server = self.greeted()
        server.send("b@example.net")
        server.say("250 ok", "421 4.3.2 closing")
        (answer,) = self.successResultOf(server.result).answers
        self.assertEqual((answer.reply.code, answer.reply.enhanced), (421, "4.3.2"))

    def test_quit(self) -> None:
        """The end never fails."""
        server = self.greeted()
        server.session._replies.append(server.session._parser.feed(b"250 ok\r\n")[0][0])
        d = Deferred.fromCoroutine(server.session.quit())
        self.assertIsNone(self.successResultOf(d))
        self.assertTrue(server.transport.aborted)

    def test_login(self) -> None:
        """Nor is a password said to a server that has answered before it was asked."""
        server = self.greeted("AUTH PLAIN")
        server.session._replies.append(server.session._parser.feed(b"334 go\r\n")[0][0])
        mechanism = choose(["PLAIN"], "me", "secret", "x", lambda f, *more: Deferred())  # type: ignore[arg-type]
        d = Deferred.fromCoroutine(server.session.authenticate(mechanism))
        self.failureResultOf(d, PeerError)
        self.assertEqual(server.transport.value(), b"")

    def test_ahead(self) -> None:
        """What is said before it is asked for is kept up to a bound."""
        most = MAX_DIALOGUE_OCTETS // 512
        for count, isUsable in ((most, True), (most + 1, False)):
            server = self.greeted()
            server.transport.registerProducer = lambda producer, streaming: None  # type: ignore[method-assign]
            server.send("b@example.net")
            for said in ("250 ok", "250 ok", "354 go"):
                server.say(said)
            server.say(*["450 x"] * count)
            self.assertEqual(server.session.usable, isUsable, count)
            server.lose()
            self.assertEqual(len(self.successResultOf(server.result).answers), 1)
