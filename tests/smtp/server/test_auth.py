"""
AUTH on the wire.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

from twisted.cred.checkers import FilePasswordDB
from twisted.internet.defer import Deferred

from deferrals.auth.authenticator import Authenticator
from deferrals.model.passwords import ScryptHash, Secrets, formatLine
from tests.harness import GREETING, Bench, gate
from tests.logins import FileCase


class Client:
    """
    A client's side of SCRAM-SHA-256, for one exchange.
    """

    def __init__(self, user: str, password: str, nonce: str = "rOprNGfwEbeRWgbNEkqO") -> None:
        self.password = password
        self.bare = f"n={user},r={nonce}"
        self.first = f"n,,{self.bare}".encode()

    def final(self, challenge: bytes) -> bytes:
        words = dict(part.split("=", 1) for part in challenge.decode().split(","))
        bare = f"c=biws,r={words['r']}"
        message = f"{self.bare},{challenge.decode()},{bare}".encode()
        salt = base64.b64decode(words["s"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, int(words["i"]))
        key = hmac.digest(salted, b"Client Key", "sha256")
        signed = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signed, strict=True))
        return f"{bare},p={base64.b64encode(proof).decode()}".encode()


class WireTests(FileCase):
    """
    What dialogues cannot show.
    """

    def bench(self, checker: Any = None, **limits: Any) -> Bench:
        backend = {"authenticator": Authenticator([checker or self.checker()])}
        bench = Bench(limits, backend, auth="offered", auth_without_tls=True)
        bench.say(*GREETING)
        return bench

    def ask(self, bench: Bench, line: bytes) -> bytes:
        (said,) = bench.say(line.decode())
        self.assertTrue(said.startswith("334 "), said)
        return base64.b64decode(said[4:])

    def scram(self, bench: Bench, user: str, password: str) -> list[str]:
        client = Client(user, password)
        start = b"AUTH SCRAM-SHA-256 " + base64.b64encode(client.first)
        final = client.final(self.ask(bench, start))
        return bench.say(base64.b64encode(final).decode())

    def test_scram(self) -> None:
        """SCRAM-SHA-256 ends with the server's own proof, an empty answer and 235."""
        bench = self.bench()
        (said,) = self.scram(bench, "alice", "secret")
        self.assertTrue(base64.b64decode(said[4:]).startswith(b"v="))
        self.assertEqual(bench.say(""), ["235 2.7.0 authenticated"])
        bench.say("MAIL FROM:<a@example.com>")
        self.assertEqual(bench.session.state.transaction.envelope.client.user, "alice")
        self.assertEqual(bench.status.counted("authentications", "accepted"), 1)

    def test_scramWithoutInitial(self) -> None:
        """Without an initial response the server asks for one, with an empty challenge."""
        bench = self.bench()
        bench.send(b"AUTH SCRAM-SHA-256\r\n")
        self.assertEqual(bench.take(), b"334 \r\n")
        client = Client("alice", "secret")
        final = client.final(self.ask(bench, base64.b64encode(client.first)))
        self.assertTrue(bench.say(base64.b64encode(final).decode())[0].startswith("334 "))

    def test_scramWrong(self) -> None:
        """A wrong password, a stranger, and somebody without keys are told the same."""
        for user, password in (("alice", "wrong"), ("nobody", "secret"), ("bob", "secret")):
            bench = self.bench()
            self.assertEqual(self.scram(bench, user, password), [])
            bench.clock.advance(3)
            self.assertEqual(bench.take(), b"535 5.7.8 authentication failed\r\n")

    def test_scramProofOfNothing(self) -> None:
        """Something behind the server's proof is an error, and nobody is logged in."""
        bench = self.bench()
        self.scram(bench, "alice", "secret")
        self.assertTrue(bench.say("AAAA")[0].startswith("501 5.5.2"))
        self.assertIsNone(bench.session.state.user)

    def test_asserted(self) -> None:
        """AUTH= is believed only of the one who is authenticated as that (RFC 4954 §5)."""
        with open(self.path, "a") as file:
            secrets = Secrets(ScryptHash.make("secret", b"s", 4))
            file.write(formatLine("alice@example.com", secrets) + "\n")
        bench = self.bench()
        bench.say("MAIL FROM:<a@example.com> AUTH=alice@example.com")
        self.assertEqual(bench.session.state.transaction.envelope.parameters.auth, "<>")
        bench.say("RSET")
        login = base64.b64encode(b"\0alice@example.com\0secret").decode()
        self.assertEqual(bench.say(f"AUTH PLAIN {login}"), ["235 2.7.0 authenticated"])
        for value, wanted in (
            ("alice@example.com", "alice@example.com"),
            ("bob@example.com", "<>"),
            ("<>", "<>"),
        ):
            bench.say(f"MAIL FROM:<a@example.com> AUTH={value}")
            self.assertEqual(bench.session.state.transaction.envelope.parameters.auth, wanted)
            bench.say("RSET")

    def waiting(self) -> tuple[Bench, list[Deferred[Any]]]:
        """
        In an exchange whose checker has not answered yet.
        """
        pending: list[Deferred[Any]] = []

        class Slow(FilePasswordDB):
            def requestAvatarId(self, credentials: Any) -> Any:
                pending.append(Deferred())
                return pending[-1]

        bench = self.bench(Slow(self.path))
        bench.say("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "MAIL FROM:<a@example.com>")
        self.assertEqual(len(pending), 1)
        return bench, pending

    def test_pipelined(self) -> None:
        """What is pipelined behind AUTH waits for its answer (trap i3)."""
        bench, pending = self.waiting()
        self.assertEqual(bench.take(), b"")
        pending[0].callback(b"alice")
        self.assertEqual([line[:3] for line in bench.take().splitlines()], [b"235", b"250"])
        self.assertEqual(bench.session.state.transaction.envelope.client.user, "alice")

    def test_pipelinedAnswers(self) -> None:
        """Answers that come before their challenges, and a command behind them, stay in order."""
        bench = self.bench()
        said = bench.say("AUTH LOGIN", "YWxpY2U=", "c2VjcmV0", "MAIL FROM:<a@example.com>")
        self.assertEqual([line[:3] for line in said], ["334", "334", "235", "250"])

    def test_late(self) -> None:
        """A checker that does not answer is our failure, not a wrong password."""
        bench, _ = self.waiting()
        bench.clock.advance(30)
        self.assertEqual(
            [line[:9] for line in bench.take().splitlines()], [b"454 4.7.0", b"250 2.1.0"]
        )

    def test_broken(self) -> None:
        """A checker that fails is our failure, too."""
        bench, pending = self.waiting()
        pending[0].errback(OSError("the file is gone"))
        self.assertTrue(bench.take().startswith(b"454 4.7.0"))
        self.assertEqual(bench.status.counted("authentications", "failed"), 0)

    def test_lost(self) -> None:
        """A client that goes in the middle leaves nothing behind."""
        bench, pending = self.waiting()
        bench.lose()
        self.assertEqual(bench.clock.getDelayedCalls(), [])
        pending[0].callback(b"alice")
        bench = self.bench()
        bench.say("AUTH LOGIN")
        bench.lose()
        bench = self.bench()
        bench.say("AUTH PLAIN AGFsaWNlAHdyb25n")
        bench.lose()
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_longLine(self) -> None:
        """An answer over 12,288 octets is 500 5.5.6, and the exchange is over (RFC 4954 §4)."""
        bench = self.bench()
        bench.say("AUTH PLAIN")
        bench.send(b"A" * 12288 + b"\r\n")
        self.assertTrue(bench.take().startswith(b"501 5.5.2"))
        bench.say("AUTH PLAIN")
        for _ in range(5):
            bench.send(b"A" * 3000)
        bench.send(b"\r\nNOOP\r\n")
        self.assertEqual(
            [line[:9] for line in bench.take().splitlines()], [b"500 5.5.6", b"250 2.0.0"]
        )

    def test_bareLF(self) -> None:
        """An answer that ends with LF alone ends the session."""
        bench = self.bench()
        bench.say("AUTH LOGIN")
        bench.send(b"YWxpY2U=\nNOOP\r\nNOOP\r\n")
        self.assertEqual([line[:9] for line in bench.take().splitlines()], [b"500 5.5.2"])
        self.assertTrue(bench.closed)

    def test_slow(self) -> None:
        """A client that does not answer a challenge is timed out."""
        bench = self.bench()
        bench.say("AUTH PLAIN")
        bench.clock.advance(300)
        self.assertTrue(bench.take().startswith(b"421 4.4.2"))

    def test_manyFailures(self) -> None:
        """Failures are remembered by address, over connections; the delay has an end."""
        backend = {"authenticator": gate(alice=b"secret")}
        first = Bench({}, backend, auth="offered", auth_without_tls=True)
        limits = first.backend.connectionLimits
        waited = [limits.failed("192.0.2.9", 0) for _ in range(6)]
        self.assertEqual(waited, [3, 6, 12, 24, 30, 30])
        self.assertEqual(limits.failed("192.0.2.10", 0), 3)
        self.assertEqual(limits.failed("192.0.2.9", 3601), 3)
        for number in range(11000):
            limits.failed(f"10.1.{number // 250}.{number % 250}", 10)
        self.assertEqual(len(limits._failed), 10000)

    def test_shutdown(self) -> None:
        """A client in the middle of an exchange is told 421 when the server stops."""
        bench = self.bench()
        bench.say("AUTH LOGIN")
        bench.session.shutdown()
        self.assertTrue(bench.take().startswith(b"421 4.3.2"))
        bench, pending = self.waiting()
        bench.session.shutdown()
        self.assertEqual(bench.take(), b"")
        pending[0].callback(b"alice")
        self.assertEqual([line[:3] for line in bench.take().splitlines()], [b"235", b"421"])
