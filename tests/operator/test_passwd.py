"""
C{deferrals passwd}.
"""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr
from unittest import mock

from deferrals.auth.checker import readPasswords
from deferrals.cli import main
from deferrals.model.passwords import Argon2Hash, ScryptHash, parseLine
from tests.logins import FileCase


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
        self.assertIsInstance(users["bob"].hash, Argon2Hash)
        self.assertIsInstance(users["alice"].hash, ScryptHash)
        self.assertTrue(users["alice"].check("secret"))
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

    def test_group(self) -> None:
        """In a directory that hands down its group, as the package's, the server reads it."""
        os.chmod(os.path.dirname(self.path), 0o2750)
        self.path += "-new"
        self.assertEqual(self.passwd("eve@example.net", password="secret"), (0, ""))
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o640)

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
