"""
Where C{users} and C{[submission]} look up: in one of C{[tables]}, or in a table of
their own, which needs no name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs

from deferrals.interfaces import IServices, ITable
from deferrals.model.settings import BadSetting, Seconds, TableName, checked, positive
from deferrals.stages.tables.frame import Table, TableSettings
from deferrals.stages.tables.http import HTTPTable, HTTPTableSettings, checkURL
from deferrals.stages.tables.query import DEFAULT_QUERY, checkQuery
from deferrals.stages.tables.sqlite import SqliteTable, SqliteTableSettings
from deferrals.stages.web import shownURL

_S = TypeVar("_S")


@attrs.frozen(kw_only=True)
class OwnTable:
    """
    At most one of C{table}, C{sqlite} and C{url} says where rows are.

    @ivar table: the name of one of C{[tables]}; the keys below are for a table of its
        own.
    @ivar sqlite: a SQLite file.
    @ivar query: the SELECT that gives a row; C{:address}, C{:local} and C{:domain}
        stand for the address, in lower case, C{:user} for its local part without a
        subaddress.  The first row counts.
    @ivar url: answers GET with a JSON object, or with 404; C{{address}},
        C{{local}}, C{{domain}} and C{{user}} stand in it for the address, quoted.
    @ivar timeout: for one look-up.
    @ivar cache: how long a row, or its absence, is remembered; for one more hour it
        serves while the table cannot be asked.
    @ivar cache_entries: how many are remembered.
    """

    table: TableName | None = None
    sqlite: str | None = None
    query: str = attrs.field(default=DEFAULT_QUERY, validator=checked(checkQuery))
    url: str | None = attrs.field(default=None, validator=checked(checkURL))
    timeout: Seconds = attrs.field(default=Seconds(5.0), validator=checked(positive))
    cache: Seconds = Seconds(60.0)
    cache_entries: int = attrs.field(default=100_000, validator=checked(positive))

    def __attrs_post_init__(self) -> None:
        self.checkPlaces(0)

    def checkPlaces(self, least: int) -> None:
        """
        @param least: so many places have to be named.
        @raise BadSetting: there are less, or more than one.
        """
        named = [name for name in ("sqlite", "url", "table") if getattr(self, name) is not None]
        if not least <= len(named) <= 1:
            raise BadSetting(named[0] if named else "table", "one of table, sqlite and url")
        for field in attrs.fields(OwnTable):
            if self.table and field.name != "table" and getattr(self, field.name) != field.default:
                raise BadSetting(field.name, f"this key in [tables.{self.table}], and not here")

    def opened(self, services: IServices) -> ITable | None:
        """
        @return: one table for all that say the same; C{None} where there is none.
        """
        if self.table is not None:
            return services.table(self.table)
        if self.sqlite is not None:
            stored = SqliteTableSettings(self.sqlite, self.query)
            return self._framed(self.sqlite, stored, SqliteTable, services)
        if self.url is not None:
            asked = HTTPTableSettings(self.url)
            return self._framed(shownURL(self.url), asked, HTTPTable, services)
        return None

    def _framed(
        self, name: str, settings: _S, make: Callable[[_S, IServices], ITable], services: IServices
    ) -> ITable:
        frame = TableSettings(
            timeout=self.timeout, cache=self.cache, cache_entries=self.cache_entries
        )
        return services.common(
            (__name__, settings, frame),
            lambda: Table(name, make(settings, services), frame, services),
        )
