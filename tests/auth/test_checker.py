"""
Password files and what is checked against them.
"""

from __future__ import annotations

from typing import Any

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import findCheckerFactory, makeChecker
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from deferrals.auth.checker import PasswordFile
from deferrals.interfaces import IScramChecker, IScramCredentials
from deferrals.model.passwords import Argon2Hash, ScryptHash, Secrets, formatLine
from deferrals.model.sasl import ScramKeys
from deferrals.smtp.server.auth import ScramProof
from tests.logins import FileCase


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

    def test_sameWork(self) -> None:
        """
        For a stranger, for a user without a password, and for a name that is none, as
        much is computed as for a user.
        """
        checked: list[object] = []
        for kind in (ScryptHash, Argon2Hash):
            self.patch(kind, "check", lambda one, password: checked.append(one.cost))
        self.patch(ScramKeys, "make", lambda *args: self.fail("not for users with a hash"))
        with open(self.path, "w") as file:
            file.write(formatLine("alice", Secrets(ScryptHash.make("secret", b"s", 4))) + "\n")
            file.write(formatLine("dave", Secrets()) + "\n")
        for user in (b"alice", b"nobody", b"dave", b"\xff", b"a\0b"):
            self.failureResultOf(self.login(user, b"wrong"), UnauthorizedLogin)
        self.assertEqual(checked, [("scrypt", 4, 8, 1)] * 5)

    def test_strangersPassword(self) -> None:
        """A stranger is not let in by the password that happens to be compared."""
        with open(self.path, "w") as file:
            file.write(formatLine("alice", Secrets(ScryptHash.make("secret", b"s", 4))) + "\n")
        self.failureResultOf(self.login(b"nobody", b"secret"), UnauthorizedLogin)

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
        self.assertIn("line 7: expected USER:HASH:SCRAM", failure.getErrorMessage())

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
