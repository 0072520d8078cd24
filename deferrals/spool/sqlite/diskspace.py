"""
Whether there is room for more.

What is in the spool must be able to leave it, which takes a little room, too
(SQLite's log grows before it shrinks): so the last part of a disk is not for
new messages.  Others may fill it all the same: a file is kept that holds some
room, until it is needed.
"""

from __future__ import annotations

import contextlib
import os

from deferrals.errors import SpoolError

#: So much of a file system is kept free, but at most an eighth of it.
RESERVE_OCTETS = 16 << 20

#: What the L{Reserve} holds, but at most a thirty-second of a file system.
HELD_OCTETS = 4 << 20

#: So many files can still be made, if a file system counts them at all.
RESERVE_FILES = 16


class NoRoom(SpoolError):
    """
    The disk is full.
    """


def lack(directory: str) -> str:
    """
    @return: why no new message can be taken; empty if it can.
    """
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if free < min(RESERVE_OCTETS, found.f_blocks * found.f_frsize // 8):
        return f"{directory}: no space left, {free >> 10} KiB are free"
    if found.f_files and found.f_favail < RESERVE_FILES:
        return f"{directory}: no more files can be made, {found.f_favail} are left"
    return ""


class Reserve:
    """
    A file that holds room for what must leave the spool when the disk is full.
    Its methods block.

    @param path: the file's.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def give(self) -> bool:
        """
        Give the room up.

        @return: whether there was any.
        """
        try:
            os.unlink(self._path)
        except OSError:
            return False
        return True

    def make(self) -> bool:
        """
        Take the room, if it is not taken yet and new messages do not lack it.

        @return: whether it was taken now.
        """
        directory = os.path.dirname(self._path)
        if os.path.exists(self._path) or lack(directory):
            return False
        found = os.statvfs(directory)
        size = min(HELD_OCTETS, found.f_blocks * found.f_frsize // 32)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(self._path, flags, 0o600)
            try:
                os.posix_fallocate(fd, 0, max(1, size))
            finally:
                os.close(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            return False
        return True
