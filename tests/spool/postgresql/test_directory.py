"""
Tests for L{deferrals.spool.postgresql.directory}.
"""

from __future__ import annotations

import io
import os
import shutil

from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.model.store import SpoolSettings
from deferrals.spool.postgresql.directory import MARKER, Directory, directoryOf, wrongSize

#: The number of a message.
NUMBER = 0x123456789AB00


class DirectoryTests(SynchronousTestCase):
    """
    L{Directory}.
    """

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        os.mkdir(self.path)
        self.directory = Directory(self.path)
        self.directory.use("q", self.directory.begin("q", None, "one"))

    def write(self, owner: int = 1, number: int = NUMBER, content: bytes = b"content") -> str:
        self.directory.write(owner, number, io.BytesIO(content))
        return self.directory.name(owner, number)

    def numbers(self, owner: int) -> list[int]:
        leaves = self.directory.leaves(owner)
        return [number for leaf in leaves for number in self.directory.numbers(owner, leaf)]

    def test_begin(self) -> None:
        """An empty directory becomes a queue's, and stays that: whoever comes finds it so."""
        for token in (None, "one"):
            self.assertEqual(Directory(self.path).begin("q", token, "two"), "one")
        for identity, wanted in (("other", "one"), ("q", "another"), ("other", None)):
            with self.assertRaisesRegex(SpoolError, "spool.bodies: .* is another queue's"):
                Directory(self.path).begin(identity, wanted, "two")

    def test_unmounted(self) -> None:
        """
        An empty directory is not taken for that of a queue which has one: what should be
        mounted there is not.
        """
        empty = os.path.abspath(self.mktemp())
        os.mkdir(empty)
        with self.assertRaisesRegex(SpoolError, "has no file queue: .* or is not mounted"):
            Directory(empty).begin("q", "one", "two")
        self.assertEqual(os.listdir(empty), [])

    def test_mine(self) -> None:
        """
        What has other files is not taken; what each file system has is nothing, nor is
        what another process has there that begins at the same time.
        """
        for name, isTaken in (("lost+found", True), ("queue.one", True), ("photos", False)):
            path = os.path.abspath(self.mktemp())
            os.makedirs(os.path.join(path, name))
            if isTaken:
                self.assertEqual(Directory(path).begin("q", None, "two"), "two")
                continue
            with self.assertRaisesRegex(SpoolError, "is not empty, and is no queue's"):
                Directory(path).begin("q", None, "two")
            self.assertEqual(os.listdir(path), [name])

    def test_none(self) -> None:
        """One that is not there, or is none, cannot be used, and is not made."""
        missing = os.path.join(self.path, "missing")
        with self.assertRaisesRegex(SpoolError, "missing cannot be used: No such file"):
            Directory(missing).begin("q", None, "two")
        self.assertFalse(os.path.exists(missing))
        with self.assertRaisesRegex(SpoolError, "queue cannot be used: Not a directory"):
            Directory(os.path.join(self.path, MARKER)).begin("q", None, "two")

    def test_gone(self) -> None:
        """
        Where another directory is in its place, nothing is written there, and what is missing
        there is not taken for lost.
        """
        self.write()
        os.rename(self.path, f"{self.path}.away")
        os.mkdir(self.path)
        calls = (
            lambda: self.write(1, 7),
            lambda: self.directory.read(1, NUMBER, "copy"),
            lambda: self.directory.octets(1, NUMBER),
            lambda: self.directory.owners(),
            lambda: self.directory.open(2),
        )
        for call in calls:
            with self.assertRaisesRegex(SpoolError, "has no file queue"):
                call()
        with open(os.path.join(self.path, MARKER), "w") as file:
            file.write("q other")
        with self.assertRaisesRegex(SpoolError, "is not the directory that the queue has"):
            self.write(1, 7)
        self.assertEqual(os.listdir(self.path), [MARKER])
        shutil.rmtree(self.path)
        os.rename(f"{self.path}.away", self.path)
        self.write(1, 7)
        self.assertEqual(self.numbers(1), [7, NUMBER])

    def test_contents(self) -> None:
        """A content comes back as it was; no two owners have one file."""
        name = self.write()
        self.assertEqual(os.stat(name).st_mode & 0o777, 0o600)
        other = self.write(2, NUMBER, b"other")
        self.assertNotEqual(name, other)
        self.assertEqual(name.removeprefix(self.path)[:6], "/1/ab/")
        for owner, content in ((1, b"content"), (2, b"other")):
            copy = os.path.abspath(self.mktemp())
            self.directory.read(owner, NUMBER, copy)
            with open(copy, "rb") as file:
                self.assertEqual(file.read(), content)
            self.assertEqual(self.directory.octets(owner, NUMBER), len(content))
        self.assertEqual(os.stat(copy).st_mode & 0o777, 0o600)
        self.assertEqual(sorted(self.directory.owners()), [1, 2])
        self.directory.remove(1, NUMBER)
        self.directory.remove(1, NUMBER)
        self.assertIsNone(self.directory.octets(1, NUMBER))
        self.assertRaises(FileNotFoundError, self.directory.read, 1, NUMBER, "copy")
        self.assertEqual(self.numbers(2), [NUMBER])

    def test_synced(self) -> None:
        """What is written is durable when that has ended: the file, and all names above it."""
        synced: list[str] = []
        sync = os.fsync

        def record(fd: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{fd}").removeprefix(self.path))
            sync(fd)

        self.patch(os, "fsync", record)
        name = self.write().removeprefix(self.path)
        leaf = os.path.dirname(name)
        self.assertEqual(synced, ["", os.path.dirname(leaf), f"{name}.part", leaf])

    def test_unfinished(self) -> None:
        """What was not written to its end has not its name, is found, and goes."""
        name = self.directory.name(1, NUMBER)
        os.makedirs(os.path.dirname(name))
        for path in (f"{name}.part", os.path.join(self.path, "1", "note")):
            with open(path, "w"):
                pass
        self.assertIsNone(self.directory.octets(1, NUMBER))
        self.assertEqual(self.numbers(1), [NUMBER])
        self.directory.remove(1, NUMBER)
        self.assertEqual(self.numbers(1), [])
        with open(f"{name}.part", "w"):
            pass
        self.write()
        self.assertEqual(os.listdir(os.path.dirname(name)), [os.path.basename(name)])

    def test_full(self) -> None:
        """Of what could not be written nothing stays."""

        class Full(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                raise OSError(28, "No space left on device")

        self.assertRaises(OSError, self.directory.write, 1, NUMBER, Full())
        self.assertEqual(self.numbers(1), [])

    def test_clear(self) -> None:
        """Of an owner that is dead no empty directories stay; what has files does."""
        self.write(1, NUMBER)
        self.write(1, 0x100)
        self.directory.remove(1, 0x100)
        self.directory.clear(1)
        self.assertEqual(os.listdir(os.path.join(self.path, "1")), ["ab"])
        self.directory.remove(1, NUMBER)
        self.directory.clear(1)
        self.directory.clear(1)
        self.assertEqual(os.listdir(self.path), [MARKER])

    def test_settings(self) -> None:
        """A relative path counts from where the configuration is."""
        self.assertIsNone(directoryOf(SpoolSettings(), "/etc"))
        settings = SpoolSettings(use="postgresql", conninfo="", bodies="bodies")
        found = directoryOf(settings, "/etc")
        self.assertEqual(found and found.path, "/etc/bodies")

    def test_wrongSize(self) -> None:
        """What is missing, and what has another size, is told."""
        self.assertEqual(wrongSize(None, 1), "its content is missing")
        self.assertEqual(wrongSize(2, 1), "its content is not what was stored")
        self.assertEqual(wrongSize(1, 1), "")
