"""
The server for an application's tests.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import HostnameEndpoint
from twisted.trial.unittest import SynchronousTestCase, TestCase

from deferrals.client import sendMessage
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Accept, Refuse
from deferrals.server import Limits, ListenerSettings
from deferrals.testing import FakeContent, FakeDelivery, FakeEnvelope, MemoryServer, TestServer

MESSAGE = b"Subject: x\r\n\r\n.hello\r\n"
NO = Refuse(Reply(550, "5.7.1", "no"))


class MemoryServerTests(SynchronousTestCase):
    """
    L{MemoryServer}.
    """

    def server(self, **more: Any) -> MemoryServer:
        server = MemoryServer(**more)
        self.addCleanup(server.stop)
        self.assertIs(self.successResultOf(server.started), server.server)
        return server

    def test_asMailServer(self) -> None:
        """It takes one stage, and whatever C{MailServer} takes."""
        for content in (FakeContent(), [FakeContent(), FakeContent()], {"a": [FakeContent()]}):
            server = self.server(
                content=content, envelope=[FakeEnvelope()], delivery={"box": FakeDelivery()}
            )
            said = server.dialogue("EHLO c", "MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>")
            self.assertEqual(said[-1][:3], "250")

    def test_dialogue(self) -> None:
        """Lines in, lines out, and the mail is delivered."""
        server = self.server()
        said = server.dialogue(
            "EHLO c",
            "MAIL FROM:<a@x.example>",
            "RCPT TO:<b@example.net>",
            "DATA",
            "Subject: x",
            "",
            "..hello",
            ".",
            "QUIT",
        )
        self.assertEqual([line[:3] for line in said if line[3] == " "][:2], ["220", "250"])
        self.assertEqual([line[:3] for line in said][-5:], ["250", "250", "354", "250", "221"])
        ((envelope, addressee, content),) = server.delivered
        self.assertEqual(str(envelope.sender), "a@x.example")
        self.assertEqual(str(addressee), "b@example.net")
        self.assertEqual(content, b"Subject: x\r\n\r\n.hello\r\n")

    def test_client(self) -> None:
        """The client sends through it; each recipient has its own answer."""
        content = FakeContent()
        content.verdicts = {"b@example.net": NO, "c@example.net": ACCEPT}
        server = self.server(content=content)
        people = ["b@example.net", "c@example.net"]
        d = sendMessage(server.clock, server, "a@x.example", people, MESSAGE, hello="c")
        server.advance()
        result = self.successResultOf(d)
        self.assertEqual([one.reply.code for one in result.answers], [550, 250])
        self.assertEqual([str(one) for _, one, _ in server.delivered], ["c@example.net"])
        self.assertEqual(server.delivered[0][2], MESSAGE)

    def test_large(self) -> None:
        """A message of many pieces arrives whole."""
        server = self.server()
        message = b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * 50_000
        d = sendMessage(server.clock, server, "", ["b@example.net"], message, hello="c")
        server.advance()
        self.assertTrue(self.successResultOf(d).answers[0].accepted)
        self.assertEqual(server.delivered[0][2], message)

    def test_clock(self) -> None:
        """Time passes when the test says so: a stage that hangs is late after the deadline."""
        content = FakeContent()
        server = self.server(content=content)
        session = server.session()
        session.say("EHLO c", "MAIL FROM:<a@x.example>", "RCPT TO:<b@example.net>", "DATA")
        self.assertEqual(session.say("x", "."), [])
        server.advance(49)
        self.assertEqual(session.heard(), [])
        server.advance(2)
        (said,) = session.heard()
        self.assertEqual(said[:3], "451")
        self.assertEqual(content.cancelled, ["b@example.net"])

    def test_envelope(self) -> None:
        """Stages are the test's own; one that has no opinion lets no recipient in."""
        envelope = FakeEnvelope(None)
        envelope.verdicts["b@example.net"] = Accept()
        server = self.server(envelope=envelope, delivery=FakeDelivery())
        session = server.session("2001:db8::1")
        session.say("EHLO c", "MAIL FROM:<a@x.example>")
        said = session.say("RCPT TO:<b@example.net>", "RCPT TO:<c@example.net>")
        self.assertEqual([line[:9] for line in said], ["250 2.1.5", "550 5.7.1"])
        self.assertEqual(envelope.judged[0][0].client.address, "2001:db8::1")

    def test_lost(self) -> None:
        """A connection that breaks leaves nothing behind."""
        server = self.server()
        session = server.session()
        session.say("EHLO c", "MAIL FROM:<a@x.example>", "RCPT TO:<b@example.net>", "DATA", "x")
        session.lose()
        session.lose()
        self.assertTrue(session.isClosed)
        self.assertEqual(server.delivered, [])
        self.assertEqual(session.say("NOOP"), [])

    def test_closed(self) -> None:
        """A server that has had enough closes the connection."""
        settings = ListenerSettings(limits=Limits(errors=1))
        session = self.server(settings=settings).session()
        said = session.say("FOO", "BAR")
        self.assertTrue(session.isClosed)
        self.assertEqual(said[-1][:3], "421")

    def test_several(self) -> None:
        """There may be several in one process."""
        one, other = self.server(), self.server(hostname="other.example.net")
        self.assertIn("mx.example.net", one.dialogue()[0])
        self.assertIn("other.example.net", other.dialogue()[0])


class TestServerTests(TestCase):
    """
    L{TestServer}.
    """

    @inlineCallbacks
    def test_loopback(self) -> Any:
        """A real client on a real port."""
        from twisted.internet import reactor

        server = yield TestServer.start(reactor)
        self.addCleanup(server.stop)
        host, port = server.address
        endpoint = HostnameEndpoint(reactor, host.encode(), port)
        d: Deferred[Any] = sendMessage(
            reactor, endpoint, "a@x.example", ["b@example.net"], MESSAGE, hello="c"
        )
        result = yield d
        self.assertTrue(result.answers[0].accepted)
        yield server.stop()
        self.assertEqual([str(one) for _, one, _ in server.delivered], ["b@example.net"])
