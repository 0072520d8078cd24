"""
Files whose content must survive a power cut.

Everything here blocks: it is for threads, and for commands.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from typing import BinaryIO

#: What C{link} says where a file cannot have two names.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}

_READ_OCTETS = 64 * 1024

#: What comes in smaller pieces is written together.
_WRITE_OCTETS = 64 * 1024


def sync(path: str) -> None:
    """
    Make a file's content durable; of a directory, the names in it.

    @raise OSError: there is no such file, or its disk does not work.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def syncWithName(path: str) -> None:
    """
    Make a file's content and its name durable.

    @raise OSError: as L{sync}.
    """
    sync(path)
    sync(os.path.dirname(path))


def makeDirectory(path: str, mode: int = 0o700) -> list[str]:
    """
    Make a directory, and those above it that are missing: all with this mode,
    whatever the umask says.

    @return: those that were made, from the top.
    @raise OSError: it cannot be made.
    """
    if os.path.isdir(path):
        return []
    above = os.path.dirname(os.path.abspath(path))
    made = makeDirectory(above, mode) if above != path else []
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if os.path.isdir(path):
            return made  # another thread was faster
        raise
    os.chmod(path, mode)
    return [*made, path]


def octetsOf(path: str) -> int | None:
    """
    @return: how large a file is; C{None} where there is none.
    @raise OSError: that cannot be told now (no permission, a network's disk is away):
        C{os.path.exists} says then that there is none.
    """
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def keepPrivate(path: str) -> int | None:
    """
    Take a directory away from all users but its own.

    @return: the mode that it had; C{None}, where that was right.
    @raise OSError: it is not this process's to change.
    """
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if not mode & 0o077:
        return None
    os.chmod(path, 0o700)
    return mode


def write(
    temporary: str,
    path: str,
    chunks: Iterable[bytes],
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
) -> None:
    """
    Write a file under another name, sync it, rename it, sync its directory:
    under C{path} there is the old file or the new one, whole.

    @param temporary: in the same directory; it must not exist yet.
    @param mode: the permissions of the file.
    @param owner: user and group of the file; C{None} for those of the process.
    @raise OSError: it cannot be written; nothing is left under C{temporary}.
    """
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            _fill(file, chunks, mode, owner)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync(os.path.dirname(path))


def overwrite(path: str, text: bytes) -> None:
    """
    Write a small text over what a file has, where a disk has no room for another
    file: a text that stays within the file's first block needs none.  What was
    longer is filled up with spaces.  A power cut may leave something of both texts.

    @raise OSError: there is no such file, or it cannot be written.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        filled = text.ljust(os.fstat(fd).st_size)
        if os.pwrite(fd, filled, 0) < len(filled):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    finally:
        os.close(fd)


def _fill(
    file: BinaryIO, chunks: Iterable[bytes], mode: int, owner: tuple[int, int] | None = None
) -> None:
    os.fchmod(file.fileno(), mode)
    if owner is not None:
        os.fchown(file.fileno(), *owner)
    for chunk in chunks:
        file.write(chunk)
    file.flush()
    os.fsync(file.fileno())


class NewFile:
    """
    A file written as by L{write}, but in the place of nothing, and in steps, so that
    several files can take each of them together.  A file that is there stays what it
    is; one with this very content is taken for the same, written by a try before this
    one.

    @param temporary: on the same file system.  A file of that name is removed if
        it is what a crash has left, and no process is writing it.
    @param paths: the names that it may have, the best one first.
    @param mode: the permissions of the file.
    @ivar size: how many octets have been written.
    """

    def __init__(self, temporary: str, paths: Iterable[str], mode: int = 0o600) -> None:
        self._temporary = temporary
        self._paths = paths
        self._mode = mode
        self._fd = -1
        self.size = 0

    def write(self, chunks: Iterable[bytes]) -> None:
        """
        The first step: the content, which begins its way to the disk.

        @raise OSError: it cannot be written.
        """
        self._fd = _take(self._temporary, self._mode)
        held, octets = [], 0
        for chunk in chunks:
            held.append(chunk)
            octets += len(chunk)
            if octets >= _WRITE_OCTETS:
                self._append(b"".join(held))
                held, octets = [], 0
        self._append(b"".join(held))
        if hasattr(os, "posix_fadvise"):  # only a hint: the sync is what counts
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _append(self, content: bytes) -> None:
        self.size += len(content)
        view = memoryview(content)
        while view:
            view = view[os.write(self._fd, view) :]

    def settle(self) -> None:
        """
        The second one: the content is durable.

        @raise OSError: its disk does not work.
        """
        os.fsync(self._fd)

    def name(self) -> str | None:
        """
        The third one: it has its name.  That is durable when the directory has been
        synced.

        @return: that directory; C{None} if the file was there already, and is durable.
        @raise FileExistsError: other files have all of these names.
        @raise OSError: it cannot have it.
        """
        for path in self._paths:
            if _place(self._temporary, path):
                return os.path.dirname(path)
            if _isSame(self._temporary, path):
                return None
        raise FileExistsError(errno.EEXIST, "other files have its name")

    def close(self) -> None:
        """
        The last one, whatever became of it: nothing is left under the other name.
        """
        if self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)
            os.close(self._fd)
            self._fd = -1


def _take(path: str, mode: int) -> int:
    """
    Make a file that is locked as long as it is open, with this mode whatever the umask
    says.

    @return: its descriptor.
    @raise OSError: another process is writing it, or it cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, mode)
    except FileExistsError:
        _removeAbandoned(path)
        fd = os.open(path, flags, mode)
    try:
        if stat.S_IMODE(_lock(fd, path).st_mode) != mode:
            os.fchmod(fd, mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _removeAbandoned(path: str) -> None:
    """
    @raise OSError: a process is writing it.
    """
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _lock(fd, path)
            os.unlink(path)
        finally:
            os.close(fd)


def _lock(fd: int, path: str) -> os.stat_result:
    """
    Lock a file as far as its file system has locks.

    @return: what is known of it.
    @raise OSError: another process has locked it, or the name is another file's by now.
    """
    found = os.fstat(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return found  # no locks there: its name is the only protection
    if not os.path.samestat(found, os.stat(path, follow_symlinks=False)):
        raise BlockingIOError(errno.EAGAIN, "another process is writing it")
    return found


def _place(temporary: str, path: str) -> bool:
    """
    Give a file its name.

    @return: whether that was free.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
    return True


def _isSame(one: str, other: str) -> bool:
    """
    Whether two files have the same content.
    """
    found = os.stat(other, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode) or found.st_size != os.stat(one).st_size:
        return False
    with open(one, "rb") as first, open(other, "rb") as second:
        while chunk := first.read(_READ_OCTETS):
            if chunk != second.read(_READ_OCTETS):
                return False
    syncWithName(other)
    return True
