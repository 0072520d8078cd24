"""
Small files of the operator.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from deferrals import operatorfiles
from deferrals.auth.checker import PasswordFile
from deferrals.operatorfiles import (
    MAX_SECRET_OCTETS,
    OperatorFile,
    readSecret,
    readText,
    versionOf,
)
from deferrals.server.linkkey import LinkKey
from deferrals.stages.envelope.aliasbook import load
from deferrals.stages.tables.file import FileTable, FileTableSettings
from deferrals.testing import FakeServices, tableKeys


class OperatorFileTests(SynchronousTestCase):
    """
    L{OperatorFile}.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.path.write_text("one")

    def test_changed(self) -> None:
        """It is read again when it has changed, and not otherwise."""
        file = OperatorFile(str(self.path), lambda text: [text])
        found = file.now()
        self.assertEqual(found, ["one"])
        self.assertIs(file.now(), found)
        self.path.write_text("other")
        self.assertEqual(file.now(), ["other"])
        self.path.unlink()
        self.assertRaises(OSError, file.now)
        self.assertEqual(versionOf(str(self.path)), ())

    def test_wrong(self) -> None:
        """What cannot be read is an error each time, until it has changed."""
        file = OperatorFile(str(self.path), int)
        for _ in range(2):
            self.assertRaises(ValueError, file.now)
        self.path.write_text("\ufeff5")
        self.assertEqual(file.now(), 5)

    def test_noFile(self) -> None:
        """A directory, what is too large or no text."""
        self.assertRaises((OSError, ValueError), readText, os.path.dirname(self.path))
        self.path.write_bytes(b"\xff")
        self.assertRaises(ValueError, readText, str(self.path))
        self.patch(operatorfiles, "MAX_OCTETS", 3)
        self.path.write_text("four")
        self.assertRaises(ValueError, readText, str(self.path))

    def test_secrets(self) -> None:
        """The first line of a file, whatever ends it; blanks count, and nothing is cut off."""
        most = b"x" * MAX_SECRET_OCTETS
        for content, found in (
            (b"secret", "secret"),
            (b"secret\n", "secret"),
            (b"secret\r\nmore\n", "secret"),
            (b"\xef\xbb\xbf a b \n", " a b "),
            ("s\u00e9cret\n".encode(), "s\u00e9cret"),
            (most, most.decode()),
            (b"\xef\xbb\xbf" + most + b"\r\n\0", most.decode()),
        ):
            self.path.write_bytes(content)
            self.assertEqual(readSecret(str(self.path)), found)

    def test_noSecret(self) -> None:
        """What is none is named with its file, and without what it has."""
        for content, why in (
            (b"", "no secret"),
            (b"\nsecret\n", "no secret"),
            (b" \r\n", "no secret"),
            (b"secret" * MAX_SECRET_OCTETS, "more than"),
            (b"x" * (MAX_SECRET_OCTETS + 1), "more than"),
            (b"sec\0ret\n", "NUL"),
            (b"secret\rmore\n", "CR"),
            (b"secret\xff\n", "no UTF-8"),
        ):
            self.path.write_bytes(content)
            error = self.assertRaises(ValueError, readSecret, str(self.path))
            self.assertIn(why, str(error))
            self.assertIn(str(self.path), str(error))
            self.assertNotIn("secret\\xff", str(error))
            self.assertIsNone(error.__cause__)
        self.path.unlink()
        self.assertRaises(FileNotFoundError, readSecret, str(self.path))
        self.assertRaises((OSError, ValueError), readSecret, os.path.dirname(self.path))

    def test_pipes(self) -> None:
        """No file that is read again keeps a thread where a pipe has its name."""
        self.path.unlink()
        os.mkfifo(self.path)
        name, services = str(self.path), FakeServices()
        table = FileTable(FileTableSettings(name), services)
        self.failureResultOf(table.lookUp(tableKeys("a@example.net")), ValueError)
        passwords = PasswordFile(name, services.inThread)
        self.failureResultOf(passwords.scramShapes(), ValueError)
        self.assertRaises(ValueError, load, name, "aliases")
        self.assertRaises(ValueError, readSecret, name)
        self.assertRaises(ValueError, LinkKey(name).get)
