"""
STARTTLS, and TLS from the first octet.
"""

from __future__ import annotations

import os
from typing import Any
from unittest.mock import Mock

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.smtp.server.certificates import Certificates
from deferrals.smtp.server.connectionlimits import ConnectionLimits
from tests.harness import GREETING, connectionLimits, gate
from tests.tls import TLSBench, makeCertificate

ENVELOPE = ("MAIL FROM:<a@example.com>", "RCPT TO:<postmaster@example.net>", "DATA")


class TLSCase(SynchronousTestCase):
    """
    A session whose listener has a certificate.
    """

    def certificates(self, clock: Any) -> Certificates:
        directory = self.mktemp()
        os.makedirs(directory)
        self.paths = makeCertificate(directory)
        certificates = Certificates(*self.paths, clock)
        certificates.load()
        return certificates

    def bench(self, tls: str = "starttls", **more: Any) -> TLSBench:
        bench = TLSBench(tls=tls, certificates=self.certificates(Clock()), **more)
        if tls == "implicit":
            return bench
        bench.take()
        return bench

    def started(self, **more: Any) -> TLSBench:
        """
        After STARTTLS.
        """
        bench = self.bench(**more)
        bench.say(*GREETING)
        self.assertEqual(bench.say("STARTTLS"), ["220 2.0.0 ready to start TLS"])
        bench.handshake()
        return bench


class StartTLSTests(TLSCase):
    """
    RFC 3207.
    """

    def test_offered(self) -> None:
        """STARTTLS is offered before TLS and not within it; REQUIRETLS the other way round."""
        bench = self.bench()
        said = bench.say(*GREETING)
        self.assertIn("STARTTLS", said[-1])
        self.assertNotIn("REQUIRETLS", " ".join(said))
        bench.say("STARTTLS")
        bench.handshake()
        said = bench.secretly(*GREETING)
        self.assertNotIn("STARTTLS", " ".join(said))
        self.assertIn("REQUIRETLS", " ".join(said))
        self.assertEqual(bench.secretly("STARTTLS"), ["503 5.5.1 TLS is already in use"])

    def test_message(self) -> None:
        """Mail that comes within TLS says so (RFC 3848, RFC 8689)."""
        bench = self.started()
        bench.secretly(*GREETING)
        bench.secretly("MAIL FROM:<a@example.com> REQUIRETLS", *ENVELOPE[1:])
        self.assertTrue(bench.secretly("text", ".")[0].startswith("250 2.6.0"))
        envelope = bench.works[0].envelope
        self.assertEqual(envelope.client.protocol, "ESMTPS")
        self.assertRegex(envelope.client.tls, r"^TLSv1\.[23] [A-Z0-9_-]+$")
        self.assertTrue(envelope.parameters.requireTLS)

    def test_forgotten(self) -> None:
        """What was said in clear text is forgotten: greet again (RFC 3207 §4.2)."""
        bench = self.started()
        self.assertEqual(bench.secretly(ENVELOPE[0]), ["503 5.5.1 say EHLO first"])
        self.assertEqual(bench.secretly("HELO x"), ["250 mx.example.net"])
        self.assertEqual(bench.session.state.client.protocol, "SMTP")

    def test_inTransaction(self) -> None:
        """STARTTLS in a transaction is out of sequence, and changes nothing."""
        bench = self.bench()
        bench.say(*GREETING, ENVELOPE[0])
        self.assertEqual(bench.say("STARTTLS"), ["503 5.5.1 bad sequence of commands"])
        self.assertTrue(bench.say(ENVELOPE[1])[0].startswith("250 2.1.5"))

    def test_injection(self) -> None:
        """Commands behind STARTTLS in its segment are never executed (RFC 3207 §6, trap c1)."""
        bench = self.bench()
        bench.say(*GREETING)
        said = bench.say("STARTTLS", *ENVELOPE)
        self.assertEqual(len(said), 1)
        self.assertTrue(said[0].startswith("554 5.5.1"))
        self.assertTrue(bench.closed)
        bench.session.dataReceived(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\n")
        self.assertEqual(bench.take(), b"")

    def test_halfCommandBehind(self) -> None:
        """Half a command behind STARTTLS is not the beginning of one within TLS."""
        bench = self.bench()
        bench.say(*GREETING)
        bench.send(b"STARTTLS\r\nMAIL FROM:<evil@exa")
        self.assertTrue(bench.take().startswith(b"554 5.5.1"))
        self.assertTrue(bench.closed)

    def test_clearTextInstead(self) -> None:
        """Clear text instead of a handshake is no command, and ends the connection (c1)."""
        bench = self.bench()
        bench.say(*GREETING, "STARTTLS")
        bench.take()
        bench.wire(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\n")
        self.assertNotIn(b"250", bench.take())
        self.assertTrue(bench.transport.disconnecting or bench.session.isLost)

    def test_oldVersions(self) -> None:
        """TLS 1.1 is not spoken."""
        bench = self.bench()
        bench.say(*GREETING, "STARTTLS")
        with self.assertRaises(SSL.Error):
            bench.handshake(SSL.TLS1_1_VERSION)

    def test_tls12(self) -> None:
        """TLS 1.2 is."""
        bench = self.bench()
        bench.say(*GREETING, "STARTTLS")
        bench.handshake(SSL.TLS1_2_VERSION)
        self.assertTrue(bench.secretly("NOOP")[0].startswith("250"))
        self.assertTrue(bench.session.state.tls.startswith("TLSv1.2 "))

    def test_noHandshake(self) -> None:
        """A client that does not begin the handshake is not waited for longer than it may take."""
        bench = self.bench()
        bench.say(*GREETING, "STARTTLS")
        bench.clock.advance(59)
        self.assertFalse(bench.transport.aborted)
        bench.clock.advance(1)
        self.assertTrue(bench.transport.aborted)

    def test_required(self) -> None:
        """Where TLS is required, mail is taken within it and not before."""
        bench = self.bench("required")
        bench.say(*GREETING)
        self.assertTrue(bench.say(ENVELOPE[0])[0].startswith("530 5.7.0"))
        bench.say("STARTTLS")
        bench.handshake()
        bench.secretly(*GREETING)
        self.assertTrue(bench.secretly(ENVELOPE[0])[0].startswith("250"))


class FlowTests(TLSCase):
    """
    Flow control within TLS: Twisted's TLS layer closes only when there is no
    producer any longer.
    """

    def test_quit(self) -> None:
        """QUIT closes, and what was said before it arrives."""
        bench = self.started()
        self.assertEqual(bench.secretly("QUIT"), ["221 2.0.0 closing the connection"])
        self.assertEqual(self.producer(bench), None)
        self.assertTrue(bench.transport.disconnecting or bench.session.isClosing)
        with self.assertRaises((SSL.ZeroReturnError, SSL.WantReadError)):
            bench.tls.recv(100)

    def producer(self, bench: TLSBench) -> Any:
        return bench.transport.protocol._producer

    def test_lingering(self) -> None:
        """A client that never answers the end of TLS is cut off after a while."""
        bench = self.started()
        bench.secretly("QUIT")
        bench.clock.advance(30)
        self.assertTrue(bench.transport.aborted)

    def test_deafClient(self) -> None:
        """A client that does not read is not listened to, also within TLS."""
        bench = self.started()
        bench.transport.producer.pauseProducing()
        self.assertEqual(bench.secretly("NOOP"), [])
        bench.transport.producer.resumeProducing()
        bench.clock.advance(0)
        self.assertEqual(bench.secretly(), ["250 2.0.0 ok"])


class ImplicitTests(TLSCase):
    """
    TLS from the first octet (RFC 8314 §3.3).
    """

    def test_greeting(self) -> None:
        """The greeting comes within TLS, and nothing before it."""
        bench = self.bench("implicit")
        self.assertEqual(bench.take(), b"")
        bench.handshake()
        self.assertEqual(bench.secretly(), ["220 mx.example.net ESMTP deferrals"])
        self.assertNotIn("STARTTLS", " ".join(bench.secretly(*GREETING)))

    def test_probe(self) -> None:
        """A client that goes before its hello has only looked: it is counted, without a line."""
        with capturedLogs() as events:
            for data in (b"", b"EHLO client.test\r\n"):
                bench = self.bench("implicit")
                if data:
                    bench.wire(data)
                bench.transport.protocol.connectionLost(Failure(ConnectionDone()))
        lines = [event for event in events if event["log_level"] is not LogLevel.debug]
        self.assertEqual([event["log_format"] for event in lines], ["{client}: no TLS: {error}"])

    def test_shutdown(self) -> None:
        """In the middle of a handshake there is nothing to be said."""
        bench = self.bench("implicit")
        bench.session.shutdown()
        self.assertTrue(bench.transport.aborted)

    def test_turnedAway(self) -> None:
        """A connection over the limit is closed without a word in clear text."""
        limits = connectionLimits(connections=1)
        limits.opened()
        bench = self.bench("implicit", backend={"connectionLimits": limits})
        self.assertTrue(bench.transport.aborted)
        self.assertEqual(bench.take(), b"")

    def test_countedLate(self) -> None:
        """Where another process counts, the hello may come before the answer."""
        answers: list[Deferred[bool]] = []

        def enter(*_: object) -> Deferred[bool]:
            answers.append(Deferred())
            return answers[-1]

        counts: Any = Mock(enter=enter)
        bench = self.bench("implicit", backend={"connectionLimits": ConnectionLimits(counts)})
        wire = bench.wire

        def first(data: bytes) -> None:
            bench.wire = wire  # type: ignore[method-assign]
            wire(data)
            for _ in range(2):
                answers.pop().callback(True)

        bench.wire = first  # type: ignore[method-assign]
        bench.handshake()
        self.assertEqual(bench.secretly(), ["220 mx.example.net ESMTP deferrals"])

    def test_proxied(self) -> None:
        """Behind a proxy: its header, in the same segment with the client's hello."""
        bench = self.bench("implicit", proxied=True, proxies=("192.0.2.1",))
        wire = bench.wire
        header = b"PROXY TCP4 198.51.100.7 192.0.2.1 1000 25\r\n"

        def first(data: bytes) -> None:
            bench.wire = wire  # type: ignore[method-assign]
            wire(header + data)

        bench.wire = first  # type: ignore[method-assign]
        bench.handshake()
        self.assertEqual(bench.secretly(), ["220 mx.example.net ESMTP deferrals"])
        self.assertEqual(bench.session.state.client.address, "198.51.100.7")


class SecretTests(TLSCase):
    """
    Passwords within TLS.
    """

    def test_auth(self) -> None:
        """AUTH is offered within TLS, and its mail says so (RFC 3848)."""
        bench = self.bench(auth="offered", backend={"authenticator": gate(alice=b"secret")})
        self.assertNotIn("AUTH", " ".join(bench.say(*GREETING)))
        bench.say("STARTTLS")
        bench.handshake()
        self.assertIn("250 AUTH PLAIN LOGIN", bench.secretly(*GREETING))
        said = bench.secretly("AUTH PLAIN AGFsaWNlAHNlY3JldA==")
        self.assertEqual(said, ["235 2.7.0 authenticated"])
        bench.secretly(*ENVELOPE)
        bench.secretly("text", ".")
        client = bench.works[0].envelope.client
        self.assertEqual((client.user, client.protocol), ("alice", "ESMTPSA"))

    def test_utf8(self) -> None:
        """RFC 6531 §4.3's names of protocols."""
        bench = self.bench(protocol="lmtp")
        bench.say("LHLO client.example.com", "STARTTLS")
        bench.handshake()
        bench.secretly("LHLO client.example.com")
        bench.secretly("MAIL FROM:<a@example.com> SMTPUTF8", *ENVELOPE[1:])
        bench.secretly("text", ".")
        self.assertEqual(bench.works[0].envelope.client.protocol, "UTF8LMTPS")
