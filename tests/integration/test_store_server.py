"""
Servers whose queue is in a real PostgreSQL; they, and the database, are killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import socket
import threading
import time
from collections import Counter

from tests.integration.clusters import Instance, primary
from tests.integration.support import MAILDIR, IntegrationCase, Server, cli, takesAll, until
from tests.ports import freePort

TABLE = """
[spool]
use = "postgresql"
conninfo = "{conninfo}"
schema = "{schema}"
lease = 2
timeout = 2
machine = "{machine}"
"""


class StoreServerCase(IntegrationCase):
    """
    Servers of one queue.
    """

    def shared(
        self, instance: Instance, schema: str, machine: str, deliver: str = MAILDIR
    ) -> Server:
        """
        One of them.
        """
        table = TABLE.format(conninfo=instance.conninfo, schema=schema, machine=machine)
        return self.server(takesAll(deliver, tables=table))


def bring(server: Server, *recipients: str, text: str = "hello", body: str = "") -> int:
    """
    Bring a message.

    @return: the code of the final reply.
    """
    with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
        client.ehlo("client.test")
        client.mail("me@client.test")
        for one in recipients:
            client.rcpt(one)
        return client.data(f"Subject: {text}\r\n\r\n{body}\r\n".encode())[0]


class DeliveringTests(StoreServerCase):
    """
    All is well.
    """

    def test_delivers(self) -> None:
        """Mail comes in, is delivered, and leaves the database."""
        schema = primary().newSchema()
        server = self.shared(primary(), schema, "one")
        self.assertEqual(bring(server, "lover@example.net"), 250, server.log)
        server.arrived("lover")
        until(lambda: primary().ask(f"SELECT count(*) FROM {schema}.messages") == [(0,)], "gone")

    def test_queue(self) -> None:
        """Any server's operator sees and changes the whole queue."""
        schema = primary().newSchema()
        away = '{ use = "smtp", endpoint = "tcp:127.0.0.1:1" }'
        first, second = (self.shared(primary(), schema, one, away) for one in ("one", "two"))
        self.assertEqual(bring(first, "a@example.net", body="a line\r\n" * 50_000), 250, first.log)
        self.assertEqual(bring(second, "b@example.net"), 250, second.log)

        def attempted() -> bool:
            (found,) = primary().ask(f"SELECT count(*) FROM {schema}.recipients WHERE attempts > 0")
            return found == (2,)

        until(attempted, f"both were attempted\n{first.log}\n{second.log}")
        listed = [json.loads(line) for line in queue(second, "list", "--json").splitlines()]
        self.assertEqual([one["recipient"] for one in listed], ["a@example.net", "b@example.net"])
        self.assertEqual({one["status"] for one in listed}, {"queued"})
        queue(second, "hold", "--all")
        self.assertEqual(primary().ask(f"SELECT DISTINCT status FROM {schema}.recipients"), [(2,)])
        shown = json.loads(queue(second, "show", "--json", listed[0]["id"]))
        self.assertEqual(shown["recipients"][0]["status"], "held")
        self.assertIn("hold by operator", [entry["event"] for entry in shown["history"]])
        exported = queue(second, "export", listed[0]["id"])
        self.assertEqual(exported.count("a line"), 50_000)
        queue(first, "remove", "--all")
        until(lambda: primary().ask(f"SELECT count(*) FROM {schema}.messages") == [(0,)], "gone")
        self.assertEqual(primary().ask(f"SELECT count(*) FROM {schema}.pieces"), [(0,)])


def queue(server: Server, *words: str) -> str:
    """
    An operator's command.
    """
    done = cli("queue", *words, "-c", server.path)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


class KilledTests(StoreServerCase):
    """
    Two servers of one queue, in which everything is killed: every message that was
    acknowledged is delivered, and what comes twice is counted.
    """

    def setUp(self) -> None:
        self.instance = Instance()
        self.addCleanup(self.instance.remove)
        schema = self.schema = self.instance.newSchema()
        self.servers = [self.shared(self.instance, schema, one) for one in ("one", "two")]
        self.accepted: list[str] = []
        self.isOver = False

    def send(self, place: int) -> None:
        """
        Bring one message after the other to one of the servers.
        """
        number = 0
        while not self.isOver:
            number += 1
            text = f"message-{place}-{number}"
            try:
                code = bring(self.servers[place % 2], "lover@example.net", text=text)
            except (OSError, smtplib.SMTPException):
                time.sleep(0.05)
                continue
            if code == 250:
                self.accepted.append(text)

    def test_all(self) -> None:
        """Servers, backends and the primary are killed, again and again."""
        senders = [threading.Thread(target=self.send, args=(place,)) for place in range(4)]
        for one in senders:
            one.start()
        kills = 0
        for _ in range(3):
            for kill in (self.killServer, self.killBackends, self.killPrimary):
                time.sleep(1.5)
                kill(kills % 2)
                kills += 1
        time.sleep(1.5)
        self.isOver = True
        for one in senders:
            one.join()
        rows = f"SELECT count(*) FROM {self.schema}.recipients"
        until(lambda: self.instance.ask(rows) == [(0,)], f"all has left\n{self.logs()}")
        delivered = Counter(
            subject(mail) for server in self.servers for mail in server.mail("lover")
        )
        lost = [text for text in self.accepted if text not in delivered]
        twice = sum(count - 1 for text, count in delivered.items())
        unasked = len(delivered.keys() - set(self.accepted))
        print(
            f"{kills} kills, {len(self.accepted)} acknowledged, {len(lost)} lost,"
            f" {twice} second copies, {unasked} delivered that were not acknowledged"
        )
        self.assertEqual(lost, [], self.logs())
        self.assertLessEqual(twice, kills * 20)
        self.assertGreater(len(self.accepted), 20)

    def logs(self) -> str:
        return "\n".join(server.log[-5000:] for server in self.servers)

    def killServer(self, place: int) -> None:
        self.servers[place].kill()
        self.servers[place].start()

    def killBackends(self, place: int) -> None:
        self.instance.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'deferrals%%'"
        )

    def killPrimary(self, place: int) -> None:
        self.instance.stop(signal.SIGQUIT)
        self.instance.start()


class AwayTests(StoreServerCase):
    """
    The database, or a server, is silent for a while.
    """

    def setUp(self) -> None:
        self.instance = Instance()
        self.addCleanup(self.instance.remove)
        self.schema = self.instance.newSchema()

    def test_halted(self) -> None:
        """
        A database that answers nothing: senders are told to come again, nothing that was
        not acknowledged is delivered, and no restart is needed.
        """
        server = self.shared(self.instance, self.schema, "one")
        self.assertEqual(bring(server, "lover@example.net", text="before"), 250)
        with self.instance.halted():
            for _ in range(2):
                code = bring(server, "lover@example.net", text="meanwhile")
                self.assertEqual(code, 452, server.log)

        def isBack() -> bool:
            return bring(server, "lover@example.net", text="after") == 250

        until(isBack, f"the database is back\n{server.log}")
        rows = f"SELECT count(*) FROM {self.schema}.messages"
        until(lambda: self.instance.ask(rows) == [(0,)], f"all has left\n{server.log}")
        found = Counter(subject(mail) for mail in server.mail("lover"))
        self.assertEqual(found, {"before": 1, "after": 1}, server.log)

    def test_stopped(self) -> None:
        """
        A server that was stopped past its lease, and wakes: another one has delivered what
        it had, once; and it goes on under a new name.
        """
        with socket.create_server(("127.0.0.1", freePort())) as silent:
            port = silent.getsockname()[1]
            hangs = f'{{ use = "smtp", endpoint = "tcp:127.0.0.1:{port}" }}'
            one = self.shared(self.instance, self.schema, "one", hangs)
            two = self.shared(self.instance, self.schema, "two")
            self.assertEqual(bring(one, "lover@example.net", text="mine"), 250, one.log)
            hanging, _ = silent.accept()  # it is under way, and nothing is said
            self.addCleanup(hanging.close)
            pid = one.process.process.pid
            os.kill(pid, signal.SIGSTOP)
            try:
                two.arrived("lover")
            finally:
                os.kill(pid, signal.SIGCONT)
            until(lambda: "(one, worker 0) is woken" in one.log, f"it wakes\n{one.log}")
            rows = f"SELECT count(*) FROM {self.schema}.messages"
            self.assertEqual(self.instance.ask(rows), [(0,)])
            self.assertEqual(bring(one, "lover@example.net", text="new"), 250, one.log)
            one.kill()
            self.assertEqual(
                [subject(mail) for mail in two.arrived("lover", 2)], ["mine", "new"], two.log
            )


def subject(mail: bytes) -> str:
    """
    What tells a message from the others.
    """
    found = re.search(rb"^Subject: (\S+)", mail, re.MULTILINE)
    assert found is not None, mail
    return found[1].decode()
