"""
Files that are there after a power cut.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from deferrals import durable


class DurableTests(SynchronousTestCase):
    """
    L{durable}.
    """

    def setUp(self) -> None:
        os.mkdir(directory := self.mktemp())
        self.directory = directory
        self.path = os.path.join(directory, "file")
        self.temporary = os.path.join(directory, "new")
        self.calls: list[str] = []
        for name in ("fsync", "rename"):
            self.patch(os, name, self.noted(name, getattr(os, name)))

    def noted(self, name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            kind = ""
            if name == "fsync":
                kind = " directory" if os.path.isdir(f"/proc/self/fd/{args[0]}") else " file"
            self.calls.append(name + kind)
            return function(*args)

        return call

    def test_order(self) -> None:
        """The content is synced before the name, and then the name."""
        durable.write(self.temporary, self.path, [b"a", b"b"])
        self.assertEqual(self.calls, ["fsync file", "rename", "fsync directory"])
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(), b"ab")
        self.assertEqual(os.listdir(self.directory), ["file"])

    def test_mode(self) -> None:
        """No other user may read it, unless that is asked for."""
        durable.write(self.temporary, self.path, [])
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)
        durable.write(self.temporary, self.path, [], 0o644)
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o644)

    def test_fails(self) -> None:
        """What fails on the way leaves the old file, and nothing else."""
        durable.write(self.temporary, self.path, [b"old"])

        def chunks() -> Any:
            yield b"new"
            raise OSError("the disk is gone")

        self.assertRaises(OSError, durable.write, self.temporary, self.path, chunks())
        self.assertEqual(os.listdir(self.directory), ["file"])
        with open(self.path, "rb") as file:
            self.assertEqual(file.read(), b"old")

    def test_over(self) -> None:
        """Over a text, whether it is longer or shorter; it is synced, and stays the same file."""
        durable.write(self.temporary, self.path, [b"old text"])
        number = os.stat(self.path).st_ino
        for text, found in ((b"new", b"new     "), (b"a longer one", b"a longer one")):
            del self.calls[:]
            durable.overwrite(self.path, text)
            with open(self.path, "rb") as file:
                self.assertEqual(file.read(), found)
            self.assertEqual(self.calls, ["fsync file"])
        self.assertEqual(os.stat(self.path).st_ino, number)

    def test_overInPart(self) -> None:
        """What is not written as a whole is an error."""
        durable.write(self.temporary, self.path, [b"old"])
        self.patch(os, "pwrite", lambda fd, text, offset: len(text) - 1)
        error = self.assertRaises(OSError, durable.overwrite, self.path, b"new")
        self.assertEqual(error.errno, errno.ENOSPC)

    def test_overNothing(self) -> None:
        """There must be one."""
        self.assertRaises(FileNotFoundError, durable.overwrite, self.path, b"new")
        self.assertEqual(os.listdir(self.directory), [])

    def test_taken(self) -> None:
        """A temporary name that is taken is left alone."""
        with open(self.temporary, "wb") as file:
            file.write(b"somebody else's")
        self.assertRaises(FileExistsError, durable.write, self.temporary, self.path, [b"x"])
        self.assertEqual(os.listdir(self.directory), ["new"])

    def test_syncWithName(self) -> None:
        """A file, and the directory that has its name."""
        durable.write(self.temporary, self.path, [])
        del self.calls[:]
        durable.syncWithName(self.path)
        self.assertEqual(self.calls, ["fsync file", "fsync directory"])
        self.assertRaises(FileNotFoundError, durable.sync, self.temporary)


class DirectoryTests(SynchronousTestCase):
    """
    Directories are the server's own, whatever the umask.
    """

    def mode(self, *path: str) -> int:
        return stat.S_IMODE(os.stat(os.path.join(*path)).st_mode)

    def test_modes(self) -> None:
        """All that are made have the mode, those between, too; what was there stays."""
        for umask in (0, 0o022, 0o077, 0o777):
            top = self.mktemp()
            os.mkdir(top)
            os.chmod(top, 0o755)
            before = os.umask(umask)
            try:
                made = durable.makeDirectory(os.path.join(top, "a", "b", "c"))
                shared = durable.makeDirectory(os.path.join(top, "a", "d"), 0o750)
                self.assertEqual(durable.makeDirectory(os.path.join(top, "a")), [])
            finally:
                os.umask(before)
            self.assertEqual([self.mode(one) for one in made], [0o700] * 3)
            self.assertEqual([self.mode(one) for one in shared], [0o750])
            self.assertEqual(self.mode(top), 0o755)

    def test_file(self) -> None:
        """Where a file is in the way, that is said."""
        path = self.mktemp()
        with open(path, "w", encoding="ascii"):
            pass
        self.assertRaises(OSError, durable.makeDirectory, path)
        self.assertRaises(OSError, durable.makeDirectory, os.path.join(path, "a"))

    def test_octetsOf(self) -> None:
        """How large a file is; whether there is none is known, or it is not."""
        path = self.mktemp()
        self.assertIsNone(durable.octetsOf(path))
        with open(path, "wb") as file:
            file.write(b"x" * 7)
        self.assertEqual(durable.octetsOf(path), 7)
        self.assertIsNone(durable.octetsOf(os.path.join(path, "below")))
        os.symlink("loop", f"{path}.loop")
        os.symlink(f"{os.path.basename(path)}.loop", os.path.join(os.path.dirname(path), "loop"))
        self.assertRaises(OSError, durable.octetsOf, f"{path}.loop")

    def test_private(self) -> None:
        """A directory is taken away from others once."""
        path = self.mktemp()
        os.mkdir(path)
        os.chmod(path, 0o755)
        self.assertEqual(durable.keepPrivate(path), 0o755)
        self.assertEqual(self.mode(path), 0o700)
        self.assertIsNone(durable.keepPrivate(path))


def writeNew(
    temporary: str, paths: Iterable[str], chunks: Iterable[bytes], mode: int = 0o600
) -> int | None:
    """
    All steps of one file.

    @return: its size in octets; C{None} if it was there already.
    """
    file = durable.NewFile(temporary, paths, mode)
    try:
        file.write(chunks)
        file.settle()
        directory = file.name()
        if directory is None:
            return None
        durable.sync(directory)
        return file.size
    finally:
        file.close()


class NewFileTests(SynchronousTestCase):
    """
    L{durable.NewFile}.
    """

    def setUp(self) -> None:
        self.directory = self.mktemp()
        os.mkdir(self.directory)
        self.temporary = os.path.join(self.directory, "new")
        self.names = [os.path.join(self.directory, name) for name in ("a", "b")]

    def write(self, content: bytes) -> int | None:
        return writeNew(self.temporary, self.names, [content], 0o640)

    def found(self) -> dict[str, bytes]:
        found = {}
        for name in os.listdir(self.directory):
            with open(os.path.join(self.directory, name), "rb") as file:
                found[name] = file.read()
        return found

    def test_new(self) -> None:
        """It is there under its name, with its mode, and nothing else is."""
        self.assertEqual(self.write(b"one"), 3)
        self.assertEqual(self.found(), {"a": b"one"})
        self.assertEqual(os.stat(self.names[0]).st_mode & 0o777, 0o640)

    def test_pieces(self) -> None:
        """Small pieces are written together, all of them, and what a write leaves over, too."""
        write = os.write
        calls: list[int] = []

        def short(fd: int, data: bytes) -> int:
            calls.append(len(data))
            return write(fd, data[:50_000])

        self.patch(os, "write", short)
        content = [b"%d" % number * 1000 for number in range(10)] + [b"x" * 70_000, b"", b"end"]
        self.assertEqual(writeNew(self.temporary, self.names, content), 80_003)
        self.assertEqual(self.found(), {"a": b"".join(content)})
        self.assertEqual(calls, [80_000, 30_000, 3])

    def test_order(self) -> None:
        """The content is synced before it has its name, and then the directory."""
        calls: list[str] = []

        def note(name: str, function: Any) -> None:
            def call(*args: Any) -> Any:
                calls.append(name)
                return function(*args)

            self.patch(os, name, call)

        note("fsync", os.fsync)
        note("link", os.link)
        self.write(b"one")
        self.assertEqual(calls, ["fsync", "link", "fsync"])

    def test_again(self) -> None:
        """What is there with this content is it; with another content it stays."""
        self.write(b"one")
        self.assertIsNone(self.write(b"one"))
        self.assertEqual(self.write(b"two"), 3)
        self.assertIsNone(self.write(b"two"))
        self.assertEqual(self.found(), {"a": b"one", "b": b"two"})
        self.assertRaises(FileExistsError, self.write, b"six")
        self.assertEqual(self.found(), {"a": b"one", "b": b"two"})

    def test_umask(self) -> None:
        """It has its mode whatever the umask says."""
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        self.write(b"one")
        self.assertEqual(os.stat(self.names[0]).st_mode & 0o777, 0o640)

    def test_longer(self) -> None:
        """One that begins with the same is another one."""
        one = b"x" * durable._READ_OCTETS
        self.write(one + b"more")
        self.assertEqual(self.write(one), len(one))
        self.assertEqual(self.found(), {"a": one + b"more", "b": one})

    def test_sameIsDurable(self) -> None:
        """One that a try before this one wrote may not have been synced by it."""
        self.write(b"one")
        synced: list[str] = []
        self.patch(durable, "sync", synced.append)
        self.assertIsNone(self.write(b"one"))
        self.assertEqual(synced, [self.names[0], self.directory])

    def test_noFile(self) -> None:
        """What is no file at all is not read, and not replaced."""
        os.mkfifo(self.names[0])
        os.symlink("/etc/passwd", self.names[1])
        self.assertRaises(FileExistsError, self.write, b"one")
        self.assertEqual(sorted(os.listdir(self.directory)), ["a", "b"])

    def test_noLinks(self) -> None:
        """Where a file cannot have two names, it is renamed; nothing is replaced there, either."""

        def link(*args: Any) -> None:
            raise OSError(errno.EOPNOTSUPP, "no links")

        self.patch(os, "link", link)
        self.assertEqual(self.write(b"one"), 3)
        self.assertEqual(self.write(b"two"), 3)
        self.assertIsNone(self.write(b"one"))
        self.assertEqual(self.found(), {"a": b"one", "b": b"two"})

    def test_cannotLink(self) -> None:
        """What fails otherwise fails, and leaves nothing."""

        def link(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "full")

        self.patch(os, "link", link)
        self.assertRaises(OSError, self.write, b"one")
        self.assertEqual(self.found(), {})

    def test_leftBehind(self) -> None:
        """What a crash has left goes."""
        with open(self.temporary, "wb") as file:
            file.write(b"half")
        self.write(b"one")
        self.assertEqual(self.found(), {"a": b"one"})

    def test_twoAtOnce(self) -> None:
        """What another process is writing under that name is left alone."""

        def chunks() -> Any:
            yield b"o"
            self.assertRaises(BlockingIOError, self.write, b"two")
            yield b"ne"

        self.assertEqual(writeNew(self.temporary, self.names, chunks()), 3)
        self.assertEqual(self.found(), {"a": b"one"})

    def test_noLocks(self) -> None:
        """A file system without locks is no obstacle."""

        def flock(*args: Any) -> None:
            raise OSError(errno.ENOLCK, "no locks")

        self.patch(fcntl, "flock", flock)
        with open(self.temporary, "wb"):
            pass
        self.assertEqual(self.write(b"one"), 3)
