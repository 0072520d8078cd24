"""
The thread that owns the database.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.sqlite import database
from deferrals.spool.sqlite.database import SETTINGS, Database, checkpoint, connect
from deferrals.spool.sqlite.diskspace import NoRoom, Reserve
from tests.reactors import PumpedReactor


class DatabaseTests(SynchronousTestCase):
    """
    Group commit.
    """

    def setUp(self) -> None:
        self.reactor = PumpedReactor()
        self.path = self.mktemp()
        self.reserve = Reserve(self.mktemp())
        self.db = Database(self.path, self.reactor, self.prepare, self.mend, self.reserve)
        self.reactor.wait(self.db.open())
        self.addCleanup(lambda: self.reactor.wait(self.db.close()))

    def prepare(self, db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")

    def mend(self, db: sqlite3.Connection | None) -> str:
        raise AssertionError("nothing is broken")

    def insert(self, db: sqlite3.Connection, number: int) -> int:
        db.execute("INSERT INTO t VALUES (?)", (number,))
        return number

    def test_grouped(self) -> None:
        """What waits while a commit runs goes into the next one."""
        gate = threading.Event()
        first = self.db.run(lambda db: gate.wait(30))
        waiting = [self.db.run(self.insert, number) for number in range(100)]
        before = self.db.commits
        gate.set()
        self.reactor.wait(first)
        self.assertEqual([self.reactor.wait(d) for d in waiting], list(range(100)))
        self.assertLessEqual(self.db.commits - before, 3)

    def test_oneFails(self) -> None:
        """One that fails does not take the others with it."""
        gate = threading.Event()
        first = self.db.run(lambda db: gate.wait(30))
        good = self.db.run(self.insert, 1)
        bad = self.db.run(self.insert, 1)
        broken = self.db.run(lambda db: 1 // 0)
        other = self.db.run(self.insert, 2)
        gate.set()
        self.reactor.wait(first)
        self.assertEqual(self.reactor.wait(good), 1)
        self.reactor.wait(bad).trap(SpoolError)
        self.reactor.wait(broken).trap(ZeroDivisionError)
        self.assertEqual(self.reactor.wait(other), 2)

    def test_checkpoint(self) -> None:
        """The write-ahead log is carried over, beside what waits for a transaction."""
        done = self.db.run(self.insert, 1)
        carried = self.db.outside(checkpoint)
        self.assertEqual(self.reactor.wait(done), 1)
        self.assertTrue(self.reactor.wait(carried))
        with open(self.path, "rb") as file:
            octets = len(file.read())
        db = sqlite3.connect(f"file:{self.path}?immutable=1", uri=True)
        self.addCleanup(db.close)
        self.assertEqual(db.execute("SELECT n FROM t").fetchall(), [(1,)])
        self.assertGreater(octets, 0)

    def test_checkpointReader(self) -> None:
        """A reader that keeps the log is not waited for."""
        self.reactor.wait(self.db.run(self.insert, 1))
        reader = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(reader.close)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        self.reactor.wait(self.db.run(self.insert, 2))
        self.assertFalse(self.reactor.wait(self.db.outside(checkpoint)))

    def test_beforeTheEnd(self) -> None:
        """What was asked for before the end is done; afterwards nothing is."""
        done = [self.db.run(self.insert, number) for number in range(3)]
        closed = self.db.close()
        self.assertEqual([self.reactor.wait(one) for one in done], [0, 1, 2])
        self.assertIsNone(self.reactor.wait(closed))
        self.reactor.wait(self.db.run(self.insert, 4)).trap(SpoolError)

    def test_deletedMeanwhile(self) -> None:
        """What is committed into a file that was deleted is not durable."""

        def delete(db: sqlite3.Connection) -> int:
            if os.path.exists(self.path):
                os.unlink(self.path)
            return self.insert(db, 1)

        self.reactor.wait(self.db.run(delete)).trap(SpoolError)

    def test_refused(self) -> None:
        """A database that was deleted, and cannot be mended, does nothing."""
        called: list[sqlite3.Connection] = []
        os.unlink(self.path)
        self.reactor.wait(self.db.run(called.append)).trap(SpoolError)
        self.assertEqual(called, [])

    def corrupt(self, db: sqlite3.Connection) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    def test_damaged(self) -> None:
        """Damage that is met is mended before the next operation."""
        mended: list[sqlite3.Connection | None] = []
        self.patch(self.db, "_mend", lambda db: mended.append(db) or "mended")
        self.reactor.wait(self.db.run(self.corrupt)).trap(SpoolError)
        self.assertEqual(self.reactor.wait(self.db.run(self.insert, 1)), 1)
        self.assertEqual(mended, [None])

    def opening(self, error: Exception) -> Database:
        """
        One whose first look at its tables fails.
        """
        errors = [error]

        def prepare(db: sqlite3.Connection) -> None:
            if errors:
                raise errors.pop()
            self.prepare(db)

        db = Database(self.mktemp(), self.reactor, prepare, lambda _: "mended", self.reserve)
        self.addCleanup(lambda: self.reactor.wait(db.close()))
        return db

    def test_damagedAtStart(self) -> None:
        """Damage that is met at the start is mended, too."""
        error = sqlite3.DatabaseError("file is not a database")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
        db = self.opening(error)
        self.assertIsNone(self.reactor.wait(db.open()))
        self.assertEqual(self.reactor.wait(db.run(self.insert, 1)), 1)

    def test_fullAtStart(self) -> None:
        """On a disk that is full at the start the reserve is given up."""
        with open(self.reserve._path, "w") as file:
            file.write("x")
        db = self.opening(OSError(errno.ENOSPC, "no space left on device"))
        self.assertIsNone(self.reactor.wait(db.open()))
        self.assertFalse(os.path.exists(self.reserve._path))

    def test_full(self) -> None:
        """On a full disk the reserve is given up, and what failed is tried again."""
        with open(self.reserve._path, "w") as file:
            file.write("x")

        def once(db: sqlite3.Connection) -> int:
            if os.path.exists(self.reserve._path):
                raise OSError(errno.ENOSPC, "no space left on device")
            return self.insert(db, 1)

        self.assertEqual(self.reactor.wait(self.db.run(once)), 1)
        self.assertFalse(os.path.exists(self.reserve._path))

    def test_noRoom(self) -> None:
        """Where that does not help, the operation says that there is no room."""

        def never(db: sqlite3.Connection) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

        failure = self.reactor.wait(self.db.run(never))
        failure.trap(NoRoom)
        self.assertIn("no space left", str(failure.value))

    def test_failing(self) -> None:
        """A disk that has failed is tried anew, by opening the database again."""
        opened = []
        self.patch(database, "connect", lambda path: opened.append(path) or connect(path))

        def fails(db: sqlite3.Connection) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

        self.reactor.wait(self.db.run(fails)).trap(SpoolError)
        self.assertEqual(self.reactor.wait(self.db.run(self.insert, 1)), 1)
        self.assertEqual(self.reactor.wait(self.db.run(self.insert, 2)), 2)
        self.assertEqual(opened, [self.path])


class SettingsTests(SynchronousTestCase):
    """
    L{SETTINGS}.
    """

    #: What they are read back as.
    READ = {
        "auto_vacuum": 2,
        "journal_mode": "wal",
        "synchronous": 2,
        "locking_mode": "normal",
        "temp_store": 2,
        "ON": 1,
        "OFF": 0,
    }

    def test_all(self) -> None:
        """Each of them is in force, whatever the build of SQLite says."""
        db = connect(self.mktemp())
        self.addCleanup(db.close)
        for name, value in SETTINGS.items():
            ((found,),) = db.execute(f"PRAGMA {name}").fetchall()
            self.assertEqual(found, self.READ.get(name, self.READ.get(str(value), value)), name)

    def test_small(self) -> None:
        """What is removed writes no zeros into the log, whatever the build of SQLite says."""
        path = self.mktemp()
        db = connect(path)
        self.addCleanup(db.close)
        db.execute("CREATE TABLE t (x)")
        db.execute("INSERT INTO t VALUES (zeroblob(3000000))")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.execute("DELETE FROM t")
        self.assertLess(os.path.getsize(f"{path}-wal"), 300_000)
