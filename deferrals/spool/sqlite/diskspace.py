"""
Whether there is room for more.

What is in the spool must be able to leave it, which takes a little room, too
(SQLite's log grows before it shrinks): so the last part of a disk is not for
new messages.
"""

from __future__ import annotations

import os

#: So much of a file system is kept free, but at most an eighth of it.
RESERVE_OCTETS = 16 << 20

#: So many files can still be made, if a file system counts them at all.
RESERVE_FILES = 16


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
