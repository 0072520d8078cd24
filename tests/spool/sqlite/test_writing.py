"""
A batch written into the embedded database.
"""

from __future__ import annotations

from deferrals.spool.batch import WriteBatch
from deferrals.spool.sqlite.writing import ROWS, apply
from tests.databases import DatabaseCase, insert


class ApplyTests(DatabaseCase):
    """
    L{apply}.
    """

    def test_apply(self) -> None:
        """What is staged, released and removed in one turn is written together."""
        kept, gone = insert("a@b.example", "c@b.example"), insert("a@b.example")
        apply(WriteBatch(inserts=[kept, gone]), self.db)
        batch = WriteBatch(
            released={kept.number: None},
            removed={gone.number: None},
            notes={"a": ("1", 5.0), "b": ("2", 6.0)},
        )
        apply(batch, self.db)
        self.assertEqual(self.all("SELECT id, state FROM messages"), [(kept.number, 1)])
        self.assertEqual(self.all("SELECT id FROM bodies"), [(kept.number,)])
        self.assertEqual(self.all("SELECT seq FROM recipients"), [(0,), (1,)])
        apply(WriteBatch(notes={"a": ("3", 7.0), "b": None}), self.db)
        self.assertEqual(self.all("SELECT * FROM notes"), [("a", "3", 7.0)])

    def test_many(self) -> None:
        """More rows than one statement takes are written by several."""
        many = insert(*(f"r{number}@b.example" for number in range(ROWS + 1)))
        apply(WriteBatch(inserts=[many]), self.db)
        self.assertEqual(self.all("SELECT COUNT(*) FROM recipients"), [(ROWS + 1,)])
        numbers = [self.add("a@b.example") for _ in range(ROWS + 1)]
        apply(WriteBatch(removed=dict.fromkeys(numbers)), self.db)
        self.assertEqual(self.all("SELECT id FROM messages"), [(many.number,)])

    def test_leaving(self) -> None:
        """That a content's file is of no use is written together with its removal."""
        apply(WriteBatch(removed={1: "file", 2: None}), self.db)
        self.assertEqual(self.all("SELECT message FROM leaving"), [(1,)])
