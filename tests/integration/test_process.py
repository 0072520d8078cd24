"""
The server as a process: how it starts, fails, logs, is told and stops, as twistd,
a shell, a container and a service manager have it.
"""

from __future__ import annotations

import os
import random
import signal
import smtplib
import socket
import subprocess
import threading
import time
from typing import Any

from tests.integration.starts import StartCase
from tests.integration.support import CONFIG, PATIENCE, cli, takesAll, until
from tests.ports import freePort
from tests.tls import makeCertificate


def writes(pid: int) -> int:
    """How often a process has asked the system to write something."""
    with open(f"/proc/{pid}/io") as file:
        return int(dict(line.split(":") for line in file)["syscw"])


class ProcessCase(StartCase):
    """
    A directory with the usual configuration, and starts of the server in it.
    """

    def setUp(self) -> None:
        super().setUp()
        self.write()

    def send(self) -> None:
        self.sent(recipient="lover@example.net")


class StartTests(ProcessCase):
    """
    In the foreground and in the background.
    """

    def failures(self) -> dict[str, Any]:
        """
        What keeps a server from starting, and the word that says so.
        """

        def portTaken() -> None:
            self.write()
            taken = socket.create_server(("127.0.0.1", self.port))
            self.addCleanup(taken.close)

        def noSpool() -> None:
            self.port = freePort()
            self.write('state_dir = "mx.toml/state"\n' + CONFIG)

        def noWeb() -> None:
            self.port = freePort()
            taken = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(taken.close)
            number = taken.getsockname()[1]
            web = f'[web]\nendpoint = "tcp:{number}:interface=127.0.0.1"\n'
            self.write(CONFIG.replace("[[listen]]", f"{web}[[listen]]", 1))

        def wrong() -> None:
            self.write('reply_deadline = "soon"\n' + CONFIG)

        return {
            "reply_deadline: expected a time span": wrong,
            "Address already in use": portTaken,
            "cannot make the spool": noSpool,
            "cannot listen on tcp:": noWeb,
        }

    def test_foreground(self) -> None:
        """One line on standard error, and exit status 1."""
        for word, cause in self.failures().items():
            cause()
            status, errors = self.ended("--nodaemon")
            self.assertEqual((status, errors.count("\n")), (1, 1), errors)
            self.assertIn(word, errors)
            self.assertFalse(self.exists("twistd.pid"))

    def test_background(self) -> None:
        """The parent process says it, with exit status 1; the log has it without a traceback."""
        for word, cause in self.failures().items():
            cause()
            status, errors = self.ended()
            self.assertEqual(status, 1, errors)
            self.assertIn(word, errors)
            self.assertIn(word, self.read("twistd.log"))
            self.assertNotIn("Traceback", self.read("twistd.log"))
            until(lambda: not self.exists("twistd.pid"), "twistd removes it after it has said so")

    def test_runs(self) -> None:
        """The parent process ends when mail can be taken; log and pid file are twistd's."""
        self.assertEqual(self.ended(), (0, ""))
        pid = int(self.read("twistd.pid"))
        self.addCleanup(self.kill, pid)
        self.send()
        os.rename(os.path.join(self.home, "twistd.log"), os.path.join(self.home, "old.log"))
        os.kill(pid, signal.SIGUSR1)
        until(lambda: self.exists("twistd.log"), "another log")
        self.send()
        until(lambda: self.read("twistd.log").count("to=<lover@example.net>"), "a line")
        self.assertEqual(self.ended()[0], 1)  # another one runs
        os.kill(pid, signal.SIGTERM)
        until(lambda: not self.exists("twistd.pid"), "its end")
        self.assertIn("listening on", self.read("old.log"))

    def test_containerAgain(self) -> None:
        """A pid file whose number another program has, or this one, keeps nothing from starting."""
        with open(os.path.join(self.home, "twistd.pid"), "w") as file:
            file.write("1")
        self.assertEqual(self.ended(), (0, ""))
        self.addCleanup(self.kill, int(self.read("twistd.pid")))


class StopTests(ProcessCase):
    """
    The end.
    """

    def test_second(self) -> None:
        """A second SIGTERM ends at once a server that waits for a next hop, without a traceback."""
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        endpoint = f"tcp:127.0.0.1:{silent.getsockname()[1]}"
        self.write(takesAll(f'{{ use = "lmtp", endpoint = "{endpoint}" }}'))
        process = self.begin("--nodaemon")
        self.ready()
        self.send()
        waiting = silent.accept()[0]
        self.addCleanup(waiting.close)
        process.send_signal(signal.SIGTERM)
        until(lambda: not self.listens(), "the stop")
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(PATIENCE), -signal.SIGTERM)
        self.assertNotIn("Traceback", self.log())


class LogTests(ProcessCase):
    """
    A log that cannot be written is the log's trouble.
    """

    def check(self, stdout: Any) -> subprocess.Popen[bytes]:
        """
        Mail is taken, nothing spins, and the server ends when it is told.
        """
        process = self.begin("--nodaemon", stdout=stdout, stderr=subprocess.DEVNULL)
        self.ready()
        for _ in range(3):
            self.send()
        with smtplib.SMTP("127.0.0.1", self.port) as client:
            for _ in range(400):
                client.sendmail(
                    "a@client.test", ["postmaster@example.net"], "Subject: x\n\nhello\n"
                )
        before = writes(process.pid)
        time.sleep(2)
        self.assertLess(writes(process.pid) - before, 200)  # a loop makes many thousands
        process.send_signal(signal.SIGTERM)
        self.assertIn(process.wait(PATIENCE), (0, -signal.SIGTERM))
        return process

    def test_full(self) -> None:
        """The log's disk is full."""
        with open("/dev/full", "wb") as full:
            self.check(full)

    def test_notRead(self) -> None:
        """The pipe is not read."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        self.check(writer)

    def test_gone(self) -> None:
        """Its reader is gone."""
        reader, writer = os.pipe()
        os.close(reader)
        self.addCleanup(os.close, writer)
        self.check(writer)

    def test_ascii(self) -> None:
        """An address that standard output's encoding does not have is written as an escape."""
        self.begin("--nodaemon", environ={"PYTHONIOENCODING": "ascii"})
        self.ready()
        dialogue = self.dialogue(self.port)
        dialogue.reply()
        dialogue.say("EHLO client.test", "MAIL FROM:<a@client.test> SMTPUTF8")
        dialogue.say("RCPT TO:<jürgen@elsewhere.test>")
        self.logged("j\\xfcrgen")
        self.assertNotIn("Traceback", self.log())


class ManagerTests(ProcessCase):
    """
    What a service manager gives and wants (C{Type=notify}, C{WatchdogSec=}, sockets).
    """

    def test_notify(self) -> None:
        """It is told that mail can be taken, that the reactor turns, and of the stop."""
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.bind(os.path.join(self.home, "notify"))
        manager.settimeout(PATIENCE)
        environ = {
            "NOTIFY_SOCKET": os.path.join(self.home, "notify"),
            "WATCHDOG_USEC": "300000",
        }
        process = self.begin("--nodaemon", environ=environ)
        told = [manager.recv(999).decode() for _ in range(4)]
        self.assertTrue(self.listens())
        self.assertIn(f"READY=1\nMAINPID={process.pid}", told)
        self.assertGreaterEqual(told.count("WATCHDOG=1"), 2)
        process.send_signal(signal.SIGTERM)
        while manager.recv(999) != b"STOPPING=1":
            pass
        process.wait(PATIENCE)

    def test_sockets(self) -> None:
        """A listener's socket may be the manager's, by its name."""
        self.write(CONFIG.replace("tcp:0:interface=127.0.0.1", "systemd:domain=INET:name=mx"))
        with socket.create_server(("127.0.0.1", self.port)) as given:
            # The first descriptor that a manager gives is 3; a shell knows those below ten.
            before = "exec 3<&0 0</dev/null && export LISTEN_FDS=1 LISTEN_FDNAMES=mx LISTEN_PID=$$"
            self.begin("--nodaemon", before=before, stdin=given)
        self.ready()
        self.send()


class ReloadTests(ProcessCase):
    """
    Configurations at random, one after the other, on a server under mail.
    """

    def setUp(self) -> None:
        super().setUp()
        self.ports = [freePort() for _ in range(3)]
        self.certificates = makeCertificate(self.home)

    def certificate(self, *, isGood: bool) -> str:
        certificate, key = self.certificates
        return f'[tls]\ncertificate = "{certificate}"\nkey = "{key if isGood else certificate}"\n'

    def places(self) -> dict[str, set[Any]]:
        """
        Endpoints, and the addresses where each answers.
        """
        one, two, three = self.ports
        path = os.path.join(self.home, "smtp.sock")
        return {
            f"tcp:{one}:interface=127.0.0.1": {("127.0.0.1", one)},
            f"tcp:{one}:interface=127.0.0.2": {("127.0.0.2", one)},
            f"tcp:{one}": {("127.0.0.1", one), ("127.0.0.2", one)},
            f"tcp6:{two}:interface=\\:\\:1": {("::1", two)},
            f"tcp:{two}:interface=127.0.0.1": {("127.0.0.1", two)},
            f"unix:{path}": {path},
            f"unix:{path}:mode=600": {path},
            f"haproxy:tcp:{three}:interface=127.0.0.1": {("127.0.0.1", three)},
        }

    def answers(self, place: Any) -> bool:
        family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
        family = socket.AF_INET6 if place[0] == "::1" else family
        with socket.socket(family) as client:
            client.settimeout(PATIENCE)
            try:
                client.connect(place)
                if place != ("127.0.0.1", self.ports[2]):
                    return client.recv(3) == b"220"
                client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n")
                return client.recv(3) == b"220"
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            except TimeoutError:
                raise AssertionError(f"{place} takes connections, and says nothing") from None

    def configure(self, endpoints: list[str], *, isWrong: bool, isGood: bool, code: int) -> None:
        stable = f"tcp:{self.port}:interface=127.0.0.1"
        listeners = "".join(
            f"[[listen]]\nendpoint = '{endpoint}'\n"
            + ("proxies = ['127.0.0.1']\n" if endpoint.startswith("haproxy") else "")
            for endpoint in (stable, *endpoints)
        )
        self.write(
            f"""
{"reply_deadline = 'soon'" if isWrong else ""}
{listeners}
{self.certificate(isGood=isGood)}
[policies.open]
envelope = "accept"
[policies.gone]
envelope = "refuse"
reply = "550 5.1.{code} gone"
[[recipients]]
match = "gone@example.net"
policy = "gone"
[[recipients]]
match = "*@example.net"
policy = "open"
deliver = {{ use = "discard" }}
"""
        )

    def gone(self) -> str:
        """What a recipient is told whose reply each configuration changes."""
        dialogue = self.dialogue(self.port)
        dialogue.reply()
        dialogue.say("EHLO client.test", "MAIL FROM:<a@client.test>")
        (reply,) = dialogue.say("RCPT TO:<gone@example.net>")
        dialogue.close()
        return reply

    def test_random(self) -> None:
        """
        Each is in force whole, or the one before is, as C{deferrals reload} says; no
        mail that comes meanwhile is refused or lost.
        """
        chance = random.Random(os.environ.get("DEFERRALS_SEED", "1"))
        self.configure([], isWrong=False, isGood=True, code=0)
        process = self.begin("--nodaemon")
        self.ready()
        places = self.places()
        stop = threading.Event()
        sent: list[bool] = []

        def send() -> None:
            while not stop.is_set():
                with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE) as client:
                    sent.append(not client.sendmail("a@c.test", "b@example.net", "X: y\n\nz\n"))

        thread = threading.Thread(target=send)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(stop.set)
        before: set[Any] = set()
        told = "550 5.1.0 "
        for number in range(1, 1 + int(os.environ.get("DEFERRALS_RELOADS", "12"))):
            chosen = chance.sample([*places, "unix:/proc/none"], chance.randrange(4))
            isWrong, isGood = chance.random() < 0.15, chance.random() < 0.85
            code = number % 8
            self.configure(chosen, isWrong=isWrong, isGood=isGood, code=code)
            done = cli("reload", "--config", os.path.join(self.home, "mx.toml"))
            said = (number, chosen, isWrong, isGood, done.stdout, done.stderr)
            if done.returncode == 0:
                before = {place for name in chosen for place in places[name]}
                told = f"550 5.1.{code} "
                self.assertTrue(isGood and not isWrong, said)
            else:
                self.assertEqual(done.returncode, 1, said)
            everywhere = {place for found in places.values() for place in found}
            answering = {place for place in everywhere if self.answers(place)}
            self.assertEqual(answering, before, said)
            self.assertTrue(self.gone().startswith(told), said)
        stop.set()
        thread.join()
        self.assertTrue(sent and all(sent))
        self.assertIsNone(process.poll())
        self.assertNotIn("Traceback", self.log())
        self.assertIn("configuration reloaded", self.log())
