"""
Our own server as a process: starting, stopping, reloading, crashing; and a
verdict service that behaves badly.
"""

from __future__ import annotations

import http.server
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.integration.support import (
    CONFIG,
    PATIENCE,
    ROOT,
    TWISTD,
    Dialogue,
    IntegrationCase,
    Process,
    Server,
    cli,
    python,
    run,
    until,
)
from tests.requirements import requirement
from tests.zygote import popen

ENVELOPE = ("EHLO client.test", "MAIL FROM:<a@client.test> PRDR")


class LifeTests(IntegrationCase):
    """
    From start to stop.
    """

    def twistd(self, *options: str, cwd: str | None = None) -> Any:
        words = [*TWISTD, "--nodaemon", "--pidfile=", "deferrals", *options]
        return python(*words, cwd=cwd or self.directory())

    def test_badConfig(self) -> None:
        """A broken configuration is told without a traceback, and nothing starts."""
        path = os.path.join(self.directory(), "bad.toml")
        with open(path, "w") as file:
            file.write("reply_deadline = 'soon'\n")
        done = self.twistd("--config", path)
        self.assertEqual(done.returncode, 1)
        output = done.stdout + done.stderr
        self.assertIn(f"{path}: reply_deadline: expected a time span", output)
        self.assertNotIn("Traceback", output)
        done = cli("check-config", path)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"{path}: reply_deadline: expected a time span", done.stderr)

    def test_checkConfig(self) -> None:
        """C{deferrals check-config} says that a file is good, and starts nothing."""
        directory = self.directory()
        path = os.path.join(directory, "good.toml")
        with open(path, "w") as file:
            file.write(CONFIG)
        done = cli("check-config", path)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("good: 1 listeners, 5 rules", done.stdout)
        self.assertEqual(os.listdir(directory), ["good.toml"])

    def test_portInUse(self) -> None:
        """A port that is in use is told, and the process ends with 1."""
        server = self.server()
        path = os.path.join(self.directory(), "second.toml")
        with open(path, "w") as file:
            file.write(CONFIG.replace("tcp:0:", f"tcp:{server.port}:"))
        done = self.twistd("--config", path)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot listen on", done.stdout)
        self.assertNotIn("Traceback", done.stdout + done.stderr)

    def test_secondOnOneSpool(self) -> None:
        """A second process on the same spool ends, and says why."""
        server = self.server()
        done = self.twistd("--config", server.path)
        self.assertEqual(done.returncode, 1)
        self.assertIn("in use by another process", done.stdout)

    def test_jsonOption(self) -> None:
        """An unknown log format is told."""
        done = self.twistd("--log-format", "xml")
        self.assertEqual(done.returncode, 1)
        self.assertIn("--log-format: expected plain or json", done.stdout + done.stderr)

    def test_builtinDefault(self) -> None:
        """Without a configuration: a server on loopback, and a line to try it with."""
        directory = self.directory()
        process = Process(
            [sys.executable, *TWISTD, "--nodaemon", "--pidfile=", "deferrals"],
            os.path.join(directory, "log"),
            popen,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        self.addCleanup(process.kill)
        try:
            process.ready(lambda: "try it:" in process.output(), "the server")
        except AssertionError as error:
            if "cannot listen on" in str(error):
                raise SkipTest("port 2525 is in use on this machine") from None
            raise
        words = re.search(r"try it: \S+ (send .*)", process.output())
        assert words is not None
        done = cli(*words[1].split())
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("S: 353", done.stdout)
        new = os.path.join(directory, "deferrals-state/mail/localhost/postmaster/new")
        until(lambda: os.path.isdir(new) and os.listdir(new), "postmaster's mail")
        self.assertEqual(os.stat(os.path.join(directory, "deferrals-state")).st_mode & 0o777, 0o700)
        self.assertIn(process.stop(), (0, -signal.SIGTERM))

    def test_reload(self) -> None:
        """
        SIGHUP reads the file again, for the transactions from now on; a broken one is refused and
        the old one stays.
        """
        server = self.server()
        before = self.dialogue(server.port)
        before.reply()
        before.say(*ENVELOPE)
        self.reload(server, CONFIG + "\n[broken", "not reloaded, the old one stays")
        self.assertIn("not TOML", server.log)
        refusing = CONFIG.replace(
            'envelope = "accept"', 'envelope = "refuse"\nreply = "550 5.1.1 closed"'
        )
        self.reload(server, refusing, "configuration reloaded")
        after = self.dialogue(server.port)
        after.reply()
        after.say(*ENVELOPE)
        for dialogue, code in ((before, "250"), (after, "550")):
            (reply,) = dialogue.say("RCPT TO:<postmaster@example.net>")
            self.assertTrue(reply.startswith(code), reply)
        before.say("RSET", ENVELOPE[-1])
        (reply,) = before.say("RCPT TO:<postmaster@example.net>")
        self.assertTrue(reply.startswith("550"), reply)
        for dialogue in (before, after):
            dialogue.close()

    def test_reloadListeners(self) -> None:
        """A reload opens new listeners and closes those that are gone."""
        server = self.server()
        socket = os.path.join(server.directory, "smtp.sock")
        self.reload(
            server, CONFIG + f'\n[[listen]]\nendpoint = "unix:{socket}"\n', "configuration reloaded"
        )
        done = cli(
            *("send", "--to", f"unix:{socket}", "--from", "a@client.test"),
            *("--rcpt", "lover@example.net", "--sample", "plain"),
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.reload(server, CONFIG, "no longer listening on unix:")
        self.assertFalse(os.path.exists(socket))

    def reload(self, server: Server, text: str, wanted: str) -> None:
        with open(server.path, "w") as file:
            file.write(text)
        count = server.log.count(wanted)
        server.process.process.send_signal(signal.SIGHUP)
        until(lambda: server.log.count(wanted) > count, wanted)

    def test_stop(self) -> None:
        """SIGTERM: sessions are told 421, and the process ends (twistd: by that signal)."""
        server = self.server()
        dialogue = self.dialogue(server.port)
        dialogue.reply()
        server.process.process.send_signal(signal.SIGTERM)
        self.assertTrue(dialogue.reply().startswith("421 4.3.2"))
        dialogue.close()
        self.assertIn(server.process.process.wait(PATIENCE), (0, -signal.SIGTERM))

    def test_undeliverable(self) -> None:
        """What cannot be delivered stays, and is delivered after the next start."""
        server = self.server(f"{CONFIG}")
        obstacle = os.path.join(server.directory, "mail")
        with open(obstacle, "w"):
            pass
        cli(
            *("send", "--to", f"127.0.0.1:{server.port}", "--from", "a@client.test"),
            *("--rcpt", "lover@example.net", "--sample", "plain"),
        )
        until(lambda: "retry by" in server.log, "a retry")
        server.stop()
        os.unlink(obstacle)
        server.start()
        server.arrived("lover")

    def test_nonsense(self) -> None:
        """Anything a client sends gets replies or a close, and no traceback."""
        server = self.server()
        random.seed(5)
        words = [
            b"EHLO x",
            b"MAIL FROM:<a@b.c>",
            b"RCPT TO:<lover@example.net>",
            b"DATA",
            b".",
            b"QUIT",
        ]
        for _ in range(40):
            dialogue = self.dialogue(server.port)
            noise = bytes(random.randrange(256) for _ in range(random.randrange(3000)))
            lines = [random.choice(words) for _ in range(8)]
            dialogue.socket.sendall(b"\r\n".join([*lines, noise, b"", b""]))
            dialogue.socket.shutdown(1)
            for line in dialogue.file:
                self.assertRegex(line, rb"^[2-5][0-9][0-9][ -].*\r\n$")
            dialogue.close()
        self.assertNotIn("Traceback", server.log)


class Verdicts(http.server.BaseHTTPRequestHandler):
    """
    A verdict service: each recipient's local part says how it behaves.
    """

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert body.startswith(b"Return-Path: <a@client.test>\r\nReceived: from client"), body
        assert b"\r\nFrom: x\r\n" in body, body
        how = self.headers["Deferrals-Rcpt-To"].partition("@")[0]
        if how == "never":
            time.sleep(PATIENCE)
        if how.startswith("slow"):
            time.sleep(float(how[4:]) / 10)
        answer: Any = {"default": {"accept": True}}
        if how == "fighter":
            answer = {"default": {"accept": False, "reply": "550 5.6.0 refuses the content"}}
        if how == "liar":
            answer = {"default": {"accept": False, "reply": "250 ok\r\n250 ok"}}
        data = b"<html>" if how == "wrong" else json.dumps(answer).encode()
        if how == "hangup":
            self.close_connection = True
            return
        self.send_response(500 if how == "broken" else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


class VerdictServiceTests(IntegrationCase):
    """
    A verdict service that answers out of order, slowly, wrongly and not at all.
    """

    @requirement("D-10")
    @requirement("D-25")
    @requirement("P-6")
    def test_all(self) -> None:
        """Each recipient has its own answer, in order and in time."""
        service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Verdicts)
        thread = threading.Thread(target=service.serve_forever, daemon=True)
        thread.start()
        self.addCleanup(service.server_close)
        self.addCleanup(service.shutdown)
        config = f"""
reply_deadline = 4
consolidation_window = 0.5
[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"
[policies.asked]
content = [ {{ use = "http", url = "http://127.0.0.1:{service.server_port}/" }} ]
[[recipients]]
match = "*@example.net"
policy = "asked"
deliver = {{ use = "maildir", path = "mail/{{local}}" }}
"""
        server = self.server(config)
        behaviours = {
            "slow9": "250",
            "fighter": "550",
            "wrong": "451",
            "never": "451",
            "slow1": "250",
            "broken": "451",
            "liar": "451",
            "hangup": "451",
            "good": "250",
        }
        for form in ("PRDR", "DEFERRALS"):
            dialogue = self.dialogue(server.port)
            dialogue.reply()
            dialogue.say("EHLO client.test")
            recipients = [f"RCPT TO:<{how}@example.net>" for how in behaviours]
            replies = dialogue.say(f"MAIL FROM:<a@client.test> {form}", *recipients, "DATA")
            wanted = "352" if form == "DEFERRALS" else "250"
            self.assertEqual([reply[:3] for reply in replies], ["250", *[wanted] * 9, "354"])
            dialogue.socket.sendall(b"From: x\r\n\r\nhello\r\n.\r\n")
            self.assertTrue(dialogue.reply().startswith("353"))
            for how, code in behaviours.items():
                reply = dialogue.reply()
                self.assertTrue(reply.startswith(code), (how, reply))
                self.assertIn(f"<{how}@example.net>", reply)
            self.assertTrue(dialogue.reply().startswith("250 2.6.0 message accepted for 3 of 9"))
            dialogue.close()
        for how, code in behaviours.items():
            if code == "250":
                self.assertEqual(len(server.arrived(how, 2)), 2)
            else:
                self.assertEqual(server.mail(how), [])
        self.assertNotIn("Traceback", server.log)


class CrashTests(IntegrationCase):
    """
    The process is killed while mail is coming in.
    """

    @requirement("D-23")
    def test_killed(self) -> None:
        """A recipient answered 2xx has the message; one that was refused has none."""
        server = self.server()
        random.seed(7)
        acknowledged: set[str] = set()
        sent = 0
        for _ in range(6):
            stop = time.monotonic() + random.uniform(0.2, 0.6)
            dialogue: Dialogue | None = None
            killer = threading.Timer(stop - time.monotonic(), server.kill)
            killer.start()
            try:
                dialogue = self.dialogue(server.port)
                dialogue.reply()
                dialogue.say("EHLO client.test")
                while True:
                    sent += 1
                    name = f"message-{sent:06d}"
                    dialogue.say(
                        "MAIL FROM:<a@client.test> PRDR",
                        "RCPT TO:<lover@example.net>",
                        "RCPT TO:<waiter@example.net>",
                        "DATA",
                    )
                    dialogue.socket.sendall(f"Subject: {name}\r\n\r\nhello\r\n.\r\n".encode())
                    replies = [dialogue.reply() for _ in range(4)]
                    if not replies[-1]:
                        break
                    self.assertEqual([r[:3] for r in replies], ["353", "250", "450", "250"])
                    acknowledged.add(name)
            except OSError:
                pass
            killer.join()
            if dialogue is not None:
                dialogue.close()
            server.start()
        delivered = lambda: re.findall(r"message-\d{6}", b"".join(server.mail("lover")).decode())  # noqa: E731
        until(lambda: acknowledged <= set(delivered()), "every acknowledged message")
        self.assertGreater(len(acknowledged), 20)
        self.assertEqual(server.mail("waiter"), [])
        extra = len(delivered()) - len(acknowledged)
        self.assertLessEqual(extra, 6, "at most the one in flight at each kill")


class ExampleTests(IntegrationCase):
    """
    The example of how to write a stage.
    """

    def test_installed(self) -> None:
        """The package is installed beside the server, and the configuration names its stage."""
        work = self.directory()
        source = os.path.join(work, "source")
        shutil.copytree(os.path.join(ROOT, "docs", "examples", "deferrals-quiet-hours"), source)
        target = os.path.join(work, "site")
        done = run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
                *("--target", target, source),
            ],
            timeout=300,
        )
        if done.returncode != 0:
            raise SkipTest(f"pip cannot build here: {done.stderr[-300:]}")
        night = (time.localtime().tm_hour + 3) % 24
        stage = f'"quiet-hours", larger_than = 5000, from_hour = {night}, to_hour = {night + 1}'
        config = CONFIG.replace('"match", rules = [ { test = "eicar" } ]', stage.replace("24", "0"))
        path = os.path.join(work, "deferrals.toml")
        with open(path, "w") as file:
            file.write(config)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, target])}
        done = run([sys.executable, "-m", "deferrals.cli", "check-config", path], env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        with_example = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = target
        self.addCleanup(
            lambda: (
                os.environ.pop("PYTHONPATH")
                if with_example is None
                else os.environ.update(PYTHONPATH=with_example)
            )
        )
        server = self.server(config)
        for size, code in ((100, "250 2.6.0"), (10000, "450 4.3.2 large mail is taken at night")):
            dialogue = self.dialogue(server.port)
            dialogue.reply()
            dialogue.say(*ENVELOPE, "RCPT TO:<other@example.net>", "DATA")
            dialogue.socket.sendall(b"Subject: x\r\n\r\n" + b"x" * size + b"\r\n.\r\n")
            self.assertTrue(dialogue.reply().startswith(code))
            dialogue.close()
