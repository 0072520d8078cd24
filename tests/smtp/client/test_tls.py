"""
STARTTLS on the client's side (RFC 3207), without sockets: a session, and a
server that speaks TLS through OpenSSL's memory.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import PeerError
from deferrals.smtp.client.session import ClientSession
from deferrals.smtp.client.tls import Unverified, trusted, verifying
from tests.tls import TLSTransport, makeCertificate


class ClientTransport(TLSTransport):
    """
    The same transport, of a client.
    """

    _tlsClientDefault = True


class ClientTLSCase(SynchronousTestCase):
    """
    A session that has been welcomed in clear, and whose server has offered
    STARTTLS and a password.
    """

    def setUp(self) -> None:
        self.certificate, self.key = makeCertificate(self.mktempDirectory(), "mx.example.org")
        self.clock = Clock()
        self.session = ClientSession(self.clock, "client.example.com")
        self.transport = ClientTransport()
        self.transport.protocol = self.session
        self.session.makeConnection(self.transport)
        opened = Deferred.fromCoroutine(self.session.open())
        self.say("220 mx.example.org ready")
        self.say("250-mx.example.org", "250-STARTTLS", "250 AUTH PLAIN")
        self.successResultOf(opened)
        self.sni: list[Any] = []
        self.tls: Any = None

    def mktempDirectory(self) -> str:
        name = self.mktemp()
        os.makedirs(name)
        return name

    def take(self) -> bytes:
        said: bytes = self.transport.value()
        self.transport.clear()
        return said

    def say(self, *lines: str) -> None:
        """
        In clear.
        """
        self.take()
        self.session.dataReceived("".join(line + "\r\n" for line in lines).encode())

    def start(self, name: str = "mx.example.org", ca: bool = True) -> Deferred[Any]:
        """
        Ask for STARTTLS, with a server that has to be C{name}.
        """
        roots = trusted(self.certificate) if ca else None
        d = Deferred.fromCoroutine(self.session.secure(verifying(name, roots), True))
        self.assertEqual(self.take(), b"STARTTLS\r\n")
        return d

    def handshake(self) -> None:
        """
        The server's part.
        """
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate_file(self.certificate)
        context.use_privatekey_file(self.key)
        context.set_tlsext_servername_callback(lambda c: self.sni.append(c.get_servername()))
        self.tls = SSL.Connection(context, None)
        self.tls.set_accept_state()
        for _ in range(10):
            self.exchange()
            with contextlib.suppress(SSL.Error):
                self.tls.do_handshake()
        self.exchange()

    def exchange(self) -> None:
        if self.transport.protocol is not self.session:
            self.transport.protocol._aggregator.flush()  # in the next turn of the reactor
        said = self.take()
        if said:
            self.tls.bio_write(said)
        if not self.transport.aborted:
            with contextlib.suppress(SSL.WantReadError):
                self.transport.protocol.dataReceived(self.tls.bio_read(1 << 20))

    def secretly(self, *lines: str) -> bytes:
        """
        Say something within TLS.

        @return: what the client has said before.
        """
        self.exchange()
        said = b""
        with contextlib.suppress(SSL.Error):
            said = self.tls.recv(1 << 20)
        if lines:
            self.tls.send("".join(line + "\r\n" for line in lines).encode())
            self.exchange()
        return said

    def lose(self) -> None:
        self.transport.protocol.connectionLost(Failure(ConnectionAborted()))


class SecureTests(ClientTLSCase):
    """
    L{ClientSession.secure}.
    """

    def test_verified(self) -> None:
        """
        The right server: what it has offered in clear is forgotten, and it is
        asked again.
        """
        d = self.start()
        self.say("220 2.0.0 go")
        self.handshake()
        self.assertNoResult(d)
        self.assertEqual(self.session.capabilities, {})
        self.assertEqual(
            self.secretly("250-mx.example.org", "250 SIZE 1000"), b"EHLO client.example.com\r\n"
        )
        self.successResultOf(d)
        self.assertTrue(self.session.protected and self.session.verified)
        self.assertEqual(self.session.capabilities, {"SIZE": ["1000"]})
        self.assertEqual(self.sni, [b"mx.example.org"])

    def test_anybody(self) -> None:
        """Any server is encrypted with, and none is taken for verified."""
        d = Deferred.fromCoroutine(self.session.secure(Unverified("other.example"), False))
        self.say("220 2.0.0 go")
        self.handshake()
        self.secretly("250 mx.example.org")
        self.successResultOf(d)
        self.assertTrue(self.session.protected)
        self.assertFalse(self.session.verified)
        self.assertEqual(self.sni, [b"other.example"])

    def test_wrong(self) -> None:
        """
        Another name, or an issuer that nobody trusts: nothing is said to that
        server, and the connection is lost.
        """
        for name, ca, why in (
            ("other.example", True, "the certificate has another name"),
            ("mx.example.org", False, "certificate verify failed"),
        ):
            self.setUp()
            d = self.start(name, ca)
            self.say("220 2.0.0 go")
            self.handshake()
            self.assertEqual(self.secretly(), b"")
            self.lose()
            error = self.failureResultOf(d, PeerError).value
            self.assertIn(why, str(error))
            self.assertFalse(self.session.usable)

    def test_injected(self) -> None:
        """What comes in clear behind the reply to STARTTLS is nobody's word (RFC 3207 §6)."""
        d = self.start()
        self.say("220 2.0.0 go", "250-mx.example.org", "250 AUTH PLAIN")
        self.handshake()
        self.assertNoResult(d)
        self.secretly("250 mx.example.org")
        self.successResultOf(d)
        self.assertEqual(self.session.capabilities, {})

    def test_refused(self) -> None:
        """A refusal is told; the session goes on in clear, if its owner wants that."""
        d = self.start()
        self.say("454 4.7.0 not now")
        self.assertEqual(self.failureResultOf(d, PeerError).value.reply.code, 454)
        self.assertTrue(self.session.usable)
        self.assertFalse(self.session.protected)

    def test_silent(self) -> None:
        """A server that does not shake hands is not waited for."""
        d = self.start()
        self.say("220 2.0.0 go")
        self.clock.advance(300)
        self.failureResultOf(d, PeerError)
        self.assertFalse(self.session.usable)
        self.assertTrue(self.transport.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """Nor by somebody who has cancelled."""
        d = self.start()
        self.say("220 2.0.0 go")
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertFalse(self.session.usable)
        self.assertTrue(self.transport.aborted)

    def test_noTLS(self) -> None:
        """Nor is anything said to one that goes on in clear."""
        d = self.start()
        self.say("220 2.0.0 go")
        self.take()
        self.transport.protocol.dataReceived(b"250-mx.example.org\r\n250 AUTH PLAIN\r\n")
        self.lose()
        self.failureResultOf(d, PeerError)
        self.assertNotIn(b"EHLO", self.take())
        self.assertFalse(self.session.protected)
