"""
Refusals in a database of their own.
"""

from __future__ import annotations

import os
import sqlite3
import stat

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.interfaces import IRefusalStore
from deferrals.spool.sqlite.offline import immediately
from deferrals.spool.sqlite.refusals import SLICE, SqliteRefusals
from tests.model.test_refusal import makeRefusal
from tests.spool import refusalcontract

ANNA = refusalcontract.ANNA


class SqliteRefusalsTests(refusalcontract.Contract, SynchronousTestCase):
    """
    The contract, for L{SqliteRefusals}; and what only a file can have.
    """

    def make(self) -> IRefusalStore:
        return self.at(os.path.join(self.mktemp(), "refusals.sqlite"))

    def at(self, path: str) -> SqliteRefusals:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        store = SqliteRefusals(path, immediately)
        self.addCleanup(store.close)
        return store

    def test_noFile(self) -> None:
        """Where nothing is kept there is no file."""
        path = os.path.join(self.mktemp(), "r")
        store = self.at(path)
        self.the(store.find(ANNA, 0.0, 1))
        self.the(store.trim(0.0, 1))
        self.assertFalse(os.path.exists(path))

    def test_private(self) -> None:
        """Only the server's own user can read it."""
        path = os.path.join(self.mktemp(), "r")
        self.the(self.at(path).add([(ANNA, makeRefusal())]))
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)

    def test_shared(self) -> None:
        """What one process keeps another one finds; so does the next one."""
        path = os.path.join(self.mktemp(), "r")
        one, two = self.at(path), self.at(path)
        self.the(one.add([(ANNA, makeRefusal(1))]))
        self.the(two.add([(ANNA, makeRefusal(2))]))
        self.assertEqual(len(self.the(one.find(ANNA, 0.0, 9))), 2)
        self.the(one.close())
        self.assertEqual(len(self.the(self.at(path).find(ANNA, 0.0, 9))), 2)

    def test_pieces(self) -> None:
        """A great many go piece by piece."""
        store = self.make()
        self.the(store.add([(ANNA, makeRefusal(number)) for number in range(SLICE + 10)]))
        self.assertEqual(self.the(store.trim(0.0, 0)), 10)
        self.assertEqual(self.the(store.trim(0.0, 0)), 0)

    def test_gone(self) -> None:
        """What was removed cannot be found in the file any longer."""
        path = os.path.join(self.mktemp(), "r")
        store = self.at(path)
        self.the(store.add([(ANNA, makeRefusal(1, subject="a secret of hers"))]))
        self.the(store.trim(0.0, 0))
        self.the(store.close())
        with open(path, "rb") as file:
            self.assertNotIn(b"a secret of hers", file.read())

    def test_foreign(self) -> None:
        """A file that is none, or a later version's, is an error that names it."""
        path = os.path.join(self.mktemp(), "r")
        store = self.at(path)
        with open(path, "wb") as file:
            file.write(b"x" * 10000)
        self.assertIn(path, str(self.failureResultOf(store.find(ANNA, 0, 1), SpoolError).value))
        os.unlink(path)
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        self.failureResultOf(store.add([(ANNA, makeRefusal())]), SpoolError)

    def test_unreadable(self) -> None:
        """A row that cannot be read is as if it were not there."""
        path = os.path.join(self.mktemp(), "r")
        store = self.at(path)
        self.the(store.add([(ANNA, makeRefusal(1)), (ANNA, makeRefusal(2))]))
        with sqlite3.connect(path) as db:
            db.execute("UPDATE refusals SET said = '[' WHERE at < 1002")
        db.close()
        self.assertEqual(self.the(store.find(ANNA, 0.0, 9)), [makeRefusal(2)])
