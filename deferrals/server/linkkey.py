"""
What links are signed with: a file that the server makes, and all its processes and
machines share.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets

from deferrals import durable
from deferrals.model.link import KEY_OCTETS
from deferrals.operatorfiles import readSecret


class LinkKey:
    """
    @param path: the file: hexadecimal digits, in one line.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._key: bytes | None = None

    def get(self) -> bytes:
        """
        It is read once, and made where it is missing.  Blocks for a moment.

        @raise OSError: it cannot be read, or made.
        @raise ValueError: there is something else.
        """
        if self._key is None:
            self._key = self._read() or self._made()
        return self._key

    async def known(self) -> None:
        """
        It always can be had.
        """

    def _read(self) -> bytes | None:
        try:
            text = readSecret(self._path).strip()
        except FileNotFoundError:
            return None
        if re.fullmatch(f"[0-9A-Fa-f]{{{2 * KEY_OCTETS}}}", text) is None:
            raise ValueError(f"{self._path}: expected {2 * KEY_OCTETS} hexadecimal digits")
        return bytes.fromhex(text)

    def _made(self) -> bytes:
        """
        Of several processes that make it at once one succeeds, and all have its.
        """
        durable.makeDirectory(os.path.dirname(self._path))
        own = f"{self._path}.{os.getpid()}-{secrets.token_hex(4)}"
        fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.write(secrets.token_hex(KEY_OCTETS).encode("ascii") + b"\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(own, self._path)
            durable.sync(os.path.dirname(self._path))
        finally:
            os.unlink(own)
        found = self._read()
        if found is None:
            raise FileNotFoundError(self._path)
        return found
