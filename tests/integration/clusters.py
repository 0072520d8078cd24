"""
A PostgreSQL server as operators run it, and what may stand between it and others: one
that syncs what it commits, for all tests of a process; a standby; and a wire that can be
cut, or swallow everything.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import AbstractContextManager
from typing import Any

from tests.integration.support import PATIENCE, Process, halted, needsRoot, program, run
from tests.mutants.stores import PORT
from tests.ports import freePort

_VERSIONS = ("15", "16", "17", "18")

_numbers = itertools.count(1)


class Instance:
    """
    One server in a directory of its own, on loopback.

    @param options: further settings, as C{NAME=VALUE}.
    @param primary: the server whose standby it is.
    @param directory: that directory, which is empty.
    """

    def __init__(
        self, *options: str, primary: Instance | None = None, directory: str | None = None
    ) -> None:
        needsRoot()
        self._program = program(
            "postgres", *(f"/usr/lib/postgresql/{one}/bin/postgres" for one in _VERSIONS)
        )
        user = pwd.getpwnam("postgres")
        self._who: dict[str, Any] = {
            **{"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []},
        }
        self.directory = directory or tempfile.mkdtemp(prefix="deferrals-postgresql-")
        os.makedirs(self.directory, exist_ok=True)
        os.chown(self.directory, user.pw_uid, user.pw_gid)
        self.data = os.path.join(self.directory, "data")
        self.options = options
        self.port = freePort()
        if primary is None:
            argv = ["-A", "trust", "-U", "mail", "--no-sync", "--no-locale", "-E", "UTF8"]
            self._tool("initdb", "-D", self.data, *argv)
        else:
            self._copy(primary)
        self.start()

    def _copy(self, primary: Instance) -> None:
        self._tool("pg_basebackup", "-D", self.data, "-R", "-d", primary.conninfo, "-c", "fast")

    def follow(self, primary: Instance) -> None:
        """
        Begin anew, as another one's standby.
        """
        shutil.rmtree(self.data)
        self._copy(primary)
        self.start()

    def promote(self) -> None:
        """
        Be a standby no longer.
        """
        self._tool("pg_ctl", "promote", "-D", self.data, "-t", str(PATIENCE))

    def _tool(self, name: str, *argv: str) -> None:
        directory = os.path.dirname(os.path.realpath(self._program))
        done = run([os.path.join(directory, name), *argv], cwd=self.directory, **self._who)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def conninfo(self) -> str:
        """How it is reached."""
        return f"host=127.0.0.1 port={self.port} user=mail dbname=postgres"

    def start(self) -> None:
        """
        Start it, or start it again.
        """
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "fsync=on"]
        settings += ["dynamic_shared_memory_type=mmap", "max_wal_size=256MB", *self.options]
        argv = [self._program, "-D", self.data, "-k", self.directory]
        argv += [word for one in settings for word in ("-c", one)]
        log = os.path.join(self.directory, "log")
        self.process = Process(argv, log, cwd=self.directory, **self._who)
        self.process.ready(self.answers, "postgres")

    def answers(self) -> bool:
        """
        Whether it takes connections.
        """
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.conninfo, connect_timeout=2).close()
            return True
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """
        @param how: C{SIGINT} lets all go, C{SIGQUIT} is a crash.
        """
        if self.process.process.poll() is None:
            self.process.process.send_signal(how)
            self.process.process.wait(PATIENCE)

    def remove(self) -> None:
        """
        It is not needed any longer.
        """
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def halted(self) -> AbstractContextManager[None]:
        """
        While it takes connections, and answers none.
        """
        return halted(self.process.process.pid)

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """
        @return: the rows of a query; none, where it has none.
        """
        import psycopg

        with psycopg.connect(self.conninfo, autocommit=True) as db:
            found = db.execute(query, values)
            return found.fetchall() if found.description else []

    def newSchema(self) -> str:
        """
        @return: the name of one that no other test has.
        """
        return f"t{os.getpid()}_{next(_numbers)}"


class Borrowed(Instance):
    """
    Another process's, which ends it.
    """

    def __init__(self, port: int) -> None:
        self.port = port


@functools.cache
def primary() -> Instance:
    """
    The one for all tests of this process; another process's, where it lends one.
    """
    lent = os.environ.get(PORT)
    if lent:
        return Borrowed(int(lent))
    instance = Instance("max_connections=60")
    atexit.register(instance.remove)
    return instance


class Wire:
    """
    What stands between a server and its clients.

    @param port: where the server is.
    @ivar port: where its clients find it.
    @ivar isSilent: whether it swallows everything, and says nothing.
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", freePort()))
        self.port = self._listener.getsockname()[1]
        self.isSilent = self.isCut = False
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def conninfo(self, instance: Instance) -> str:
        """How a server is reached through it."""
        return instance.conninfo.replace(f"port={instance.port}", f"port={self.port}")

    def cut(self) -> None:
        """
        Break all connections, and make no more until L{mend}.
        """
        self.isCut = True
        for one in [*self._connections]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """
        All is well again.  What was swallowed stays so.
        """
        self.cut()
        self.isCut = self.isSilent = False

    def close(self) -> None:
        """
        It is gone.
        """
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.isCut:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._server))
            except OSError:
                client.close()
                continue
            self._connections += [client, server]
            threading.Thread(target=self._join, args=(client, server), daemon=True).start()

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._carry, args=(server, client), daemon=True)
        back.start()
        self._carry(client, server)
        back.join()
        for one in (client, server):
            self._connections.remove(one)
            one.close()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while octets := source.recv(65536):
                while self.isSilent and not self.isCut:
                    time.sleep(0.01)
                if self.isCut:
                    break
                target.sendall(octets)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def psql(instance: Instance, script: str) -> subprocess.CompletedProcess[str]:
    """
    Run a script as an operator does.
    """
    return run(["psql", "-X", "-v", "ON_ERROR_STOP=1", instance.conninfo], script.encode())
