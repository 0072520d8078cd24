"""
Who may log in: mechanisms, password files, checkers, and what is on the wire.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import os
from contextlib import redirect_stderr
from typing import Any
from unittest import mock

from twisted.cred.checkers import AllowAnonymousAccess, FilePasswordDB
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import findCheckerFactory, makeChecker
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from deferrals.auth.checker import PasswordFile, readPasswords
from deferrals.auth.gate import Authenticator
from deferrals.cli import main
from deferrals.interfaces import IScramChecker, IScramCredentials
from deferrals.model.passwords import ScryptHash, Secrets, formatLine, parseLine
from deferrals.model.sasl import (
    SaslError,
    ScramExchange,
    ScramKeys,
    parsePlain,
    saslprep,
    signature,
)
from deferrals.smtp.server.auth import ScramProof
from tests.harness import GREETING, Bench, gate

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
KEYS = ScramKeys.make("pencil", SALT, 4096)


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


class FileCase(SynchronousTestCase):
    """
    With a password file.
    """

    def setUp(self) -> None:
        os.makedirs(directory := self.mktemp())
        self.path = os.path.join(directory, "users")
        scrypt = ScryptHash.make("secret", b"salt", 4)
        with open(self.path, "w") as file:
            for user, secrets in (
                ("alice", Secrets(scrypt, ScramKeys.make("secret", SALT, 4096))),
                ("bob", Secrets(scrypt, None)),
                ("carol", Secrets(None, ScramKeys.make("secret", SALT, 4096))),
                ("dave", Secrets()),
            ):
                file.write(formatLine(user, secrets) + "\n")
            file.write("\n# a comment\n")

    def checker(self) -> PasswordFile:
        return PasswordFile(self.path, maybeDeferred)


class CheckerTests(FileCase):
    """
    L{PasswordFile}.
    """

    def login(self, user: bytes, password: bytes) -> Any:
        return self.checker().requestAvatarId(UsernamePassword(user, password))

    def test_interfaces(self) -> None:
        """It provides what it says."""
        self.assertTrue(verifyObject(IScramChecker, self.checker()))
        self.assertTrue(verifyObject(IScramCredentials, ScramProof("a", b"", b"")))

    def test_passwords(self) -> None:
        """A password is right by either verifier; strangers and users without one are refused."""
        for user in (b"alice", b"bob", b"carol"):
            self.assertEqual(self.successResultOf(self.login(user, b"secret")), user)
            self.failureResultOf(self.login(user, b"wrong"), UnauthorizedLogin)
        for user in (b"dave", b"nobody", b"\xff", b"a\0b"):
            self.failureResultOf(self.login(user, b"secret"), UnauthorizedLogin)
            self.failureResultOf(self.login(user, b"\xff\x07"), UnauthorizedLogin)

    def test_oneName(self) -> None:
        """However a name is spelt, the user who is logged in has one name (RFC 4616 §2)."""
        for spelt in ("alice", "al\u00adice", "\uff41lice"):
            found = self.login(spelt.encode(), b"secret")
            self.assertEqual(self.successResultOf(found), b"alice")

    def test_changed(self) -> None:
        """A changed file counts from the next attempt on."""
        checker = self.checker()
        credentials = UsernamePassword(b"eve", b"apple")
        self.failureResultOf(checker.requestAvatarId(credentials), UnauthorizedLogin)
        with open(self.path, "a") as file:
            file.write(formatLine("eve", Secrets(ScryptHash.make("apple", b"s", 4))) + "\n")
        self.assertEqual(self.successResultOf(checker.requestAvatarId(credentials)), b"eve")

    def test_broken(self) -> None:
        """A line that is none is an error that names it, and nobody's refusal."""
        with open(self.path, "a") as file:
            file.write("eve:apple\n")
        failure = self.failureResultOf(self.login(b"alice", b"secret"), ValueError)
        self.assertIn("line 7: expected USER:SCRYPT:SCRAM", failure.getErrorMessage())

    def test_atOnce(self) -> None:
        """Two are hashed at once; one whose client has gone keeps its place until it ends."""
        running: list[Deferred[Any]] = []

        def inThread(function: Any, *args: Any) -> Deferred[Any]:
            running.append(Deferred())
            return running[-1]

        checker = PasswordFile(self.path, inThread)
        waiting = [checker.requestAvatarId(UsernamePassword(b"a", b"b")) for _ in range(4)]
        self.assertEqual(len(running), 2)
        for d in (waiting[0], waiting[3]):
            d.addErrback(lambda failure: None)
            d.cancel()
        self.assertEqual(len(running), 2)
        running[0].callback(b"a")
        self.assertEqual(len(running), 3)
        running[1].callback(b"a")
        self.assertEqual(self.successResultOf(waiting[1]), b"a")
        self.assertEqual(len(running), 3)

    def test_plugin(self) -> None:
        """C{--auth passwd:FILE} finds it; a file that is none is told at once."""
        factory = findCheckerFactory("passwd")
        self.assertEqual(factory.credentialInterfaces, PasswordFile.credentialInterfaces)
        self.assertIsInstance(makeChecker(f"passwd:{self.path}"), PasswordFile)
        with self.assertRaises(OSError):
            makeChecker("passwd:/nowhere")


class GateTests(FileCase):
    """
    L{Authenticator}.
    """

    def test_mechanisms(self) -> None:
        """What is offered depends on what the checkers can do."""
        self.assertEqual(
            Authenticator([self.checker()]).mechanisms, ["SCRAM-SHA-256", "PLAIN", "LOGIN"]
        )
        self.assertEqual(gate(a=b"b").mechanisms, ["PLAIN", "LOGIN"])

    def test_inTurn(self) -> None:
        """The first checker that knows the password counts."""
        plain = os.path.join(os.path.dirname(self.path), "plain")
        with open(plain, "w") as file:
            file.write("zoe:apple\n")
        both = Authenticator([self.checker(), FilePasswordDB(plain)])
        for user, password in ((b"alice", b"secret"), (b"zoe", b"apple")):
            d = both.login(UsernamePassword(user, password))
            self.assertEqual(self.successResultOf(d), user.decode())
        self.failureResultOf(both.login(UsernamePassword(b"zoe", b"secret")), UnauthorizedLogin)

    def test_anonymous(self) -> None:
        """Nobody is let in without a name."""
        checker = AllowAnonymousAccess()
        checker.credentialInterfaces = PasswordFile.credentialInterfaces  # type: ignore
        d = Authenticator([checker]).login(UsernamePassword(b"a", b"b"))
        self.failureResultOf(d, UnauthorizedLogin)

    def test_strangers(self) -> None:
        """A stranger gets keys like everybody else, and always the same ones."""
        found = Authenticator([self.checker()])
        keys = [self.successResultOf(found.scramKeys(user)) for user in (b"x", b"x", b"bob")]
        self.assertEqual(keys[0], keys[1])
        self.assertNotEqual(keys[0].salt, keys[2].salt)
        self.assertEqual(self.successResultOf(found.scramKeys(b"alice")).salt, SALT)


class PasswdTests(FileCase):
    """
    C{deferrals passwd}.
    """

    def passwd(self, *arguments: str, password: str = "") -> tuple[int, str]:
        stdin = mock.patch("sys.stdin", io.StringIO(password + "\n"))
        with stdin, redirect_stderr(io.StringIO()) as error:
            return main(["passwd", self.path, *arguments]), error.getvalue()

    def test_replaced(self) -> None:
        """A user's line is replaced; the others and the comments stay."""
        self.assertEqual(self.passwd("bob", password="new"), (0, ""))
        users = readPasswords(self.path)
        self.assertEqual(list(users), ["alice", "bob", "carol", "dave"])
        self.assertTrue(users["bob"].check("new"))
        self.assertIsNotNone(users["bob"].scram)
        with open(self.path) as file:
            self.assertIn("# a comment", file.read())

    def test_new(self) -> None:
        """A new file is its owner's only."""
        self.path += "-new"
        self.assertEqual(self.passwd("eve@example.net", "--no-scram", password="grün"), (0, ""))
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)
        users = readPasswords(self.path)
        self.assertTrue(users["eve@example.net"].check("grün"))
        self.assertIsNone(users["eve@example.net"].scram)

    def test_mode(self) -> None:
        """An old file keeps its mode, e.g. for a group that reads it."""
        os.chmod(self.path, 0o640)
        self.passwd("bob", password="new")
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o640)
        self.assertEqual(os.listdir(os.path.dirname(self.path)), ["users"])

    def test_deleted(self) -> None:
        """C{--delete} removes a user, or says that there is none."""
        self.assertEqual(self.passwd("--delete", "bob"), (0, ""))
        self.assertNotIn("bob", readPasswords(self.path))
        status, error = self.passwd("--delete", "bob")
        self.assertEqual(status, 1)
        self.assertIn("has no bob", error)

    def test_wrong(self) -> None:
        """No empty passwords, no names that a line cannot have; the file stays as it was."""
        before = readPasswords(self.path)
        for user, password in (("bob", ""), ("a:b", "x"), ("#a", "x"), ("bob", "a\x07")):
            status, error = self.passwd(user, password=password)
            self.assertEqual(status, 1, user)
            self.assertTrue(error.startswith("deferrals: "))
        self.assertEqual(readPasswords(self.path), before)

    def test_lines(self) -> None:
        """A line that is none is told by what was expected."""
        for line in ("a", "a:b", "a:b:c", "a::SCRAM-SHA-1$1:a$b:c", ":x:"):
            with self.assertRaises(ValueError, msg=line):
                parseLine(line)


class WireTests(FileCase):
    """
    What dialogues cannot show.
    """

    def bench(self, checker: Any = None, **limits: Any) -> Bench:
        backend = {"authenticator": Authenticator([checker or self.checker()])}
        bench = Bench(limits, backend, auth="offered", authWithoutTLS=True)
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
        self.assertEqual(bench.session._transaction.envelope.client.user, "alice")
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
        self.assertIsNone(bench.session._user)

    def test_asserted(self) -> None:
        """AUTH= is believed only of the one who is authenticated as that (RFC 4954 §5)."""
        with open(self.path, "a") as file:
            secrets = Secrets(ScryptHash.make("secret", b"s", 4))
            file.write(formatLine("alice@example.com", secrets) + "\n")
        bench = self.bench()
        bench.say("MAIL FROM:<a@example.com> AUTH=alice@example.com")
        self.assertEqual(bench.session._transaction.envelope.parameters.auth, "<>")
        bench.say("RSET")
        login = base64.b64encode(b"\0alice@example.com\0secret").decode()
        self.assertEqual(bench.say(f"AUTH PLAIN {login}"), ["235 2.7.0 authenticated"])
        for value, wanted in (
            ("alice@example.com", "alice@example.com"),
            ("bob@example.com", "<>"),
            ("<>", "<>"),
        ):
            bench.say(f"MAIL FROM:<a@example.com> AUTH={value}")
            self.assertEqual(bench.session._transaction.envelope.parameters.auth, wanted)
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
        self.assertEqual(bench.session._transaction.envelope.client.user, "alice")

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
        """An answer that ends with LF alone ends the exchange; what follows is a command."""
        bench = self.bench()
        bench.say("AUTH LOGIN")
        bench.send(b"YWxpY2U=\nNOOP\r\nNOOP\r\n")
        self.assertEqual(
            [line[:9] for line in bench.take().splitlines()], [b"500 5.5.2", b"250 2.0.0"]
        )

    def test_slow(self) -> None:
        """Who does not answer a challenge is timed out."""
        bench = self.bench()
        bench.say("AUTH PLAIN")
        bench.clock.advance(300)
        self.assertTrue(bench.take().startswith(b"421 4.4.2"))

    def test_manyFailures(self) -> None:
        """Failures are remembered by address, over connections; the delay has an end."""
        backend = {"authenticator": gate(alice=b"secret")}
        first = Bench({}, backend, auth="offered", authWithoutTLS=True)
        guard = first.backend.connectionLimits
        waited = [guard.failed("192.0.2.9", 0) for _ in range(6)]
        self.assertEqual(waited, [3, 6, 12, 24, 30, 30])
        self.assertEqual(guard.failed("192.0.2.10", 0), 3)
        self.assertEqual(guard.failed("192.0.2.9", 3601), 3)
        for number in range(11000):
            guard.failed(f"10.1.{number // 250}.{number % 250}", 10)
        self.assertEqual(len(guard._failed), 10000)

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
