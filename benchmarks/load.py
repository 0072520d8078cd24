"""
Work for a server on loopback: Postfix's C{smtp-source}, a sender that pipelines,
and connections that do nothing.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable

import attrs

from tests.integration.support import program, run

SENDER, RECIPIENT = "a@client.test", "user@bench.test"

#: Nothing here takes longer, in seconds.
PATIENCE = 600


def source(port: int, messages: int, sessions: int, octets: int) -> float:
    """
    C{smtp-source}, which keeps its connections.

    @return: messages per second.
    """
    argv = [program("smtp-source", "/usr/sbin/smtp-source"), "-d", "-s", str(sessions)]
    argv += ["-m", str(messages), "-l", str(octets), "-f", SENDER, "-t", RECIPIENT]
    began = time.perf_counter()
    done = run([*argv, f"inet:127.0.0.1:{port}"], timeout=PATIENCE)
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise AssertionError(f"smtp-source: {done.stderr}")
    return messages / seconds


def body(octets: int) -> bytes:
    """
    A message of that size, on the wire.
    """
    head = f"From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: bench\r\n\r\n".encode()
    line = b"x" * 78 + b"\r\n"
    return head + line * ((octets - len(head)) // len(line) + 1)


def introduce(connection: socket.socket) -> None:
    """
    Greeting and EHLO.
    """
    connection.settimeout(60)
    connection.recv(1000)
    connection.sendall(b"EHLO client.test\r\n")
    received = b""
    while b"\n250 " not in received and not received.startswith(b"250 "):
        received += connection.recv(4000)


@attrs.define(eq=False)
class _Sender:
    """
    One connection that pipelines (RFC 2920): a message, and the envelope of the
    next one, in one piece.
    """

    socket: socket.socket
    messages: int
    content: bytes
    received: bytes = b""

    _ENVELOPE = (f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n").encode()

    def start(self) -> None:
        introduce(self.socket)
        self.socket.sendall(self._ENVELOPE)
        self.socket.setblocking(False)

    def more(self) -> bool:
        """
        @return: whether there is more to come.
        """
        self.received += self.socket.recv(4000)
        if not self.received.endswith(b"\r\n"):
            return True
        last = self.received[self.received.rfind(b"\r\n", 0, -2) + 1 :].lstrip()
        if last.startswith(b"354"):
            self.received = b""
            self.messages -= 1
            self._send(self.content + b".\r\n" + (self._ENVELOPE if self.messages else b""))
        elif last[:1] in b"45":
            raise AssertionError(self.received)
        elif not self.messages and last.startswith(b"250"):
            self.socket.close()
            return False
        return True

    def _send(self, data: bytes) -> None:
        self.socket.setblocking(True)
        self.socket.sendall(data)
        self.socket.setblocking(False)


def pipelined(port: int, messages: int, sessions: int, octets: int) -> float:
    """
    Senders that pipeline, side by side.

    @return: messages per second.
    """
    each = messages // sessions
    began = time.perf_counter()
    waiting = selectors.DefaultSelector()
    for _ in range(sessions):
        sender = _Sender(socket.create_connection(("127.0.0.1", port)), each, body(octets))
        sender.start()
        waiting.register(sender.socket, selectors.EVENT_READ, sender)
    open_ = sessions
    while open_:
        for key, _ in waiting.select(PATIENCE):
            file = key.fileobj
            sender = key.data
            if not sender.more():
                waiting.unregister(file)
                open_ -= 1
    return each * sessions / (time.perf_counter() - began)


def recipients(
    port: int,
    messages: int,
    each: int,
    name: Callable[[int], str] = lambda number: f"user{number}@bench.test",
) -> float:
    """
    One sender with messages for many recipients, which pipelines.

    @param each: recipients of each message.
    @param name: makes their addresses.
    @return: recipients per second.
    """
    content = body(4096) + b".\r\n"
    named = "".join(f"RCPT TO:<{name(number)}>\r\n" for number in range(each))
    envelope = f"MAIL FROM:<{SENDER}>\r\n{named}DATA\r\n".encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        introduce(connection)
        replies = connection.makefile("rb")
        began = time.perf_counter()
        for _ in range(messages):
            connection.sendall(envelope)
            codes = {replies.readline()[:3] for _ in range(each + 1)}
            if codes != {b"250"} or not replies.readline().startswith(b"354"):
                raise AssertionError(codes)
            connection.sendall(content)
            if not replies.readline().startswith(b"250"):
                raise AssertionError("not accepted")
        return messages * each / (time.perf_counter() - began)


def idle(port: int, pid: int, connections: int) -> float:
    """
    Connections that have said EHLO, and then nothing.

    @return: memory that the server has for each, in KiB; what is shared between
        its processes counts once, and the kernel's buffers do not.
    """
    before = _memory(pid)
    held = []
    try:
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
            held.append(connection)
            introduce(connection)
        return (_memory(pid) - before) / connections
    finally:
        for connection in held:
            connection.close()


def _memory(pid: int) -> float:
    """
    What a process and its descendants have.
    """
    return sum(map(memory, family(pid)))


def memory(pid: int) -> float:
    """
    Pss of a process, in KiB.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return sum(float(line.split()[1]) for line in file if line.startswith("Pss:"))
    except OSError:
        return 0.0  # it has ended


def cpu(pid: int) -> float:
    """
    What a process, its descendants and those of them that have ended have used,
    in seconds.
    """
    ticks = 0
    for one in family(pid):
        try:
            with open(f"/proc/{one}/stat", encoding="utf-8", errors="replace") as file:
                ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:15]))
        except OSError:
            continue  # it has ended
    return ticks / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """
    A process and its descendants.
    """
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found
