"""
The spool while no server has it.
"""

from __future__ import annotations

import os
import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.sqlite.diskspace import NoRoom
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock
from deferrals.spool.sqlite.marker import generationOf, readMark
from deferrals.spool.sqlite.offline import OfflineSpool, immediately
from deferrals.spool.sqlite.recovery import saveClock
from deferrals.spool.sqlite.schema import VERSION, prepare


class OfflineSpoolTests(SynchronousTestCase):
    """
    L{OfflineSpool}.
    """

    def setUp(self) -> None:
        self.files = SpoolFiles(os.path.abspath(self.mktemp()))

    def database(self, *statements: str) -> None:
        self.files.make()
        db = sqlite3.connect(self.files.database, isolation_level=None)
        prepare(db)
        saveClock(db, 0.0, 5000.0)
        for statement in statements:
            db.execute(statement)
        db.close()

    def opened(self) -> OfflineSpool:
        spool = OfflineSpool(self.files.directory)
        self.addCleanup(spool.close)
        return spool

    def refused(self, text: str) -> None:
        """
        It cannot be opened, and nothing of it is held afterwards.
        """
        with self.assertRaisesRegex(SpoolError, text):
            OfflineSpool(self.files.directory)
        lock = SpoolLock(self.files)
        lock.take()
        lock.release()

    def test_nowhere(self) -> None:
        """Where there is no spool none is made."""
        with self.assertRaisesRegex(SpoolError, "spool.sqlite is not there"):
            OfflineSpool(self.files.directory)
        self.assertFalse(os.path.exists(self.files.directory))

    def test_inUse(self) -> None:
        """A server has it that does not answer, or another command; then a server cannot start."""
        self.database()
        lock = SpoolLock(self.files)
        lock.take()
        with self.assertRaisesRegex(SpoolError, "in use by a server that does not answer"):
            OfflineSpool(self.files.directory)
        lock.release()
        self.opened()
        with self.assertRaises(SpoolError):
            lock.take()

    def test_otherFormat(self) -> None:
        """Another version's spool is left alone."""
        self.database(f"PRAGMA user_version = {VERSION + 1}")
        self.refused("made by another version")

    def test_noDatabase(self) -> None:
        """What is no database cannot be opened."""
        self.files.make()
        with open(self.files.database, "w") as file:
            file.write("x" * 5000)
        self.refused("not a database")

    def test_mark(self) -> None:
        """A copy of the database that a command has had open is an older one when it ends."""
        self.database()
        spool = OfflineSpool(self.files.directory)
        during = self.successResultOf(spool.store.run(generationOf))
        spool.close()
        mark = readMark(self.files.mark)
        assert mark is not None
        self.assertEqual((mark.generation, mark.closed), (during + 1, True))

    def test_markFull(self) -> None:
        """It ends on a disk that is full, too."""
        self.database()
        spool = OfflineSpool(self.files.directory)

        def full(function: object) -> None:
            raise NoRoom("full")

        self.patch(spool, "_transaction", full)
        spool.close()
        mark = readMark(self.files.mark)
        assert mark is not None
        self.assertTrue(mark.closed)

    def test_clock(self) -> None:
        """The spool's time goes on; a long break does not count."""
        self.database()
        self.assertLess(self.opened().store.clock.now() - 5000.0, 3600.0)

    def test_run(self) -> None:
        """Changes are there at once, and durable."""
        self.database()
        spool = self.opened()
        done = spool.run(
            lambda db, name: db.execute("DELETE FROM info WHERE name = ?", (name,)), "x"
        )
        self.successResultOf(done)
        spool.run(lambda db: db.execute("INSERT INTO info VALUES ('a', 'b')"))
        reader = sqlite3.connect(self.files.database)
        self.addCleanup(reader.close)
        found = reader.execute("SELECT value FROM info WHERE name = 'a'").fetchall()
        self.assertEqual(found, [("b",)])

    def test_failing(self) -> None:
        """What fails changes nothing; the database's own errors are the spool's."""
        self.database()
        spool = self.opened()

        def half(db: sqlite3.Connection, sql: str) -> None:
            db.execute("DELETE FROM info")
            db.execute(sql)
            raise ValueError

        self.failureResultOf(spool.run(half, "SELECT * FROM nowhere"), SpoolError)
        self.failureResultOf(spool.run(half, "SELECT 1"), ValueError)
        count = spool.run(lambda db: db.execute("SELECT COUNT(*) FROM info").fetchone())
        self.assertEqual(self.successResultOf(count), (4,))


class AtOnceTests(SynchronousTestCase):
    """
    L{immediately}.
    """

    def test_result(self) -> None:
        """Results and failures are there when it returns."""
        self.assertEqual(self.successResultOf(immediately(max, 1, 2)), 2)
        self.failureResultOf(immediately(int, "x"), ValueError)
