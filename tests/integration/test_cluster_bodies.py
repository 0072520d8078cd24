"""
Servers with large messages in a real PostgreSQL, and in a directory beside it: killed
while such a message is taken, and without the directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import smtplib
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable

from tests.integration.clusters import primary
from tests.integration.support import MAILDIR, PATIENCE, Server, cli, until
from tests.integration.test_cluster_queue import QueueCase
from tests.ports import freePort

_LINES = 80_000

_ROUNDS = 5


class LargeMailCase(QueueCase):
    """
    Servers whose large contents are in a directory, or not.
    """

    def large(self, schema: str, bodies: str = "", deliver: str = MAILDIR, top: str = "") -> Server:
        """
        @param bodies: the directory.
        """
        more = f'"\nbodies = "{bodies}' if bodies else ""
        return self.machine(primary().conninfo, schema, f"one{more}", deliver, top)

    def found(self, bodies: str) -> list[str]:
        """
        What is in the directory, but for what says whose it is.
        """
        found = [name for _, _, names in os.walk(bodies) for name in names]
        return [name for name in found if not name.startswith("queue")]


def sent(server: Server, number: int, lines: int = _LINES) -> tuple[int, bytes]:
    """
    Bring a message.

    @return: the final reply.
    @raise OSError: there was none.
    """
    text = f"Subject: number {number}\r\n\r\n".encode() + b"0123456789abcde\r\n" * lines
    (port, *_) = re.findall(r"listening on 127\.0\.0\.1:(\d+) for smtp", server.log)
    with smtplib.SMTP("127.0.0.1", int(port), timeout=PATIENCE) as client:
        client.ehlo("client.test")
        client.mail("me@client.test")
        client.rcpt("lover@example.net")
        return client.data(text)


class KilledLargeTests(LargeMailCase):
    """
    A server that is killed while it takes a large message, and started again.
    """

    def killed(self, server: Server, begun: Callable[[], bool]) -> set[int]:
        """
        @param begun: whether something of the message is where all can have it.
        @return: the numbers of the messages whose senders were told 250.
        """
        told: set[int] = set()

        def bring(number: int) -> None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                if sent(server, number)[0] == 250:
                    told.add(number)

        for number in range(_ROUNDS):
            until(lambda: not begun(), server.log)
            sender = threading.Thread(target=bring, args=(number,))
            sender.start()
            while sender.is_alive() and not begun():
                time.sleep(0.0005)
            time.sleep(0.004 * number)
            server.kill()
            sender.join()
            server.start()
        bring(_ROUNDS)
        self.assertIn(_ROUNDS, told)
        return told

    def delivered(self, server: Server, told: set[int]) -> None:
        """
        Who was told 250 has his message delivered, whole.
        """
        until(lambda: told <= set(self.numbers(server)), server.log)
        self.assertTrue(all(one.count(b"abcde") == _LINES for one in server.mail("lover")))
        # of what a process was told of, and died, a second copy may come
        self.assertLessEqual(max(Counter(self.numbers(server)).values()), 2)

    def numbers(self, server: Server) -> list[int]:
        found = [one.partition(b"number ")[2].split()[0] for one in server.mail("lover")]
        return [int(one) for one in found]

    def test_directory(self) -> None:
        """Every 250 is delivered, whole; in the directory nothing stays."""
        schema, bodies = primary().newSchema(), self.directory()
        server = self.large(schema, bodies)
        told = self.killed(server, lambda: bool(self.found(bodies)))
        self.delivered(server, told)
        until(lambda: not self.found(bodies), f"{self.found(bodies)}\n{server.log}")
        self.assertNotIn("damaged", server.log)

    def test_pieces(self) -> None:
        """The same with pieces in the database."""
        schema = primary().newSchema()
        server = self.large(schema)
        until(lambda: "accepted mail is kept" in server.log, server.log)
        count = f"SELECT count(*) FROM {schema}.pieces"
        told = self.killed(server, lambda: primary().ask(count) != [(0,)])
        self.delivered(server, told)
        until(lambda: primary().ask(count) == [(0,)], server.log)


class AwayBodiesTests(LargeMailCase):
    """
    Two servers, one directory.
    """

    def test_away(self) -> None:
        """
        While the directory is away large mail is 452 4.3.1, and small mail is delivered; it is
        taken again when it is back, without a restart; operators see that.
        """
        schema, bodies = primary().newSchema(), self.directory()
        server = self.large(schema, bodies)
        self.assertEqual(sent(server, 1)[0], 250)
        until(lambda: not self.found(bodies), server.log)
        os.rename(bodies, f"{bodies}.away")
        os.mkdir(bodies)
        for _ in range(2):
            code, text = sent(server, 2)
            self.assertEqual((code, text[:6]), (452, b"4.3.1 "), server.log)
        self.assertEqual(sent(server, 3, 1)[0], 250)
        until(lambda: self.state() == "2", server.log)
        self.assertEqual((os.listdir(bodies), self.ready()), ([], 200))
        os.rmdir(bodies)
        os.rename(f"{bodies}.away", bodies)
        self.assertEqual(sent(server, 4)[0], 250)
        server.arrived("lover", 3)
        until(lambda: self.state() == "0", server.log)
        for text in ("large mail cannot be taken", "large mail can be taken again"):
            self.assertEqual(server.log.count(text), 1, server.log)
        until(lambda: not self.found(bodies), server.log)

    def state(self) -> str:
        """
        What monitoring says of the directory.
        """
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web}/metrics", timeout=30) as page:
            text = page.read().decode()
        (line,) = (one for one in text.splitlines() if 'service_state{service="contents"' in one)
        return str(int(float(line.split()[-1])))

    def test_workers(self) -> None:
        """Processes that start at once have one directory; each delivers what it has taken."""
        schema, bodies = primary().newSchema(), self.directory()
        server = self.large(schema, bodies, top="workers = 2")
        until(lambda: server.log.count("is running") == 2, server.log)
        for number in range(4):
            self.assertEqual(sent(server, number)[0], 250)
        server.arrived("lover", 4)
        until(lambda: not self.found(bodies), server.log)
        owners = sorted(one for one in os.listdir(bodies) if one.isdigit())
        self.assertEqual(owners, ["1", "2"], server.log)

    def test_commands(self) -> None:
        """
        Commands read, check and remove what is in the directory while no server runs; what
        is not mounted they say.
        """
        schema, bodies = primary().newSchema(), self.directory()
        deliver = f'{{ use = "smtp", endpoint = "tcp:127.0.0.1:{freePort()}" }}'
        server = self.large(schema, bodies, deliver)
        self.assertEqual(sent(server, 1)[0], 250)
        server.stop()
        listed = cli("queue", "list", "--json", "-c", server.path)
        (row,) = (json.loads(line) for line in listed.stdout.splitlines())
        self.assertEqual(cli("queue", "check", "-c", server.path).returncode, 0)
        exported = cli("queue", "export", row["id"], "-c", server.path)
        self.assertEqual((exported.returncode, len(exported.stdout)), (0, row["size"]))
        os.rename(bodies, f"{bodies}.away")
        os.mkdir(bodies)
        for verb in ("export", "check"):
            argv = ["queue", verb, *[row["id"]] * (verb == "export"), "-c", server.path]
            done = cli(*argv)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("has no file queue", done.stdout + done.stderr)
        os.rmdir(bodies)
        os.rename(f"{bodies}.away", bodies)
        done = cli("queue", "remove", row["id"], "-c", server.path)
        self.assertEqual((done.returncode, self.found(bodies)), (0, []), done.stderr)
