"""
kill -9, again and again, while senders pump numbered messages; then the books
are closed:

  - every message whose 2xx a sender has read is in the mailbox of each recipient
    that accepted, whole, at least once;
  - no recipient that refused has it;
  - no recipient has it twice, unless it was under way at a kill.

    python -m tests.crash.rig --kills 5000

runs for as long as one likes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from typing import Any

from deferrals.stages.content.match.stage import GTUBE
from tests.crash.support import CONFIG, STAGE
from tests.integration.support import PATIENCE, ROOT, TWISTD, freePort, greeting, until
from tests.zygote import Forked, Zygote

#: A kill may repeat what was under way: what was accepted so many seconds ago.
UNDER_WAY_SECONDS = 10.0

#: A message this large is in a file of its own.
LARGE_OCTETS = 300_000


class Books:
    """
    What the senders know.

    @ivar accepted: message and recipient of every 2xx that was read, and when.
    @ivar refused: the same for refusals.
    @ivar begun: message and recipient of all that were begun, and when.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.number = 0
        self.accepted: dict[tuple[int, str], float] = {}
        self.refused: dict[tuple[int, str], float] = {}
        self.begun: dict[tuple[int, str], float] = {}

    def next(self, recipients: list[str]) -> int:
        with self.lock:
            self.number += 1
            now = time.monotonic()
            self.begun.update({(self.number, one): now for one in recipients})
            return self.number

    def note(self, number: int, answers: dict[str, str]) -> None:
        now = time.monotonic()
        with self.lock:
            for recipient, code in answers.items():
                book = self.accepted if code.startswith("2") else self.refused
                book[number, recipient] = now


def content(number: int, spam: bool, large: bool) -> bytes:
    """
    A message that says what it is: its number, and the hash of its body.
    """
    body = b"line of text\r\n" * (LARGE_OCTETS // 14 if large else number % 20)
    body += GTUBE.encode() + b"\r\n" if spam else b""
    digest = hashlib.sha256(body).hexdigest()
    return f"X-Number: {number}\r\nX-Digest: {digest}\r\n\r\n".encode() + body


class Sender(threading.Thread):
    """
    Pumps messages of all kinds until it is told to stop.
    """

    def __init__(self, books: Books, port: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.books, self.port = books, port
        self.random = random.Random(seed)
        self.stopping = False

    def run(self) -> None:
        while not self.stopping:
            with contextlib.suppress(OSError, EOFError):
                self._session()
            time.sleep(0.01)

    def _session(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            self.file = connection.makefile("rwb")
            self._reply()
            self._say("EHLO rig.test")
            while not self.stopping:
                self._message()

    def _reply(self) -> str:
        while True:
            line = self.file.readline()
            if not line.endswith(b"\r\n"):
                raise EOFError
            if line[3:4] != b"-":
                return line.decode()

    def _say(self, line: str) -> str:
        self.file.write(line.encode() + b"\r\n")
        self.file.flush()
        return self._reply()

    def _message(self) -> None:
        kind = self.random.choice(("one", "one", "many", "mixed", "mixed", "large"))
        recipients = {
            "one": ["a@example.net"],
            "large": ["b@example.net"],
            "many": ["a@example.net", "b@example.net", "c@example.net"],
            "mixed": ["a@example.net", "p@picky.example", "b@example.net"],
        }[kind]
        number = self.books.next(recipients)
        self._say("MAIL FROM:<>" + (" PRDR" if kind == "mixed" else ""))
        for recipient in recipients:
            if not self._say(f"RCPT TO:<{recipient}>").startswith("250"):
                raise EOFError
        self._say("DATA")
        self.file.write(content(number, kind == "mixed", kind == "large") + b".\r\n")
        self.file.flush()
        final = self._reply()
        answers = dict.fromkeys(recipients, final)
        if final.startswith("353"):
            answers = {recipient: self._reply() for recipient in recipients}
            final = self._reply()
        if final.startswith("2"):
            self.books.note(number, answers)


class Rig:
    """
    @param directory: where configuration, state and mail are.
    @param kills: how many there are to be.
    @param seed: of all that is random.
    """

    def __init__(self, directory: str, kills: int, seed: int, senders: int = 4) -> None:
        self.directory, self.kills = directory, kills
        self.random = random.Random(seed)
        self.port = freePort()
        self.path = os.path.join(directory, "deferrals.toml")
        with open(self.path, "w") as file:
            file.write(CONFIG.replace("tcp:0:", f"tcp:{self.port}:"))
        self.log = os.path.join(directory, "server.log")
        self.books = Books()
        self.senders = [Sender(self.books, self.port, seed + n) for n in range(senders)]
        self.killed: list[float] = []
        paths = filter(None, [ROOT, STAGE, os.environ.get("PYTHONPATH")])
        self.env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self.zygote = Zygote.of(self.env)

    def start(self) -> Forked:
        """
        @return: a server.
        """
        words = [*TWISTD, "--nodaemon", "--pidfile=", "deferrals", "--config", self.path]
        with open(self.log, "ab") as log:
            return self.zygote.start(
                words, self.env, self.directory, stdout=log, stderr=subprocess.STDOUT
            )

    def run(self) -> dict[str, Any]:
        """
        @return: the counts.
        """
        began = time.monotonic()
        for sender in self.senders:
            sender.start()
        while len(self.killed) < self.kills:
            server = self.start()
            if self.random.random() < 0.9:
                until(lambda: greeting(self.port), "a greeting")
            time.sleep(self.random.random() * 0.5)
            server.kill()
            self.killed.append(time.monotonic())
            server.wait(PATIENCE)
        server = self.start()
        until(lambda: greeting(self.port), "a greeting")
        time.sleep(0.5)
        for sender in self.senders:
            sender.stopping = True
        for sender in self.senders:
            sender.join(PATIENCE)
        missing = self._settled()
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE)
        return self._counts(missing, time.monotonic() - began)

    def _settled(self) -> set[tuple[int, str]]:
        """
        @return: what has not arrived, when all that was accepted had its time.
        """
        missing = set(self.books.accepted)

        def arrived() -> bool:
            missing.difference_update(self._mail()[0])
            return not missing

        with contextlib.suppress(AssertionError):
            until(arrived, "all mail", PATIENCE)
        time.sleep(1)
        return missing

    def _mail(self) -> tuple[Counter[tuple[int, str]], list[str]]:
        """
        @return: how often each message is in each mailbox, and what is not whole.
        """
        found: Counter[tuple[int, str]] = Counter()
        torn = []
        for local, domain in (("a", ""), ("b", ""), ("c", ""), ("p", "picky.example")):
            directory = os.path.join(self.directory, "mail", local, "new")
            for name in os.listdir(directory) if os.path.isdir(directory) else ():
                with open(os.path.join(directory, name), "rb") as file:
                    head, _, body = file.read().partition(b"X-Number: ")[2].partition(b"\r\n\r\n")
                number, digest = re.findall(rb"^(\d+)\r?\nX-Digest: (\w+)", head)[0]
                if hashlib.sha256(body).hexdigest().encode() != digest:
                    torn.append(name)
                found[int(number), f"{local}@{domain or 'example.net'}"] += 1
        return found, torn

    def _counts(self, missing: set[tuple[int, str]], seconds: float) -> dict[str, Any]:
        found, torn = self._mail()
        twice = {key: count - 1 for key, count in found.items() if count > 1}
        return {
            "kills": len(self.killed),
            "seconds": round(seconds),
            "messages": self.books.number,
            "accepted": len(self.books.accepted),
            "refused": len(self.books.refused),
            "unanswered": len(self.books.begun)
            - len(self.books.accepted)
            - len(self.books.refused),
            "delivered": len(found),
            "lost": len(missing),
            "torn": len(torn),
            "to refusers": len([1 for key in found if key in self.books.refused]),
            "duplicates": sum(twice.values()),
            "unexplained duplicates": len([key for key in twice if not self._wasUnderWay(key)]),
        }

    def _wasUnderWay(self, key: tuple[int, str]) -> bool:
        end = self.books.accepted.get(key, self.books.begun[key]) + UNDER_WAY_SECONDS
        return any(self.books.begun[key] <= kill <= end for kill in self.killed)


def run(kills: int, seed: int) -> dict[str, Any]:
    """
    One run in a directory of its own, which stays where something was wrong.
    """
    directory = tempfile.mkdtemp(prefix="deferrals-crash-")
    rig = Rig(directory, kills, seed)
    counts = rig.run()
    counts["seed"] = seed
    if isGood(counts):
        shutil.rmtree(directory)
    else:
        counts["directory"] = directory
    return counts


def isGood(counts: dict[str, Any]) -> bool:
    """
    Whether the promise was kept, and the run was worth something.
    """
    wrong = ("lost", "torn", "to refusers", "unexplained duplicates")
    return not any(counts[name] for name in wrong) and counts["accepted"] > counts["kills"]


def main() -> int:
    """
    C{python -m tests.crash.rig}.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    counts = run(arguments.kills, arguments.seed)
    for name, count in counts.items():
        print(f"{name}: {count}")
    return 0 if isGood(counts) else 1


if __name__ == "__main__":
    sys.exit(main())
