"""
The tables that a server has, by name.
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from deferrals.errors import TableError
from deferrals.interfaces import ITable
from deferrals.model.tablekeys import TableKeys, TableRow


class Tables:
    """
    The tables of this moment: others may be set at any time, and what looks up in one
    need not know of it.
    """

    def __init__(self) -> None:
        self.now: Mapping[str, ITable] = {}

    def named(self, name: str) -> ITable:
        """
        @return: the table that has this name when it is asked.
        """
        return _NamedTable(name, self)


@implementer(ITable)
class _NamedTable:
    """
    Whatever table has a name.
    """

    def __init__(self, name: str, tables: Tables) -> None:
        self._name = name
        self._tables = tables

    def lookUp(self, keys: TableKeys) -> Deferred[TableRow | None]:
        table = self._tables.now.get(self._name)
        if table is None:
            return fail(TableError(f"no table is named {self._name!r}"))
        return table.lookUp(keys)
