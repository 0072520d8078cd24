"""
The secrets of SRS.
"""

from __future__ import annotations

import os
import re

from twisted.trial.unittest import SynchronousTestCase

from deferrals.app.srs import secretsIn


class SecretsTests(SynchronousTestCase):
    """
    L{secretsIn}.
    """

    def file(self, text: bytes, mode: int = 0o600) -> str:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def test_lines(self) -> None:
        """One in each line, in their order; empty lines are none."""
        self.assertEqual(secretsIn(self.file(b"new one\r\n\n \nold\n")), [b"new one", b"old"])

    def test_wrong(self) -> None:
        """What others can read, what is not there, and what has nothing in it."""
        for path, wanted in (
            (self.file(b"x\n", 0o640), "a file that only its owner can read (0600)"),
            (self.file(b"x\n", 0o604), "has 0604"),
            (self.file(b"\n"), "a secret in the first line"),
            (self.mktemp(), "No such file"),
        ):
            with self.assertRaisesRegex(ValueError, re.escape(wanted)):
                secretsIn(path)
