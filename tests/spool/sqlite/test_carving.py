"""
What can be read of a damaged database.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.rows import DAMAGED, HELD
from deferrals.spool.sqlite import carving, repair
from deferrals.spool.sqlite.cells import treePage
from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.pages import Pages
from deferrals.spool.sqlite.recovery import savedClock
from deferrals.spool.sqlite.schema import prepare
from tests.rigs import rig
from tests.spool.sqlite import damages


class CarvingTests(SynchronousTestCase):
    """
    L{carving.Carving}, through L{repair.carry}.
    """

    def setUp(self) -> None:
        self.original = damages.make(os.path.abspath(self.mktemp()), 1)
        self.path = os.path.abspath(self.mktemp())
        shutil.copy(self.original.path, self.path)

    def carry(self) -> carving.Report:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.db.close)
        return repair.carry(self.path, f"{self.path}-wal", self.db, 5.0, lambda number: False)

    def overwrite(self, offset: int, octets: bytes) -> None:
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(octets)

    def assertAll(self, report: carving.Report) -> None:
        self.assertEqual(set(report.whole), set(self.original.contents))
        self.assertEqual((report.incomplete, report.held), ({}, []))

    def test_shapes(self) -> None:
        """The columns by which rows are known are those of the tables."""
        db = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(db.close)
        prepare(db)
        shapes = {**carving._TABLES, **carving._INDEXES}
        for name in carving._CARRIED:
            columns = db.execute(f"PRAGMA table_info({name})").fetchall()
            self.assertEqual(len(columns), len(shapes[name]), name)

    def test_whole(self) -> None:
        """Of a database that is whole everything is carried over, also as SQLite sees it."""
        self.assertAll(self.carry())
        before = sqlite3.connect(self.path)
        self.addCleanup(before.close)
        for table in ("messages", "bodies", "recipients", "info", "notes", "leaving", "history"):
            sql = (
                f"SELECT * FROM {table} ORDER BY 1, 2"
                if table != "leaving"
                else ("SELECT * FROM leaving")
            )
            self.assertEqual(self.db.execute(sql).fetchall(), before.execute(sql).fetchall(), table)
        sql = "SELECT name, ready FROM destinations ORDER BY name"
        expected = before.execute(
            "SELECT destination, min(due) FROM recipients GROUP BY 1 ORDER BY 1"
        )
        self.assertEqual(self.db.execute(sql).fetchall(), expected.fetchall())

    def test_header(self) -> None:
        """Without its first 100 octets nothing is lost."""
        self.overwrite(0, os.urandom(100))
        self.assertAll(self.carry())

    def test_firstPage(self) -> None:
        """Nor without its first page."""
        self.overwrite(0, os.urandom(4096))
        report = self.carry()
        self.assertAll(report)
        self.assertEqual(report.pages, [1])

    def test_inner(self) -> None:
        """Nor without any page that leads to others, and has no rows."""
        for number in self.original.kinds["table inner"]:
            self.overwrite((number - 1) * 4096, b"\xff" * 4096)
        self.assertAll(self.carry())

    def test_end(self) -> None:
        """A database that is cut has what is before that."""
        os.truncate(self.path, os.path.getsize(self.path) * 99 // 100)
        report = self.carry()
        self.assertGreater(len(report.whole), len(self.original.contents) * 8 // 10)

    def test_unsure(self) -> None:
        """Where nothing says whether a page was free, what is only there is held."""
        self.overwrite(0, os.urandom(4096))
        self.overwrite(4096, os.urandom(4096))
        for kind in ("table inner", "index inner"):
            for number in self.original.kinds[kind]:
                self.overwrite((number - 1) * 4096, b"\xff" * 4096)
        report = self.carry()
        self.assertTrue(report.held)
        self.assertIn("held, since they may have been delivered", str(report))
        for number in report.held:
            found = self.db.execute("SELECT status FROM recipients WHERE message = ?", (number,))
            self.assertIn(HELD, {status for (status,) in found})
        self.assertNoneBack()

    def assertNoneBack(self) -> None:
        """No recipient that had left is delivered to again."""
        for number, seq in self.db.execute(
            f"SELECT message, seq FROM recipients WHERE status NOT IN ({HELD}, {DAMAGED})"
        ):
            self.assertIn(seq, self.original.recipients.get(number, ()))

    def pagesOf(self, table: str, kind: str) -> list[int]:
        """Those of a kind with rows of a table (an index)."""
        pages = Pages(self.original.path, "")
        self.addCleanup(pages.close)
        found = []
        for number in self.original.kinds[kind]:
            page = treePage(pages.get(number), pages.usable, pages.get)
            cells = [] if page is None else page.cells
            if page is not None and any(
                carving._table(page.kind, cell)[0] == table for cell in cells
            ):
                found.append(number)
        return found

    def test_misplaced(self) -> None:
        """A page that was free, in the place of one that was not, brings back no recipient."""
        used = self.pagesOf("recipients", "index leaf")
        pairs = [(one, other) for one in self.pagesOf("recipients", "free") for other in used]
        self.assertGreater(len(pairs), 10)
        held = 0
        for one, other in pairs[:: len(pairs) // 10]:
            shutil.copy(self.original.path, self.path)
            self.overwrite((other - 1) * 4096, self.original.pages[one])
            held += len(self.carry().held)
            self.assertNoneBack()
        self.assertGreater(held, 0)

    def test_withoutIndex(self) -> None:
        """What no index names because a part of that is lost is not held."""
        for number in self.pagesOf("recipients_queued", "index leaf"):
            shutil.copy(self.original.path, self.path)
            self.overwrite((number - 1) * 4096, b"\xff" * 4096)
            self.assertAll(self.carry())

    def test_clock(self) -> None:
        """Where the spool's time cannot be read it is that of the newest message."""
        db = connect(self.path)
        db.executescript(
            "DELETE FROM info WHERE name LIKE 'clock%'; UPDATE messages SET since = 7e6"
        )
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.close()
        self.carry()
        saved = savedClock(self.db)
        assert saved is not None
        self.assertEqual(saved[1], 7e6)

    def test_left(self) -> None:
        """What is known to have left does not come back, whatever a page says that was free."""
        (number,) = random.Random(1).sample(sorted(self.original.contents), 1)
        db = connect(self.path)
        db.execute("DELETE FROM leaving")
        db.execute("INSERT INTO leaving VALUES (?)", (number,))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.close()
        sure = self.patch(carving.Carving, "_numbers", lambda carved: set())
        self.assertNotIn(number, self.carry().whole)
        sure.restore()
        self.assertIn(number, self.carry().whole)

    def test_content(self) -> None:
        """What has not the content that it should have is named, and not carried over as whole."""
        number = self.original.kinds["rest"][0]
        self.overwrite((number - 1) * 4096 + 2000, b"x")
        report = self.carry()
        ((why, some),) = report.incomplete.items()
        self.assertEqual((why, len(some)), ("without their content", 1))
        self.assertNotIn(some[0], report.whole)

    def test_many(self) -> None:
        """Damages of all kinds, at all kinds of pages."""
        self.assertEqual(damages.run(rig(20, 50), 3, lambda text: None), [])
