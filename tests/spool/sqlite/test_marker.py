"""
The file that says which database belongs into a directory.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from deferrals import durable
from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.marker import Mark, Marker, generationOf, raiseGeneration, readMark
from deferrals.spool.sqlite.pages import logSalt
from deferrals.spool.sqlite.schema import identity, prepare


class MarkerTests(SynchronousTestCase):
    """
    L{Marker}.
    """

    def setUp(self) -> None:
        self.database = os.path.abspath(self.mktemp())
        self.path = os.path.abspath(self.mktemp())
        self.marker = Marker(self.path, self.database)
        self.db = connect(self.database)
        self.addCleanup(self.db.close)
        prepare(self.db)

    def mark(self) -> Mark:
        mark = readMark(self.path)
        assert mark is not None
        return mark

    def test_life(self) -> None:
        """It never says more than the database holds, and is exact while that is open."""
        self.marker.opening()
        self.assertEqual(self.mark(), Mark())
        self.marker.opened(self.db)
        salt = logSalt(f"{self.database}-wal")
        self.assertIsNotNone(salt)
        own = identity(self.db)
        self.assertEqual(self.mark(), Mark(own, 1, False, salt))
        self.marker.came(raiseGeneration(self.db))
        self.assertEqual(self.mark().generation, 2)
        raiseGeneration(self.db)
        self.marker.closing(self.db)
        self.assertEqual(self.mark(), Mark(own, 3, False, None))
        self.db.close()
        self.marker.closed()
        self.assertEqual(self.mark(), Mark(own, 3, True, None))

    def test_further(self) -> None:
        """A database comes further than the directory at each start."""
        self.marker.write(Mark(identity(self.db), 40))
        self.marker.opening()
        self.marker.opened(self.db)
        self.assertEqual(generationOf(self.db), 41)

    def test_logStays(self) -> None:
        """A database that could not be closed as a whole is not closed."""
        self.marker.opening()
        self.marker.opened(self.db)
        self.marker.closed()
        self.assertFalse(self.mark().closed)

    def fails(self, *names: str) -> None:
        """
        The disk fails what is done by these functions.
        """

        def full(*args: object) -> None:
            raise OSError(28, "no space left on device")

        for name in names:
            self.patch(durable, name, full)

    def test_full(self) -> None:
        """A disk that has no room for another file keeps it, as it should be now."""
        self.marker.write(Mark("x" * 40, 10**12, True, None))
        self.fails("write")
        self.marker.write(Mark("x", 2, False, 7))
        self.assertEqual(self.mark(), Mark("x", 2, False, 7))
        self.marker.write(Mark("x" * 50, 10**13, False, 1 << 31))
        self.assertEqual(self.mark(), Mark("x" * 50, 10**13, False, 1 << 31))

    def test_unwritable(self) -> None:
        """Where it cannot be written, there is none: what it said may not be true any longer."""
        self.marker.opening()
        self.fails("write", "overwrite")
        self.marker.opened(self.db)
        self.assertFalse(os.path.exists(self.path))

    def test_unreadable(self) -> None:
        """What is none is taken for none."""
        self.assertIsNone(readMark(self.path))
        for text in (
            *("", "{", "[]", "{}", "7", "\xff"),
            '{"spool": 1, "generation": 1, "closed": true, "log": null}',
            '{"spool": "x", "generation": 1.5, "closed": true, "log": null}',
            '{"spool": "x", "generation": 1, "closed": 1, "log": null}',
            '{"spool": "x", "generation": 1, "closed": true, "log": "x"}',
        ):
            with open(self.path, "w", encoding="latin-1") as file:
                file.write(text)
            self.assertIsNone(readMark(self.path), text)
