"""
Tests for L{deferrals.spool.postgresql.notes}; those with a real database are in
L{tests.integration.test_cluster_notes}.
"""

from __future__ import annotations

from typing import Any

from deferrals.errors import Changed
from deferrals.spool.postgresql.notes import find, forget, placeOf, put, trim
from tests.spool.postgresql.fakes import FakeConnection, LinkCase


class NotesTests(LinkCase):
    """
    What is asked, and what is made of the answers.
    """

    def connection(self, **answers: Any) -> Any:
        """
        One with these answers.
        """
        found = FakeConnection(**answers)
        self.addCleanup(found.close)
        return found

    def test_placeOf(self) -> None:
        """Groups are told apart, whatever is in their names; all have one size."""
        names = [("a", "b c"), ("a b", "c"), ("a", "\0"), ("a", "x" * 10_000)]
        self.assertEqual(len({placeOf(*one) for one in names}), 4)
        self.assertEqual({len(placeOf(*one)) for one in names}, {32})

    def test_find(self) -> None:
        """What there is, by place."""
        db = self.connection(SELECT=[(b"a", '"key"', "1", 5), (b"a", '"\\u0000"', "2", 6)])
        found = find(db, [b"a", b"b"])
        self.assertEqual(found, {b"a": [("key", "1", 5), ("\0", "2", 6)], b"b": []})

    def test_put(self) -> None:
        """One statement, and another one where it has changed."""
        for was, word in ((None, "INSERT"), (0, "INSERT"), (5, "UPDATE")):
            db = self.connection(**{word: [(9,)]})
            self.assertEqual(put(db, ("k", "o g", "key"), 1, 60, was), 9)
            self.assertEqual(db.said, [word])
            db = self.connection(SELECT=[("[1]", 7)])
            error = self.assertRaises(Changed, put, db, ("k", "o g", "key"), 1, 60, was)
            self.assertEqual((error.value, error.version), ([1], 7))
            error = self.assertRaises(
                Changed, put, self.connection(), ("k", "o g", "key"), 1, 60, was
            )
            self.assertEqual((error.value, error.version), (None, None))

    def test_forget(self) -> None:
        """One statement."""
        db = self.connection()
        forget(db, "k", "o g", "key")
        self.assertEqual(db.said, ["DELETE"])

    def test_trim(self) -> None:
        """One process at a time; what is too many, or too much."""
        answers = iter([[(True,)], [("k", 10, 100)]] * 3)
        for most, octets, wanted in ((10, 100, 1), (9, 100, 2), (10, 99, 2)):
            db = self.connection(SELECT=lambda: next(answers))
            trim(db, {"k": most}, octets)
            self.assertEqual(db.said.count("DELETE"), wanted)
        db = self.connection(SELECT=[(False,)])
        trim(db, {"k": 1}, 1)
        self.assertEqual(db.said, ["SELECT"])
