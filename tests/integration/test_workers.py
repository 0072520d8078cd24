"""
Several processes as one server: their mail, their deaths, reloads and ends.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import signal
import sqlite3
import subprocess
import threading
import time
from typing import Any

from twisted.trial.unittest import SkipTest

from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock
from deferrals.spool.sqlite.spool import UNDER_WAY
from tests.integration.support import (
    TWISTD,
    Dialogue,
    IntegrationCase,
    Server,
    cli,
    events,
    greeting,
    needsRoot,
    python,
    until,
)
from tests.ports import freePort

CONFIG = """
workers = 2
hostname = "mx.example.net"
bounces = "none"
grace = 5

[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
[policies.open]
envelope = "accept"
[[recipients]]
match = "*@example.net"
policy = "open"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}
"""

AWAY = b"421 4.3.2 no process is here"


class Workers(Server):
    """
    A server of several processes.
    """

    def _listening(self) -> list[int] | None:
        count = int(re.search(r"workers = (\d+)", self.configuration)[1])  # type: ignore[index]
        if count == 1:
            return super()._listening()
        running = {one["worker"] for one in self.told("running")}
        return super()._listening() if len(running) == count else None

    @property
    def configuration(self) -> str:
        with open(self.path) as file:
            return file.read()

    def told(self, *states: str) -> list[dict[str, Any]]:
        """
        What the log says of workers.
        """
        found = [one for one in events(self.log) if one.get("event") == "worker"]
        return [one for one in found if one["state"] in states]

    def pid(self, worker: int) -> int:
        """
        The number of a worker's process.
        """
        found = [one for one in self.told("running") if one["worker"] == worker]
        pid: int = found[-1]["pid"]
        return pid

    def running(self, worker: int, count: int) -> None:
        """
        Wait until a worker has been begun so often.
        """

        def isIt() -> bool:
            return len([one for one in self.told("running") if one["worker"] == worker]) >= count

        until(isIt, f"worker {worker} runs\n{self.log}")


def isAlive(pid: int) -> bool:
    """
    Whether there is a process that has not ended.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class WorkersCase(IntegrationCase):
    """
    Tests with such a server.
    """

    def setUp(self) -> None:
        self.number = freePort()

    def begin(self, config: str = CONFIG, *options: str) -> Workers:
        text = config.format(port=self.number)
        server = Workers(self.directory(), text, "--log-format", "json", *options)
        self.addCleanup(self.end, server)
        return server

    def end(self, server: Workers) -> None:
        pids = {one["pid"] for one in server.told("starting")}
        server.kill()
        for pid in filter(isAlive, pids):
            os.kill(pid, signal.SIGKILL)

    def dialogues(self, server: Workers, count: int, local: str) -> set[int]:
        """
        Messages, each over a connection of its own, to a recipient of their own.

        @return: the workers that took them.
        """
        for number in range(count):
            dialogue = until(self.greeted, "a greeting")
            dialogue.say("HELO client.test", "MAIL FROM:<a@client.test>")
            dialogue.say(f"RCPT TO:<{local}{number}@example.net>", "DATA")
            (reply,) = dialogue.say("Subject: x\r\n\r\nx\r\n.")
            self.assertEqual(reply[:3], "250", reply)
        for number in range(count):
            server.arrived(f"{local}{number}")
        found = [one for one in events(server.log) if one.get("event") == "delivery"]
        return {one["worker"] for one in found if one["recipient"].startswith(local)}

    def greeted(self) -> Dialogue | None:
        """
        A connection that a worker takes: for one that has said nothing for a second,
        since the machine is busy, the parent answers 421.
        """
        dialogue = self.dialogue(self.number)
        return dialogue if dialogue.reply()[:3] == "220" else None

    def both(self, server: Workers, local: str = "u") -> None:
        """
        Mail through both workers, sooner or later: the system deals out connections.
        """
        taken: set[int] = set()
        for number in range(20):
            taken |= self.dialogues(server, 4, f"{local}{number}x")
            if taken == {0, 1}:
                return
        self.fail(f"only {taken} took mail")


class MailTests(WorkersCase):
    """
    Workers that live.
    """

    def test_mail(self) -> None:
        """Mail comes through each worker, and is in its own spool; SIGTERM ends all."""
        server = self.begin()
        self.both(server)
        state = os.path.join(server.directory, "state")
        for path in ("spool", "workers/1/spool"):
            self.assertTrue(os.path.exists(os.path.join(state, path, "spool.sqlite")))
        pids = [server.pid(0), server.pid(1)]
        self.assertIn(server.process.stop(), (0, -signal.SIGTERM))
        self.assertEqual([pid for pid in pids if isAlive(pid)], [])

    def test_terminated(self) -> None:
        """SIGTERM lets transactions end in all workers, side by side; a second one does not."""
        server = self.begin(CONFIG.replace("grace = 5", "grace = 60"))
        open_ = [self.dialogue(self.number) for _ in range(4)]
        for dialogue in open_:
            dialogue.reply()
            dialogue.say("HELO client.test", "MAIL FROM:<a@client.test>")
            dialogue.say("RCPT TO:<late@example.net>", "DATA")
        server.process.process.send_signal(signal.SIGTERM)
        until(lambda: not greeting(self.number), "no port")
        for dialogue in open_[:2]:
            self.assertEqual(dialogue.say("Subject: x\r\n\r\nx\r\n.")[0][:3], "250")
        self.assertIsNone(server.process.process.poll())
        server.process.process.send_signal(signal.SIGTERM)
        server.process.process.wait(20)
        until(lambda: not any(map(isAlive, (server.pid(0), server.pid(1)))), "the end")

    def test_reload(self) -> None:
        """All workers change to a configuration, and to listeners, or none does."""
        server = self.begin()
        other = freePort()
        more = f'[[listen]]\nendpoint = "tcp:{other}:interface=127.0.0.1"\n[policies.open]'
        with open(server.path, "w") as file:
            file.write(CONFIG.format(port=self.number).replace("[policies.open]", more))
        done = cli("reload", "--config", server.path)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.number, former = other, self.number
        self.both(server)
        with open(server.path, "w") as file:
            file.write("nonsense = 1\n" + CONFIG.format(port=self.number))
        done = cli("reload", "--config", server.path)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("the old one stays: " + server.path, server.log)  # it was told, too
        self.number = former
        self.both(server, "more")


class NumberTests(WorkersCase):
    """
    Operators, and another number of workers.
    """

    def queued(self, server: Workers) -> int:
        done = cli("queue", "list", "--config", server.path, "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return len(done.stdout.splitlines())

    def status(self, server: Workers) -> Any:
        return json.loads(cli("status", "--config", server.path, "--json").stdout)

    def waiting(self) -> tuple[Workers, int]:
        """
        @return: a server with mail in both queues that cannot be delivered, and how much.
        """
        self.boxes = os.path.join(self.directory(), "boxes")
        with open(self.boxes, "w") as file:
            file.write("in the way")
        config = CONFIG.replace("mail/{{local}}", f"{self.boxes}/{{{{local}}}}")
        self.config = config.format(port=self.number)
        server = self.begin(config)
        number = 0
        while {one["worker"] for one in self.tried(server)} != {0, 1}:
            number += 1
            self.send(f"u{number}")
            until(lambda number=number: len(self.tried(server)) >= number, "an attempt")
        return server, number

    def test_damaged(self) -> None:
        """A spool that cannot be read is one worker's: it is set aside, and mail goes on."""
        server, number = self.waiting()
        ofOther = len([one for one in self.tried(server) if one["worker"] == 0])
        server.stop()
        path = os.path.join(server.directory, "state", "workers", "1", "spool", "spool.sqlite")
        with open(path, "r+b") as file:
            file.write(os.urandom(os.path.getsize(path)))
        server.start()
        self.assertEqual(self.queued(server), ofOther)
        aside = cli("queue", "rescue", "--config", server.path)
        self.assertIn("1/", aside.stdout, f"{number}: {aside}\n{server.log}")
        os.remove(self.boxes)

        def delivered() -> bool:
            self.send("more")
            found = [one for one in events(server.log) if one.get("outcome") == "delivered"]
            return {one["worker"] for one in found} == {0, 1}

        until(delivered, "mail by both")

    def test_fullDisk(self) -> None:
        """A disk that is full is one worker's: it says 452, the other takes mail."""
        needsRoot()
        directory = self.directory()
        place = os.path.join(directory, "state", "workers", "1")
        os.makedirs(place, 0o700)
        os.chmod(os.path.join(directory, "state"), 0o700)
        words = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "tmpfs", place]
        if subprocess.run(words, capture_output=True, check=False).returncode != 0:
            raise SkipTest("nothing can be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", place], check=False)
        text = CONFIG.format(port=self.number)
        server = Workers(directory, text, "--log-format", "json")
        self.addCleanup(self.end, server)
        filling = os.path.join(place, "filling")
        with open(filling, "wb", 0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        codes: set[str] = set()

        def differs() -> bool:
            codes.add(self.answer()[:3])
            return codes == {"250", "452"}

        until(differs, f"{codes}")
        os.remove(filling)
        self.both(server)

    def answer(self) -> str:
        """
        What is said to a message, at the end of its data or before.
        """
        dialogue = self.dialogue(self.number)
        dialogue.reply()
        for line in ("HELO client.test", "MAIL FROM:<a@client.test>", "RCPT TO:<f@example.net>"):
            (reply,) = dialogue.say(line)
            if reply[:1] == "4":
                return str(reply)
        dialogue.say("DATA")
        return str(dialogue.say("Subject: x\r\n\r\nx\r\n.")[0])

    def test_number(self) -> None:
        """Mail in the queue of a worker that there is no longer is seen, and is delivered."""
        server, number = self.waiting()
        self.assertEqual(self.queued(server), number)
        found = self.status(server)
        self.assertEqual([one["state"] for one in found["workers"]], ["running"] * 2)
        self.assertEqual(found["queue"]["recipients"], {"queued": number})
        server.stop()
        self.assertEqual(self.queued(server), number)
        with open(server.path, "w") as file:
            file.write(self.config.replace("workers = 2", "workers = 1"))
        server.start()
        until(lambda: self.queued(server) == number, "the queue")
        os.remove(self.boxes)
        self.assertEqual(cli("queue", "retry", "--all", "--config", server.path).returncode, 0)
        until(lambda: len(glob.glob(f"{self.boxes}/*/new/*")) == number, f"mail\n{server.log}")
        left = os.path.join(server.directory, "state", "workers", "1")
        until(lambda: not os.path.exists(left), f"its end\n{server.log}")

    def test_leftLocked(self) -> None:
        """What is left, and another process still has, is named, and not left out in silence."""
        server = self.begin()
        server.stop()
        state = os.path.join(server.directory, "state")
        lock = SpoolLock(SpoolFiles(os.path.join(state, "workers", "1", "spool")))
        lock.take()
        self.addCleanup(lock.release)
        with open(server.path, "w") as file:
            file.write(CONFIG.format(port=self.number).replace("workers = 2", "workers = 1"))
        server.start()
        done = cli("queue", "list", "--config", server.path)
        self.assertEqual(done.returncode, 1, done)
        self.assertIn("worker 1 does not answer", done.stderr)
        lock.release()
        until(lambda: not os.path.exists(os.path.join(state, "workers", "1")), "its end")
        self.assertEqual(self.queued(server), 0)

    def tried(self, server: Workers) -> list[Any]:
        found = (one for one in events(server.log) if one.get("event") == "delivery")
        return [one for one in found if one["outcome"] == "retry"]

    def send(self, local: str) -> None:
        dialogue = self.dialogue(self.number)
        dialogue.reply()
        dialogue.say("HELO client.test", "MAIL FROM:<a@client.test>")
        dialogue.say(f"RCPT TO:<{local}@example.net>", "DATA")
        self.assertEqual(dialogue.say("Subject: x\r\n\r\nx\r\n.")[0][:3], "250")


#: After so many, the next one comes in four seconds.
DEATHS = 4


class DeathTests(WorkersCase):
    """
    Workers that die, or are silent.
    """

    def test_killed(self) -> None:
        """A killed worker is back, and what it had taken arrives."""
        server = self.begin()
        for number, worker in enumerate((0, 1, 0)):
            os.kill(server.pid(worker), signal.SIGKILL)
            server.running(worker, 2 if number < 2 else 3)
        self.both(server)

    def test_away(self) -> None:
        """While a worker is away its clients are told so, and do not hang."""
        server = self.begin()
        for deaths in range(1, DEATHS + 1):  # each time it is waited for longer
            os.kill(server.pid(0), signal.SIGKILL)
            until(lambda deaths=deaths: len(server.told("waiting")) == deaths, "its death")
            if deaths < DEATHS:
                server.running(0, deaths + 1)
        until(lambda: any(greeting(self.number).startswith(AWAY) for _ in range(8)), "421")
        server.running(0, DEATHS + 1)
        until(lambda: all(greeting(self.number).startswith(b"220") for _ in range(20)), "220")

    def test_silent(self) -> None:
        """One that is stopped is answered for, and goes on when it wakes."""
        server = self.begin()
        os.kill(server.pid(0), signal.SIGSTOP)
        until(lambda: any(greeting(self.number).startswith(AWAY) for _ in range(8)), "421")
        os.kill(server.pid(0), signal.SIGCONT)
        until(lambda: all(greeting(self.number).startswith(b"220") for _ in range(20)), "220")
        self.both(server)

    def test_orphans(self) -> None:
        """Workers whose parent has died end, and a new start waits for them."""
        server = self.begin()
        pids = [server.pid(0), server.pid(1)]
        dialogue = self.dialogue(self.number)
        dialogue.reply()
        dialogue.say("HELO client.test", "MAIL FROM:<a@client.test>")
        dialogue.say("RCPT TO:<late@example.net>", "DATA")
        server.kill()
        until(lambda: not greeting(self.number), "no port")
        self.assertTrue(any(map(isAlive, pids)))
        server.start()
        until(lambda: not any(map(isAlive, pids)), "they have ended")
        self.both(server)

    def orphan(self, server: Workers) -> int:
        """
        @return: the process of a worker that is stopped, and whose parent is killed.
        """
        stopped, other = server.pid(1), server.pid(0)
        os.kill(stopped, signal.SIGSTOP)
        server.kill()
        until(lambda: not isAlive(other), "the other one ends")
        return stopped

    def test_stoppedOrphan(self) -> None:
        """A worker that sleeps as its parent is killed is waited for, and named."""
        server = self.begin(CONFIG.replace("grace = 5", "grace = 60"))
        pid = self.orphan(server)
        starting = threading.Thread(target=server.start)
        starting.start()
        spool = os.path.join("state", "workers", "1", "spool")
        until(lambda: f"waiting for another process ({pid}, which is stopped" in server.log, spool)
        self.assertIn(spool, server.log)
        time.sleep(6)  # it is waited for that long at least
        self.assertIsNone(server.process.process.poll(), server.log)
        os.kill(pid, signal.SIGCONT)
        starting.join(60)
        self.assertFalse(isAlive(pid))
        self.both(server)

    def test_stoppedForever(self) -> None:
        """One that does not wake is not waited for without end; what to do about it is said."""
        server = self.begin(CONFIG.replace("grace = 5", "grace = 1"))
        pid = self.orphan(server)
        words = ["--nodaemon", "--pidfile=", "deferrals", "--config", server.path]
        done = python(*TWISTD, *words, cwd=server.directory)
        self.assertEqual(done.returncode, 1, done.stdout)
        for text in ("in use", os.path.join("workers", "1", "spool"), f"`kill -CONT {pid}`"):
            self.assertIn(text, done.stderr.splitlines()[-1])
        self.assertTrue(isAlive(pid))

    def test_notDeadly(self) -> None:
        """What is delivered as its worker is killed for the third time is not held for that."""
        slow = os.path.join(self.directory(), "slow")
        with open(slow, "w") as file:
            file.write("#!/bin/sh\nsleep 60\n")
        os.chmod(slow, 0o755)
        mailbox = 'use = "maildir", path = "mail/{{local}}"'
        server = self.begin(CONFIG.replace(mailbox, f'use = "pipe", command = ["{slow}"]'))
        for lives in range(1, 4):
            for number in range(8 if lives == 3 else 0):  # some of them for worker 0
                dialogue = self.dialogue(self.number)
                dialogue.reply()
                dialogue.say("HELO client.test", "MAIL FROM:<a@client.test>")
                dialogue.say(f"RCPT TO:<r{number}@example.net>", "DATA")
                self.assertEqual(dialogue.say("Subject: x\r\n\r\nx\r\n.")[0][:3], "250")
            if lives == 3:
                until(lambda: self.named(server), "what is under way is noted")
            os.kill(server.pid(0), signal.SIGKILL)
            server.running(0, lives + 1)
        self.assertEqual([one for one in events(server.log) if one.get("event") == "deadly"], [])
        done = cli("queue", "list", "--status", "held", "--config", server.path, "--json")
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def named(self, server: Workers) -> list[Any]:
        path = os.path.join(server.directory, "state", "spool", "spool.sqlite")
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute("SELECT value FROM notes WHERE name = ?", (UNDER_WAY,)).fetchall()

    def test_deadly(self) -> None:
        """A message of which its worker dies is held after the third time, and no other dies."""
        kill = os.path.join(self.directory(), "kill")
        with open(kill, "w") as file:
            file.write("#!/bin/sh\nkill -9 $PPID\n")
        os.chmod(kill, 0o755)
        rule = (
            '[[recipients]]\nmatch = "killer@example.net"\npolicy = "open"\n'
            f'deliver = {{{{ use = "pipe", command = ["{kill}"] }}}}\n[[recipients]]'
        )
        server = self.begin(CONFIG.replace("[[recipients]]", rule, 1))
        dialogue = self.dialogue(self.number)
        dialogue.reply()
        dialogue.say("HELO client.test", "MAIL FROM:<a@client.test>")
        dialogue.say("RCPT TO:<killer@example.net>", "DATA")
        self.assertEqual(dialogue.say("Subject: x\r\n\r\nx\r\n.")[0][:3], "250")

        def held() -> list[Any]:
            return [one for one in events(server.log) if one.get("event") == "deadly"]

        (event,) = until(held, f"it is held\n{server.log}")
        dead = {one["worker"] for one in server.told("waiting")}
        self.assertEqual((len(dead), len(server.told("waiting"))), (1, 3))
        server.running(*dead, 2)
        done = cli("queue", "list", "--status", "held", "--config", server.path, "--json")
        self.assertEqual(json.loads(done.stdout)["id"], event["transaction"])
        self.both(server)
