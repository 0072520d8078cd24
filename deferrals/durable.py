"""
Files whose content must survive a power cut.

Everything here blocks: it is for threads, and for commands.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable


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
            os.fchmod(fd, mode)
            if owner is not None:
                os.fchown(fd, *owner)
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync(os.path.dirname(path))
