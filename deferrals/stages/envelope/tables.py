"""
Where the table of users is: in a SQLite file, or behind an HTTP look-up.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers

from deferrals.errors import StageError
from deferrals.interfaces import IServices
from deferrals.model.address import Mailbox, comparable
from deferrals.stages.remote import RemoteService
from deferrals.stages.web import fromJSON, shownURL, webClient

#: Look-ups at once: the thread pool has other things to do, too.
SQLITE_CONCURRENCY = 4
WEB_CONCURRENCY = 50

#: How many of SQLite's steps there are between two checks of the clock.
PROGRESS_STEPS = 10_000

DEFAULT_QUERY = (
    "SELECT * FROM users WHERE address IN (:address, :user || '@' || :domain, '*@' || :domain)"
    " ORDER BY address = :address DESC, address = :user || '@' || :domain DESC LIMIT 1"
)


#: What a table says of a recipient: values of any type, by column.
Row: TypeAlias = Mapping[str, Any]


class Table(Protocol):
    """
    Where what recipients have set is looked up.
    """

    def find(self, address: Mailbox, user: str | None = None) -> Deferred[Row | None]:
        """
        @param user: its local part without a subaddress; C{None} for the whole.
        @return: a Deferred of a recipient's row; C{None}, where there is none.
        """


def checkQuery(value: str) -> None:
    """
    For L{checked<deferrals.model.settings.checked>}.
    """
    if not value.lstrip().lower().startswith(("select", "with")) or not sqlite3.complete_statement(
        value.rstrip().rstrip(";") + ";"
    ):
        raise ValueError("one SELECT")


def _named(address: Mailbox, user: str | None) -> dict[str, str]:
    """
    What a query or a URL may say of a recipient.
    """
    return {
        "user": comparable(address.local if user is None else user),
        "address": address.key,
        "local": comparable(address.local),
        "domain": address.domain,
    }


class SqliteTable:
    """
    @param path: relative to the configuration's directory.
    @param query: see L{UsersSettings<deferrals.stages.envelope.users.UsersSettings>}.
    @param seconds: for one look-up.
    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, path: str, query: str, seconds: float, services: IServices) -> None:
        self._path = os.path.abspath(os.path.join(services.baseDir, path))
        self._query = query
        self._seconds = seconds
        self._inThread = services.inThread
        name = f"users {path}"
        self._remote = services.common(
            (__name__, self._path), lambda: RemoteService(name, services, SQLITE_CONCURRENCY)
        )

    def find(self, address: Mailbox, user: str | None = None) -> Deferred[Row | None]:
        """See L{Table}."""
        names = _named(address, user)
        return self._remote.ask(self._seconds, self._inThread, self._find, names)

    def _find(self, names: dict[str, str]) -> Row | None:
        """
        Ask (in a thread).  Whatever file has the name now is opened: it may
        have been replaced.

        @raise sqlite3.Error: there is none, or it took too long.
        """
        uri = f"file:{urllib.parse.quote(self._path)}?mode=ro"
        end = time.monotonic() + self._seconds
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=self._seconds)) as database:
            database.set_progress_handler(lambda: time.monotonic() > end, PROGRESS_STEPS)
            database.row_factory = sqlite3.Row
            row = database.execute(self._query, names).fetchone()
            return None if row is None else dict(row)


class WebTable:
    """
    @param url: see L{UsersSettings<deferrals.stages.envelope.users.UsersSettings>}.
    @param seconds: for one look-up.
    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, url: str | None, seconds: float, services: IServices) -> None:
        self._url = url or ""
        self._seconds = seconds
        name = f"users {shownURL(self._url)}"
        self._remote = services.common(
            (__name__, self._url), lambda: RemoteService(name, services, WEB_CONCURRENCY)
        )
        self._web = webClient(services, WEB_CONCURRENCY)

    def find(self, address: Mailbox, user: str | None = None) -> Deferred[Row | None]:
        """See L{Table}."""
        return self._remote.ask(self._seconds, self._find, _named(address, user))

    async def _find(self, named: dict[str, str]) -> Row | None:
        names = {key: urllib.parse.quote(value, safe="") for key, value in named.items()}
        status, body = await self._web.request("GET", self._url.format(**names), Headers())
        if status == 404:
            return None
        answer = fromJSON(status, body)
        if not isinstance(answer, dict):
            raise StageError("the answer is no object")
        return answer
