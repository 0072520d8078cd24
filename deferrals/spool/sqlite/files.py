"""
The files of the embedded spool, and the lock on them.

What touches a disk here blocks: it is for threads, for commands, and for the
moment in which a spool is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable

import attrs

from deferrals import durable
from deferrals.errors import SpoolError
from deferrals.logger import Logger
from deferrals.model.ids import formatId, parseId
from deferrals.spool.message import PART

_log = Logger(namespace="deferrals.spool")


@attrs.frozen
class SpoolFiles:
    """
    Where everything is.

    @ivar directory: absolute path of the spool.
    @ivar database: its database.
    @ivar bodies: the directory of bodies too large for the database.
    @ivar damaged: the directory for what could not be read.
    @ivar lock: the file that is locked while a process has the spool.
    @ivar reserve: the file that holds room for when the disk is full.
    @ivar log: the database's write-ahead log.
    @ivar mark: the file that says which database belongs here.
    """

    directory: str
    database: str = attrs.field(init=False)
    bodies: str = attrs.field(init=False)
    damaged: str = attrs.field(init=False)
    lock: str = attrs.field(init=False)
    reserve: str = attrs.field(init=False)
    log: str = attrs.field(init=False)
    mark: str = attrs.field(init=False)

    @database.default
    def _database(self) -> str:
        return os.path.join(self.directory, "spool.sqlite")

    @bodies.default
    def _bodies(self) -> str:
        return os.path.join(self.directory, "bodies")

    @damaged.default
    def _damaged(self) -> str:
        return os.path.join(self.directory, "damaged")

    @lock.default
    def _lock(self) -> str:
        return os.path.join(self.directory, "lock")

    @reserve.default
    def _reserve(self) -> str:
        return os.path.join(self.directory, "reserve")

    @log.default
    def _log(self) -> str:
        return f"{self.database}-wal"

    @mark.default
    def _mark(self) -> str:
        return os.path.join(self.directory, "mark")

    def body(self, number: int) -> str:
        """
        The file of a large message's body.
        """
        return f"{self.bodies}/{formatId(number)}"

    def damagedBody(self, number: int) -> str:
        """
        The same, when it has been moved aside.
        """
        return f"{self.damaged}/{formatId(number)}"

    def make(self) -> None:
        """
        Make the directories that are missing, readable by the server's own
        user alone.

        @raise OSError: they cannot be made.
        """
        durable.makeDirectory(self.bodies)
        mode = durable.keepPrivate(self.directory)
        if mode is not None:
            _log.warn(
                "{path} had mode {mode}, and has 0700 now",
                path=self.directory,
                mode=f"{mode:04o}",
            )

    def bodyNumbers(self) -> list[int]:
        """
        The numbers of the messages that have a file in L{bodies}.
        """
        numbers = []
        for name in os.listdir(self.bodies) if os.path.isdir(self.bodies) else []:
            with contextlib.suppress(ValueError):
                numbers.append(parseId(name))
        return numbers

    def unfinished(self) -> list[int]:
        """
        The numbers of the messages whose content has another name until their rows
        are durable.
        """
        numbers = []
        for name in os.listdir(self.bodies) if os.path.isdir(self.bodies) else []:
            if name.endswith(PART):
                with contextlib.suppress(ValueError):
                    numbers.append(parseId(name.removesuffix(PART)))
        return numbers

    def part(self, number: int) -> str:
        """
        The file of a message's content until its row is durable.
        """
        return f"{self.body(number)}{PART}"

    def removeUnfinished(self, number: int) -> None:
        """
        Remove what came of a message's content.
        """
        removeFile(self.part(number))

    def finish(self, number: int) -> None:
        """
        A message's row is durable: give its content its name, if it has not.
        """
        if not os.path.lexists(self.body(number)):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.part(number), self.body(number))

    def withoutBody(self, numbers: Iterable[int]) -> list[int]:
        """
        @return: those of the messages that have no file in L{bodies}.
        """
        return [number for number in numbers if not self.hasBody(number)]

    def hasBody(self, number: int) -> bool:
        """
        Whether there is a file in L{bodies} for a message.  One that cannot be looked
        at now is not missing: who reads it learns more.
        """
        try:
            return durable.octetsOf(self.found(number)) is not None
        except OSError:
            return True

    def found(self, number: int) -> str:
        """
        The file of a message's body by the name that it has.
        """
        path, part = self.body(number), self.part(number)
        return part if not os.path.exists(path) and os.path.exists(part) else path

    def removeBody(self, number: int) -> None:
        """
        Remove the file of a message's body, if there is one.
        """
        removeContent(self.body(number))

    def removeAll(self, number: int) -> None:
        """
        The same, also where the file has been moved aside.
        """
        self.removeBody(number)
        removeFile(self.damagedBody(number))

    def setBodyAside(self, number: int) -> bool:
        """
        Move the file of a message's body to L{damaged}, where no other is
        overwritten.

        @return: whether there was one.
        """
        durable.makeDirectory(self.damaged)
        path, count = self.damagedBody(number), 1
        while os.path.lexists(path):
            path, count = f"{self.damagedBody(number)}-{count}", count + 1
        try:
            os.rename(self.found(number), path)
        except FileNotFoundError:
            return False
        durable.sync(self.damaged)
        durable.sync(self.bodies)
        return True

    def namesAside(self) -> list[str]:
        """
        What is in L{damaged}.
        """
        return sorted(os.listdir(self.damaged)) if os.path.isdir(self.damaged) else []


@attrs.frozen
class Holder:
    """
    A process that has a spool.

    @ivar pid: its number; C{None} where that is not known.
    """

    pid: int | None

    @property
    def isStopped(self) -> bool:
        """Whether it was sent SIGSTOP: it does nothing until it is sent SIGCONT."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
                return file.read().rpartition(")")[2].split()[0] in ("T", "t")
        except OSError:
            return False

    def __str__(self) -> str:
        """
        What an operator needs to know; empty where nothing is known.
        """
        if self.pid is None:
            return ""
        if not self.isStopped:
            return f" ({self.pid})"
        return (
            f" ({self.pid}, which is stopped: `kill -CONT {self.pid}` lets it go on,"
            f" `kill -KILL {self.pid}` ends it)"
        )


class SpoolLock:
    """
    Keeps a spool for one process.  The number of that is in the lock's file, for people:
    it means something only while the file is locked.

    @param files: those of the spool.
    """

    def __init__(self, files: SpoolFiles) -> None:
        self._files = files
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._fd >= 0

    def take(self, rival: str = "another process") -> None:
        """
        @param rival: what has the spool if it is locked.
        @raise SpoolError: the spool is locked, or cannot be.
        """
        try:
            fd = os.open(self._files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolError(f"cannot lock the spool: {error}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(fd)
            os.close(fd)
            raise SpoolError(f"{self._files.directory} is in use by {rival}{holder}") from None
        self._fd = fd
        with contextlib.suppress(OSError):  # a disk that is full
            os.truncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)

    def holder(self) -> Holder | None:
        """
        Which other process has it; C{None} where none has, as far as can be told.
        """
        try:
            fd = os.open(self._files.lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _holder(fd)
        else:
            return None
        finally:
            os.close(fd)

    def renew(self) -> None:
        """
        If the lock's file has been deleted, make it again and lock that.

        @raise SpoolError: it cannot be made.
        """
        if not os.path.exists(self._files.lock):
            deleted = self._fd
            self.take()
            os.close(deleted)

    def release(self) -> None:
        """
        Let other processes have the spool.
        """
        if self.held:
            os.close(self._fd)
            self._fd = -1


def _holder(fd: int) -> Holder:
    """
    @param fd: the file of a lock that another process has.
    """
    try:
        return Holder(int(os.pread(fd, 20, 0)))
    except (OSError, ValueError):
        return Holder(None)  # it has begun a moment ago, or is of another version


def createPrivate(path: str) -> None:
    """
    Make an empty file for the server's own user alone, if there is none: SQLite
    would make it as the umask says.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def removeFile(path: str) -> None:
    """
    Remove a file, if it is there.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def removeContent(path: str) -> None:
    """
    Remove the file of a content, if it is there, also by its other name.
    """
    name = path.removesuffix(PART)
    removeFile(name)
    removeFile(f"{name}{PART}")
