"""
How a message leaves the database.
"""

from __future__ import annotations

from deferrals.spool.sqlite.leaving import SLICE, leave, leaving, left, noted
from tests.databases import DatabaseCase


class LeavingTests(DatabaseCase):
    """
    The list of files that are to be removed.
    """

    def test_inDatabase(self) -> None:
        """A message whose content is in the database leaves nothing behind."""
        number = self.add("a@b.example")
        leave(self.db, number)
        self.assertEqual(self.all("SELECT * FROM messages"), [])
        self.assertEqual(self.all("SELECT * FROM bodies"), [])
        self.assertEqual(leaving(self.db), [])

    def test_inFile(self) -> None:
        """Of one whose content is in a file, that is to be removed."""
        number = self.add("a@b.example")
        self.db.execute("DELETE FROM bodies")
        leave(self.db, number)
        self.assertEqual(leaving(self.db), [number])
        left(self.db, [number])
        self.assertEqual(leaving(self.db), [])

    def test_back(self) -> None:
        """The file of one that is here, taken back, is not removed."""
        number = self.add("a@b.example")
        noted(self.db, [number, number + 1])
        self.assertEqual(leaving(self.db), [number + 1])

    def test_slices(self) -> None:
        """Many are a part at a time, each once."""
        numbers = list(range(1, SLICE + 3))
        noted(self.db, numbers)
        noted(self.db, numbers[:2])
        first = leaving(self.db)
        self.assertEqual(len(first), SLICE)
        left(self.db, first)
        self.assertEqual(first + leaving(self.db), numbers)
