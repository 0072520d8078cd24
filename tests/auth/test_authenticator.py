"""
Who may try a password, and how often.
"""

from __future__ import annotations

import base64
import os

from twisted.cred.checkers import AllowAnonymousAccess, FilePasswordDB
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin

from deferrals.auth.authenticator import Authenticator
from deferrals.auth.checker import PasswordFile
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
            d = both.login(UsernamePassword(user, password))
            self.assertEqual(self.successResultOf(d), user.decode())
        self.failureResultOf(both.login(UsernamePassword(b"zoe", b"secret")), UnauthorizedLogin)

    def test_anonymous(self) -> None:
        """No client is let in without a name."""
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
