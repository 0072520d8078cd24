"""
Queries of tables.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.tables.query import DEFAULT_QUERY, checkQuery, firstRow
from deferrals.testing import tableKeys


class QueryTests(SynchronousTestCase):
    """
    L{checkQuery} and L{firstRow}.
    """

    def test_check(self) -> None:
        """One SELECT, and nothing else."""
        for good in (DEFAULT_QUERY, "with x as (select 1) select 2;", " SELECT 1"):
            checkQuery(good)
        for bad in ("", "DELETE FROM users", "SELECT 'x", "UPDATE users SET a = 1"):
            self.assertRaises(ValueError, checkQuery, bad)

    def test_turns(self) -> None:
        """A query that names the user is asked once; all others are in turn."""
        for query, wanted in (
            ("SELECT :user", 1),
            ("SELECT :address", 3),
            ("SELECT ':user' || :address", 3),
            ("SELECT :username", 3),
            ("SELECT address::user", 3),
        ):
            asked: list[dict[str, str]] = []
            keys = tableKeys("a+b@example.net")
            row = firstRow(query, keys, lambda names, asked=asked: asked.append(names))
            self.assertIsNone(row)
            self.assertEqual(len(asked), wanted, query)
