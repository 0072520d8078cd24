"""
Certificates that change.
"""

from __future__ import annotations

import contextlib
import os
import time

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from deferrals.smtp.server.certificates import Certificates
from tests.tls import Issuer, makeCertificate


class CertificateTests(SynchronousTestCase):
    """
    L{Certificates}: a pair of files that changes.
    """

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.makedirs(self.directory)
        self.clock = Clock()
        self.clock.advance(1000)
        self.paths = makeCertificate(self.directory)
        self.certificates = Certificates(*self.paths, self.clock)
        self.certificates.load()
        self.first = self.served()

    def served(self) -> str:
        """
        The fingerprint of what a client would see.
        """
        connection = self.certificates.serverConnectionForTLS(None)
        server = SSL.Connection(connection.get_context(), None)
        server.set_accept_state()
        client = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
        client.set_connect_state()
        for _ in range(6):
            for one, other in ((client, server), (server, client)):
                with contextlib.suppress(SSL.WantReadError):
                    one.do_handshake()
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(one.bio_read(1 << 16))
        found = client.get_peer_certificate()
        return str(found.digest("sha256").decode())

    def test_changed(self) -> None:
        """A new pair is used from the next handshake on, a second later at the latest."""
        new = makeCertificate(self.directory, suffix="-new")
        for path, other in zip(self.paths, new, strict=True):
            os.replace(other, path)
        self.assertEqual(self.served(), self.first)
        self.clock.advance(1)
        self.assertNotEqual(self.served(), self.first)

    def test_half(self) -> None:
        """A certificate whose key has not come yet is logged once; the old pair stays."""
        certificate, key = makeCertificate(self.directory, suffix="-new")
        os.replace(certificate, self.paths[0])
        for _ in range(3):
            self.clock.advance(1)
            self.assertEqual(self.served(), self.first)
        os.replace(key, self.paths[1])
        self.clock.advance(1)
        self.assertNotEqual(self.served(), self.first)

    def test_gone(self) -> None:
        """While a file is missing the old pair stays."""
        os.unlink(self.paths[0])
        self.clock.advance(1)
        self.assertEqual(self.served(), self.first)

    def test_garbage(self) -> None:
        """What is no certificate cannot be loaded, and the text says what was expected."""
        with open(self.paths[0], "w") as file:
            file.write("nonsense")
        with self.assertRaisesRegex(ValueError, "a certificate and its key, in PEM"):
            Certificates(*self.paths, self.clock).load()
        with self.assertRaisesRegex(ValueError, "a readable file"):
            Certificates("/nowhere", "/nowhere", self.clock).load()

    def test_passphrase(self) -> None:
        """A key with a passphrase is refused; nobody is asked for it."""
        with open(self.paths[1], "rb") as file:
            key = serialization.load_pem_private_key(file.read(), None)
        with open(self.paths[1], "wb") as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.BestAvailableEncryption(b"secret"),
                )
            )
        with self.assertRaisesRegex(ValueError, "without a passphrase"):
            Certificates(*self.paths, self.clock).load()

    def test_words(self) -> None:
        """Which file is wrong, and how, without what OpenSSL calls its parts."""
        other = makeCertificate(self.directory, suffix="-other")
        text = os.path.join(self.directory, "text.pem")
        with open(text, "w") as file:
            file.write("nonsense")
        for certificate, key, why in (
            (self.paths[0], other[1], f"{other[1]}: not the key of {self.paths[0]}"),
            (text, self.paths[1], f"{text}: no start line"),
            (self.paths[0], text, f"{text}: "),
        ):
            error = self.assertRaises(ValueError, Certificates(certificate, key, self.clock).load)
            self.assertIn(f"without a passphrase: {why}", str(error))
            self.assertNotIn("[(", str(error))

    def test_expired(self) -> None:
        """A certificate that has expired is used, and the log says so each time it is read."""
        name, days = [x509.DNSName("localhost")], (-9, -2)
        paths = Issuer(None).certify(self.directory, name, days=days, suffix="-old", issuer=None)
        certificates = Certificates(*paths, self.clock)
        self.clock.advance(time.time())
        with capturedLogs() as events:
            certificates.load()
        (event,) = events
        self.assertIn(f"{paths[0]} has expired, 2", formatEvent(event))
        with capturedLogs() as events:
            self.certificates.load()
        self.assertEqual(events, [])

    def test_onRequest(self) -> None:
        """A reload reads the files at once."""
        for path, other in zip(
            self.paths, makeCertificate(self.directory, suffix="-new"), strict=True
        ):
            os.replace(other, path)
        self.certificates.reload()
        self.assertNotEqual(self.served(), self.first)
