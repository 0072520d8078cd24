"""
The pages of a database, read without SQLite.
"""

from __future__ import annotations

import os
import shutil
import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.pages import Log, Pages, logSalt, readLog


class PagesCase(SynchronousTestCase):
    """
    A database as a killed process leaves it: with a write-ahead log.
    """

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        self.log = f"{self.path}-wal"
        self.db = connect(self.path)
        self.addCleanup(self.db.close)
        self.db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x)")
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        for _ in range(5):
            self.db.execute("INSERT INTO t (x) VALUES (zeroblob(5000))")

    def killed(self) -> str:
        """
        @return: a copy.
        """
        path = os.path.abspath(self.mktemp())
        for suffix in ("", "-wal"):
            shutil.copy(self.path + suffix, path + suffix)
        return path

    def pages(self, path: str) -> Pages:
        pages = Pages(path, f"{path}-wal")
        self.addCleanup(pages.close)
        return pages


class PagesTests(PagesCase):
    """
    L{Pages}.
    """

    def test_asSQLite(self) -> None:
        """They are what SQLite has after a checkpoint."""
        pages = self.pages(self.killed())
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with open(self.path, "rb") as file:
            octets = file.read()
        self.assertEqual(b"".join(pages.get(number) for number in pages.numbers()), octets)
        self.assertEqual(pages.count * pages.size, len(octets))

    def test_outside(self) -> None:
        """A page that is not there is empty; so is one that is cut."""
        path = self.killed()
        os.unlink(f"{path}-wal")
        os.truncate(path, os.path.getsize(path) - 1)
        pages = self.pages(path)
        self.assertEqual([pages.get(number) for number in (-1, 0, 1 << 40)], [b""] * 3)
        self.assertEqual(pages.get(os.path.getsize(path) // 4096 + 1), b"")

    def test_size(self) -> None:
        """Without a header the size of a page is that of the log, or what fits best."""
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        path = self.killed()
        with open(path, "r+b") as file:
            file.write(bytes(100))
        self.assertEqual(self.pages(path).size, 4096)

    def test_onlyLog(self) -> None:
        """Of a log alone there are the pages that it has."""
        path = self.killed()
        os.unlink(path)
        pages = self.pages(path)
        self.assertIn(1, pages.numbers())
        self.assertTrue(all(pages.get(number) for number in pages.numbers()))

    def test_nothing(self) -> None:
        """Where there is nothing, there are no pages; what is no database has some."""
        pages = self.pages(os.path.abspath(self.mktemp()))
        self.assertEqual(list(pages.numbers()), [])
        path = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(b"x" * 10_000)
        self.assertEqual(list(self.pages(path).numbers()), [1, 2])


class LogTests(PagesCase):
    """
    L{readLog}.
    """

    def read(self, path: str) -> Log:
        log = readLog(f"{path}-wal")
        assert log is not None
        return log

    def frames(self, path: str) -> int:
        """
        How many SQLite takes.
        """
        db = sqlite3.connect(path)
        ((_, frames, _),) = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        db.close()
        return int(frames)

    def test_whole(self) -> None:
        """All frames of a log that is whole are taken."""
        path = self.killed()
        log = self.read(path)
        self.assertEqual(log.whole, len(log.frames))
        self.assertEqual(log.behind, 0)
        self.assertEqual(log.salt, logSalt(f"{path}-wal"))
        self.assertEqual(self.frames(path), log.whole)

    def test_damaged(self) -> None:
        """Behind a frame that is not whole nothing is taken, as SQLite does it; it is counted."""
        path = self.killed()
        before = self.read(path)
        with open(f"{path}-wal", "r+b") as file:
            file.seek(before.frames[len(before.frames) // 2].offset + 100)
            file.write(b"damage")
        log = self.read(path)
        self.assertLess(log.whole, len(before.frames) // 2 + 1)
        self.assertEqual(len(log.frames), len(before.frames))
        self.assertGreater(log.behind, 1)
        self.assertEqual(self.frames(path), log.whole)

    def test_cut(self) -> None:
        """What is cut is not there."""
        path = self.killed()
        os.truncate(f"{path}-wal", os.path.getsize(f"{path}-wal") - 4200)
        log = self.read(path)
        self.assertEqual(log.behind, 0)
        self.assertEqual(self.frames(path), log.whole)

    def test_anew(self) -> None:
        """What is left over from before a log began anew is not its own; its salt is one more."""
        salt = logSalt(self.log)
        assert salt is not None
        self.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        self.db.execute("INSERT INTO t (x) VALUES (1)")
        path = self.killed()
        log = self.read(path)
        self.assertEqual(log.salt, (salt + 1) % (1 << 32))
        self.assertEqual((log.behind, len(log.frames)), (0, log.whole))
        self.assertEqual(self.frames(path), log.whole)

    def test_none(self) -> None:
        """What is no log has no salt."""
        path = os.path.abspath(self.mktemp())
        self.assertIsNone(readLog(path))
        for octets in (b"", b"x" * 20, b"x" * 5000):
            with open(path, "wb") as file:
                file.write(octets)
            self.assertIsNone(readLog(path))
            self.assertIsNone(logSalt(path))
