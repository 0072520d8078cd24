"""
What is done to the embedded database now and then.
"""

from __future__ import annotations

import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.sqlite import upkeep
from deferrals.spool.sqlite.schema import prepare


class UpkeepTests(SynchronousTestCase):
    """
    Slices of work on a database in memory.
    """

    def setUp(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.db.close)
        prepare(self.db)

    def count(self, table: str) -> int:
        (count,) = self.db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
        return int(count)

    def note(self, name: str, expires: float) -> None:
        self.db.execute(
            "INSERT INTO notes (name, value, expires) VALUES (?, '', ?)", (name, expires)
        )

    def test_notes(self) -> None:
        """Expired notes go; of too many, those that expire first."""
        self.patch(upkeep, "NOTES_ROWS", 2)
        for number in range(5):
            self.note(f"n{number}", float(number))
        self.assertFalse(upkeep.trimNotes(self.db, 1.0))
        kept = [name for (name,) in self.db.execute("SELECT name FROM notes ORDER BY name")]
        self.assertEqual(kept, ["n3", "n4"])

    def test_slices(self) -> None:
        """A slice that is full says that there is more to do."""
        self.patch(upkeep, "SLICE", 2)
        for number in range(3):
            self.note(f"n{number}", 0.0)
        self.assertTrue(upkeep.trimNotes(self.db, 1.0))
        self.assertFalse(upkeep.trimNotes(self.db, 1.0))
        self.assertEqual(self.count("notes"), 0)

    def test_withoutMessage(self) -> None:
        """Numbers that no message has."""
        self.assertEqual(upkeep.withoutMessage(self.db, [1, 2]), [1, 2])

    def test_vacuum(self) -> None:
        """A database without idle pages is left alone."""
        self.assertFalse(upkeep.vacuum(self.db))
