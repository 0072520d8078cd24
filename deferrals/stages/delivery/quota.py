"""
How much is in a Maildir: the sizes of its messages, its folders' included
(Maildir++), C{tmp} not.

Sizes are read off file names where these say so (C{,S=…}, as we, Dovecot and
Courier write them).  A directory that has not changed since it was last read is
not read again.  Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import os
import re
import threading

from cachetools import LRUCache

_SIZE = re.compile(r",S=(\d+)")

#: A directory that changed as lately as this may change again within the same
#: tick of its clock, and is read again, in seconds.
SETTLED_SECONDS = 2.0

#: How many directories are remembered.
MAX_REMEMBERED = 100_000


class Usage:
    """
    Remembers directories, for several threads.
    """

    def __init__(self) -> None:
        self._known: LRUCache[str, tuple[int, int]] = LRUCache(MAX_REMEMBERED)
        self._lock = threading.Lock()  # a cache of this kind may not be changed by two at once

    def octets(self, maildir: str, now: float) -> int:
        """
        @param now: seconds since the epoch.
        @return: 0 where there is no such Maildir.
        """
        boxes = [maildir]
        try:
            with os.scandir(maildir) as entries:
                boxes += [entry.path for entry in entries if entry.name.startswith(".")]
        except FileNotFoundError:
            return 0
        return sum(
            self._directory(os.path.join(box, name), now)
            for box in boxes
            for name in ("cur", "new")
        )

    def _directory(self, path: str, now: float) -> int:
        try:
            changed = os.stat(path).st_mtime_ns
            with self._lock:
                known = self._known.get(path)
            if known is not None and known[0] == changed:
                return known[1]
            total = _total(path)
        except (FileNotFoundError, NotADirectoryError):
            with self._lock:
                self._known.pop(path, None)
            return 0
        if now - changed / 1e9 > SETTLED_SECONDS:
            with self._lock:
                self._known[path] = (changed, total)
        return total


def _total(path: str) -> int:
    total = 0
    with os.scandir(path) as entries:
        for entry in entries:
            size = _SIZE.search(entry.name)
            if size is not None:
                total += int(size[1])
                continue
            try:
                total += entry.stat().st_size
            except FileNotFoundError:  # moved or deleted meanwhile
                continue
    return total
