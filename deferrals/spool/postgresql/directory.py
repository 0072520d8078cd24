"""
The directory that all machines share, for contents above 256 KiB (C{spool.bodies}).

A content is C{OWNER/XX/NUMBER}: whose it is, as the database numbers owners, which gives
no number twice; 256 directories; and the message.  Until it is whole its name ends with
C{.part}.  Which owner has written it is in its row (L{contents.FILE
<deferrals.spool.postgresql.contents>}).

A file called C{queue} says whose directory it is: of which queue, and which of the
directories that it may have been given.  Without that file it is another directory, or
the empty one behind a file system that is not mounted: nothing is looked for in it, and
nothing written.

Everything here blocks: it is for a thread, and for commands.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from deferrals import durable
from deferrals.errors import SpoolError
from deferrals.model.ids import formatId, parseId
from deferrals.model.store import SpoolSettings
from deferrals.spool.message import PART, READ_OCTETS

#: The name of the file that says whose directory it is, and how much of it is read.
MARKER, _MARKER_OCTETS = "queue", 1024

#: What an empty directory may have.
_NOTHING = {"lost+found", ".snapshot"}


class Directory:
    """
    @param path: absolute path.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._marker = ""

    def begin(self, identity: str, token: str | None, new: str) -> str:
        """
        See whose directory it is; make it this queue's where it is empty, and the queue
        has none.

        @param identity: the queue's own number.
        @param token: which directory the queue has; C{None} where it has none.
        @param new: which it is, if it becomes the queue's now.
        @return: which it is.
        @raise SpoolError: it is not the queue's.
        """
        found = self._read()
        if found is None and token is None:
            self._mark(f"{identity} {new}")
            found = self._read()
        if found is None:
            raise SpoolError(self._unmarked())
        whose, _, which = found.partition(" ")
        if whose != identity or (token is not None and which != token):
            raise SpoolError(f"spool.bodies: {self.path} is another queue's")
        return which

    def use(self, identity: str, token: str) -> None:
        """
        It has to be that of a queue from now on.

        @raise SpoolError: it is not.
        """
        self._marker = f"{identity} {token}"
        self.see()

    def see(self) -> None:
        """
        Is it still what it was?

        @raise SpoolError: it is not there, or another one is.
        """
        found = self._read()
        if found != self._marker:
            raise SpoolError(
                self._unmarked()
                if found is None
                else f"spool.bodies: {self.path} is not the directory that the queue has"
            )

    def _unmarked(self) -> str:
        return (
            f"spool.bodies: {self.path} has no file {MARKER}: it is not the directory that"
            " the queue has, or is not mounted"
        )

    def _read(self) -> str | None:
        try:
            os.stat(self.path)
            with open(os.path.join(self.path, MARKER), "rb") as file:
                return file.read(_MARKER_OCTETS).decode("utf-8", "replace").strip()
        except FileNotFoundError as error:
            if error.filename == self.path:
                raise self._unusable(error) from None
            return None
        except OSError as error:
            raise self._unusable(error) from None

    def _mark(self, text: str) -> None:
        """
        Of several that do this at once, one does it.
        """
        path = os.path.join(self.path, MARKER)
        file = durable.NewFile(f"{path}.{text.rpartition(' ')[2]}", [path])
        try:
            names = set(os.listdir(self.path)) - _NOTHING
            if MARKER in names:
                return  # another one was faster
            if not all(one.startswith(f"{MARKER}.") for one in names):
                raise SpoolError(f"spool.bodies: {self.path} is not empty, and is no queue's")
            file.write([f"{text}\n".encode()])
            file.settle()
            with contextlib.suppress(FileExistsError):
                file.name()
            durable.sync(self.path)
        except OSError as error:
            raise self._unusable(error) from None
        finally:
            file.close()

    def _unusable(self, error: OSError) -> SpoolError:
        return SpoolError(f"spool.bodies: {self.path} cannot be used: {error.strerror}")

    # Contents.

    def _leaf(self, owner: int, number: int) -> str:
        return os.path.join(self.path, str(owner), f"{number >> 8 & 0xFF:02x}")

    def name(self, owner: int, number: int) -> str:
        """
        Where a content is.
        """
        return os.path.join(self._leaf(owner, number), formatId(number))

    def open(self, owner: int) -> None:
        """
        Let an owner have a place in it.

        @raise SpoolError: it cannot be written.
        """
        self.see()
        try:
            self._make(os.path.join(self.path, str(owner)))
        except OSError as error:
            raise self._unusable(error) from None

    def _make(self, path: str) -> None:
        for made in durable.makeDirectory(path):
            durable.sync(os.path.dirname(made))

    def write(self, owner: int, number: int, content: BinaryIO) -> None:
        """
        Have a content, durably, with its name.

        @raise SpoolError: it is not the queue's directory.
        @raise OSError: it cannot be written.
        """
        self.see()
        name = self.name(owner, number)
        self._make(os.path.dirname(name))
        self._unlink(f"{name}{PART}")  # of a try before this one
        durable.write(f"{name}{PART}", name, _chunks(content))

    def read(self, owner: int, number: int, target: str) -> None:
        """
        Copy a content to this machine.

        @raise FileNotFoundError: the directory does not have it.
        @raise SpoolError: it is not the queue's directory.
        @raise OSError: it cannot be read now, or not be written here.
        """
        try:
            fd = os.open(self.name(owner, number), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self.see()
            raise
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(fd, "rb") as file, open(os.open(target, flags, 0o600), "wb") as copy:
            for chunk in _chunks(file):
                copy.write(chunk)

    def octets(self, owner: int, number: int) -> int | None:
        """
        @return: how large a content is; C{None} where the directory does not have it.
        @raise SpoolError: it is not the queue's directory.
        @raise OSError: that cannot be told now.
        """
        found = durable.octetsOf(self.name(owner, number))
        if found is None:
            self.see()
        return found

    def remove(self, owner: int, number: int) -> None:
        """
        A content has no message.

        @raise OSError: it cannot be removed.
        """
        name = self.name(owner, number)
        for path in (name, f"{name}{PART}"):
            self._unlink(path)

    def _unlink(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def owners(self) -> list[int]:
        """
        Whose contents are in it.

        @raise SpoolError: it is not the queue's directory.
        @raise OSError: it cannot be read.
        """
        self.see()
        return [int(one) for one in os.listdir(self.path) if one.isascii() and one.isdigit()]

    def leaves(self, owner: int) -> list[str]:
        """
        The directories with the contents of an owner.

        @raise OSError: they cannot be read.
        """
        return sorted(self._names(os.path.join(self.path, str(owner))))

    def numbers(self, owner: int, leaf: str) -> list[int]:
        """
        The contents in one of them, finished or not.

        @raise OSError: they cannot be read.
        """
        found = set()
        for name in self._names(os.path.join(self.path, str(owner), leaf)):
            with contextlib.suppress(ValueError):
                found.add(parseId(name.removesuffix(PART)))
        return sorted(found)

    def _names(self, path: str) -> list[str]:
        try:
            return os.listdir(path)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def clear(self, owner: int) -> None:
        """
        Remove what is empty of an owner that is dead.
        """
        top = os.path.join(self.path, str(owner))
        for path in [*(os.path.join(top, leaf) for leaf in self._names(top)), top]:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(path)


def directoryOf(settings: SpoolSettings, baseDir: str) -> Directory | None:
    """
    @return: the one that a configuration names.
    """
    return None if settings.bodies is None else Directory(os.path.join(baseDir, settings.bodies))


def _chunks(content: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: content.read(READ_OCTETS), b"")


def wrongSize(found: int | None, size: int) -> str:
    """
    @param found: how large a content is; C{None} where it is not there.
    @return: what is wrong with that; empty if nothing is.
    """
    if found is None:
        return "its content is missing"
    return "" if found == size else "its content is not what was stored"
