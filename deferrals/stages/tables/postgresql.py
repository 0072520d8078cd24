"""
The table C{postgresql}: a PostgreSQL server, asked in threads.  It needs the package
C{psycopg}, which the extra C{postgresql} brings.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, TypeAlias

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.interfaces import IServices, ITable
from deferrals.model.settings import BadSetting, checked
from deferrals.model.tablekeys import TableKeys, TableRow
from deferrals.postgresql import Link, checkConninfo, hasDriver
from deferrals.stages.remote import AboutMessage
from deferrals.stages.tables.query import DEFAULT_QUERY, NAME, checkQuery, firstRow
from deferrals.threads import Threads

_Link: TypeAlias = Link[dict[str, Any]]

#: Connections to the server, and look-ups at once.
CONNECTIONS = 4

#: A connection is made, and a query answered, within so many seconds: who has asked
#: waits no longer than C{timeout}.
SECONDS = 10


@attrs.frozen
class PostgresqlTableSettings:
    """
    @ivar conninfo: how the server is reached, as C{libpq} has it: C{"host=db
        dbname=mail user=deferrals"}, or a URL.  What is not said there is taken from the
        environment, and passwords from C{~/.pgpass}, or the file that C{passfile} names.
    @ivar query: the SELECT that gives a row; C{:address}, C{:local} and C{:domain}
        stand for the address, in lower case, C{:user} for its local part without a
        subaddress.  The first row counts.
    """

    conninfo: str
    query: str = attrs.field(default=DEFAULT_QUERY, validator=checked(checkQuery))

    def __attrs_post_init__(self) -> None:
        if not hasDriver():
            raise BadSetting("use", 'another kind, or: pip install "deferrals[postgresql]"')
        try:
            checkConninfo(self.conninfo)
        except ValueError as error:
            why = f" ({error})" if str(error) else ""
            raise BadSetting("conninfo", f"a connection string of libpq{why}") from None


@attrs.define(eq=False)
class _LookUp:
    """
    One look-up.

    @ivar isOver: whether it is not waited for any longer.
    """

    link: _Link | None = None
    isOver: bool = False

    def on(self, link: _Link) -> _Link:
        """
        It waits for an answer on this connection.
        """
        self.link = link
        if self.isOver:
            link.cut()
        return link

    def end(self, failure: Failure) -> Failure:
        """
        It has failed, or is not waited for any longer: nor does its thread wait.
        """
        self.isOver = True
        if self.link is not None:
            self.link.cut()
        return failure


@implementer(ITable)
class PostgresqlTable:
    """
    See the module.  Connections are kept.  When one of those fails the server may have
    been restarted: all are closed, and the question is asked once more on a new one.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: PostgresqlTableSettings, services: IServices) -> None:
        self._settings = settings
        self._query = placed(settings.query)
        self._threads = Threads(services.inThread, CONNECTIONS)
        self._idle: deque[_Link] = deque()

    def lookUp(self, keys: TableKeys) -> Deferred[TableRow | None]:
        asking = _LookUp()
        return self._threads.run(self._find, keys, asking).addErrback(asking.end)

    def _find(self, keys: TableKeys, asking: _LookUp) -> TableRow | None:
        """
        In a thread.
        """
        import psycopg

        kept = self._kept()
        if kept is not None:
            try:
                return self._ask(asking.on(kept), keys)
            except psycopg.OperationalError:
                if asking.isOver:
                    raise
                for other in iter(self._kept, None):
                    other.close()
        link = asking.on(self._connected())
        self._prepare(link)
        return self._ask(link, keys)

    def _kept(self) -> _Link | None:
        try:
            return self._idle.pop()
        except IndexError:  # other threads take from it, too
            return None

    def _connected(self) -> _Link:
        import psycopg
        from psycopg.rows import dict_row

        return _Link(
            psycopg.connect(
                self._settings.conninfo,
                autocommit=True,
                connect_timeout=SECONDS,
                prepare_threshold=None,  # there may be a pooler in between
                row_factory=dict_row,
            )
        )

    def _prepare(self, link: _Link) -> None:
        """
        The first query may be the first that the server hears of it: a pooler lets
        clients in before it has one.
        """
        try:
            link.connection.execute(f"SET statement_timeout = {SECONDS * 1000}")
        except BaseException:
            link.close()
            raise

    def _ask(self, link: _Link, keys: TableKeys) -> TableRow | None:
        """
        @raise AboutMessage: the query cannot be asked of this address, which may have
            characters that the database's encoding has not.
        """

        def find(names: dict[str, str]) -> TableRow | None:
            return link.connection.execute(self._query, names).fetchone()

        import psycopg

        try:
            row = firstRow(self._settings.query, keys, find)
        except (psycopg.DataError, UnicodeError) as error:
            self._idle.append(link)
            raise AboutMessage(f"{type(error).__name__}: {error}") from None
        except BaseException:
            link.close()
            raise
        self._idle.append(link)
        return row


def placed(query: str) -> bytes:
    """
    @return: a query with the names as C{psycopg} has them.
    """

    def name(found: re.Match[str]) -> str:
        return found[0] if found[1] is None else f"%({found[1]})s"

    return NAME.sub(name, query.replace("%", "%%")).encode()
