"""
The tables that a server has.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import TableError
from deferrals.interfaces import ITable
from deferrals.model.tablekeys import TableKeys, TableRow
from deferrals.server.tables import Tables
from deferrals.testing import tableKeys


@implementer(ITable)
class Always:
    """
    A table that says the same of all.
    """

    def __init__(self, value: str) -> None:
        self.value = value

    def lookUp(self, keys: TableKeys) -> Deferred[TableRow | None]:
        return succeed({"value": self.value})


class TablesTests(SynchronousTestCase):
    """
    L{Tables}.
    """

    def test_named(self) -> None:
        """What has a name now is asked, whenever the name was given."""
        tables, keys = Tables(), tableKeys("a@example.net")
        people = tables.named("people")
        error = self.failureResultOf(people.lookUp(keys), TableError)
        self.assertEqual(str(error.value), "no table is named 'people'")
        for value in ("one", "two"):
            tables.now = {"people": Always(value)}
            self.assertEqual(self.successResultOf(people.lookUp(keys)), {"value": value})
