"""
Where the log's lines go, and what happens where they cannot.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.app import output
from deferrals.app.output import KEPT_OCTETS, PIECE_OCTETS, Output
from tests.rigs import rig


class Reactor(Clock):
    """
    A clock that other threads may ask.
    """

    def callFromThread(self, function: Callable[[], None]) -> None:
        self.callLater(0, function)


class Stream:
    """
    What C{sys.__stdout__} is told of.
    """

    encoding = "ascii"
    closed = False

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        return self._fd


class OutputCase(SynchronousTestCase):
    """
    An output, and what is at its other end.
    """

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.patch(output, "isInIOThread", lambda: True)
        self.said: list[Any] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event: Any) -> None:
        if event.get("log_namespace") == "deferrals":
            self.said.append(event["log_format"].format(**event))

    def output(self, *args: Any) -> Output:
        made = Output(self.reactor, *args)  # type: ignore[arg-type]
        self.addCleanup(made.close)
        return made

    def to(self, fd: int) -> Output:
        self.patch(sys, "__stdout__", Stream(fd))
        return self.output()

    def pipe(self) -> tuple[Output, int]:
        reader, writer = os.pipe()
        made = self.to(writer)
        os.close(writer)
        os.set_blocking(reader, False)
        self.addCleanup(os.close, reader)
        return made, reader


def drained(reader: int) -> bytes:
    """All that a pipe has now."""
    found = b""
    try:
        while piece := os.read(reader, 1 << 20):
            found += piece
    except BlockingIOError:
        pass
    return found


class FileTests(OutputCase):
    """
    A file.
    """

    def setUp(self) -> None:
        super().setUp()
        self.path = os.path.abspath(self.mktemp())

    def read(self, suffix: str = "") -> str:
        with open(self.path + suffix, encoding="utf-8") as file:
            return file.read()

    def test_appends(self) -> None:
        """Lines are in the file at once, behind those of the start before."""
        self.output(self.path).write("one\n")
        made = self.output(self.path)
        made.write("zwölf \udcff\n")
        made.flush()
        self.assertEqual(self.read(), "one\nzwölf \\udcff\n")
        self.assertEqual(os.stat(self.path).st_mode & 0o777 & ~0o640, 0)

    def test_reopen(self) -> None:
        """What was moved away stays as it is; where no file can be made, the old one goes on."""
        made = self.output(self.path)
        made.write("one\n")
        os.rename(self.path, self.path + ".old")
        made.write("two\n")
        made.reopen()
        made.write("three\n")
        self.assertEqual((self.read(".old"), self.read()), ("one\ntwo\n", "three\n"))
        os.rename(self.path, self.path + ".older")
        os.mkdir(self.path)
        made.reopen()
        made.write("four\n")
        self.assertEqual(self.read(".older"), "three\nfour\n")
        self.assertIn("the log goes on in its old file: ", self.said[0])

    def test_rotation(self) -> None:
        """Only where a size is given: the newest of the old files is .1."""
        made = self.output(self.path, 8)
        for line in ("one\n", "two..\n", "three\n", "four\n", "five\n"):
            made.write(line)
        found = [self.read(suffix) for suffix in (".2", ".1", "")]
        self.assertEqual(found, ["one\ntwo..\n", "three\nfour\n", "five\n"])
        other = self.output(self.path)
        other.write("x" * 9999 + "\n")
        self.assertFalse(os.path.exists(self.path + ".3"))

    def test_others(self) -> None:
        """A file that others have made too long is rotated, too, and who asked is told."""
        told: list[None] = []
        made = self.output(self.path, 8)
        made.rotated = lambda: told.append(None)
        made.look()
        with open(self.path, "a") as other:
            other.write("0123456789\n")
        self.assertEqual(self.read(), "0123456789\n")
        made.look()
        self.assertEqual((self.read(".1"), self.read()), ("0123456789\n", ""))
        self.reactor.advance(0)
        self.assertEqual(told, [None])
        self.output(self.path).look()
        self.assertEqual(self.read(), "")

    def test_cannotRotate(self) -> None:
        """Then the file grows: no line is lost."""
        made = self.output(self.path, 4)

        def failing(*paths: str) -> None:
            raise OSError("read-only")

        self.patch(output.os, "rename", failing)
        made.write("one\n")
        made.write("two\n")
        self.assertEqual(self.read(), "one\ntwo\n")

    def test_full(self) -> None:
        """A full disk is no error: tried more and more seldom; what is too much is counted."""
        made = self.output("/dev/full")
        line = "x" * 1023 + "\n"
        for _ in range(KEPT_OCTETS // 1024 + 7):
            made.write(line)
        tries = 0
        while self.reactor.seconds() < 100:
            (call,) = self.reactor.getDelayedCalls()
            self.reactor.advance(call.getTime() - self.reactor.seconds())
            tries += 1
        self.assertLess(tries, 12)
        self.assertEqual(self.said, [])
        made._path = self.path
        made.reopen()
        self.reactor.advance(60)
        self.assertEqual(len(self.read()), KEPT_OCTETS)
        self.assertEqual(self.said, ["7 lines are missing here: nothing took them"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_noFile(self) -> None:
        """That is told at the start."""
        os.mkdir(self.path)
        with self.assertRaises(OSError):
            self.output(self.path)


class StandardOutputTests(OutputCase):
    """
    Whatever standard output is.
    """

    def test_ascii(self) -> None:
        """What its encoding does not have is written as an escape."""
        made, reader = self.pipe()
        made.write("zwölf\n")
        self.assertEqual(drained(reader), b"zw\\xf6lf\n")

    def test_none(self) -> None:
        """There may be none."""
        self.patch(sys, "__stdout__", None)
        self.output().write("x\n")

    def test_notRead(self) -> None:
        """Mail waits for no pipe that is not read; its end is not made non-blocking for others."""
        made, reader = self.pipe()
        lines = [f"{number} {'x' * 500}\n" for number in range(1000)]
        for line in lines:
            made.write(line)
        found = drained(reader)
        self.assertLess(len(found), 100_000)
        for _ in range(20):
            self.reactor.advance(30)
            found += drained(reader)
        self.assertEqual(found.decode(), "".join(lines))

    def test_shared(self) -> None:
        """What other processes have of it still blocks."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        self.to(writer)
        self.assertTrue(os.get_blocking(writer))

    def test_gone(self) -> None:
        """A reader that is gone is no error, and no work: it is tried each half minute."""
        reader, writer = os.pipe()
        made = self.to(writer)
        os.close(writer)
        os.close(reader)
        made.write("one\n")
        for _ in range(10):
            self.reactor.advance(30)
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)

    def test_socket(self) -> None:
        """The journal's end is a socket."""
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        made = self.to(ours.fileno())
        self.assertTrue(ours.getblocking())
        ours.close()
        theirs.setblocking(False)
        for _ in range(400):
            made.write("x" * 1023 + "\n")
        found = 0
        for _ in range(40):
            try:
                while piece := theirs.recv(1 << 20):
                    found += len(piece)
            except BlockingIOError:
                self.reactor.advance(30)
        self.assertEqual(found, 400 * 1024)

    def test_wholeLines(self) -> None:
        """A socket or a pipe is given whole lines, not more than may be, in their order."""
        lines = [f"{number} {'x' * (number * 37 % 3000)}\n" for number in range(60)]
        for lay in (self.records, self.writes):
            made, taken = lay()
            made.write("".join(lines))
            found = taken()
            self.assertEqual(b"".join(found).decode(), "".join(lines))
            self.assertTrue(all(piece.endswith(b"\n") for piece in found))
            self.assertLessEqual(max(map(len, found)), PIECE_OCTETS)
            self.assertLess(len(found), len(lines))

    def records(self) -> tuple[Output, Callable[[], list[bytes]]]:
        """
        @return: the output to a socket, and what gives each thing that was sent.
        """
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.addCleanup(theirs.close)
        made = self.to(ours.fileno())
        ours.close()
        theirs.setblocking(False)

        def taken() -> list[bytes]:
            found = []
            with contextlib.suppress(BlockingIOError):
                while piece := theirs.recv(1 << 20):
                    found.append(piece)
            return found

        return made, taken

    def writes(self) -> tuple[Output, Callable[[], list[bytes]]]:
        """
        @return: the output to a pipe, and what gives each thing that was written.
        """
        found: list[bytes] = []

        def write(fd: int, data: bytes) -> int:
            found.append(bytes(data))
            return len(data)

        self.patch(output.os, "write", write)
        made, _ = self.pipe()
        return made, lambda: found

    def test_longLine(self) -> None:
        """A line that is longer than may be at once is written, too."""
        made, taken = self.records()
        made.write("a\n" + "x" * 9999 + "\nb\n")
        found = taken()
        self.assertEqual(b"".join(found), b"a\n" + b"x" * 9999 + b"\nb\n")
        self.assertLessEqual(max(map(len, found)), PIECE_OCTETS)

    def test_regularFile(self) -> None:
        """Where the shell has sent it, others write as well: nothing is overwritten."""
        path = self.mktemp()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        self.addCleanup(os.close, fd)
        os.write(fd, b"theirs\n")
        made = self.to(fd)
        made.write("ours\n")
        os.write(fd, b"theirs\n")
        with open(path) as file:
            self.assertEqual(file.read(), "theirs\nours\ntheirs\n")

    def test_thread(self) -> None:
        """Other threads' lines are written as well, and tried again by the reactor."""
        made, reader = self.pipe()
        text = "x" * 999_999 + "\n"
        self.patch(output, "isInIOThread", lambda: False)
        thread = threading.Thread(target=made.write, args=(text,))
        thread.start()
        thread.join()
        self.patch(output, "isInIOThread", lambda: True)
        found = b""
        for _ in range(40):
            found += drained(reader)
            self.reactor.advance(30)
        self.assertEqual(found, text.encode())

    def test_end(self) -> None:
        """The end of the process waits for a slow reader, and not for one that is gone."""
        made, reader = self.pipe()
        text = "x" * 299_999 + "\n"
        made.write(text)
        found: list[bytes] = []

        def read() -> None:
            while sum(map(len, found)) < len(text) and select.select([reader], [], [], 2)[0]:
                found.append(drained(reader))

        thread = threading.Thread(target=read)
        thread.start()
        made.finish()
        thread.join()
        self.assertEqual(b"".join(found).decode(), text)
        self.patch(output, "LAST_SECONDS", 0.02)
        made.write(text)
        made.finish()
        self.assertTrue(made._kept)

    def test_registered(self) -> None:
        """The end of the process does that."""
        registered: list[Any] = []
        self.patch(atexit, "register", registered.append)
        made, _ = self.pipe()
        self.assertEqual(registered, [made.finish])


#: One of several processes that log: lines of many lengths, some at a time.
WRITER = """
import random, sys
from deferrals.app.output import Output
from tests.app.test_output import Reactor

who, count = sys.argv[1], int(sys.argv[2])
chance, output, number = random.Random(who), Output(Reactor()), 0
while number < count:
    lines = []
    for number in range(number + 1, min(count, number + chance.randint(1, 40)) + 1):
        lines.append(f"{who} {number} {'x' * chance.choice((10, 100, 300, 1500))} {number} {who}")
    output.write("".join(line + "\\n" for line in lines))
    while output._kept:
        output.finish()
"""

PROCESSES = 4

#: So many lines they write, in all.
LINES = rig(8_000, 100_000)


class SeveralTests(SynchronousTestCase):
    """
    Several processes that have one log.
    """

    def test_torn(self) -> None:
        """No line of one comes into a line of another, in a pipe that is full at times."""
        reading, writing = os.pipe()
        path = os.pathsep.join([os.getcwd(), *sys.path])
        each = LINES // PROCESSES
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, f"w{number}", str(each)],
                stdout=writing,
                env={**os.environ, "PYTHONPATH": path},
            )
            for number in range(PROCESSES)
        ]
        os.close(writing)
        found = dict.fromkeys((f"w{number}" for number in range(PROCESSES)), 0)
        with os.fdopen(reading, encoding="ascii") as log:
            for line in log:
                who, number, text, again, same = line.split()
                found[who] += 1
                self.assertEqual((found[who], number, who), (int(number), again, same), line)
                self.assertEqual(text.strip("x"), "", line)
        self.assertEqual([writer.wait(60) for writer in writers], [0] * PROCESSES)
        self.assertEqual(set(found.values()), {each})


class PropertyTests(OutputCase):
    """
    A reader of any pace.
    """

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 40_000) | st.none(), max_size=40))
    def test_order(self, steps: list[int | None]) -> None:
        """What is read is what was written, in order, in whole lines, but for what is counted."""
        del self.said[:]
        made, reader = self.pipe()
        self.patch(output, "KEPT_OCTETS", 100_000)
        written, found = [], b""
        for number, step in enumerate(steps):
            if step is None:
                found += drained(reader)
                self.reactor.advance(60)
            else:
                written.append(f"{number} {'x' * step}\n")
                made.write(written[-1])
        for _ in range(20):
            found += drained(reader)
            self.reactor.advance(60)
        lines = found.decode().splitlines(keepends=True)
        lost = sum(int(text.split()[0]) for text in self.said)
        self.assertEqual(len(lines) + lost, len(written))
        rest = iter(written)
        self.assertTrue(all(line in rest for line in lines))
