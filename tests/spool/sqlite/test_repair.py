"""
A good database in the place of one that is damaged or deleted.
"""

from __future__ import annotations

import os
import sqlite3

from deferrals.spool.rows import DAMAGED, HELD, QUEUED
from deferrals.spool.sqlite import aside, repair
from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock
from deferrals.spool.sqlite.marker import Mark, Marker, generationOf
from deferrals.spool.sqlite.recovery import saveClock, savedClock
from deferrals.spool.sqlite.schema import identity
from deferrals.spool.sqlite.store import Incoming
from tests.databases import DatabaseCase

#: More messages than are read at once.
MANY = 1200


class RepairCase(DatabaseCase):
    """
    A spool whose database is in a file.
    """

    def setUp(self) -> None:
        super().setUp()
        self.files = SpoolFiles(os.path.abspath(self.mktemp()))
        self.files.make()

    def stored(self) -> None:
        """
        Write the database in memory to the file.
        """
        self.db.execute("VACUUM INTO ?", (self.files.database,))

    def body(self, number: int) -> str:
        path = self.files.body(number)
        with open(path, "w") as file:
            file.write("x")
        return path

    def aside(self) -> list[str]:
        return self.files.namesAside()

    def reopened(self) -> None:
        """
        From now on C{db} is the database that is in the file.
        """
        self.db = sqlite3.connect(self.files.database, isolation_level=None)
        self.addCleanup(self.db.close)


class SalvageTests(RepairCase):
    """
    L{repair.salvage}.
    """

    def damage(self) -> None:
        """
        Overwrite a page in the middle of the messages.
        """
        db = sqlite3.connect(self.files.database, isolation_level=None)
        size, count = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count")
        )
        db.close()
        with open(self.files.database, "r+b") as file:
            pages = [file.read(size) for _ in range(count)]
            mine = [index for index, page in enumerate(pages) if b"client.example.com" in page]
            file.seek(mine[len(mine) // 2] * size)
            file.write(b"\xff" * size)

    def salvage(self, now: float = 50.0, *incoming: int) -> str:
        text = repair.salvage(self.files, now, incoming)
        self.reopened()
        return text

    def test_all(self) -> None:
        """Of a database that can be read everything is carried over, the time, too."""
        number = self.add("a@b.example", "c@b.example", destination="mx a", due=70.0)
        self.add("d@b.example", status=HELD)
        saveClock(self.db, 2e9, 40.0)
        spool = identity(self.db)
        expected = [
            self.all(f"SELECT * FROM {name}") for name in ("messages", "bodies", "recipients")
        ]
        self.stored()
        text = self.salvage()
        self.assertIn("2 messages were carried over", text)
        self.assertNotIn("incomplete", text)
        found = [self.all(f"SELECT * FROM {name}") for name in ("messages", "bodies", "recipients")]
        self.assertEqual(found, expected)
        self.assertEqual(self.all("SELECT name, ready FROM destinations"), [("mx a", 70.0)])
        self.assertEqual(savedClock(self.db), (2e9, 40.0))
        self.assertEqual(identity(self.db), spool)
        self.assertEqual(self.recipients(number, "status"), [QUEUED, QUEUED])
        self.assertEqual(os.stat(self.files.database).st_mode & 0o777, 0o600)

    def test_damagedPage(self) -> None:
        """What is before and behind a page that cannot be read is carried over."""
        numbers = [self.add("a@b.example") for _ in range(MANY)]
        self.stored()
        self.damage()
        text = self.salvage()
        kept = [number for (number,) in self.all("SELECT id FROM messages")]
        self.assertIn(numbers[0], kept)
        self.assertIn(numbers[-1], kept)
        self.assertGreater(len(kept), MANY * 9 // 10)
        lost = set(numbers) - set(kept)
        self.assertGreater(len(lost), 0)
        self.assertIn(f"{len(kept)} messages were carried over; {len(lost)} are incomplete", text)
        self.assertIn(f"and {len(lost) - 20} more" if len(lost) > 20 else "incomplete", text)
        self.assertIn("1 of ", text)
        for number in lost:
            self.assertEqual(self.recipients(number, "status"), [DAMAGED])

    def test_incomplete(self) -> None:
        """A message of which a part is missing is named, and its recipients set aside."""
        whole, headless = self.add("a@b.example"), self.add("a@b.example", expires=9e9)
        empty = self.add("a@b.example")
        self.db.execute("DELETE FROM messages WHERE id = ?", (headless,))
        self.db.execute("DELETE FROM recipients WHERE message = ?", (empty,))
        self.stored()
        text = self.salvage()
        self.assertIn("1 messages were carried over; 2 are incomplete", text)
        self.assertEqual(self.recipients(whole, "status"), [QUEUED])
        self.assertEqual(self.recipients(headless, "status", "notice"), [(DAMAGED, 9e9)])

    def test_bodies(self) -> None:
        """Contents of messages that are not complete are moved aside; not those that come in."""
        whole = self.add("a@b.example")
        self.stored()
        kept, gone, coming = self.body(whole), self.body(whole + 1), self.body(whole + 2)
        text = self.salvage(50.0, whole + 2)
        self.assertIn("1 contents of messages that are not complete", text)
        self.assertEqual(
            [os.path.exists(path) for path in (kept, gone, coming)], [True, False, True]
        )

    def test_aside(self) -> None:
        """What was there is moved aside, and nothing that was moved before is overwritten."""
        self.patch(aside.time, "strftime", lambda text: "spool-then")
        for count in (1, 2):
            if count == 1:
                self.stored()
            with open(f"{self.files.database}-wal", "w") as file:
                file.write("")
            self.salvage()
            self.db.close()
        self.assertEqual(self.aside(), ["spool-then", "spool-then-1"])
        for name in self.aside():
            found = os.listdir(os.path.join(self.files.damaged, name))
            self.assertIn("spool.sqlite", found)


class RewriteTests(RepairCase):
    """
    L{repair.rewrite} and L{repair.Repair}.
    """

    def test_deleted(self) -> None:
        """A database that was deleted is written anew, with its directories and its lock."""
        number = self.add("a@b.example")
        lock = SpoolLock(self.files)
        lock.take()
        self.addCleanup(lock.release)
        os.unlink(self.files.lock)
        os.rmdir(self.files.bodies)
        clock = SpoolClock(lambda: 5.0, lambda: 2e9)
        mended = repair.Repair(self.files, clock, Incoming(), lock).mend(self.db)
        self.assertIn("written anew, with all its 1 messages", mended)
        self.assertTrue(os.path.isdir(self.files.bodies))
        self.assertTrue(os.path.exists(self.files.lock))
        self.assertTrue(lock.held)
        self.reopened()
        self.assertEqual(self.recipients(number, "status"), [QUEUED])

    def test_damaged(self) -> None:
        """Without a connection that can read it, what can be read is carried over."""
        self.add("a@b.example")
        self.stored()
        clock = SpoolClock(lambda: 5.0, lambda: 2e9)
        lock = SpoolLock(self.files)
        text = repair.Repair(self.files, clock, Incoming(), lock).mend(None)
        self.assertIn("was damaged, and is set aside in", text)
        self.assertIn("1 messages were carried over", text)

    def test_replaced(self) -> None:
        """What was put in the place of a database that was deleted is set aside."""
        self.add("a@b.example")
        with open(self.files.database, "w") as file:
            file.write("another")
        repair.rewrite(self.db, self.files)
        (name,) = self.aside()
        with open(os.path.join(self.files.damaged, name, "spool.sqlite")) as file:
            self.assertEqual(file.read(), "another")
        self.reopened()
        self.assertEqual(len(self.all("SELECT id FROM messages")), 1)

    def test_unfinished(self) -> None:
        """A process that died while it put a new database in its place is followed up."""
        self.add("a@b.example")
        self.stored()
        os.rename(self.files.database, f"{self.files.database}.whole")
        for path in (self.files.database, self.files.log):
            with open(path, "w") as file:
                file.write("damaged")
        repair.finish(self.files)
        (name,) = self.aside()
        self.assertLess(
            {"spool.sqlite", "spool.sqlite-wal"},
            set(os.listdir(os.path.join(self.files.damaged, name))),
        )
        self.reopened()
        self.assertEqual(len(self.all("SELECT id FROM messages")), 1)

    def test_sameSpool(self) -> None:
        """What was carried over is still the same spool, even if that cannot be read."""
        self.add("a@b.example")
        self.db.execute("DELETE FROM info")
        self.stored()
        marker = Marker(self.files.mark, self.files.database)
        marker.write(Mark("0123456789abcdef", 7))
        repair.salvage(self.files, 50.0, ())
        self.reopened()
        self.assertEqual(identity(self.db), "0123456789abcdef")
        self.assertEqual(generationOf(self.db), 7)
