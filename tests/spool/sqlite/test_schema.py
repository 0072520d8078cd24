"""
The tables, new and of an earlier format.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.rows import ENDED, QUEUED, STATUS_NAMES
from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.recovery import savedClock
from deferrals.spool.sqlite.schema import IDENTITY, VERSION, identity, prepare
from tests.databases import DatabaseCase

#: The tables of format 1.
FORMAT_1 = """
CREATE TABLE messages (id INTEGER PRIMARY KEY, state INTEGER NOT NULL, received REAL NOT NULL,
    envelope TEXT NOT NULL, size INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE INDEX messages_staged ON messages (id) WHERE state = 0;
CREATE TABLE bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE recipients (message INTEGER NOT NULL, seq INTEGER NOT NULL, status INTEGER NOT NULL,
    due REAL NOT NULL, attempts INTEGER NOT NULL, delivery TEXT NOT NULL, recipient TEXT NOT NULL,
    marks TEXT, reply TEXT, PRIMARY KEY (message, seq)) WITHOUT ROWID;
CREATE INDEX recipients_due ON recipients (due) WHERE status = 0;
PRAGMA user_version = 1;
"""


class PrepareTests(DatabaseCase):
    """
    L{prepare}.
    """

    def test_again(self) -> None:
        """Tables that are there are left alone."""
        number = self.add("a@b.example")
        prepare(self.db)
        self.assertEqual(self.recipients(number, "seq"), [0])

    def test_names(self) -> None:
        """Each status has a name."""
        self.assertEqual(STATUS_NAMES[QUEUED], "queued")
        self.assertEqual(STATUS_NAMES[ENDED], "ended")
        self.assertEqual(len(STATUS_NAMES), 6)

    def test_newer(self) -> None:
        """A format that is not known is refused, and not changed."""
        self.db.execute(f"PRAGMA user_version = {VERSION + 1}")
        with self.assertRaisesRegex(SpoolError, f"format {VERSION + 1}, not {VERSION}"):
            prepare(self.db)
        self.assertEqual(self.all("PRAGMA user_version"), [(VERSION + 1,)])

    def test_identity(self) -> None:
        """A spool has a number of its own, which stays, and no other has it."""
        found = identity(self.db)
        self.assertRegex(found, "^[0-9a-f]{16}$")
        prepare(self.db)
        self.assertEqual(identity(self.db), found)
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as other:
            prepare(other)
            self.assertNotEqual(identity(other), found)

    def test_secondFormat(self) -> None:
        """A spool of format 2 is given a number, and nothing else changes."""
        number = self.add("a@b.example")
        self.db.execute("DELETE FROM info WHERE name = ?", (IDENTITY,))
        self.db.execute("DROP TABLE leaving")
        self.db.execute("PRAGMA user_version = 2")
        prepare(self.db)
        self.assertRegex(identity(self.db), "^[0-9a-f]{16}$")
        self.assertEqual(self.all("PRAGMA user_version"), [(VERSION,)])
        self.assertEqual(self.recipients(number, "seq"), [0])

    def test_thirdFormat(self) -> None:
        """A spool of format 3 is given a list of the files to be removed."""
        self.add("a@b.example")
        self.db.execute("DROP TABLE leaving")
        self.db.execute("PRAGMA user_version = 3")
        prepare(self.db)
        self.assertEqual(self.all("SELECT * FROM leaving"), [])
        self.assertEqual(self.all("PRAGMA user_version"), [(VERSION,)])

    def test_noIdentity(self) -> None:
        """A number that is lost is not made up at each look."""
        self.db.execute("DELETE FROM info WHERE name = ?", (IDENTITY,))
        with self.assertRaisesRegex(SpoolError, "has lost the number"):
            identity(self.db)


class FirstFormatTests(SynchronousTestCase):
    """
    A spool of format 1, whose times were times of day.
    """

    def setUp(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.db.close)
        self.db.executescript(FORMAT_1)
        self.now = time.time()
        self.db.execute(
            "INSERT INTO messages VALUES (7, 1, ?, '{}', 1, x'00')", (self.now - 3600.0,)
        )
        row = "INSERT INTO recipients VALUES (7, ?, ?, ?, 3, 'box', '[]', NULL, '550 5.1.1 no')"
        self.db.execute(row, (0, 0, self.now + 600.0))
        self.db.execute(row, (1, 1, self.now - 60.0))
        prepare(self.db)

    def test_identity(self) -> None:
        """It is given a number of its own."""
        self.assertRegex(identity(self.db), "^[0-9a-f]{16}$")

    def test_recipients(self) -> None:
        """What waited waits, and the sender is told of what had failed."""
        found = self.db.execute("SELECT seq, status, attempts, action, reply FROM recipients")
        self.assertEqual(
            found.fetchall(),
            [(0, QUEUED, 3, None, "550 5.1.1 no"), (1, ENDED, 3, "failed", "550 5.1.1 no")],
        )

    def test_times(self) -> None:
        """What was due in ten minutes, and an hour old, is so in the spool's time, too."""
        saved = savedClock(self.db)
        assert saved is not None
        clock = SpoolClock(lambda: 5.0, lambda: self.now)
        clock.resume(*saved)
        (since,) = self.db.execute("SELECT since FROM messages").fetchone()
        self.assertEqual(round((clock.now() - since) / 60.0), 60)
        (ready,) = self.db.execute("SELECT ready FROM destinations").fetchone()
        self.assertEqual(round((ready - clock.now()) / 60.0), 10)
