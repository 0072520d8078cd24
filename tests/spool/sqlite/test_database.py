"""
The thread that owns the database.
"""

from __future__ import annotations

import sqlite3
import threading

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.sqlite.database import Database
from tests.reactors import PumpedReactor


class DatabaseTests(SynchronousTestCase):
    """
    Group commit.
    """

    def setUp(self) -> None:
        self.reactor = PumpedReactor()
        self.path = self.mktemp()
        self.db = Database(self.path, self.reactor, self.prepare, self.mend)
        self.reactor.wait(self.db.open())
        self.addCleanup(lambda: self.reactor.wait(self.db.close()))

    def prepare(self, db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")

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
