"""
What C{deferrals check-config} says of a database.
"""

from __future__ import annotations

import os
import sqlite3

from deferrals.errors import ConfigError
from deferrals.operator.statecheck import lookAtQueue
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.schema import VERSION
from tests.configs import LISTEN, ConfigCase


class QueueTests(ConfigCase):
    """
    L{lookAtQueue}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.state = os.path.abspath(self.mktemp())
        self.config = self.load(f'state_dir = "{self.state}"\n{LISTEN}')
        self.files = SpoolFiles(self.config.spoolDirectory)

    def write(self, octets: bytes) -> None:
        os.makedirs(os.path.dirname(self.files.database), exist_ok=True)
        with open(self.files.database, "wb") as file:
            file.write(octets)

    def test_none(self) -> None:
        """One that is not there, or is empty, is made."""
        self.assertEqual(lookAtQueue(self.config), "")
        self.write(b"")
        self.assertEqual(lookAtQueue(self.config), "")

    def test_noDatabase(self) -> None:
        """What is none is set aside at the start: that is said, and is no error."""
        for octets in (b"x", b"this is a text, and no database " * 9, b"SQLite format 4\0" * 9):
            self.write(octets)
            said = lookAtQueue(self.config)
            self.assertIn(f"{self.files.database} is no database ({len(octets)} octets)", said)

    def test_formats(self) -> None:
        """A database of this version or of one before is good; of a newer one it is an error."""
        self.write(b"")
        db = sqlite3.connect(self.files.database)
        self.addCleanup(db.close)
        db.execute("CREATE TABLE x (y)")
        for version in range(VERSION + 1):
            db.execute(f"PRAGMA user_version={version}")
            self.assertEqual(lookAtQueue(self.config), "", version)
        db.execute(f"PRAGMA user_version={VERSION + 1}")
        error = self.assertRaises(ConfigError, lookAtQueue, self.config)
        self.assertIn(f"has {VERSION + 1}, of a newer version", str(error))
