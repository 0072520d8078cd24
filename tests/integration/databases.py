"""
A PostgreSQL server in a directory of its own, on a Unix socket.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import AbstractContextManager
from typing import Any

from tests.integration.support import IntegrationCase, halted, needsRoot, program, run

NOBODY = 65534

_VERSIONS = ("15", "16", "17", "18")


class Postgresql:
    """
    It is there with an empty database C{postgres}.

    @ivar conninfo: how it is reached.
    """

    def __init__(self, case: IntegrationCase) -> None:
        needsRoot()
        self._case = case
        self._program = program(
            "postgres", *(f"/usr/lib/postgresql/{one}/bin/postgres" for one in _VERSIONS)
        )
        self.directory = case.directory()
        os.chown(self.directory, NOBODY, NOBODY)
        self._data = os.path.join(self.directory, "data")
        self._who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        initdb = os.path.join(os.path.dirname(os.path.realpath(self._program)), "initdb")
        argv = [initdb, "-D", self._data, "-A", "trust", "-U", "mail", "--no-sync", "--no-locale"]
        made = run([*argv, "-E", "UTF8"], cwd=self.directory, **self._who)
        assert made.returncode == 0, made.stdout + made.stderr
        self.conninfo = f"host={self.directory} user=mail dbname=postgres"
        self.start()

    def start(self) -> None:
        """
        Start it, or start it again.
        """
        argv = [self._program, "-D", self._data, "-k", self.directory, "-F"]
        argv += ["-c", "listen_addresses=", "-c", "dynamic_shared_memory_type=mmap"]
        self.process = self._case.daemon(
            argv, self.directory, self._isThere, "postgres", cwd=self.directory, **self._who
        )
        # before it is waited for: whoever is connected is let go
        self._case.addCleanup(self._interrupt)

    def _isThere(self) -> bool:
        import psycopg

        with socket.socket(socket.AF_UNIX) as connection:
            if connection.connect_ex(os.path.join(self.directory, ".s.PGSQL.5432")):
                return False
        try:
            psycopg.connect(self.conninfo).close()
        except psycopg.OperationalError:
            return False  # it is starting up
        return True

    def _interrupt(self) -> None:
        if self.process.process.poll() is None:
            self.process.process.send_signal(signal.SIGINT)

    def halted(self) -> AbstractContextManager[None]:
        """
        While it takes connections, and answers none.
        """
        return halted(self.process.process.pid)

    def kill(self) -> None:
        """
        It is gone, without a word to those that are connected.
        """
        self.process.kill()

    def execute(self, query: str, *rows: tuple[object, ...]) -> None:
        """
        Do something, once or for each row.
        """
        import psycopg

        with psycopg.connect(self.conninfo) as connection:
            for row in rows or ((),):
                connection.execute(query, row)
