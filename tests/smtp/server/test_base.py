"""
What the parts of a session have in common.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.envelope import Client
from deferrals.model.listener import ListenerSettings
from deferrals.model.transaction import Phase
from deferrals.smtp.server.base import SessionBase
from tests.harness import GREETING, Bench, gate


class Part(SessionBase):
    """
    The smallest session: it knows what the others do, and forgets what it is told to.
    """

    def __init__(self, settings: ListenerSettings) -> None:
        super().__init__(settings, Bench().backend, Clock())
        self.aborted: list[str] = []

    def abort(self, why: str) -> None:
        self.aborted.append(why)

    def knows(self, extended: bool, tls: str | None = None, user: str | None = None) -> Client:
        """
        @return: the client, of which this is known now.
        """
        state = self.state
        state.address, state.port, state.hostname = "192.0.2.1", 4321, "client.test"
        state.hello, state.isExtended, state.tls, state.user = "c", extended, tls, user
        state.phase, state.offered = Phase.READY, frozenset({"PRDR"})
        state.identify()
        return state.client

    def now(self) -> tuple[Client, Phase, frozenset[str]]:
        return self.state.client, self.state.phase, self.state.offered


class ClientTests(SynchronousTestCase):
    """
    What a transaction says of its client.
    """

    def test_protocol(self) -> None:
        """The protocol's name says what was used (RFC 3848); HELO can have neither."""
        for protocol, wanted in (
            ("smtp", ["SMTP", "ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA"]),
            ("submission", ["SMTP", "ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA"]),
            ("lmtp", ["SMTP", "LMTP", "LMTPS", "LMTPA", "LMTPSA"]),
        ):
            part = Part(ListenerSettings(protocol=protocol, hostname="mx.test"))
            found = [
                part.knows(False).protocol,
                part.knows(True).protocol,
                part.knows(True, "TLSv1.3").protocol,
                part.knows(True, user="ann").protocol,
                part.knows(True, "TLSv1.3", "ann").protocol,
            ]
            self.assertEqual(found, wanted)

    def test_emptyUser(self) -> None:
        """A user whose name is empty is authenticated, too."""
        part = Part(ListenerSettings(hostname="mx.test"))
        self.assertEqual(part.knows(True, user="").protocol, "ESMTPA")

    def test_all(self) -> None:
        """All that is known is in it."""
        part = Part(ListenerSettings(hostname="mx.test"))
        self.assertEqual(
            part.knows(True, "TLSv1.3", "ann"),
            Client("192.0.2.1", 4321, "c", "ESMTPSA", "ann", "TLSv1.3", "client.test"),
        )

    def test_earlier(self) -> None:
        """What is learnt in a session is in its next transactions, not in the earlier ones."""
        bench = Bench(
            backend={"authenticator": gate(ann=b"secret")}, auth="offered", auth_without_tls=True
        )
        mail = ("MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA", "text", ".")
        bench.say(*GREETING, *mail)
        bench.say("AUTH PLAIN AGFubgBzZWNyZXQ=", *mail)
        clients = [work.envelope.client for work in bench.works]
        self.assertEqual([one.protocol for one in clients], ["ESMTP", "ESMTPA"])
        self.assertEqual([one.user for one in clients], [None, "ann"])


class StartOverTests(SynchronousTestCase):
    """
    The session begins anew.
    """

    def test_forgets(self) -> None:
        """
        What the client has said counts no longer (RFC 3207 section 4.2); what
        is known of its connection stays.
        """
        part = Part(ListenerSettings(hostname="mx.test"))
        part.knows(True, "TLSv1.3", "ann")
        part.startOver("STARTTLS")
        client, phase, offered = part.now()
        self.assertEqual(
            client, Client("192.0.2.1", 4321, "", "SMTP", None, "TLSv1.3", "client.test")
        )
        self.assertEqual((phase, offered), (Phase.START, frozenset()))
        self.assertEqual(part.aborted, ["STARTTLS"])


class SaidTests(SynchronousTestCase):
    """
    What a session says in its own name.
    """

    def test_greeting(self) -> None:
        """The greeting names the host and the protocol (RFC 2033 section 4.1)."""
        for protocol, wanted in (
            ("smtp", b"mx.test ESMTP deferrals"),
            ("submission", b"mx.test ESMTP deferrals"),
            ("lmtp", b"mx.test LMTP deferrals"),
        ):
            part = Part(ListenerSettings(protocol=protocol, hostname="mx.test"))
            self.assertEqual(part.greeting(), wanted)

    def test_utf8(self) -> None:
        """Replies are in UTF-8 while a transaction asks for it, and only then (RFC 6531)."""
        bench = Bench()
        found = []
        for line in ("EHLO c", "MAIL FROM:<a@b.example>", "RSET"):
            bench.say(line)
            found.append(bench.session.wantsUTF8())
        bench.say("MAIL FROM:<a@b.example> SMTPUTF8")
        found.append(bench.session.wantsUTF8())
        bench.say("RSET")
        found.append(bench.session.wantsUTF8())
        self.assertEqual(found, [False, False, False, True, False])
