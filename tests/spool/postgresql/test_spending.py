"""
Tests for L{deferrals.spool.postgresql.spending}; those with a real server are in
L{tests.integration.test_cluster_limits}.
"""

from __future__ import annotations

from typing import Any

from deferrals.spool.postgresql import spending
from tests.spool.postgresql.fakes import FakeConnection, LinkCase


class StatementTests(LinkCase):
    """
    What is said to the database.
    """

    def connection(self, **answers: Any) -> Any:
        found = FakeConnection(**answers)
        self.addCleanup(found.close)
        return found

    def test_one(self) -> None:
        """Each question is one statement."""
        db = self.connection(INSERT=[(1,)], SELECT=[(False,)])
        for amount, answer in ((2, True), (0, False), (-2, True)):
            self.assertEqual(spending.spend(db, "n", "k", amount, 5, 60.0), answer)
        self.assertTrue(spending.enter(db, 1, "n", "k", 2, 5))
        spending.settle(db, 1, "n", "k", 1)
        spending.settle(db, 1, "n", "k", 0)
        wanted = ["INSERT", "SELECT", "UPDATE", "INSERT", "INSERT", "UPDATE"]
        self.assertEqual(db.said, wanted)

    def test_refused(self) -> None:
        """Where nothing has changed the answer is no; where there is nothing all is left."""
        db = self.connection()
        self.assertFalse(spending.spend(db, "n", "k", 2, 5, 60.0))
        self.assertFalse(spending.enter(db, 1, "n", "k", 2, 5))
        self.assertTrue(spending.spend(db, "n", "k", 0, 5, 60.0))
        self.assertFalse(spending.spend(db, "n", "k", 0, 0, 60.0))

    def test_tooMuch(self) -> None:
        """What is more than there is in any case is not asked for."""
        db = self.connection(INSERT=[(1,)])
        self.assertFalse(spending.spend(db, "n", "k", 6, 5, 60.0))
        self.assertFalse(spending.enter(db, 1, "n", "k", 6, 5))
        self.assertEqual(db.said, [])

    def test_places(self) -> None:
        """Each key of each limit has a place of its own, of one size."""
        pairs = [("a", "b"), ("ab", ""), ("a b", ""), ("b", "a"), ("a", "b" * 9999)]
        places = {spending.placeOf(*pair) for pair in pairs}
        self.assertEqual((len(places), {len(one) for one in places}), (5, {32}))

    def test_trimAlone(self) -> None:
        """One server at a time lets go of what is too much."""
        db = self.connection(SELECT=[(False,)])
        spending.trim(db, {}, 5)
        self.assertEqual(db.said, ["SELECT"])
