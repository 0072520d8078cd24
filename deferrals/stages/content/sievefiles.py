"""
Users' scripts, read off the reactor's thread, and kept as long as their files are the
same ones.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Sequence

import attrs
from cachetools import LRUCache

from deferrals.model.sievescript import Script

#: What scripts that are kept may hold together, in octets.
MAX_CACHED_OCTETS = 16 * 1024 * 1024

#: What one costs beside its octets, about.
_OWN_OCTETS = 1024


@attrs.frozen
class ScriptFound:
    """
    What there is at a path.

    @ivar script: C{None} where there is none.
    @ivar problem: why it is not known; empty where it is.
    """

    script: Script | None = None
    problem: str = ""

    @property
    def digest(self) -> bytes | None:
        """
        The script's; C{None} where there is none.
        """
        return None if self.script is None else self.script.digest


#: Which file it was, and which state of it.
_Identity = tuple[int, int, int, int]


def _weight(kept: tuple[_Identity, ScriptFound]) -> int:
    script = kept[1].script
    return _OWN_OCTETS + (0 if script is None else len(script.octets))


class ScriptFiles:
    """
    @param size: no larger script is read.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: LRUCache[str, tuple[_Identity, ScriptFound]] = LRUCache(
            MAX_CACHED_OCTETS, getsizeof=_weight
        )
        self._lock = threading.Lock()

    def known(self, path: str) -> ScriptFound | None:
        """
        @return: what was there when it was read last; C{None} where that is not known.
        """
        with self._lock:
            kept = self._kept.get(path)
        return None if kept is None else kept[1]

    def read(self, paths: Sequence[str]) -> list[ScriptFound]:
        """
        Blocks: for a thread.

        @return: what is at these, in their order.
        """
        found = {path: self._read(path) for path in dict.fromkeys(paths)}
        return [found[path] for path in paths]

    def _read(self, path: str) -> ScriptFound:
        try:
            identity = self._identity(os.stat(path))
            with self._lock:
                kept = self._kept.get(path)
            if kept is not None and kept[0] == identity:
                return kept[1]
            identity, found = self._opened(path)
        except (FileNotFoundError, NotADirectoryError):
            self._forget(path)
            return ScriptFound()
        except (OSError, ValueError) as error:
            self._forget(path)
            return ScriptFound(problem=f"{type(error).__name__}: {error}")
        with self._lock:
            self._kept[path] = identity, found
        return found

    def _forget(self, path: str) -> None:
        with self._lock:
            self._kept.pop(path, None)

    @staticmethod
    def _identity(status: os.stat_result) -> _Identity:
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _opened(self, path: str) -> tuple[_Identity, ScriptFound]:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return self._identity(status), ScriptFound(problem="it is no file")
            octets = file.read(self._size + 1)
        if len(octets) > self._size:
            return self._identity(status), ScriptFound(
                problem=f"it is larger than {self._size} octets"
            )
        return self._identity(status), ScriptFound(Script.read(octets))
