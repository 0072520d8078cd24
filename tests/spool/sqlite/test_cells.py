"""
The records in the pages of a database.
"""

from __future__ import annotations

import os
import random
import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.sqlite.cells import Value, decoded, treePage, varint
from deferrals.spool.sqlite.pages import Pages

VALUES: list[Value] = [
    *(None, 0, 1, -1, 127, 128, -129, 1 << 15, -(1 << 23), 1 << 31, 1 << 47, 1 << 62, -(1 << 63)),
    *(0.5, -1e300, "", "text", "täxt ✉", b"", b"octets", b"x" * 5000, "y" * 70_000, b"z" * 4061),
]


class CellsTests(SynchronousTestCase):
    """
    L{treePage} and what it is made of.
    """

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        self.db = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(self.db.close)

    def read(self, kinds: tuple[int, ...]) -> list[tuple[int, tuple[Value, ...]]]:
        """
        All rows in pages of some kinds, but for the first page.
        """
        pages = Pages(self.path, "")
        self.addCleanup(pages.close)
        found = []
        for number in range(2, pages.count + 1):
            page = treePage(pages.get(number), pages.usable, pages.get)
            if page is not None and page.kind in kinds:
                self.assertEqual(page.bad, 0)
                found += [(cell.row, cell.record) for cell in page.cells if cell.record]
        return found

    def test_values(self) -> None:
        """Every kind of value is read as it was written, however long."""
        self.db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x)")
        for value in VALUES:
            self.db.execute("INSERT INTO t (x) VALUES (?)", (value,))
        self.assertEqual(
            sorted(self.read((13,))),
            [(row, (None, value)) for row, value in enumerate(VALUES, 1)],
        )

    def test_sizes(self) -> None:
        """However much of a record is in its page, in a table and in an index."""
        self.db.execute("CREATE TABLE t (x TEXT PRIMARY KEY) WITHOUT ROWID")
        sizes = [*range(960, 1030), *range(4000, 4140), *range(8100, 8200), 70_000]
        texts = [f"{size:06}" + "x" * size for size in sizes]
        self.db.executemany("INSERT INTO t VALUES (?)", [(text,) for text in texts])
        self.assertEqual(sorted(record for _, record in self.read((2, 10))), [(t,) for t in texts])

    def test_varint(self) -> None:
        """Numbers of variable length; one that goes beyond the end is none."""
        self.assertEqual(varint(b"\x81\x00", 0), (128, 2))
        self.assertEqual(varint(b"\xff" * 9, 0), (-1, 9))
        for octets in (b"", b"\x81", b"\xff" * 8):
            with self.assertRaises(ValueError):
                varint(octets, 0)

    def test_damaged(self) -> None:
        """A record that is damaged is none."""
        for octets in (
            b"\x00",  # a header that does not hold its own size
            b"\x03\x01\x01\x05",  # cut
            b"\x02\x0a",  # no such kind
            b"\x02\x01\x05\x05",  # more than there should be
            b"\x02\x0f\xff",  # no text
            b"\x05\x01",  # a header that goes beyond the end
            b"\x41" + b"\x08" * 0x41,  # too many columns
        ):
            with self.assertRaises(ValueError, msg=repr(octets)):
                decoded(octets)

    def test_garbage(self) -> None:
        """Whatever is in a page: it is read to its end, and does not raise."""
        dice = random.Random(1)
        for kind in (2, 5, 10, 13, 0):
            for _ in range(200):
                page = bytes([kind]) + dice.randbytes(511)
                found = treePage(page, 512, lambda number: bytes(512))
                self.assertTrue(found is None or found.kind == kind)
        self.assertIsNone(treePage(b"", 4096, lambda number: b""))

    def test_endless(self) -> None:
        """A record whose pages lead to themselves has an end."""
        page = bytearray(512)
        page[0], page[4], page[5:7], page[8:10] = 13, 1, (100).to_bytes(2, "big"), b"\0\x64"
        page[100:105] = b"\x84\x80\x80\x00\x01"  # 8 MiB
        rest = (7).to_bytes(4, "big") + bytes(508)
        found = treePage(bytes(page), 512, lambda number: rest)
        assert found is not None
        self.assertEqual((found.cells, found.bad), ([], 1))
