"""
The same Maildir for servers that bring none that syncs.
"""

from __future__ import annotations

import itertools
import os


class Maildir:
    """
    Written, synced, renamed, and the directory synced.
    """

    def __init__(self, directory: str) -> None:
        self._tmp, self._new = os.path.join(directory, "tmp"), os.path.join(directory, "new")
        for path in (self._tmp, self._new):
            os.makedirs(path, exist_ok=True)
        self._numbers = itertools.count()
        self._directory = os.open(self._new, os.O_RDONLY)

    def store(self, content: bytes) -> None:
        name = str(next(self._numbers))
        path = os.path.join(self._tmp, name)
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path, os.path.join(self._new, name))
        os.fsync(self._directory)
