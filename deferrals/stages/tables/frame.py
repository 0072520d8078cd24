"""
The frame of all tables: what a kind of table need not know.

A row, or its absence, is remembered for a while, so many of them.  Those who ask
for the same at the same time share one look-up.  A look-up has a deadline; a source
that fails again and again is left alone (L{deferrals.stages.remote}).  Meanwhile what
was known serves, up to a limit; then a look-up fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import attrs
from cachetools import LRUCache
from twisted.internet.defer import CancelledError, Deferred, succeed
from zope.interface import implementer

from deferrals.deferreds import TimeoutError, UnderWay
from deferrals.errors import TableError
from deferrals.interfaces import IServices, ITable
from deferrals.logger import Logger
from deferrals.model.json import JSON
from deferrals.model.settings import Seconds, checked, positive
from deferrals.model.tablekeys import TableKeys, TableRow
from deferrals.stages.remote import AboutMessage, RemoteService

_log = Logger(namespace="deferrals.tables")

#: Look-ups in one table at once; the others wait within their deadline.
CONCURRENCY = 50


@attrs.frozen(kw_only=True)
class TableSettings:
    """
    What each table has, whatever its kind.

    @ivar timeout: for one look-up.
    @ivar cache: how long a row, or its absence, is remembered.
    @ivar cache_entries: how many are remembered.
    @ivar stale: how much longer what was known serves while the source cannot be
        asked.  Then its recipients are answered 451.
    """

    timeout: Seconds = attrs.field(default=Seconds(5.0), validator=checked(positive))
    cache: Seconds = Seconds(60.0)
    cache_entries: int = attrs.field(default=100_000, validator=checked(positive))
    stale: Seconds = Seconds(3600.0)


@attrs.define
class _Known:
    """
    @ivar row: C{None}, where there is none.
    @ivar asked: when that was asked for.
    """

    row: TableRow | None
    asked: float


@implementer(ITable)
class Table:
    """
    A table as stages have it.

    @param name: for the log and the status.
    @param source: asks, and does nothing else.
    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(
        self, name: str, source: ITable, settings: TableSettings, services: IServices
    ) -> None:
        self._name = f"table {name}"
        self._source = source
        self._settings = settings
        self._clock = services.reactor
        self._status = services.status
        self._remote = RemoteService(self._name, services, CONCURRENCY)
        self._known: LRUCache[TableKeys, _Known] = LRUCache(settings.cache_entries)
        self._underWay: UnderWay[TableRow | None] = UnderWay()
        self._renewed = float("-inf")
        self._isAway = False

    def lookUp(self, keys: TableKeys) -> Deferred[TableRow | None]:
        known = self._known.get(keys)
        if known is not None and self._isFresh(known):
            return succeed(known.row)
        return Deferred.fromCoroutine(self._lookUp(keys))

    def renew(self) -> None:
        """
        Ask anew for all that is known: it may have changed.
        """
        self._renewed, self._underWay = self._clock.seconds(), UnderWay()

    def _isFresh(self, known: _Known) -> bool:
        age = self._clock.seconds() - known.asked
        return age < self._settings.cache and known.asked > self._renewed

    async def _lookUp(self, keys: TableKeys) -> TableRow | None:
        try:
            return await self._shared(keys)
        except CancelledError:
            raise
        except Exception as error:
            return self._stale(keys, error)

    def _stale(self, keys: TableKeys, error: Exception) -> TableRow | None:
        """
        What was known serves.

        @raise TableError: nothing is known, or it is too old.
        """
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, TimeoutError):
            why = f"no answer within {self._settings.timeout:g} s"
        if not self._isAway and not isinstance(error, AboutMessage):
            self._isAway = True
            _log.warn(
                "{name} cannot be asked, so what was known serves for {seconds} s: {error}",
                name=self._name,
                seconds=self._settings.stale,
                error=why,
            )
        known, most = self._known.get(keys), self._settings.cache + self._settings.stale
        if known is None or self._clock.seconds() - known.asked >= most:
            raise TableError(f"{self._name} cannot be asked: {why}") from error
        self._status.count(self._name, "stale")
        return known.row

    def _shared(self, keys: TableKeys) -> Deferred[TableRow | None]:
        """
        There is one look-up at a time for each key.
        """
        return self._underWay.wait(keys, lambda: Deferred.fromCoroutine(self._ask(keys)))

    async def _ask(self, keys: TableKeys) -> TableRow | None:
        asked = self._clock.seconds()
        row = await self._remote.ask(self._settings.timeout, self._question, keys)
        self._known[keys] = _Known(row, asked)
        if self._isAway:
            self._isAway = False
            _log.info("{name} answers again", name=self._name)
        return row

    async def _question(self, keys: TableKeys) -> TableRow | None:
        """
        @raise TableError: the answer is no row.
        @raise AboutMessage: this row cannot be read.
        """
        row: object = await self._source.lookUp(keys)
        if row is None:
            return None
        if not isinstance(row, Mapping):
            raise TableError(f"expected a row, not {type(row).__name__}")
        try:
            return {str(column): plain(value) for column, value in row.items()}
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise AboutMessage(f"a row with {type(error).__name__}: {error}") from None


def plain(value: object) -> JSON:
    """
    A value of a column as JSON has it; what it has no word for is text.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, Decimal):
        isWhole = value.is_finite() and value == value.to_integral_value()
        return int(value) if isWhole else float(value)
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return str(value)
