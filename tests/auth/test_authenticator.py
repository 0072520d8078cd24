"""
Who may try a password, and how often.
"""

from __future__ import annotations

import base64
import os

from twisted.cred.checkers import AllowAnonymousAccess, FilePasswordDB
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import succeed

from deferrals.auth.authenticator import Authenticator
from deferrals.auth.checker import PasswordFile
from deferrals.model.passwords import Secrets, formatLine
from deferrals.model.sasl import SCRAM_ITERATIONS, ScramKeys
from tests.harness import gate
from tests.logins import FileCase

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")


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
            d = both.login(UsernamePassword(user, password), "")
            self.assertEqual(self.successResultOf(d), user.decode())
        self.failureResultOf(both.login(UsernamePassword(b"zoe", b"secret"), ""), UnauthorizedLogin)

    def test_anonymous(self) -> None:
        """No client is let in without a name."""
        checker = AllowAnonymousAccess()
        checker.credentialInterfaces = PasswordFile.credentialInterfaces  # type: ignore
        d = Authenticator([checker]).login(UsernamePassword(b"a", b"b"), "")
        self.failureResultOf(d, UnauthorizedLogin)

    def test_strangers(self) -> None:
        """A stranger gets keys like everybody else, and always the same ones."""
        found = Authenticator([self.checker()])
        keys = [self.successResultOf(found.scramKeys(user)) for user in (b"x", b"x", b"bob")]
        self.assertEqual(keys[0], keys[1])
        self.assertNotEqual(keys[0].salt, keys[2].salt)
        self.assertEqual(self.successResultOf(found.scramKeys(b"alice")).salt, SALT)

    def test_strangersLater(self) -> None:
        """After a restart a stranger's keys are what they were, and like a user's in all else."""
        keys = []
        for secret in (b"one", b"one", b"other"):
            found = Authenticator([self.checker()], secret=lambda secret=secret: succeed(secret))
            keys.append(self.successResultOf(found.scramKeys(b"nobody")))
        self.assertEqual(keys[0], keys[1])
        self.assertNotEqual(keys[0].salt, keys[2].salt)
        self.assertEqual((keys[0].iterations, len(keys[0].salt)), (4096, len(SALT)))

    def test_mixedShapes(self) -> None:
        """Where users have different iterations, strangers have the same ones."""
        with open(self.path, "a") as file:
            keys = ScramKeys(20000, b"another length", b"x", b"y")
            file.write(formatLine("eve", Secrets(None, keys)) + "\n")
        found = Authenticator([self.checker()])
        shapes = set()
        for number in range(100):
            made = self.successResultOf(found.scramKeys(b"stranger%d" % number))
            shapes.add((made.iterations, len(made.salt)))
        self.assertEqual(shapes, {(4096, 16), (20000, 14)})

    def test_noUsers(self) -> None:
        """Without users strangers have what new users would have."""
        with open(self.path, "w"):
            pass
        made = self.successResultOf(Authenticator([self.checker()]).scramKeys(b"x"))
        self.assertEqual((made.iterations, len(made.salt)), (SCRAM_ITERATIONS, 16))
