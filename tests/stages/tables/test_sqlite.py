"""
The table C{sqlite}.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import ITable
from deferrals.model.json import JSON
from deferrals.stages.tables import sqlite
from deferrals.stages.tables.sqlite import SqliteTable, SqliteTableSettings
from deferrals.testing import FakeServices, WideTableContract, tableKeys


class SqliteTableTests(WideTableContract, SynchronousTestCase):
    """
    L{SqliteTable}.
    """

    def makeTable(self, rows: dict[str, dict[str, JSON]], **settings: str) -> ITable:
        self.path = os.path.abspath(self.mktemp())
        self.fill(self.path, rows)
        name = os.path.basename(self.path)
        services = FakeServices(os.path.dirname(self.path))
        return SqliteTable(SqliteTableSettings(name, **settings), services)

    def fill(self, path: str, rows: dict[str, dict[str, JSON]]) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE users (address TEXT PRIMARY KEY, value)")
            values = [(key, row["value"]) for key, row in rows.items()]
            database.executemany("INSERT INTO users VALUES (?, ?)", values)

    def breakTable(self, table: ITable) -> None:
        os.unlink(self.path)

    def value(self, table: ITable, address: str) -> JSON:
        row = self.resultOf(table.lookUp(tableKeys(address)))
        return None if row is None else row["value"]

    def test_replaced(self) -> None:
        """A file that another one replaces is read anew; a look-up makes none."""
        table = self.makeTable({"a@example.net": {"value": 1}})
        self.assertEqual(self.value(table, "a@example.net"), 1)
        self.fill(f"{self.path}.new", {"a@example.net": {"value": 2}})
        os.replace(f"{self.path}.new", self.path)
        self.assertEqual(self.value(table, "a@example.net"), 2)
        os.unlink(self.path)
        self.failureResultOf(table.lookUp(tableKeys("a@example.net")), sqlite3.Error)
        self.assertFalse(os.path.exists(self.path))

    def test_notUTF8(self) -> None:
        """A text that is not UTF-8 is text all the same, as elsewhere."""
        table = self.makeTable({})
        with contextlib.closing(sqlite3.connect(self.path)) as database, database:
            database.execute("INSERT INTO users VALUES ('a@example.net', CAST(x'ff41' AS TEXT))")
        self.assertEqual(self.value(table, "a@example.net"), "\ufffdA")

    def test_injection(self) -> None:
        """Anything may stand in an address."""
        table = self.makeTable({"*@example.net": {"value": 9}})
        self.assertEqual(self.value(table, '"\' OR 1=1 --"@example.net'), 9)

    def test_ownQuery(self) -> None:
        """A query without C{:user} is asked in turn."""
        rows: dict[str, dict[str, JSON]] = {
            "anna@example.net": {"value": 1},
            "*@example.net": {"value": 2},
        }
        table = self.makeTable(rows, query="SELECT value FROM users WHERE address = :address")
        self.assertEqual(self.value(table, "anna+lists@example.net"), 1)
        self.assertEqual(self.value(table, "bob@example.net"), 2)

    def test_endless(self) -> None:
        """A query that does not end is ended."""
        self.patch(sqlite, "QUERY_SECONDS", 0.05)
        query = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
            " SELECT count(*) AS value FROM n"
        )
        table = self.makeTable({}, query=query)
        self.failureResultOf(table.lookUp(tableKeys("a@example.net")), sqlite3.OperationalError)
