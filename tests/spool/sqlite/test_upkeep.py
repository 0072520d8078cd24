"""
What is done to the embedded database now and then.
"""

from __future__ import annotations

import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.rows import ASIDE, DAMAGED, STAGED
from deferrals.spool.sqlite import upkeep
from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.leaving import noted
from deferrals.spool.sqlite.schema import prepare
from tests.databases import DatabaseCase


class MessagesTests(DatabaseCase):
    """
    A look at the messages.
    """

    def test_next(self) -> None:
        """Those whose content should be in a file; those without recipients are set aside."""
        self.add("a@b.example")
        file, lost = self.add("a@b.example"), self.add("a@b.example")
        self.db.execute("DELETE FROM bodies WHERE id = ?", (file,))
        self.db.execute("DELETE FROM recipients WHERE message = ?", (lost,))
        staged = self.add("a@b.example", state=STAGED)
        self.db.execute("DELETE FROM recipients WHERE message = ?", (staged,))
        self.assertEqual(upkeep.nextMessages(self.db, -1), ([file], [lost], -1))
        found = dict(self.all("SELECT id, state FROM messages"))
        self.assertEqual((found[lost], found[staged]), (ASIDE, STAGED))

    def test_goesOn(self) -> None:
        """A slice that is full says where the next one begins."""
        self.patch(upkeep, "SLICE", 2)
        numbers = [self.add("a@b.example") for _ in range(3)]
        self.assertEqual(upkeep.nextMessages(self.db, -1)[2], numbers[1])
        self.assertEqual(upkeep.nextMessages(self.db, numbers[1])[2], -1)

    def test_missing(self) -> None:
        """A message without its content is set aside, once."""
        number = self.add("a@b.example")
        self.assertEqual(upkeep.setMissingAside(self.db, [number, 7], 5.0), [number])
        self.assertEqual(self.recipients(number, "status"), [DAMAGED])
        self.assertEqual(upkeep.setMissingAside(self.db, [number], 5.0), [])

    def test_history(self) -> None:
        """The newest entries stay."""
        self.patch(upkeep, "HISTORY_ROWS", 2)
        for number in range(5):
            self.db.execute(
                "INSERT INTO history (message, seq, at, event) VALUES (?, 0, 0, 'x')", (number,)
            )
        self.assertFalse(upkeep.trimHistory(self.db))
        self.assertEqual(self.all("SELECT message FROM history ORDER BY id"), [(3,), (4,)])


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

    def test_withMessage(self) -> None:
        """A message, staged or ours, has its number; one that has just left had it."""
        for number in (1, 2):
            self.db.execute(
                "INSERT INTO messages VALUES (?, ?, 0, '', 0, x'', 0)", (number, number - 1)
            )
        noted(self.db, [3])
        self.assertEqual(upkeep.withoutMessage(self.db, [1, 2, 3, 4]), [4])

    def test_vacuum(self) -> None:
        """A database without idle pages is left alone."""
        self.assertFalse(upkeep.vacuum(self.db))


class VacuumTests(SynchronousTestCase):
    """
    Pages that nothing uses, in a file.
    """

    def setUp(self) -> None:
        self.db = connect(self.mktemp())
        self.addCleanup(self.db.close)
        prepare(self.db)
        self.db.execute("INSERT INTO bodies VALUES (1, zeroblob(12288000))")
        self.db.execute("DELETE FROM bodies")
        self.db.execute("BEGIN")

    def value(self, name: str) -> int:
        ((found,),) = self.db.execute(f"PRAGMA {name}").fetchall()
        return int(found)

    def test_slice(self) -> None:
        """A slice is as many pages as it says."""
        before = self.value("freelist_count")
        self.assertGreater(before, 2900)
        self.assertTrue(upkeep.vacuum(self.db))
        self.assertEqual(before - self.value("freelist_count"), upkeep.VACUUM_PAGES)

    def test_end(self) -> None:
        """Some may lie idle."""
        self.patch(upkeep, "VACUUM_PAGES", 1 << 20)
        self.assertTrue(upkeep.vacuum(self.db))
        self.assertFalse(upkeep.vacuum(self.db))

    def test_giveBack(self) -> None:
        """Not where the disk is full."""
        before = self.value("freelist_count")
        self.assertTrue(upkeep.giveBack(self.db, 100))
        self.assertEqual(before - self.value("freelist_count"), 100)
        self.assertFalse(upkeep.giveBack(self.db, 1 << 20))
        self.assertEqual(self.value("freelist_count"), 0)
        self.assertFalse(upkeep.giveBack(self.db, 100))
