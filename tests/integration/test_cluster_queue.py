"""
Servers whose queue is in a real PostgreSQL: what operators see, while the database is
there and while it is away.
"""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import urllib.error
import urllib.request

from tests.integration.clusters import Instance, Wire, primary
from tests.integration.support import MAILDIR, IntegrationCase, Server, cli, takesAll, until
from tests.ports import freePort

TABLES = """
[web]
endpoint = "tcp:{web}:interface=127.0.0.1"

[spool]
use = "postgresql"
conninfo = "{conninfo}"
schema = "{schema}"
machine = "{machine}"
lease = 2
timeout = 1
"""


class QueueCase(IntegrationCase):
    """
    Servers of one queue.
    """

    def machine(
        self, conninfo: str, schema: str, name: str, deliver: str = MAILDIR, top: str = ""
    ) -> Server:
        """
        One of them.
        """
        self.web = freePort()
        table = TABLES.format(web=self.web, conninfo=conninfo, schema=schema, machine=name)
        return self.server(takesAll(deliver, top=top, tables=table))

    def bring(self, server: Server, *locals_: str) -> tuple[int, bytes]:
        """
        Bring a message.

        @return: the first refusal, or the final reply.
        """
        (port, *_) = re.findall(r"listening on 127\.0\.0\.1:(\d+) for smtp", server.log)
        with smtplib.SMTP("127.0.0.1", int(port), timeout=60) as client:
            client.ehlo("client.test")
            replies = [client.mail("me@client.test")]
            replies += [client.rcpt(f"{one}@example.net") for one in locals_]
            for code, text in replies:
                if code != 250:
                    return code, text
            return client.data(b"Subject: a test\r\n\r\nhello\r\n")

    def ready(self) -> int:
        """
        What the last server says of itself.
        """
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/readyz", timeout=30) as found:
                return int(found.status)
        except urllib.error.HTTPError as error:
            return error.code


class QueueTests(QueueCase):
    """
    One database.
    """

    def test_away(self) -> None:
        """
        While the database is killed, halted, or behind a wire that swallows everything, new
        mail is 452 4.3.1, and /readyz says no; sessions stay.  It is taken again when the
        database is back; the server was not started again, and every 250 is delivered once.
        """
        instance = Instance()
        self.addCleanup(instance.remove)
        wire = Wire(instance.port)
        self.addCleanup(wire.close)
        server = self.machine(wire.conninfo(instance), "mail", "one")
        until(lambda: "accepted mail is kept local on 127.0.0.1" in server.log, server.log)
        taken = 0

        def away() -> None:
            code, text = self.bring(server, "lover")
            self.assertEqual((code, text[:6]), (452, b"4.3.1 "), server.log)
            self.assertEqual(self.ready(), 503)

        def back() -> None:
            nonlocal taken
            until(lambda: self.ready() == 200, server.log)
            self.assertEqual(self.bring(server, "lover")[0], 250)
            taken += 1
            server.arrived("lover", taken)

        back()
        instance.stop(signal.SIGQUIT)
        away()
        instance.start()
        back()
        with instance.halted():
            away()
        back()
        wire.isSilent = True
        away()
        wire.mend()
        back()
        self.assertEqual(len(server.mail("lover")), taken)
        self.assertNotIn("Traceback", server.log)
        until(lambda: instance.ask("SELECT count(*) FROM mail.messages") == [(0,)], server.log)

    def test_unsafe(self) -> None:
        """A database that does not sync is none: one line, and the server ends."""
        instance = Instance("fsync=off")
        self.addCleanup(instance.remove)
        server = self.machine(instance.conninfo, "mail", "one")
        self.assertEqual(server.process.process.wait(60), 1)
        wanted = (
            "cannot run without a spool: PostgreSQL has fsync = off: what it confirms can be lost"
        )
        self.assertIn(wanted, server.log)

    def test_machines(self) -> None:
        """
        Operators see both machines; one that is killed is dead, and its mail, which it had
        tried to deliver, is the other's.
        """
        schema, port = primary().newSchema(), freePort()
        deliver = f'{{ use = "smtp", endpoint = "tcp:127.0.0.1:{port}", retry = "1s" }}'
        first = self.machine(primary().conninfo, schema, "one", deliver)
        second = self.machine(primary().conninfo, schema, "two", deliver)
        for server in (first, second):
            self.assertEqual(self.bring(server, "lover")[0], 250)
        done = cli("cluster", "--json", "-c", first.path)
        found = json.loads(done.stdout)
        self.assertEqual([one["machine"] for one in found["owners"]], ["one", "two"], done.stderr)
        self.assertEqual(done.returncode, 0)
        for path in (first.path, second.path):
            listed = cli("queue", "list", "-c", path).stdout
            self.assertIn("2 recipients", listed)
        first.kill()
        until(lambda: "owner 1 (one, worker 0) is dead" in second.log, second.log)
        held = cli("queue", "hold", "--all", "-c", first.path)  # no server is there
        self.assertEqual(held.returncode, 0, held.stderr)
        until(lambda: self.held(second) == 2, "held")
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/metrics", timeout=30) as page:
            text = page.read().decode()
        self.assertIn('deferrals_owner_up{machine="two",worker="0"} 1.0', text)

    def held(self, server: Server) -> int:
        """
        How many recipients are held.
        """
        listed = cli("queue", "list", "--status", "held", "-c", server.path).stdout
        found = re.search(r"(\d+) recipients", listed)
        return int(found[1]) if found else -1

    def test_workers(self) -> None:
        """Each worker is an owner, with a number of its own; none has a queue on the disk."""
        schema = primary().newSchema()
        server = self.machine(primary().conninfo, schema, "one", top="workers = 2")
        until(lambda: server.log.count("is running") == 2, server.log)
        for _ in range(6):
            self.assertEqual(self.bring(server, "lover")[0], 250)
        server.arrived("lover", 6)
        done = cli("cluster", "--json", "-c", server.path)
        workers = [one["worker"] for one in json.loads(done.stdout)["owners"]]
        self.assertEqual((done.returncode, workers), (0, [0, 1]), done.stderr)
        state = os.path.join(server.directory, "state")
        self.assertEqual(set(os.listdir(state)) - {"control"}, {"contents"})

    def test_woken(self) -> None:
        """A server that was stopped past its lease, and wakes, takes a new name and goes on."""
        schema = primary().newSchema()
        server = self.machine(primary().conninfo, schema, "one")
        other = self.machine(primary().conninfo, schema, "two")
        os.kill(server.process.process.pid, signal.SIGSTOP)
        until(lambda: "(one, worker 0) is dead" in other.log, other.log)
        os.kill(server.process.process.pid, signal.SIGCONT)
        until(lambda: "(one, worker 0) is woken" in server.log, server.log)
        self.assertEqual(self.bring(server, "lover")[0], 250)
        server.arrived("lover")
