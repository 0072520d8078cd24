"""
The table C{postgresql}, as far as it goes without a server;
L{tests.integration.test_tables} has a real one.
"""

from __future__ import annotations

import importlib.util
import socket

import psycopg
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.settings import BadSetting
from deferrals.stages.remote import AboutMessage
from deferrals.stages.tables.postgresql import (
    PostgresqlTable,
    PostgresqlTableSettings,
    _Link,
    _LookUp,
    placed,
)
from deferrals.testing import FakeServices, tableKeys


def _raise(error: Exception) -> None:
    raise error


class Pooler:
    """
    A connection to a pooler that has let the client in, and has no server for it: who
    asks gives up meanwhile.
    """

    def __init__(self, asking: _LookUp) -> None:
        self._asking = asking
        self._ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.asked: list[str] = []
        self.heard = b"nothing"
        self.isClosed = False

    def fileno(self) -> int:
        return self._ours.fileno()

    def execute(self, query: str, names: object = None) -> None:
        self.asked.append(query)
        self._asking.end(Failure(CancelledError()))
        self.heard = self.theirs.recv(1)
        raise psycopg.OperationalError("the connection is closed")

    def close(self) -> None:
        self.isClosed = True
        self._ours.close()


class PostgresqlTests(SynchronousTestCase):
    """
    L{PostgresqlTableSettings} and L{placed}.
    """

    def test_placed(self) -> None:
        """Names become parameters; what is between quotes, and casts, stay."""
        for query, wanted in (
            ("SELECT :address", b"SELECT %(address)s"),
            ("SELECT ':user' || :user", b"SELECT ':user' || %(user)s"),
            ("SELECT x::user, :domain::text", b"SELECT x::user, %(domain)s::text"),
            ("SELECT :users, 5 % 2, 'it''s :local'", b"SELECT :users, 5 %% 2, 'it''s :local'"),
        ):
            self.assertEqual(placed(query), wanted)

    def test_poolerIsSilent(self) -> None:
        """
        Whoever gives up waits for no query, the first one on a connection included: its
        thread would keep the server from stopping.
        """
        asking = _LookUp()
        pooler = Pooler(asking)
        self.addCleanup(pooler.theirs.close)
        self.patch(psycopg, "connect", lambda *args, **more: pooler)
        table = PostgresqlTable(PostgresqlTableSettings("dbname=x"), FakeServices())
        find = table._find
        self.assertRaises(psycopg.OperationalError, find, tableKeys("a@b.example"), asking)
        self.assertEqual((len(pooler.asked), pooler.heard, pooler.isClosed), (1, b"", True))

    def test_aboutAddress(self) -> None:
        """
        An address that the database cannot have says nothing of the server: senders
        name such ones as they like.  The connection is kept.
        """
        table = PostgresqlTable(PostgresqlTableSettings("dbname=x"), FakeServices())
        for error in (UnicodeEncodeError("latin-1", "\u4e2d", 0, 1, ""), psycopg.DataError("no")):
            pooler = Pooler(_LookUp())
            self.addCleanup(pooler.theirs.close)
            self.patch(pooler, "execute", lambda *args, error=error: _raise(error))
            link = _Link(pooler)
            self.assertRaises(AboutMessage, table._ask, link, tableKeys("a@b.example"))
            self.assertIs(table._kept(), link)
            link.close()

    def problem(self, **settings: str) -> tuple[str, str]:
        error = self.assertRaises(BadSetting, PostgresqlTableSettings, **settings)
        return error.key, str(error)

    def test_settings(self) -> None:
        """What cannot be is said by its key."""
        PostgresqlTableSettings("host=db dbname=mail")
        PostgresqlTableSettings("postgresql://db/mail", "SELECT 1")
        key, expected = self.problem(conninfo="nonsense")
        self.assertEqual(key, "conninfo")
        self.assertEqual(len(expected.splitlines()), 1)
        self.assertEqual(self.problem(conninfo="dbname=x", query="DROP x")[0], "query")

    def test_notInstalled(self) -> None:
        """Without the package the configuration says what brings it."""
        self.patch(importlib.util, "find_spec", lambda name: None)
        key, expected = self.problem(conninfo="dbname=x")
        self.assertEqual(key, "use")
        self.assertIn('pip install "deferrals[postgresql]"', expected)
