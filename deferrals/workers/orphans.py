"""
The workers of a parent that was killed, as those see them who start after it: they have
its ports until they see that it is gone, and their spools until their transactions have
ended.
"""

from __future__ import annotations

import os
import time

from deferrals.config.tables import Config
from deferrals.errors import ListenError
from deferrals.logger import Logger
from deferrals.spool.sqlite.files import Holder, SpoolFiles, SpoolLock

_log = Logger(namespace="deferrals.workers")

#: How much longer than C{grace} such a worker is waited for.
LONGER_SECONDS = 5.0

_PAUSE_SECONDS = 0.05


class Orphan:
    """
    Perhaps one of them: what has a spool that is another's now.

    @param directory: of the spool.
    """

    def __init__(self, directory: str) -> None:
        self._lock = SpoolLock(SpoolFiles(directory))
        self._directory = directory
        self._said: Holder | None = None

    def isThere(self) -> bool:
        """
        Whether there is one; whom is waited for is in the log, once.
        """
        holder = self._lock.holder()
        if holder is not None and holder != self._said:
            self._said = holder
            _log.warn(
                "waiting for another process{holder}, which has {path}",
                holder=str(holder),
                path=self._directory,
                pid=holder.pid,
            )
        return holder is not None

    @property
    def words(self) -> str:
        """
        What has the spool; empty where nothing has.
        """
        holder = self._lock.holder()
        if holder is None:
            return ""
        return f"{self._directory} is in use by another process{holder}"


class OrphanedWorkers:
    """
    All that there may be.

    @param config: says where spools are, and how long transactions may take.
    """

    def __init__(self, config: Config) -> None:
        directories = [config.spoolDirectory]
        if os.path.isdir(config.workersDirectory):
            for name in sorted(os.listdir(config.workersDirectory)):
                directories.append(os.path.join(config.workersDirectory, name, "spool"))
        self._all = [Orphan(one) for one in directories]
        self._longest = config.grace + LONGER_SECONDS
        self._began: float | None = None

    def waitForAll(self) -> None:
        """
        Wait until they have ended, or have had their time: for one process that begins
        where several were.  The reactor does not run yet.
        """
        if len(self._all) == 1:
            return  # there were none: what has the spool now is a server that runs
        ends = time.monotonic() + self._longest
        while [one for one in self._all if one.isThere()] and time.monotonic() < ends:
            time.sleep(_PAUSE_SECONDS)

    def wait(self, error: ListenError) -> None:
        """
        They may have a port: wait for a moment.  The reactor does not run yet.

        @raise ListenError: they have had it for too long.
        """
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        found = [one for one in self._all if one.isThere()]
        if now - self._began >= self._longest:
            words = [one.words for one in found]
            why = "; ".join(filter(None, [str(error.__cause__), *words]))
            raise ListenError(error.endpoint, why) from error
        time.sleep(_PAUSE_SECONDS)
