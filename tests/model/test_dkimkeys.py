"""
Private keys as their files have them.
"""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.dkimkeys import kindOf, newKey, pemOf, privateKey, publicOctets
from tests import signatures


class KeyTests(SynchronousTestCase):
    """
    L{privateKey}.
    """

    def refused(self, pem: bytes) -> str:
        return str(self.assertRaises(ValueError, privateKey, pem))

    def test_kinds(self) -> None:
        """The key itself says what it is; DNS has an Ed25519 key as it is (RFC 8463)."""
        for kind in ("rsa", "ed25519"):
            key = privateKey(signatures.pem(kind))
            self.assertEqual((kindOf(key), pemOf(key)), (kind, signatures.pem(kind)))
        self.assertEqual(len(publicOctets(privateKey(signatures.pem("ed25519")))), 32)
        self.assertTrue(
            base64.b64encode(publicOctets(privateKey(signatures.pem("rsa")))).startswith(
                b"MIIBIjAN"
            )
        )

    def test_traditional(self) -> None:
        """What other programs write for an RSA key is read, too."""
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        self.assertEqual(publicOctets(privateKey(pem)), publicOctets(key))

    def test_refused(self) -> None:
        """What is no key that receivers take says so."""
        short = self.refused(signatures.pem("1024"))
        self.assertEqual("2048 bits or more of an RSA key, not 1024", short)
        self.assertEqual("a private key in PEM", self.refused(b"none"))
        other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self.assertEqual("an RSA or an Ed25519 key", self.refused(other))
        locked = newKey("ed25519").private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        self.assertEqual("a private key without a passphrase", self.refused(locked))
