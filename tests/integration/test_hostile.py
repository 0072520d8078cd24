"""
Many who do nothing, and many who do it slowly, while honest mail passes.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import selectors
import signal
import smtplib
import socket
import threading

from tests.integration.support import (
    CONFIG,
    Dialogue,
    IntegrationCase,
    Server,
    crlf,
    greeting,
    message,
    until,
)

IDLE, SLOW, HONEST = 2000, 200, 30

_CONFIG = CONFIG + "\n[limits]\nconnections_per_address = 5000\n"

#: What a slow-loris says before it goes slow: in a command, in the data, in a
#: chunk.
_ENVELOPE = b"EHLO c\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<lover@example.net>\r\n"
_BEGINNINGS = (b"", _ENVELOPE + b"DATA\r\n", _ENVELOPE + b"BDAT 100000\r\n")


class HostileTests(IntegrationCase):
    """
    One client, however hostile, does not make the others wait.
    """

    def connections(self, port: int, count: int) -> list[socket.socket]:
        found = []
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
            self.addCleanup(connection.close)
            found.append(connection)
        return found

    def memory(self, server: Server) -> int:
        """
        Octets that are the server's alone.
        """
        with open(f"/proc/{server.process.process.pid}/smaps_rollup", encoding="ascii") as file:
            return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))

    def test_honestMailPasses(self) -> None:
        """
        2,000 idle connections and 200 slow-lorises: honest mail is answered, and
        an idle connection costs at most 8 KiB.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        server = self.server(_CONFIG)
        self.honest(server, 3)
        before = self.memory(server)
        for connection in self.connections(server.port, IDLE):
            connection.recv(1000)
            connection.sendall(b"EHLO client.test\r\n")
            while b"250 " not in connection.recv(4000):
                pass
        self.assertLess((self.memory(server) - before) / IDLE, 8 << 10)
        slow = self.connections(server.port, SLOW)
        for number, connection in enumerate(slow):
            connection.sendall(_BEGINNINGS[number % len(_BEGINNINGS)])
        stop = threading.Event()
        drip = threading.Thread(target=self.drip, args=(slow, stop))
        drip.start()
        try:
            self.honest(server, HONEST)
        finally:
            stop.set()
            drip.join()
        self.assertEqual(len(server.arrived("lover", HONEST + 3)), HONEST + 3)

    def drip(self, slow: list[socket.socket], stop: threading.Event) -> None:
        """
        An octet for each, once a second.
        """
        while not stop.wait(1):
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.send(b"x")

    def honest(self, server: Server, count: int) -> None:
        """
        Messages, each on a connection of its own, whose every reply comes.
        """
        for _ in range(count):
            with smtplib.SMTP("127.0.0.1", server.port, timeout=60) as client:
                client.sendmail("a@client.test", ["lover@example.net"], crlf(message()))


class DescriptorTests(IntegrationCase):
    """
    A server that may open few files.
    """

    FILES, CLIENTS = 160, 400

    def test_limit(self) -> None:
        """
        At the limit each new client is told 421, whether they come one by one or
        all at once; mail goes on, and when they are gone all is as before.
        """
        server = self.server(_CONFIG)
        process = server.process.process.pid
        resource.prlimit(process, resource.RLIMIT_NOFILE, (self.FILES, self.FILES))
        early = self.dialogue(server.port)
        early.reply()
        for atOnce in (False, True):
            said = self.crowd(server.port, atOnce)
            self.assertEqual({line[:4] for line in said}, {b"220 ", b"421 "})
            self.assertGreater(
                said.count(b"421 4.3.2 too many open files here, try again later"), 200
            )
            early.say("EHLO c", "MAIL FROM:<a@client.test>", "RCPT TO:<lover@example.net>")
            early.say("DATA", "Subject: x\r\n\r\nhello\r\n.")
            server.arrived("lover", 1 + atOnce)
            self.assertFalse({"Traceback", "EMFILE"} & set(server.log.split()))
            for connection in self.crowded:
                connection.close()
            until(lambda: greeting(server.port).startswith(b"220"), "a greeting")

    def test_bodies(self) -> None:
        """Nor do large messages that come slowly take the last ones."""
        server = self.server(_CONFIG)
        process = server.process.process.pid
        resource.prlimit(process, resource.RLIMIT_NOFILE, (self.FILES, self.FILES))
        said = self.crowd(server.port, False)
        slow = [one for one, line in zip(self.crowded, said, strict=True) if line[:3] == b"220"]
        for connection in slow:
            connection.sendall(_BEGINNINGS[1] + b"Subject: x\r\n\r\n")
            connection.sendall((b"y" * 70 + b"\r\n") * 5000)
        held = f"/proc/{process}/fd"
        bodies = os.path.join(server.directory, "state", "spool", "bodies")
        until(lambda: sum(len(files) for _, _, files in os.walk(bodies)) >= len(slow), "bodies")
        self.assertLess(len(os.listdir(held)), self.FILES * 3 // 4 + 10)
        self.assertEqual({line[:3] for line in self.crowd(server.port, False)}, {b"421"})

    def crowd(self, port: int, atOnce: bool) -> list[bytes]:
        """
        Clients that stay.

        @return: the first line that each of them was told.
        """
        self.crowded = []
        said = []
        for _ in range(self.CLIENTS):
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
            self.addCleanup(connection.close)
            self.crowded.append(connection)
            if not atOnce:
                said.append(connection.recv(1000))
        if atOnce:
            said = [connection.recv(1000) for connection in self.crowded]
        return [line.rstrip(b"\r\n") for line in said]


class StopTests(IntegrationCase):
    """
    The server is told to stop, and one client does not hurry.
    """

    def test_grace(self) -> None:
        """
        The idle of all listeners are told 421 before any transaction is: its time
        is not up, and one grace is for all listeners together.
        """
        listener = '[[listen]]\nendpoint = "tcp:0:interface=127.0.0.1"\n'
        more = (listener.replace(":0:", f":0:backlog={size}:") for size in (10, 20))
        server = self.server("grace = 4\n" + CONFIG.replace(listener, listener + "".join(more)))
        idle = [self.dialogue(port) for port in server.ports]
        slow = [self.dialogue(port) for port in server.ports]
        for one in (*idle, *slow):
            one.reply()
        for one in slow:
            one.say("EHLO c", "MAIL FROM:<a@client.test>", "RCPT TO:<lover@example.net>", "DATA")
        server.process.process.send_signal(signal.SIGTERM)
        told = self.told([*idle, *slow])
        self.assertLessEqual(max(told[one] for one in idle), min(told[one] for one in slow))
        server.process.process.wait(30)

    def told(self, dialogues: list[Dialogue]) -> dict[Dialogue, int]:
        """
        Each is told 421, and its connection closed.

        @return: in which round; those of one round were told at about one time.
        """
        selector, told = selectors.DefaultSelector(), {}
        for one in dialogues:
            selector.register(one.socket, selectors.EVENT_READ, one)
        for count in itertools.count():
            for key, _ in selector.select(30):
                told[key.data] = count
                self.assertTrue(key.data.reply().startswith("421 4.3.2"))
                self.assertEqual(key.data.reply(), "")
                selector.unregister(key.fileobj)
            if not selector.get_map():
                return told
        raise AssertionError
