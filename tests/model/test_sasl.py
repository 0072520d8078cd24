"""
SCRAM, as the RFC and its attackers have it.
"""

from __future__ import annotations

import base64

from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.sasl import (
    SaslError,
    ScramExchange,
    ScramKeys,
    parsePlain,
    saslprep,
    signature,
)

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
KEYS = ScramKeys.make("pencil", SALT, 4096)


class ScramTests(SynchronousTestCase):
    """
    SCRAM-SHA-256 without a wire.
    """

    def test_rfc7677(self) -> None:
        """The example of RFC 7677 §3, octet for octet."""
        exchange = ScramExchange(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
        self.assertEqual((exchange.user, exchange.authorization), ("user", ""))
        challenge = exchange.challenge(KEYS, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
        self.assertEqual(
            challenge,
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        )
        message, proof = exchange.proof(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        )
        self.assertTrue(KEYS.prove(message, proof))
        self.assertFalse(ScramKeys.make("pen", SALT, 4096).prove(message, proof))
        self.assertFalse(KEYS.prove(message, proof[:-1]))
        self.assertEqual(
            signature(KEYS, message), b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        )

    def test_badFirst(self) -> None:
        """Channel binding, extensions and nonsense are no first message."""
        for first in (
            b"",
            b"p=tls-unique,,n=user,r=abc",
            b"n,,m=ext,n=user,r=abc",
            b"n,,n=user,r=",
            b"n,,n=,r=abc",
            b"n,,n=us=er,r=abc",
            b"n,,n=user,r=" + b"a" * 201,
            b"\xff",
        ):
            with self.assertRaises(SaslError, msg=repr(first)):
                ScramExchange(first)

    def test_names(self) -> None:
        """Commas and equals signs in names are escaped (RFC 5802 §5.1)."""
        exchange = ScramExchange(b"y,a=bo=3Db,n=a=2Cb,r=abc")
        self.assertEqual((exchange.user, exchange.authorization), ("a,b", "bo=b"))

    def test_otherExchange(self) -> None:
        """A last message with another nonce, or another header, is none of this exchange."""
        exchange = ScramExchange(b"n,,n=user,r=abc")
        exchange.challenge(KEYS, "def")
        for final in (b"c=biws,r=abcxyz,p=AAAA", b"c=eSws,r=abcdef,p=AAAA", b"r=abcdef"):
            with self.assertRaises(SaslError):
                exchange.proof(final)

    def test_extensions(self) -> None:
        """What else a client says behind its nonces counts for the proof, and for nothing else
        (RFC 5802 §7: optional extensions are ignored)."""
        exchange = ScramExchange(b"n,,n=user,r=abc,x=1,y=2=3")
        challenge = exchange.challenge(KEYS, "def")
        message, _ = exchange.proof(b"c=biws,r=abcdef,z=4,p=AAAA")
        self.assertEqual(message, b"n=user,r=abc,x=1,y=2=3," + challenge + b",c=biws,r=abcdef,z=4")
        self.assertEqual(exchange.user, "user")

    def test_text(self) -> None:
        """Keys as RFC 5803 writes them, and back."""
        self.assertEqual(ScramKeys.parse(str(KEYS)), KEYS)
        self.assertTrue(str(KEYS).startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"))
        self.assertNotIn("stored=", repr(KEYS))

    def test_saslprep(self) -> None:
        """SASLprep (RFC 4013 §3's examples)."""
        for text, wanted in (
            ("I\u00adX", "IX"),
            ("user", "user"),
            ("\u00aa", "a"),
            ("\u2168", "IX"),
            ("a\u00a0b", "a b"),
        ):
            self.assertEqual(saslprep(text), wanted)
        with self.assertRaises(SaslError):
            saslprep("\u0007")
        with self.assertRaises(SaslError):
            saslprep("\u0627\u0031")

    def test_plain(self) -> None:
        """PLAIN's message has three parts, two of them not empty (RFC 4616 §2)."""
        login = parsePlain(b"x\0alice\0secret")
        self.assertEqual(
            (login.authorization, login.user, login.password), ("x", "alice", "secret")
        )
        self.assertNotIn("secret", repr(login))
        for message in (b"", b"\0\0", b"\0a", b"\0a\0b\0c", b"\0\xff\0b", b"\0a\0"):
            with self.assertRaises(SaslError):
                parsePlain(message)
