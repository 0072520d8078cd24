"""
Small files that the operator writes, and that are read again when they have changed.

For threads: a disk may let them wait.  A pipe that has the name of such a file does not.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable
from typing import Generic, TypeVar

#: No larger file is read, in octets.
MAX_OCTETS = 64 << 20

#: The longest first line that is a secret, in octets: tokens are long, and no longer.
MAX_SECRET_OCTETS = 16 * 1024

#: What a file was when it was read; empty, where it was not there.
Version = tuple[int, ...]

_T = TypeVar("_T")


def versionOf(path: str) -> Version:
    """
    @return: what differs once the file has changed.  To be had before it is read.
    """
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def readText(path: str) -> str:
    """
    @raise OSError: it cannot be read.
    @raise ValueError: it is no file, too large, or no UTF-8.
    """
    with open(path, "rb", opener=_opener) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is no file")
        if found.st_size > MAX_OCTETS:
            raise ValueError(f"{path} is larger than {MAX_OCTETS} octets")
        return file.read(MAX_OCTETS).decode("utf-8-sig")


def readSecret(path: str) -> str:
    """
    @return: the first line of a file: a password, a token, a key; blanks count.
    @raise OSError: it is not there, or cannot be read.
    @raise ValueError: it is no file, its first line is empty, longer than
        L{MAX_SECRET_OCTETS}, no UTF-8, or has NUL or CR.  The text says which; it has
        nothing of the secret.
    """
    with open(path, "rb", opener=_opener) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is no file")
        line = file.readline(MAX_SECRET_OCTETS + 6)
    line = line.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").removesuffix(b"\r")
    if not line.strip():
        raise ValueError(f"{path} has no secret in its first line")
    if len(line) > MAX_SECRET_OCTETS:
        raise ValueError(f"{path} has more than {MAX_SECRET_OCTETS} octets in its first line")
    if b"\0" in line or b"\r" in line:
        raise ValueError(f"{path} has NUL, or CR without LF, in its first line")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} has a first line that is no UTF-8") from None


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe keeps no thread


class OperatorFile(Generic[_T]):
    """
    One that is looked at each time that it is asked for.

    @ivar path: its name.
    @param read: what its text says.
    """

    def __init__(self, path: str, read: Callable[[str], _T]) -> None:
        self.path = path
        self._read = read
        self._known: tuple[Version, _T] | None = None

    def now(self) -> _T:
        """
        @return: what it says; the same object for as long as it has not changed.
        @raise OSError: it cannot be read.
        @raise ValueError: it is no file, too large, or no UTF-8; C{read} may raise others.
        """
        version, known = versionOf(self.path), self._known
        if known is None or not version or known[0] != version:
            known = self._known = version, self._read(readText(self.path))
        return known[1]
