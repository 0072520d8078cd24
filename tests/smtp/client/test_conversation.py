"""
One connection to a server: what is an answer, and what is not.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import PeerError
from deferrals.smtp.client.auth import choose
from deferrals.smtp.client.replies import MAX_DIALOGUE_OCTETS
from tests.smtp.client.test_session import GREETING, Scripted, Transport, codes


class SecuringTransport(Transport):
    """
    A connection of which TLS can be asked.
    """

    isSecuring = False

    def startTLS(self, contextFactory: object, normal: bool = True) -> None:
        self.isSecuring = True


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

    def secured(self, *said: str) -> tuple[Scripted, SecuringTransport, Deferred[None]]:
        """
        @param said: in one piece, to STARTTLS.
        """
        server = self.greeted("STARTTLS")
        transport = SecuringTransport()
        server.session.transport = transport  # type: ignore[assignment]
        d = Deferred.fromCoroutine(server.session.secure(None, True))  # type: ignore[arg-type]
        self.assertEqual(transport.value(), b"STARTTLS\r\n")
        transport.clear()
        server.session.dataReceived("".join(f"{line}\r\n" for line in said).encode())
        return server, transport, d

    def test_injected(self) -> None:
        """
        What came in clear behind the reply to STARTTLS, good or bad, whole or half, is
        never heard: neither is it a reply to EHLO nor does it end the connection.
        """
        for more in (
            ["250-evil", "250 AUTH PLAIN"],
            ["no reply at all"],
            ["250 x"] * (MAX_DIALOGUE_OCTETS // 512 + 1),
            ["250-evil"],
        ):
            server, transport, d = self.secured("220 go", *more)
            self.assertTrue(transport.isSecuring)
            self.assertFalse(transport.aborted, more[0])
            self.assertEqual(transport.value(), b"")
            server.session.handshakeCompleted()
            self.assertEqual(transport.value(), b"EHLO client.example.com\r\n")
            self.assertNoResult(d)
            server.session.dataReceived(b"250-mx\r\n250 SIZE\r\n")
            self.assertIsNone(self.successResultOf(d))
            self.assertEqual(list(server.session.capabilities), ["SIZE"])
            self.assertTrue(server.session.usable)

    def test_notSecured(self) -> None:
        """Where STARTTLS is refused, what comes behind the refusal ends the connection."""
        _, transport, d = self.secured("454 no", "250 ok")
        self.failureResultOf(d, PeerError)
        self.assertFalse(transport.isSecuring)
        self.assertTrue(transport.aborted)

    def test_idle(self) -> None:
        """
        Whatever comes when nothing was asked ends the connection at once, one octet of it
        included: behind EHLO, a refused STARTTLS, a message and a question.
        """

        def secured() -> Scripted:
            server, transport, d = self.secured("454 no")
            self.failureResultOf(d, PeerError)
            server.transport = transport
            return server

        def sent() -> Scripted:
            server = self.greeted()
            server.send("b@example.net")
            for said in ("250 ok", "250 ok", "354 go", "250 taken"):
                server.say(said)
            self.assertEqual(codes(self.successResultOf(server.result)), [250])
            return server

        def asked() -> Scripted:
            server = self.greeted()
            d = Deferred.fromCoroutine(server.session.ask("a@example.com", "b@example.net"))
            for said in ("250 ok", "250 ok", "250 reset"):
                server.say(said)
            self.assertEqual(len(self.successResultOf(d)), 2)
            return server

        for make in (self.greeted, secured, sent, asked):
            server = make()
            self.assertTrue(server.session.usable, make)
            server.session.dataReceived(b"2")
            self.assertFalse(server.session.usable, make)
            self.assertTrue(server.transport.aborted, make)

    def test_heardAhead(self) -> None:
        """
        What has been heard is not counted any longer: however many replies come one
        behind the other, each to its question, they are not too many.
        """
        server = self.greeted()
        for number in range(MAX_DIALOGUE_OCTETS // 512 + 1):
            server.send("b@example.net")
            for said in ("250 ok", "250 ok", "354 go", "250 taken"):
                server.say(said)
            self.assertEqual(codes(self.successResultOf(server.result)), [250], number)

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
