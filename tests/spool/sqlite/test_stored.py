"""
Spools that earlier versions have left, each format of them: C{stored/format-N.sqlite.gz},
written by a server of that time that was stopped with two messages in its queue, a small
one for anna and bob, and one of 144,018 octets from the null path for carl.  A format
that is new brings a file of its own.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import sqlite3

from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.model.selection import Selection
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.offline import OfflineSpool, immediately
from deferrals.spool.sqlite.queue import SqliteQueue
from deferrals.spool.sqlite.schema import VERSION
from deferrals.spool.sqlite.spool import SqliteSpool
from tests.reactors import PumpedReactor

STORED = os.path.join(os.path.dirname(__file__), "stored")


class StoredTests(SynchronousTestCase):
    """
    A step up, and a step back.
    """

    def spool(self, number: int) -> SpoolFiles:
        """
        The spool of a format, as its server has left it.
        """
        files = SpoolFiles(os.path.abspath(self.mktemp()))
        files.make()
        with (
            gzip.open(os.path.join(STORED, f"format-{number}.sqlite.gz")) as stored,
            open(files.database, "wb") as database,
        ):
            shutil.copyfileobj(stored, database)
        return files

    def test_all(self) -> None:
        """There is one of each format, written in that format."""
        names = {f"format-{number}.sqlite.gz" for number in range(1, VERSION + 1)}
        self.assertEqual(set(os.listdir(STORED)), names)
        for number in range(1, VERSION + 1):
            db = sqlite3.connect(self.spool(number).database)
            self.addCleanup(db.close)
            self.assertEqual(db.execute("PRAGMA user_version").fetchone(), (number,))

    def test_opens(self) -> None:
        """Each opens: all recipients are in the queue, and each content is what it was."""
        for number in range(1, VERSION + 1):
            files = self.spool(number)
            with contextlib.closing(OfflineSpool(files.directory)) as spool:
                queue = SqliteQueue(spool.store, immediately, idle=True)
                rows, _ = self.successResultOf(queue.recipients(Selection(), 10, None))
                waiting = {row["recipient"]: row["sender"] for row in rows}
                sent = dict.fromkeys(("anna@example.net", "bob@example.net"), "sender@example.net")
                self.assertEqual(waiting, {**sent, "carl@example.net": ""}, number)
                self.assertEqual({row["status"] for row in rows}, {"queued"})
                wrong, count, _ = self.successResultOf(queue.inspect(None))
                self.assertEqual((list(wrong), count), ([], 2))
            self.assertFalse(os.path.exists(files.damaged))

    def test_newer(self) -> None:
        """One of a newer version is refused by name, and stays as it is."""
        files = self.spool(VERSION)
        db = sqlite3.connect(files.database)
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
        db.close()
        said = f"format {VERSION + 1}, not {VERSION}"
        with self.assertRaisesRegex(SpoolError, said):
            OfflineSpool(files.directory)
        reactor = PumpedReactor()
        spool = SqliteSpool(files.directory, reactor, maybeDeferred)
        self.assertIn(said, reactor.wait(spool.open()).getErrorMessage())
        db = sqlite3.connect(files.database)
        self.addCleanup(db.close)
        self.assertEqual(db.execute("SELECT count(*) FROM recipients").fetchone(), (3,))
        self.assertEqual(db.execute("PRAGMA user_version").fetchone(), (VERSION + 1,))
