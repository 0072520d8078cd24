"""
Saying who we are: the mechanisms, and a whole session.
"""

from __future__ import annotations

import base64
from typing import Any

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import HopError
from deferrals.model.outgoing import Login
from deferrals.smtp.client.auth import LoginMechanism, Plain, ScramSHA256, choose
from tests.hops import HopsCase, codes, outgoing
from tests.peer import EHLO


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class MechanismTests(SynchronousTestCase):
    """
    What is said.
    """

    def scram(self) -> ScramSHA256:
        return ScramSHA256("user", "pencil", "rOprNGfwEbeRWgbNEkqO", maybeDeferred)

    def test_scram(self) -> None:
        """The example of RFC 7677 §3."""
        scram = self.scram()
        self.assertEqual(
            scram.start(), f"SCRAM-SHA-256 {encoded('n,,n=user,r=rOprNGfwEbeRWgbNEkqO')}"
        )
        nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
        d = scram.respond(encoded(f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"))
        self.assertEqual(
            self.successResultOf(d),
            encoded(f"c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
        )
        self.assertRaises(ValueError, scram.finish)
        proof = encoded("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        self.assertEqual(self.successResultOf(scram.respond(proof)), "")
        scram.finish()

    def test_scramWrong(self) -> None:
        """A server that is none, wants too much, or does not know the password, is not believed."""
        for challenge in (
            "nonsense",
            "r=other,s=W22Z,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22Z,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22Z,i=99999999",
            "e=unknown-user",
        ):
            scram = self.scram()
            scram.start()
            self.failureResultOf(scram.respond(encoded(challenge)), ValueError)
        scram = self.scram()
        scram.start()
        self.failureResultOf(scram.respond("!"), ValueError)
        self.successResultOf(scram.respond(encoded("r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaA==,i=10")))
        self.failureResultOf(scram.respond(encoded("v=AAAA")), ValueError)

    def test_plain(self) -> None:
        """PLAIN in one piece (RFC 4616), LOGIN in two."""
        self.assertEqual(
            Plain("me", "pw").start(), f"PLAIN {encoded(chr(0) + 'me' + chr(0) + 'pw')}"
        )
        self.failureResultOf(Plain("me", "pw").respond(""), ValueError)
        login = LoginMechanism("me", "pw")
        self.assertEqual(login.start(), "LOGIN")
        for challenge, answer in (("VXNlcm5hbWU6", "me"), ("UGFzc3dvcmQ6", "pw")):
            self.assertEqual(self.successResultOf(login.respond(challenge)), encoded(answer))
        self.failureResultOf(login.respond(""), ValueError)

    def test_choose(self) -> None:
        """The best that is offered; never none."""
        for offered, name in (
            (["LOGIN", "PLAIN", "scram-sha-256"], "SCRAM-SHA-256"),
            (["LOGIN", "PLAIN"], "PLAIN"),
            (["LOGIN"], "LOGIN"),
        ):
            self.assertEqual(choose(offered, "u", "p", "n", maybeDeferred).name, name)
        self.assertRaises(ValueError, choose, ["GSSAPI"], "u", "p", "n", maybeDeferred)


class SessionTests(HopsCase):
    """
    A server that asks who we are.
    """

    def setUp(self) -> None:
        super().setUp()
        self.peer.keywords = [*EHLO, "AUTH PLAIN"]
        self.network.peers["tls:hop"] = self.peer
        self.answer = "235 2.7.0 welcome"

    def send(self, endpoint: str = "tls:hop", **login: Any) -> Any:
        self.peer.override["AUTH"] = self.answer
        hop = attrs.evolve(self.hop(login=Login(**login)), endpoint=endpoint)
        return self.start(hop, outgoing("b@x.example"))

    def test_login(self) -> None:
        """AUTH before MAIL, once per connection; a password from a file."""
        path = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write("secret\nsecond line\n")
        for _ in "12":
            d = self.send(user="me", passwordFile=path)
            self.assertEqual(codes(self.successResultOf(d)), [250])
        wanted = f"AUTH PLAIN {encoded(chr(0) + 'me' + chr(0) + 'secret')}"
        self.assertEqual([c for c in self.peer.commands if c.startswith("AUTH")], [wanted])

    def test_refused(self) -> None:
        """A password that is wrong, a file that is not there, no mechanism: no mail."""
        self.answer = "535 5.7.8 wrong"
        self.failureResultOf(self.send(user="me", password="x"), HopError)
        self.failureResultOf(self.send(user="me", passwordFile="/no/such/file"), HopError)
        self.peer.keywords = ["AUTH GSSAPI"]
        self.failureResultOf(self.send(user="me", password="x"), HopError)
        self.assertEqual(self.mails(), [])
        self.network.run()
        self.assertEqual(self.peer.sessions, [])

    def test_inClear(self) -> None:
        """A password does not go over a connection that others can read."""
        failure = self.failureResultOf(self.send("hop", user="me", password="x"), HopError)
        self.assertEqual(failure.value.enhanced, "4.7.11")
        self.assertEqual(self.peer.commands, ["EHLO mx.example.net"])

    def test_line(self) -> None:
        """NUL and line ends, which would separate other words than were meant, are refused."""
        for bad in ("a\0b", "a\rb", "a\nb"):
            self.assertRaises(ValueError, Login, bad, "x")
            self.assertRaises(ValueError, Login, "x", bad)
        path = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write("a\0b\n")
        self.failureResultOf(self.send(user="me", passwordFile=path), HopError)
