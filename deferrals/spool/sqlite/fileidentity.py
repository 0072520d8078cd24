"""
Whether the files of an open database are still where they were opened.

SQLite would go on writing into a file that has been moved or deleted, and say
that it is durable.
"""

from __future__ import annotations

import contextlib
import os

#: Opens a file without being able to read it: closing such a descriptor does
#: not give up the locks that SQLite holds on the file.
_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC


class FileIdentity:
    """
    @param path: the database's file, which is open, in WAL mode.
    @raise OSError: one of its files is not there.
    @ivar deleted: whether the last L{trouble} was that a file is gone for
        good: only this process still has it.
    """

    def __init__(self, path: str) -> None:
        self.deleted = False
        self._files: list[tuple[str, int, tuple[int, int]]] = []
        try:
            for name in (path, f"{path}-wal"):
                fd = os.open(name, _FLAGS)
                found = os.fstat(fd)
                self._files.append((name, fd, (found.st_dev, found.st_ino)))
        except BaseException:
            self.close()
            raise

    def trouble(self) -> str:
        """
        @return: what is wrong; empty if nothing is.
        """
        self.deleted = False
        for name, fd, identity in self._files:
            try:
                found = os.stat(name)
            except OSError:
                found = None
            if found is not None and (found.st_dev, found.st_ino) == identity:
                continue
            if os.fstat(fd).st_nlink == 0:
                self.deleted = True
                return f"{name} has been deleted while in use"
            return f"{name} has been moved away while in use, {_whereabouts(fd)}"
        return ""

    def close(self) -> None:
        """
        Forget the files.
        """
        for _, fd, _ in self._files:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._files = []


def _whereabouts(fd: int) -> str:
    try:
        return f"to {os.readlink(f'/proc/self/fd/{fd}')}: put it back"
    except OSError:
        return "put it back"
