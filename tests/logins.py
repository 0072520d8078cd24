"""
A file of passwords, for tests.
"""

from __future__ import annotations

import base64
import os

from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.auth.checker import PasswordFile
from deferrals.model.passwords import ScryptHash, Secrets, formatLine
from deferrals.model.sasl import (
    ScramKeys,
)

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")


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
