"""
What several processes know, count and show together, in real processes: one server to
its clients, and one to its operator.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sqlite3
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from deferrals.model.ids import parseId
from deferrals.stages.content.match.stage import GTUBE
from tests.integration.support import Dialogue, cli, events, greeting, until
from tests.integration.test_workers import CONFIG as SIMPLE
from tests.integration.test_workers import Workers, WorkersCase
from tests.ports import freePort

CONFIG = """
workers = 2
hostname = "mx.example.net"
bounces = "none"
grace = 5

[limits]
connections_per_address = 20

[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
mixed = "retry"

[web]
endpoint = "tcp:{web}:interface=127.0.0.1"

[policies.open]
envelope = "accept"

[policies.spam]
content = [ {{ use = "match", rules = [
  {{ test = "gtube", reply = "550 5.7.1 spam is not wanted" }},
] }} ]

[[recipients]]
match = "fighter@example.net"
policy = "spam"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "lover@example.net"
policy = "open"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}

[[recipients]]
match = "*@far.example"
policy = "open"
deliver = {{ use = "smtp", endpoint = "tcp:127.0.0.1:{nowhere}" }}
"""


#: How much logins may send; right passwords that are checked at once do not count.
SENT = """
[limits]
auth_address_failures = 1000
auth_network_failures = 1000
auth_account_failures = 1000
[submission]
messages = 7
recipients = 20
octets = 30000
"""

#: So many connections ask at once.
MANY = 24

#: Samples of the metrics.
QUEUED = "deferrals_queue_recipients{"
UP = 'deferrals_worker_up{{worker="{}"}}'


class SharedCase(WorkersCase):
    """
    Two workers.
    """

    def setUp(self) -> None:
        super().setUp()
        self.web = freePort()
        text = CONFIG.replace("{web}", str(self.web)).replace("{nowhere}", str(freePort()))
        self.server = self.begin(text)

    def workerOf(self, server: Workers, sender: str) -> list[int]:
        """
        Which workers have answered a sender's transactions, in order.
        """

        def transactions() -> list[int]:
            found = [one for one in events(server.log) if one.get("event") == "transaction"]
            return [one["worker"] for one in found if one.get("sender") == sender]

        return transactions()


class MixedTests(SharedCase):
    """
    A sender whose two attempts meet two workers.
    """

    def attempt(self, sender: str) -> tuple[list[str], str]:
        dialogue = self.dialogue(self.number)
        dialogue.reply()
        dialogue.say("EHLO client.test")
        _, *named = dialogue.say(
            f"MAIL FROM:<{sender}>", "RCPT TO:<lover@example.net>", "RCPT TO:<fighter@example.net>"
        )
        dialogue.say("DATA")
        head = (
            f"From: <{sender}>\r\nMessage-ID: <{sender}>\r\nDate: Sun, 29 Nov 2026 10:00:00 +0000"
        )
        (reply,) = dialogue.say(f"{head}\r\n\r\n{GTUBE}\r\n.")
        dialogue.close()
        return [one[:3] for one in named], reply[:3]

    def test_twoWorkers(self) -> None:
        """The second attempt, at once, is known wherever it comes to."""
        met: set[tuple[int, int]] = set()
        for number in range(40):
            sender = f"s{number}@client.test"
            self.assertEqual(self.attempt(sender), (["250", "250"], "451"))
            self.assertEqual(self.attempt(sender), (["250", "452"], "250"))
            first, second = until(
                lambda sender=sender: (
                    self.workerOf(self.server, sender)[1:] and self.workerOf(self.server, sender)
                ),
                "both transactions in the log",
            )
            met.add((first, second))
            if number > 10 and {(0, 1), (1, 0)} & met:
                return
        self.fail(f"no sender met two workers: {met}")

    def test_killed(self) -> None:
        """So it is when the worker that has noted the first one is killed in between."""
        for number in range(3):
            sender = f"k{number}@client.test"
            self.assertEqual(self.attempt(sender), (["250", "250"], "451"))
            (worker,) = until(
                lambda sender=sender: self.workerOf(self.server, sender), "the transaction"
            )
            lives = len([one for one in self.server.told("running") if one["worker"] == worker])
            os.kill(self.server.pid(worker), signal.SIGKILL)
            self.server.running(worker, lives + 1)
            until(lambda: greeting(self.number).startswith(b"220"), "a greeting")
            self.assertEqual(self.attempt(sender), (["250", "452"], "250"))


class LimitTests(SharedCase):
    """
    Limits asked from many connections.
    """

    def test_exact(self) -> None:
        """So many connections are let in, over both; one that leaves makes room for one."""
        until(lambda: cli("status", "-c", self.server.path).returncode == 0, "operators")
        dialogues = [self.dialogue(self.number) for _ in range(40)]
        codes = [one.reply()[:3] for one in dialogues]
        self.assertEqual((codes.count("220"), codes.count("421")), (20, 20))
        for one, code in zip(dialogues, codes, strict=True):
            if code == "220":
                one.close()
                break
        until(lambda: self.dialogue(self.number).reply()[:3] == "220", "room for one more")
        self.assertEqual(self.dialogue(self.number).reply()[:3], "421")

    def test_killed(self) -> None:
        """What a killed worker had let in makes room."""
        dialogues = [self.dialogue(self.number) for _ in range(20)]
        self.assertEqual({one.reply()[:3] for one in dialogues}, {"220"})
        self.assertEqual(self.dialogue(self.number).reply()[:3], "421")
        os.kill(self.server.pid(0), signal.SIGKILL)
        self.server.running(0, 2)
        until(lambda: self.dialogue(self.number).reply()[:3] == "220", "room")


class WholeLimitTests(WorkersCase):
    """
    The other limits, asked from many connections at once.
    """

    users = ("one@example.net", "two@example.net", "three@example.net")

    def started(self, more: str) -> Workers:
        """
        @param more: lines of the configuration.
        """
        passwords = os.path.join(self.directory(), "passwords")
        for user in self.users:
            cli("passwd", passwords, user, data=b"secret\n")
        protocol = 'protocol = "submission"\nauth_without_tls = true\n[policies.open]'
        text = SIMPLE.replace("[policies.open]", protocol).replace(
            "[[listen]]", f"{more}\n[[listen]]"
        )
        return self.begin(text, "--auth", f"passwd:{passwords}")

    def opened(self, count: int = MANY) -> list[Dialogue]:
        found = [self.dialogue(self.number) for _ in range(count)]
        for one in found:
            self.assertEqual(one.reply()[:3], "220")
            one.say("EHLO client.test")
        return found

    def together(
        self, function: Callable[[Dialogue], str], count: int = MANY, atOnce: int = MANY
    ) -> Counter[str]:
        """
        @return: what is answered over so many connections, and how often.
        """
        dialogues = self.opened(count)
        with ThreadPoolExecutor(atOnce) as pool:
            said = Counter(pool.map(function, dialogues))
        for one in dialogues:
            one.close()
        return said

    def login(self, dialogue: Dialogue, user: str, password: str) -> str:
        words = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        return dialogue.say(f"AUTH PLAIN {words}")[0][:3]

    def sent(self, dialogue: Dialogue, user: str, recipients: int = 1, octets: int = 10) -> str:
        """
        @return: the first answer that is no good one, or the last.
        """
        self.assertEqual(self.login(dialogue, user, "secret"), "235")
        lines = [f"MAIL FROM:<{user}>"]
        lines += [f"RCPT TO:<r{number}@example.net>" for number in range(recipients)]
        mail = f"Subject: x\r\n\r\n{'x' * 70}" + f"\r\n{'y' * 70}" * (octets // 72)
        for line in (*lines, "DATA", f"{mail}\r\n."):
            (reply,) = dialogue.say(line)
            if reply[0] not in "23":
                break
        return reply[:3]

    def killed(self, server: Workers) -> None:
        """
        Both workers die, one after the other, and come back.
        """
        for worker in range(2):
            os.kill(server.pid(worker), signal.SIGKILL)
            server.running(worker, 2)

    def noted(self, server: Workers, limit: str) -> int:
        """
        How much the spools know that was spent.
        """
        total = 0
        for name in ("spool", "workers/1/spool"):
            path = os.path.join(server.directory, "state", name, "spool.sqlite")
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                find = "SELECT value FROM notes WHERE name LIKE ?"
                for (value,) in db.execute(find, (f"limit {limit} %",)):
                    total += sum(amount for _, amount in json.loads(value)[1])
        return total

    def workersOf(self, server: Workers, event: str) -> set[int]:
        return {one["worker"] for one in events(server.log) if one.get("event") == event}

    def test_connections(self) -> None:
        """So many are let in; what a killed worker had let in makes room for as many."""
        server = self.started("[limits]\nconnections = 20\nconnections_per_address = 100")
        dialogues = self.opened(20)
        self.assertEqual({self.dialogue(self.number).reply()[:3] for _ in range(10)}, {"421"})
        os.kill(server.pid(0), signal.SIGKILL)
        server.running(0, 2)
        stay = [one for one in dialogues if one.say("NOOP")[0][:3] == "250"]
        self.assertTrue(0 < len(stay) < 20, len(stay))
        until(lambda: self.dialogue(self.number).reply()[:3] == "220", "room")
        codes = [self.dialogue(self.number).reply()[:3] for _ in range(30)]
        self.assertEqual(codes.count("220"), 20 - len(stay) - 1)

    def test_guesses(self) -> None:
        """Wrong passwords are counted over both, also when one dies, or all begin anew."""
        server = self.started("[limits]\nauth_delay = 0")
        one, other, _ = self.users
        said = self.together(lambda dialogue: self.login(dialogue, one, "wrong"))
        self.assertEqual(said, {"535": 10, "454": MANY - 10})
        self.assertEqual(self.workersOf(server, "authentication"), {0, 1})
        until(lambda: self.noted(server, "auth-address") == 10, "what is spent is noted")
        self.killed(server)
        known = {"454": 6}
        self.assertEqual(self.together(lambda it: self.login(it, one, "secret"), 6), known)
        server.stop()
        server.start()
        self.assertEqual(self.together(lambda it: self.login(it, one, "secret"), 6), known)
        self.assertEqual(self.together(lambda it: self.login(it, other, "secret"), 6), {"235": 6})

    def test_submission(self) -> None:
        """What logins have sent is counted over both, also when these die."""
        server = self.started(SENT)
        one, two, three = self.users
        messages = partial(self.sent, user=one)
        # A recipient that is named counts until its message is refused: one after the other.
        recipients = partial(self.sent, user=two, recipients=5)
        octets = partial(self.sent, user=three, octets=7000)
        for send, most, atOnce in ((messages, 7, MANY), (recipients, 4, 1), (octets, 4, MANY)):
            said = self.together(send, atOnce=atOnce)
            self.assertEqual(said, {"250": most, "450": MANY - most}, send)
        self.assertEqual(self.workersOf(server, "delivery"), {0, 1})
        self.killed(server)
        for send in (messages, recipients, octets):
            self.assertEqual(self.together(send, 6), {"450": 6}, send)


class ParentTests(SharedCase):
    """
    A parent that is stopped for a while.
    """

    def test_stopped(self) -> None:
        """Clients are asked to come again, by a new connection or within a session."""
        dialogue = self.dialogue(self.number)
        dialogue.reply()
        dialogue.say("EHLO client.test")
        pid = self.server.process.process.pid
        pids = [self.server.pid(worker) for worker in range(2)]
        os.kill(pid, signal.SIGSTOP)
        try:
            self.assertEqual(self.dialogue(self.number).reply()[:3], "421")
            dialogue.say(
                "MAIL FROM:<a@client.test>",
                "RCPT TO:<lover@example.net>",
                "RCPT TO:<fighter@example.net>",
                "DATA",
            )
            (reply,) = dialogue.say(f"Message-ID: <1@client.test>\r\n\r\n{GTUBE}\r\n.")
            self.assertEqual(reply[:3], "451", reply)
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: self.dialogue(self.number).reply()[:3] == "220", "a greeting")
        self.assertEqual([self.server.pid(worker) for worker in range(2)], pids)
        self.assertEqual(dialogue.say("NOOP")[0][:3], "250")
        until(lambda: cli("status", "-c", self.server.path).returncode == 0, "operators")


class OperatorTests(SharedCase):
    """
    One server to its operator.
    """

    def far(self, count: int) -> None:
        for number in range(count):
            dialogue = self.dialogue(self.number)
            dialogue.reply()
            dialogue.say("HELO client.test", "MAIL FROM:<a@client.test>")
            dialogue.say(f"RCPT TO:<r{number}@far.example>", "DATA")
            self.assertEqual(dialogue.say("Subject: x\r\n\r\nx\r\n.")[0][:3], "250")
            dialogue.close()

    def cli(self, *arguments: str) -> Any:
        command, *more = arguments
        return cli(command, *more, "-c", self.server.path)

    def listed(self) -> list[dict[str, Any]]:
        said = self.cli("queue", "list", "--json")
        return [json.loads(line) for line in said.stdout.splitlines()]

    def test_whole(self) -> None:
        """The queue, the status and the metrics are of both; a message is found where it is."""
        self.far(30)
        found = self.listed()
        self.assertEqual(
            {one["recipient"] for one in found}, {f"r{n}@far.example" for n in range(30)}
        )
        self.assertEqual([one["id"] for one in found], sorted(one["id"] for one in found))
        for one in found[:6]:
            self.assertIn(one["recipient"], self.cli("queue", "show", one["id"]).stdout)
            self.assertIn("Subject: x", self.cli("queue", "export", one["id"]).stdout)
        status = json.loads(self.cli("status", "--json").stdout)
        self.assertEqual(status["queue"]["messages"], 30)
        self.assertEqual(sum(status["counters"]["transactions"].values()), 30)
        self.assertEqual([one["state"] for one in status["workers"]], ["running"] * 2)
        self.assertEqual(self.cli("queue", "check").returncode, 0)
        held = json.loads(self.cli("queue", "hold", "--all", "--json").stdout)
        # Some are being delivered at that moment, or not: all are held.
        self.assertIn(held.pop("active"), range(31))
        self.assertEqual(held, {"command": "hold", "recipients": 30})
        self.assertEqual({one["status"] for one in self.listed()}, {"held"})

        def metrics() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/metrics") as answer:
                return str(answer.read(), "utf-8")

        until(lambda: 'deferrals_transactions_total{rung="single"} 30.0' in metrics(), "the sum")
        self.assertIn('deferrals_worker_up{worker="1"} 1.0', metrics())
        os.kill(self.server.pid(1), signal.SIGKILL)
        self.server.running(1, 2)
        self.assertIn('deferrals_transactions_total{rung="single"} 30.0', metrics())
        status = json.loads(self.cli("status", "--json").stdout)
        self.assertEqual([one["restarts"] for one in status["workers"]], [0, 1])

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/metrics") as answer:
            lines = str(answer.read(), "utf-8").splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def queued(self) -> float:
        found = self.metrics()
        return sum(one for name, one in found.items() if name.startswith(QUEUED))

    @contextlib.contextmanager
    def stopped(self, *workers: int) -> Iterator[None]:
        """
        They are stopped; for less than half a minute, or they are killed.
        """
        pids = [self.server.pid(worker) for worker in workers]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def test_stopped(self) -> None:
        """A worker that is stopped is named, in each command; the others' part is shown."""
        self.far(20)
        found = self.listed()
        known = {one["id"] for one in found if parseId(one["id"]) & 0xFF == 1}
        (ofStopped, *_), (ofOther, *_) = known, {one["id"] for one in found} - known
        for commands in (
            [("queue", "list"), ("queue", "show", ofStopped), ("queue", "hold", "--all")],
            [("status",), ("queue", "check"), ("queue", "rescue")],
            [("explain", ofStopped), ("queue", "export", ofStopped)],
        ):
            with self.stopped(1):
                for words in commands:
                    said = self.cli(*words)
                    self.assertEqual(said.returncode, 1, (words, said))
                    self.assertIn("deferrals: worker 1 does not answer\n", said.stderr, words)
                self.assertEqual(self.cli("queue", "show", ofOther).returncode, 0)
        self.assertEqual(len(self.listed()), 20)

    def test_stoppedStatus(self) -> None:
        """So it is for programs and monitoring; what is in its queue counts as it was."""
        self.far(20)
        until(lambda: self.queued() == 20, "the queue's figures")
        with self.stopped(1):
            status = self.cli("status", "--json")
            check = self.cli("status", "--check")
            until(lambda: self.metrics()[UP.format(1)] == 0, "it is down")
            self.assertEqual((self.metrics()[UP.format(0)], self.queued()), (1, 20))
        self.assertEqual((status.returncode, json.loads(status.stdout)["missing"]), (1, [1]))
        workers = json.loads(status.stdout)["workers"]
        self.assertEqual([one["worker"] for one in workers], [0, 1])
        self.assertEqual((check.returncode, check.stdout[:8]), (1, "warning:"), check)
        until(lambda: self.metrics()[UP.format(1)] == 1, "it is up")

    def test_allStopped(self) -> None:
        """Where no worker takes mail the server says so, and a reload is refused."""
        with self.stopped(0, 1):
            until(lambda: self.ready() == {"ready": False, "reasons": ["workers"]}, "not ready")
            said = self.cli("reload")
        self.assertEqual(said.returncode, 1, said)
        for worker in range(2):
            self.assertIn(f"worker {worker}: it does not answer", said.stderr)
        until(lambda: self.ready() == {"ready": True, "reasons": []}, "ready")
        self.assertEqual(self.cli("reload").returncode, 0)

    def ready(self) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/readyz") as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)

    def test_notRunning(self) -> None:
        """Without a server the commands open all spools; more workers have them again."""
        self.far(20)
        self.server.stop()
        self.assertEqual(len(self.listed()), 20)
        status = self.cli("status", "--json")
        self.assertEqual(status.returncode, 1)
        self.assertEqual(json.loads(status.stdout)["queue"]["messages"], 20)
        copy = os.path.join(self.server.directory, "copy")
        self.assertEqual(self.cli("queue", "backup", copy).returncode, 0)
        self.assertEqual(sorted(os.listdir(copy)), ["spool", "workers"])
