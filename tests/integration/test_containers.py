"""
Two servers, each process 1 of a container of its own, on one mail store.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections import Counter
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.integration.support import IntegrationCase, Server, program, run, until
from tests.rigs import rig

CONFIG = """
hostname = "mx.example.net"
bounces = "none"

[[listen]]
endpoint = "tcp:0:interface=127.0.0.1"

[policies.open]
envelope = "accept"

[[recipients]]
match = "*@maildir.example"
policy = "open"
deliver = {{ use = "maildir", path = "{store}/mail/{{local}}" }}

[[recipients]]
match = "*@file.example"
policy = "open"
deliver = {{ use = "file", path = "{store}/archive" }}
"""

#: Connections to each server, and messages over each.
CONNECTIONS, MESSAGES = 8, rig(50, 350)


def contained(argv: Any, env: Any, **more: Any) -> subprocess.Popen[bytes]:
    """
    Start a program as process 1 of a PID namespace, which ends with it.
    """
    return subprocess.Popen([*_namespace(), *argv], env=env, **more)


def _namespace() -> list[str]:
    unshare = program("unshare")
    for user in ([], ["--user", "--map-root-user"]):
        words = [unshare, *user, "--pid", "--fork", "--kill-child"]
        if run([*words, "true"]).returncode == 0:
            return words
    raise SkipTest("no PID namespaces may be made here")


class Contained(Server):
    """
    Our server in a container.
    """

    popen = staticmethod(contained)


class ContainersTests(IntegrationCase):
    """
    What both have acknowledged is there, each message once.
    """

    def setUp(self) -> None:
        _namespace()
        self.store = self.directory()
        self.servers = []
        for _ in range(2):
            server = Contained(self.directory(), CONFIG.format(store=self.store))
            self.addCleanup(server.kill)
            self.servers.append(server)
        self.taken: list[str] = []

    def send(self, port: int, domain: str, name: str) -> None:
        """
        Messages over one connection, as quickly as it goes.
        """
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            lines = connection.makefile("rb")
            lines.readline()
            connection.sendall(b"HELO client.test\r\n")
            lines.readline()
            for number in range(MESSAGES):
                word = f"{name}-{number}"
                connection.sendall(
                    f"MAIL FROM:<s@client.test>\r\nRCPT TO:<r@{domain}>\r\nDATA\r\n".encode()
                )
                replies = [lines.readline() for _ in range(3)]
                self.assertTrue(replies[-1].startswith(b"354"), replies)
                connection.sendall(f"Subject: {word}\r\n\r\n{word}\r\n.\r\n".encode())
                reply = lines.readline()
                self.assertTrue(reply.startswith(b"250 "), reply)
                self.taken.append(word)

    def found(self) -> list[str]:
        found = []
        for where, _, names in os.walk(self.store):
            for name in names:
                if os.path.basename(where) != "tmp" and not name.startswith("."):
                    with open(os.path.join(where, name), encoding="ascii") as file:
                        found.append(file.read().splitlines()[-1])
        return found

    def check(self, domain: str) -> None:
        threads = [
            threading.Thread(target=self.send, args=(server.port, domain, f"{index}-{number}"))
            for number in range(CONNECTIONS)
            for index, server in enumerate(self.servers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(self.taken), 2 * CONNECTIONS * MESSAGES)
        until(lambda: len(self.found()) >= len(self.taken), "all mail is there", 120)
        self.assertEqual(Counter(self.found()), Counter(self.taken))
        for server in self.servers:
            self.assertNotRegex(server.log, re.compile("error|Traceback"))

    def test_maildir(self) -> None:
        """One Maildir."""
        self.check("maildir.example")

    def test_file(self) -> None:
        """One directory of files."""
        self.check("file.example")
