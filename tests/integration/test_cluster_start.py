"""
Servers that start before the database is there: as after a power cut.
"""

from __future__ import annotations

import os
import signal
import smtplib
import socket
from typing import Any

from tests.integration.clusters import Instance
from tests.integration.support import MAILDIR, PATIENCE, Server, cli, takesAll, until
from tests.integration.test_cluster_queue import QueueCase

_WAITS = "no mail is taken until the database is there"

_NOTES = """
[spool]
notes = "postgresql"
conninfo = "{conninfo}"
"""

#: Everybody of this machine without a password; but for one.
_RULES = """
host all guarded 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
local all all trust
"""


class StartCase(QueueCase):
    """
    One database, which is away at first.
    """

    options: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.instance = Instance(*self.options)
        self.addCleanup(self.instance.remove)

    def waiting(self, top: str = "", times: int = 1) -> Server:
        """
        A server that waits for it, or so many workers.
        """
        server = self.machine(self.instance.conninfo, "mail", "one", top=top)
        until(lambda: server.log.count(_WAITS) == times, lambda: server.log)
        return server

    def takes(self, server: Server, count: int = 1) -> None:
        """
        Mail is taken, and delivered.
        """
        until(lambda: self.ready() == 200, lambda: server.log)
        self.assertEqual(self.bring(server, "lover")[0], 250, server.log)
        server.arrived("lover", count)
        self.assertNotIn("Traceback", server.log)


class WaitTests(StartCase):
    """
    It comes later.
    """

    def test_comes(self) -> None:
        """
        The server is there, says once that it waits, and takes no mail; commands do not
        wait.  It takes mail as soon as the database is there, and was not started again.
        """
        self.instance.stop()
        server = self.waiting()
        with smtplib.SMTP() as client:
            code, text = client.connect("127.0.0.1", server.port)
            self.assertEqual((code, text[:6]), (421, b"4.3.2 "))
        self.assertEqual(self.ready(), 503)
        listed = cli("queue", "list", "-c", server.path)
        self.assertEqual(listed.returncode, 2, listed.stdout)
        self.assertIn("Connection refused", listed.stderr)
        self.assertEqual(cli("check-config", server.path).returncode, 0)
        reloaded = cli("reload", "-c", server.path)
        self.assertEqual(reloaded.returncode, 0, reloaded.stderr)
        self.assertEqual(server.log.count("the database is away"), 1, server.log)
        self.instance.start()
        self.takes(server)
        self.assertIn("the database is back", server.log)

    def test_starting(self) -> None:
        """A database that takes connections, and answers none yet, is waited for, too."""
        with self.instance.halted():
            server = self.waiting()
            self.assertEqual(self.ready(), 503)
        self.takes(server)

    def test_stops(self) -> None:
        """SIGTERM ends a server that waits, or is about to, as any other."""
        self.instance.stop()
        servers = [self.waiting(), self.machine(self.instance.conninfo, "mail", "two")]
        servers.append(self.waiting("workers = 2", 2))
        for server in servers:
            server.process.process.send_signal(signal.SIGTERM)
            code = server.process.process.wait(PATIENCE)
            self.assertIn(code, (0, -signal.SIGTERM), server.log)
            for word in ("Traceback", "cannot run"):
                self.assertNotIn(word, server.log)

    def test_workers(self) -> None:
        """All workers wait, and none is begun again."""
        self.instance.stop()
        server = self.waiting("workers = 2", 2)
        self.assertEqual(self.ready(), 503)
        self.instance.start()
        self.takes(server)
        self.assertEqual(server.log.count("is starting"), 2, server.log)

    def test_ready(self) -> None:
        """The service manager hears that it has started, and its watchdog that it turns."""
        self.instance.stop()
        path = os.path.join(self.directory(), "notify")
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.bind(path)
        manager.settimeout(PATIENCE)
        for name, value in (("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "300000")):
            self.patch(os, "environ", {**os.environ, name: value})
        self.waiting()
        told = [manager.recv(999).decode().partition("\n")[0] for _ in range(4)]
        self.assertIn("READY=1", told)
        self.assertGreaterEqual(told.count("WATCHDOG=1"), 2)

    def test_notes(self) -> None:
        """With a queue of its own a server takes mail without the database."""
        self.instance.stop()
        table = _NOTES.format(conninfo=self.instance.conninfo)
        server = self.server(takesAll(MAILDIR, tables=table))
        self.assertEqual(self.bring(server, "lover")[0], 250, server.log)
        server.arrived("lover")


class RefusedTests(StartCase):
    """
    It is there, and says no.
    """

    def conninfos(self) -> dict[str, str]:
        """
        Some that are wrong, by what is said of them.
        """
        conninfo = self.instance.conninfo
        user, password = "user=mail", "password=wrong"
        return {
            "password authentication failed": f"{conninfo} {password}".replace(
                user, "user=guarded"
            ),
            "no password supplied": conninfo.replace(user, "user=guarded"),
            'database "nobody" does not exist': conninfo.replace("postgres", "nobody"),
            'role "nobody" does not exist': conninfo.replace(user, "user=nobody"),
        }

    def test_lasting(self) -> None:
        """What waiting does not mend ends the start, whatever is in the database."""
        self.instance.ask("CREATE ROLE guarded LOGIN PASSWORD 'right'")
        self.guard()
        for text, conninfo in self.conninfos().items():
            tables = _NOTES.format(conninfo=conninfo)
            for server in (
                self.machine(conninfo, "mail", "one"),
                self.server(takesAll(MAILDIR, tables=tables)),
            ):
                self.assertEqual(server.process.process.wait(PATIENCE), 1, server.log)
                (line,) = (one for one in server.log.splitlines() if "cannot run" in one)
                self.assertIn(text, line)

    def guard(self) -> None:
        with open(os.path.join(self.instance.data, "pg_hba.conf"), "w") as file:
            file.write(_RULES)
        self.instance.stop()
        self.instance.start()

    def test_later(self) -> None:
        """Once it waits, that is said, and tried again until somebody has mended it."""
        self.guard()
        self.instance.stop()
        conninfo = self.instance.conninfo.replace("user=mail", "user=guarded")
        server = self.machine(f"{conninfo} password=right", "mail", "one")
        until(lambda: _WAITS in server.log, lambda: server.log)
        self.instance.start()
        wrong = "the database cannot be used"
        until(lambda: wrong in server.log, lambda: server.log)
        self.instance.ask("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'right'")
        self.takes(server)
        self.assertEqual(server.log.count(wrong), 1, server.log)


class FullTests(StartCase):
    """
    It is there, and has no connection left.
    """

    options = ("max_connections=5", "superuser_reserved_connections=1")

    def test_full(self) -> None:
        """That passes: it is waited for."""
        import psycopg

        held: list[Any] = [psycopg.connect(self.instance.conninfo) for _ in range(5)]
        try:
            server = self.waiting()
        finally:
            for one in held:
                one.close()
        self.takes(server)
