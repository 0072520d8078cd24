"""
Tables whose sources are real: SQLite, a web service, Dovecot, PostgreSQL; and what a
client is told when one is away.
"""

from __future__ import annotations

import json
import os
import signal
import smtplib
import sqlite3
import threading
import urllib.parse
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.selectreactor import SelectReactor

from deferrals.interfaces import ITable
from deferrals.model.json import JSON
from deferrals.server.services import Services
from deferrals.stages.tables.dovecot import DovecotTable, DovecotTableSettings
from deferrals.stages.tables.frame import Table, TableSettings
from deferrals.stages.tables.http import HTTPTable, HTTPTableSettings
from deferrals.testing import TableContract, WideTableContract, tableKeys
from tests.integration.databases import Postgresql
from tests.integration.stores import Dovecot
from tests.integration.support import IntegrationCase, Server, takesAll, until

_T = TypeVar("_T")


class SourceCase(IntegrationCase):
    """
    A reactor that turns while a test waits.
    """

    def setUp(self) -> None:
        self.reactor = SelectReactor()
        self.addCleanup(self.reactor.disconnectAll)
        pool = self.reactor.getThreadPool()
        pool.start()
        self.addCleanup(pool.stop)
        self.services = Services(self.reactor, hostname="mx.example.net")

    def resultOf(self, d: Deferred[_T]) -> _T:
        until(lambda: d.called or self.reactor.iterate(0.01), "an answer")
        found: _T = self.successResultOf(d)
        return found

    def ended(self, d: Deferred[object]) -> bool:
        """
        @return: whether it has succeeded.
        """
        return self.resultOf(d.addCallbacks(lambda _: True, lambda _: False))


class DovecotTableTests(SourceCase, TableContract):
    """
    Dovecot's C{userdb}.
    """

    MAIN = """
    auth_username_chars = abcdefghijklmnopqrstuvwxyz0123456789.-_@+
    userdb {
      driver = passwd-file
      args = username_format=%%u %s
    }
    service auth {
      unix_listener $DIR/auth-userdb {
        mode = 0666
      }
    }
    """

    def makeTable(self, rows: dict[str, dict[str, JSON]]) -> ITable:
        people = os.path.join(self.directory(), "people")
        with open(people, "w", encoding="utf-8") as file:
            for user, row in rows.items():
                fields = " ".join(f"userdb_{name}={value}" for name, value in row.items())
                file.write(f"{user}:::::/nowhere::{fields}\n")
        self.dovecot = Dovecot(self, self.MAIN % people)
        self.socket = os.path.join(self.dovecot.directory, "auth-userdb")
        return DovecotTable(DovecotTableSettings(self.socket), self.services)

    def breakTable(self, table: ITable) -> None:
        self.dovecot.stop()

    def test_again(self) -> None:
        """A Dovecot that has been started again is asked, and what it says is text."""
        table = self.makeTable({"a@example.net": {"policy": "strict", "refuse_score": "4.5"}})
        self.dovecot.stop()
        self.dovecot.start()
        row = self.resultOf(table.lookUp(tableKeys("a@example.net")))
        assert row is not None
        wanted = {"login": "a@example.net", "policy": "strict", "refuse_score": "4.5"}
        self.assertEqual({**wanted, **row}, row)

    def test_noUserdb(self) -> None:
        """A socket of another kind is a failure, and no answer."""
        self.makeTable({})
        table = DovecotTable(DovecotTableSettings(self.dovecot.auth), self.services)
        self.assertFalse(self.ended(table.lookUp(tableKeys("fine@example.net"))))


class _Answers(BaseHTTPRequestHandler):
    rows: dict[str, dict[str, JSON]]

    def do_GET(self) -> None:
        row = self.rows.get(urllib.parse.unquote(self.path[1:]))
        body = json.dumps(row).encode()
        self.send_response(404 if row is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing is said of it."""


class WebTableTests(SourceCase, WideTableContract):
    """
    A web service.
    """

    def makeTable(self, rows: dict[str, dict[str, JSON]]) -> ITable:
        handler = type("Handler", (_Answers,), {"rows": rows})
        self.web = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.addCleanup(self.web.server_close)
        threading.Thread(target=self.web.serve_forever, args=(0.01,), daemon=True).start()
        self.addCleanup(self.web.shutdown)
        url = f"http://127.0.0.1:{self.web.server_port}/{{address}}"
        return HTTPTable(HTTPTableSettings(url), self.services)

    def breakTable(self, table: ITable) -> None:
        self.web.shutdown()
        self.web.server_close()


class PostgresqlTableTests(SourceCase, WideTableContract):
    """
    PostgreSQL.
    """

    def makeTable(self, rows: dict[str, dict[str, JSON]], query: str | None = None) -> ITable:
        from deferrals.stages.tables.postgresql import PostgresqlTable, PostgresqlTableSettings

        self.server_ = Postgresql(self)
        self.server_.execute("CREATE TABLE users (address TEXT PRIMARY KEY, value TEXT)")
        values = [(key, row["value"]) for key, row in rows.items()]
        if values:
            self.server_.execute("INSERT INTO users VALUES (%s, %s)", *values)
        more = {} if query is None else {"query": query}
        settings = PostgresqlTableSettings(self.server_.conninfo, **more)
        self.table = PostgresqlTable(settings, self.services)
        self.addCleanup(lambda: [one.close() for one in iter(self.table._kept, None)])
        return self.table

    def breakTable(self, table: ITable) -> None:
        self.server_.kill()

    def test_again(self) -> None:
        """A server that was killed and is there again is asked on a new connection."""
        table = self.makeTable({"a@example.net": {"value": "1"}})
        self.assertEqual(self.found(table, "a@example.net"), "1")
        self.server_.kill()
        self.server_.start()
        self.assertEqual(self.found(table, "a@example.net"), "1")

    def test_kept(self) -> None:
        """One connection serves look-ups that come one after the other."""
        table = self.makeTable({})
        for local in "abc":
            self.assertIsNone(self.found(table, f"{local}@example.net"))
        self.assertEqual(len(self.table._idle), 1)

    def test_types(self) -> None:
        """Values of the server's types are what JSON has."""
        query = (
            "SELECT 1::numeric AS a, 1.5::numeric AS b, DATE '2026-11-29' AS c, ARRAY['x'] AS d,"
            " '{\"k\": [1]}'::jsonb AS e, NULL AS f, :user::text AS g, '%'::text AS h"
        )
        frame = Table("people", self.makeTable({}, query), TableSettings(), self.services)
        row = self.resultOf(frame.lookUp(tableKeys("a+b@example.net")))
        wanted = {"a": 1, "b": 1.5, "c": "2026-11-29", "d": ["x"], "e": {"k": [1]}}
        self.assertEqual(row, {**wanted, "f": None, "g": "a", "h": "%"})


def said(port: int, *recipients: str, user: str = "") -> list[str]:
    """
    @return: what RCPT is answered for each.
    """
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo("client.test")
        client.mail("sender@client.test")
        found = (client.rcpt(f"{one}@example.net") for one in recipients)
        return [f"{code} {text.decode()}" for code, text in found]


class AwayTests(IntegrationCase):
    """
    Our own server, and a client.
    """

    def configured(self, table: str, check: str = "", top: str = "") -> str:
        check = check or '{ use = "users", table = "people", missing = "refuse" }'
        text = takesAll(tables=f"[tables.people]\n{table}\n", top=top)
        return f"{text}check = [ {check} ]\n"

    def test_away(self) -> None:
        """What was known serves; then 451 for that recipient; then it is asked again."""
        server = self.server(
            self.configured('use = "sqlite"\npath = "users.db"\ncache = 0\nstale = 0.5')
        )
        path = os.path.join(server.directory, "users.db")
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE users (address TEXT PRIMARY KEY)")
            database.execute("INSERT INTO users VALUES ('a@example.net')")
        found = [one[:9] for one in said(server.port, "a", "b")]
        self.assertEqual(found, ["250 2.1.5", "550 5.1.1"])
        os.rename(path, f"{path}.away")
        until(lambda: said(server.port, "a")[0].startswith("451"), "451")
        (answer,) = said(server.port, "a")
        wanted = "451 4.3.0 <a@example.net> cannot be looked up now, try again later (id "
        self.assertEqual(answer[: len(wanted)], wanted)
        self.assertRegex(server.log, "table people cannot be asked, so what was known serves")
        os.rename(f"{path}.away", path)
        until(lambda: said(server.port, "a")[0].startswith("250"), "250")
        self.assertIn("table people answers again", server.log)

    def test_file(self) -> None:
        """A file is read again when it has changed; a subaddress is its user's."""
        server = self.server(
            self.configured('use = "file"\npath = "people"\ncache = 0', top='subaddress = "+"')
        )
        path = os.path.join(server.directory, "people")
        denies = '{"deny": "*@client.test"}'
        for text, codes in (
            ("a@example.net: {}\n", ["250", "550", "550"]),
            ("b@example.net: {}\n", ["550", "550", "250"]),
            (f"*@example.net: {{}}\na@example.net: {denies}\n", ["550", "250", "250"]),
        ):
            with open(f"{path}.new", "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(f"{path}.new", path)
            self.assertEqual([one[:3] for one in said(server.port, "a", "a-x", "b")], codes)
            codes[1] = codes[0]
            self.assertEqual([one[:3] for one in said(server.port, "a", "a+x", "b")], codes)

    def test_reload(self) -> None:
        """After a reload rows are asked for anew, and a table may be another one."""
        text = self.configured('use = "file"\npath = "people"\ncache = "1h"')
        server = self.server(text)
        for count, (people, name) in enumerate(
            (("a", "people"), ("b", "people"), ("c", "folk")), 1
        ):
            with open(os.path.join(server.directory, name), "w", encoding="utf-8") as file:
                file.write(f"{people}@example.net: {{}}\n")
            with open(server.path, "w", encoding="utf-8") as file:
                file.write(text.replace('path = "people"', f'path = "{name}"'))
            os.kill(server.process.process.pid, signal.SIGHUP)
            self.reloaded(server, count)
            found = [one[:3] for one in said(server.port, "a", "b", "c")]
            self.assertEqual(found, ["250" if one == people else "550" for one in "abc"])

    def reloaded(self, server: Server, count: int) -> None:
        until(lambda: server.log.count("configuration reloaded") == count, "a reload")

    def test_stopped(self) -> None:
        """
        A PostgreSQL that stands still: recipients are answered 451 in time, what is
        known serves, and the server can be stopped meanwhile.
        """
        postgresql = Postgresql(self)
        postgresql.execute("CREATE TABLE users (address TEXT PRIMARY KEY)")
        postgresql.execute("INSERT INTO users VALUES ('a@example.net')")
        table = f'use = "postgresql"\nconninfo = "{postgresql.conninfo}"\ntimeout = 1\ncache = 0'
        server = self.server(self.configured(table))
        self.assertEqual([one[:3] for one in said(server.port, "a", "b")], ["250", "550"])
        with postgresql.halted():
            self.assertEqual([one[:3] for one in said(server.port, "a", "c")], ["250", "451"])
            self.assertIn(server.process.stop(), (0, -signal.SIGTERM))
