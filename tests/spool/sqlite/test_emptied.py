"""
What is removed of a spool that is of no more use, and what is not.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.sqlite.emptied import removeEmpty
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock


class EmptiedTests(SynchronousTestCase):
    """
    L{removeEmpty}.
    """

    def setUp(self) -> None:
        self.files = SpoolFiles(os.path.abspath(self.mktemp()))
        self.files.make()
        with contextlib.closing(sqlite3.connect(self.files.database)) as db:
            db.execute("CREATE TABLE messages (id INTEGER)")
        for path in (self.files.mark, self.files.reserve, self.files.lock):
            self.put(path)

    def put(self, path: str) -> None:
        with open(path, "w") as file:
            file.write("x")

    def stays(self) -> None:
        before = sorted(os.walk(self.files.directory))
        self.assertFalse(removeEmpty(self.files.directory))
        self.assertEqual(sorted(os.walk(self.files.directory)), before)

    def test_empty(self) -> None:
        """All of it goes; a spool that is gone is none."""
        os.mkdir(self.files.damaged)
        self.assertTrue(removeEmpty(self.files.directory))
        self.assertFalse(os.path.exists(self.files.directory))
        self.assertFalse(removeEmpty(self.files.directory))
        self.assertFalse(os.path.exists(self.files.directory))

    def test_locked(self) -> None:
        """What another process has opened meanwhile stays."""
        lock = SpoolLock(self.files)
        lock.take()
        self.addCleanup(lock.release)
        self.stays()

    def test_mail(self) -> None:
        """So does what another process has taken in meanwhile."""
        with contextlib.closing(sqlite3.connect(self.files.database)) as db:
            db.execute("INSERT INTO messages VALUES (1)")
            db.commit()
        self.stays()

    def test_unreadable(self) -> None:
        """A database that cannot be read may have mail."""
        self.put(self.files.database)
        self.stays()

    def test_contents(self) -> None:
        """So may contents that no row knows, or that are set aside; what is not ours stays."""
        os.mkdir(self.files.damaged)
        for directory in (self.files.bodies, self.files.damaged, self.files.directory):
            path = os.path.join(directory, "something")
            self.put(path)
            self.stays()
            os.unlink(path)
        self.assertTrue(removeEmpty(self.files.directory))
