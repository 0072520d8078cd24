"""
How a message's octets are written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from deferrals import durable
from deferrals.errors import SpoolError
from deferrals.spool.message import (
    CONGESTED_OCTETS,
    MEMORY_OCTETS,
    PART,
    BodyWriter,
    Message,
    ownMessage,
)


def _open() -> list[str]:
    """
    The descriptors of this process, but for the one that lists them.
    """
    found = os.listdir("/proc/self/fd")
    return [one for one in found if os.path.exists(f"/proc/self/fd/{one}")]


class WriterTests(TestCase):
    """
    Bodies on a real disk, with real threads.
    """

    def test_congestion(self) -> Any:
        """A writer that is behind says so, and says when it is not any longer."""
        path = self.mktemp()
        writer = BodyWriter(path, deferToThread, lambda: None)
        chunk = b"x" * (1024 * 1024)
        for _ in range(3):
            writer.write(chunk)
        self.assertTrue(writer.congested)

        def drained(_: Any) -> Any:
            self.assertFalse(writer.congested)
            writer.write(b"end")
            return writer.finish()

        def finished(message: Any) -> None:
            self.assertEqual(message.size, 3 * len(chunk) + 3)
            with message.open() as file:
                self.assertEqual(file.read(), chunk * 3 + b"end")

        self.assertGreater(3 * len(chunk), CONGESTED_OCTETS)
        return writer.drained().addCallback(drained).addCallback(finished)

    def test_slow(self) -> Any:
        """Between writes no file is open, however long the message takes to come."""
        path = self.mktemp()
        writer = BodyWriter(path, deferToThread, lambda: None)
        writer.write(b"x" * (MEMORY_OCTETS + 1))

        def written(_: Any) -> Any:
            if writer._writing is not None:
                return deferToThread(lambda: None).addCallback(written)
            names = {os.readlink(f"/proc/self/fd/{one}") for one in _open()}
            self.assertNotIn(os.path.realpath(path), names)
            writer.write(b"y" * (MEMORY_OCTETS + 1) + b"end")
            return writer.finish()

        def finished(message: Any) -> None:
            with message.open() as file:
                self.assertEqual(file.read()[-5:], b"yyend")
            self.assertEqual(message.measured(), (message.size, message.digest))

        return deferToThread(lambda: None).addCallback(written).addCallback(finished)

    def test_otherFile(self) -> Any:
        """A file that is there is another message's: it stays what it is."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"another's")
        writer = BodyWriter(path, deferToThread, lambda: None)
        writer.write(b"x" * (MEMORY_OCTETS + 1))

        def failed(error: SpoolError) -> Any:
            writer.abort()
            return deferToThread(lambda: None)

        def aborted(_: Any) -> None:
            with open(path, "rb") as file:
                self.assertEqual(file.read(), b"another's")

        return self.assertFailure(writer.finish(), SpoolError).addCallback(failed).addBoth(aborted)

    def test_noDisk(self) -> Any:
        """A file that cannot be written is a SpoolError at the end, and memory stays bounded."""
        writer = BodyWriter("/nonexistent/file", deferToThread, lambda: None)
        writer.write(b"x" * (MEMORY_OCTETS + 1))

        def more(_: Any) -> Any:
            if writer._failure is None:
                return deferToThread(lambda: None).addCallback(more)
            writer.write(b"x" * (2 * CONGESTED_OCTETS))
            self.assertFalse(writer.congested)
            return self.assertFailure(writer.finish(), SpoolError)

        return deferToThread(lambda: None).addCallback(more)


class ContentTests(SynchronousTestCase):
    """
    L{Message} and L{BodyWriter}, with threads that do what they do when they are told to.
    """

    def setUp(self) -> None:
        os.mkdir(directory := self.mktemp())
        self.directory = os.path.abspath(directory)
        self.path = os.path.join(self.directory, "content")
        self.aborted = 0
        self.waiting: list[Callable[[], None]] = []
        self.writer = BodyWriter(self.path, self.inThread, self.onAborted)

    def onAborted(self) -> None:
        self.aborted += 1

    def inThread(self, function: Any, *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()

        def run() -> None:
            try:
                done.callback(function(*args))
            except Exception:
                done.errback()

        self.waiting.append(run)
        return done

    def work(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()

    def large(self, begin: bytes = b"") -> tuple[Message, bytes]:
        """
        @return: a message in a file, and its octets.
        """
        content = begin + b"x" * MEMORY_OCTETS + b"end\r\n"
        self.writer.write(content)
        d = self.writer.finish()
        self.work()
        message = self.successResultOf(d)
        assert isinstance(message, Message)
        return message, content

    def test_settled(self) -> None:
        """It is synced, and its name; another one it gets behind its row, with no sync."""
        message, content = self.large()
        said: list[str] = []
        sync, rename = durable.sync, os.rename
        self.patch(durable, "sync", lambda path: (said.append(f"sync {path}"), sync(path)))
        self.patch(os, "rename", lambda *paths: (said.append("rename"), rename(*paths)))
        self.assertTrue(message.settle())
        self.assertEqual(said, [f"sync {self.path}{PART}", f"sync {self.directory}"])
        self.assertEqual(os.listdir(self.directory), [f"content{PART}"])
        message.giveName()
        self.assertEqual(said[2:], ["rename"])
        self.assertEqual(os.listdir(self.directory), ["content"])
        self.assertFalse(message.settle())
        with message.open() as file:
            self.assertEqual(file.read(), content)

    def test_taken(self) -> None:
        """Another message's content stays what it is."""
        message, _ = self.large()
        with open(self.path, "wb") as file:
            file.write(b"another's")
        self.assertRaises(FileExistsError, message.settle)
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(), b"another's")

    def test_justNamed(self) -> None:
        """It can be read in the moment in which it gets its name."""
        message, content = self.large()
        os.rename(f"{self.path}{PART}", self.path)
        with message.open() as file:
            self.assertEqual(file.read(), content)

    def test_intact(self) -> None:
        """What was read back is what came in, or it is not intact."""
        message, content = self.large()
        self.assertTrue(message.isIntact())
        self.assertEqual(message.measured(), (len(content), hashlib.sha256(content).digest()))
        with open(f"{self.path}{PART}", "r+b") as file:
            file.write(b"y")
        self.assertFalse(message.isIntact())

    def test_headerOnly(self) -> None:
        """A message without an empty line is all header."""
        message = Message(12, b"", None, None, b"A: 1\r\nB: 2\r\n")
        self.assertEqual(message.header, b"A: 1\r\nB: 2")

    def test_header(self) -> None:
        """It ends at the first empty line, in a file, too."""
        message, _ = self.large(b"A: 1\r\nB: 2\r\n\r\nbody\r\n\r\nmore\r\n")
        self.assertEqual(message.header, b"A: 1\r\nB: 2")

    def test_foreign(self) -> None:
        """Another spool's content is none of ours."""
        other: Any = object()
        self.assertRaises(TypeError, ownMessage, other)

    def test_aborted(self) -> None:
        """Of what is not wanted no file stays; its end is told once."""
        self.large()
        for _ in range(2):
            self.writer.abort()
            self.work()
        self.assertEqual((os.listdir(self.directory), self.aborted), ([], 1))

    def test_abortedMeanwhile(self) -> None:
        """Nor where it is just being written."""
        self.writer.write(b"x" * (MEMORY_OCTETS + 1))
        self.writer.abort()
        self.assertEqual(self.aborted, 0)
        self.work()
        self.assertEqual((os.listdir(self.directory), self.aborted), ([], 1))

    def test_abortedSmall(self) -> None:
        """Where there was no file, nothing is waited for."""
        self.writer.write(b"x")
        self.writer.abort()
        self.assertEqual((self.waiting, self.aborted), ([], 1))

    def test_sameFile(self) -> None:
        """Another message's unfinished file is neither written to nor removed."""
        with open(f"{self.path}{PART}", "wb") as file:
            file.write(b"another's")
        self.writer.write(b"x" * (MEMORY_OCTETS + 1))
        d = self.writer.finish()
        self.work()
        self.failureResultOf(d, SpoolError)
        self.work()
        with open(f"{self.path}{PART}", "rb") as file:
            self.assertEqual(file.read(), b"another's")

    def test_shortWrites(self) -> None:
        """A disk may take less than it is given."""
        write = os.write
        self.patch(os, "write", lambda fd, data: write(fd, data[:100_000]))
        message, content = self.large()
        with message.open() as file:
            self.assertEqual(file.read(), content)

    def test_inOrder(self) -> None:
        """What comes while something is written is written behind it."""
        parts = [bytes([65 + number]) * (MEMORY_OCTETS + 1) for number in range(3)]
        for part in parts:
            self.writer.write(part)
        self.assertEqual(len(self.waiting), 1)
        d = self.writer.finish()
        self.work()
        with self.successResultOf(d).open() as file:
            self.assertEqual(file.read(), b"".join(parts))


class FakeFollower:
    """
    @ivar told: what it was told, in this order.
    """

    def __init__(self) -> None:
        self.told: list[object] = []
        self.isBehind = False

    def grew(self, octets: int) -> None:
        self.told.append(octets)

    def ended(self) -> None:
        self.told.append("ended")

    def abort(self) -> None:
        self.told.append("aborted")


class FollowedTests(ContentTests):
    """
    A content that is put somewhere else while it grows; the rest is as ever.
    """

    def setUp(self) -> None:
        super().setUp()
        self.follower: FakeFollower | None = FakeFollower()
        self.paths: list[str] = []
        self.writer = BodyWriter(self.path, self.inThread, self.onAborted, self.follow)

    def follow(self, path: str, caughtUp: Callable[[], None]) -> FakeFollower | None:
        self.paths.append(path)
        self.caughtUp = caughtUp
        return self.follower

    @property
    def told(self) -> list[object]:
        assert self.follower is not None
        return self.follower.told

    def begun(self) -> None:
        """
        There is a file.
        """
        self.writer.write(b"x" * (MEMORY_OCTETS + 1))
        self.work()

    def test_told(self) -> None:
        """It is told what is in the file, when it is there, and that it is whole."""
        self.writer.write(b"x" * (MEMORY_OCTETS + 1))
        self.assertEqual((self.paths, self.told), ([], []))
        self.work()
        self.writer.write(b"y" * MEMORY_OCTETS)
        self.work()
        self.writer.write(b"z")
        self.assertEqual(self.told, [MEMORY_OCTETS + 1, 2 * MEMORY_OCTETS + 1])
        d = self.writer.finish()
        self.work()
        self.successResultOf(d)
        self.assertEqual(self.told[2:], [2 * MEMORY_OCTETS + 2, "ended"])
        self.assertEqual(self.paths, [f"{self.path}{PART}"])
        self.writer.abort()
        self.writer.abort()
        self.assertEqual(self.told[4:], ["aborted"])

    def test_small(self) -> None:
        """Of a small content nobody is told."""
        self.writer.write(b"x" * MEMORY_OCTETS)
        self.successResultOf(self.writer.finish())
        self.writer.abort()
        self.assertEqual((self.paths, self.told, self.waiting), ([], [], []))

    def test_nobody(self) -> None:
        """Nor, where nobody follows it, of a large one: that is asked once."""
        self.follower = None
        self.large(b"y" * MEMORY_OCTETS)
        self.assertEqual((len(self.paths), self.writer.congested), (1, False))

    def test_behind(self) -> None:
        """While it is behind, its sender waits."""
        assert self.follower is not None
        self.begun()
        self.follower.isBehind = True
        self.assertTrue(self.writer.congested)
        drained = self.writer.drained()
        self.caughtUp()
        self.assertNoResult(drained)
        self.follower.isBehind = False
        self.assertFalse(self.writer.congested)
        self.caughtUp()
        self.successResultOf(drained)
        self.successResultOf(self.writer.drained())

    def test_behindDisk(self) -> None:
        """It waits for both: the disk, and who follows."""
        assert self.follower is not None
        self.begun()
        self.follower.isBehind = True
        self.writer.write(b"x" * (CONGESTED_OCTETS + 1))
        drained = self.writer.drained()
        self.work()
        self.assertNoResult(drained)
        self.writer.write(b"x" * (CONGESTED_OCTETS + 1))
        self.follower.isBehind = False
        self.caughtUp()
        self.assertNoResult(drained)
        self.work()
        self.successResultOf(drained)

    def test_abortedBehind(self) -> None:
        """For what is not wanted nobody waits."""
        assert self.follower is not None
        self.begun()
        self.follower.isBehind = True
        drained = self.writer.drained()
        self.writer.abort()
        self.assertFalse(self.writer.congested)
        self.work()
        self.successResultOf(drained)
        self.assertEqual(self.told[-1], "aborted")

    def test_abortedEarly(self) -> None:
        """What is aborted before it is in the file is followed by nobody."""
        self.writer.write(b"x" * (MEMORY_OCTETS + 1))
        self.writer.abort()
        self.work()
        self.assertEqual((self.paths, self.told), ([], []))

    def test_brokenDisk(self) -> None:
        """What a disk did not take is told to nobody; at the end all is given up."""
        self.begun()
        os.unlink(f"{self.path}{PART}")
        self.writer.write(b"y" * MEMORY_OCTETS)
        d = self.writer.finish()
        self.work()
        self.failureResultOf(d, SpoolError)
        self.assertEqual(self.told, [MEMORY_OCTETS + 1, "aborted"])
