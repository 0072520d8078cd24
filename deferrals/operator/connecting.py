"""
The way from a command to a queue: through the server's control socket where it runs, and
with the queue itself where it does not.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from deferrals.config.tables import Config, load
from deferrals.errors import DeferralsError, SpoolError
from deferrals.interfaces import IRefusalStore
from deferrals.model.json import JSON
from deferrals.operator.control import (
    Called,
    CalledTogether,
    ControlClient,
    Operator,
    Partial,
    QueueConnection,
    Result,
)
from deferrals.operator.refusals import RestingDesk
from deferrals.operator.restingnotes import DatabaseNotes, RestingNotes, SpoolNotes
from deferrals.operator.several import SeveralOperators
from deferrals.plugins.finding import stagePlugins
from deferrals.spool.postgresql.connection import Access
from deferrals.spool.postgresql.directory import directoryOf
from deferrals.spool.postgresql.offline import LazyDatabase, OfflineDatabase
from deferrals.spool.postgresql.queue import PostgresqlQueue
from deferrals.spool.postgresql.refusals import PostgresqlRefusals, Transacting
from deferrals.spool.sqlite.offline import OfflineSpool, immediately
from deferrals.spool.sqlite.queue import SqliteQueue
from deferrals.spool.sqlite.refusals import SqliteRefusals


class _DirectConnection(QueueConnection):
    """
    Queues themselves, where no server runs.
    """

    running = False

    def __init__(self, operator: Called | CalledTogether) -> None:
        self.missing = {}
        self._operator = operator

    def call(self, name: str, *args: Any) -> Any:
        results: list[Result | Failure] = []
        found: Deferred[JSON] | Deferred[Result] = self._operator.call(name, *args)
        found.addBoth(results.append)
        (result,) = results  # nothing here waits
        if isinstance(result, Failure):
            result.raiseException()
        if isinstance(result, Partial):
            self.missing |= result.missing
            return result.result
        return result


class _OfflineConnection(_DirectConnection):
    """
    The spools, which no server can take meanwhile.

    @param directories: where they are, by worker.
    """

    def __init__(self, directories: Mapping[int, str], config: Config) -> None:
        self._spools: list[OfflineSpool] = []
        self._database = None
        self._refusals: IRefusalStore = SqliteRefusals(config.refusalsPath, immediately)
        notes: RestingNotes = SpoolNotes(self._spools)
        if config.spool.isShared:
            self._database = LazyDatabase(Access.of(config.spool, config.baseDir))
            self._refusals, notes = _shared(self._database, config)
        self._desk = RestingDesk(config.refusals, self._refusals, notes)
        found: dict[int, Operator] = {}
        missing: dict[int, str] = {}
        for worker, directory in directories.items():
            try:
                found[worker] = self._opened(directory)
            except SpoolError as error:
                if len(directories) == 1:
                    raise
                missing[worker] = f"cannot be read: {error}"
        several = SeveralOperators(lambda: found)
        super().__init__(found[0] if len(directories) == 1 else several)
        self.missing = missing

    def _opened(self, directory: str) -> Operator:
        spool = OfflineSpool(directory)
        self._spools.append(spool)
        queue = SqliteQueue(spool.store, immediately, idle=True)
        return Operator(queue, immediately, dict, desk=self._desk)

    def close(self) -> None:
        self._refusals.close()
        if self._database is not None:
            self._database.close()
        for spool in self._spools:
            spool.close()


class _DatabaseConnection(_DirectConnection):
    """
    The queue in a database, which other machines may use meanwhile.
    """

    def __init__(self, access: Access, config: Config) -> None:
        directory = directoryOf(config.spool, config.baseDir)
        self._database = OfflineDatabase(access, directory)
        desk = RestingDesk(config.refusals, *_shared(self._database, config))
        queue = PostgresqlQueue(self._database, time.monotonic)
        super().__init__(Operator(queue, immediately, dict, desk=desk))

    def close(self) -> None:
        self._database.close()


def _shared(database: Transacting, config: Config) -> tuple[IRefusalStore, RestingNotes]:
    """
    What several machines know is in their database.
    """
    store = PostgresqlRefusals(database, lambda: config.refusals.keep)
    return store, DatabaseNotes(database)


def spoolsOf(config: Config) -> dict[int, str]:
    """
    Where a server's spools are, by worker; that of the first, at least.
    """
    found = {0: config.spoolOf(0)}
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(config.workersDirectory)
        workers = sorted(int(name) for name in names if name.isascii() and name.isdigit())
        found |= {one: config.spoolOf(one) for one in workers if os.path.isdir(config.spoolOf(one))}
    if len(found) > 1 and not os.path.isdir(found[0]):
        del found[0]
    return found


def connect(path: str | None) -> QueueConnection:
    """
    @param path: the server's configuration; C{None} for the built-in one.
    """
    config = load(None if path is None else os.path.abspath(path), stagePlugins())
    try:
        return ControlClient(config.controlPath)
    except PermissionError as error:
        raise DeferralsError(f"{config.controlPath}: {error.strerror}") from None
    except OSError:
        if config.spool.use == "postgresql":
            return _DatabaseConnection(Access.of(config.spool, config.baseDir), config)
        return _OfflineConnection(spoolsOf(config), config)
