"""
A server with all that is around it, for the rigs.
"""

from __future__ import annotations

import glob
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.crash.books import Arrived, Books, readCopies, readMaildir
from tests.crash.inside import HELD, PROGRAM
from tests.crash.neighbours import FlakyHop, Judge, NoNames
from tests.crash.support import STAGE
from tests.crash.traffic import BOX, CONFIG, PORTS
from tests.integration.support import PATIENCE, ROOT, freePort, greeting, until
from tests.zygote import Forked, popen

#: So long nothing more has to come before what is missing is lost, in seconds.
QUIET_SECONDS = 15.0


class ServerWorld:
    """
    @param directory: where configuration, state and mail are.
    @param sabotage: what is wrong with the server, by its name.
    @param tls: lines for its first listener.
    @ivar books: what senders know.
    """

    def __init__(self, directory: str, seed: int, sabotage: str = "", tls: str = "") -> None:
        self.directory = directory
        self.books = Books()
        self.hop, self.judge, self.names = FlakyHop(seed), Judge(), NoNames()
        self.ports = {name: freePort() for name in PORTS}
        self.path = os.path.join(directory, "deferrals.toml")
        neighbours = {"hop": self.hop.port, "judge": self.judge.port, "dns": self.names.port}
        self.config = CONFIG.format(**self.ports, **neighbours, tls=tls)
        self.configure("")
        self.log = os.path.join(directory, "server.log")
        self.held = os.path.join(directory, "held.json")
        paths = filter(None, [ROOT, STAGE, os.environ.get("PYTHONPATH")])
        own = {"PYTHONPATH": os.pathsep.join(paths), HELD: self.held}
        self.env = {**os.environ, **own, "DEFERRALS_RIG_SABOTAGE": sabotage}

    def configure(self, more: str) -> None:
        """
        Write the configuration, with something more in front of it.
        """
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(more + self.config)

    def start(self) -> subprocess.Popen[bytes] | Forked:
        """
        @return: a server.
        """
        words = [*PROGRAM, "--nodaemon", "--pidfile=", "deferrals", "--config", self.path]
        with open(self.log, "ab") as log:
            return popen(
                [sys.executable, *words],
                self.env,
                cwd=self.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def greets(self) -> None:
        """
        Wait until mail is taken at each listener.
        """
        for port in self.ports.values():
            until(lambda port=port: greeting(port), f"a greeting: {self.tail()}")

    def tail(self) -> str:
        """The log's end."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]

    def arrived(self) -> Arrived:
        """
        Every copy, wherever it came.
        """
        found = Arrived()
        readCopies(os.path.join(self.directory, "copies.jsonl"), found)
        readMaildir(os.path.join(self.directory, "mail", "box", "new"), BOX, found)
        self.hop.read(found)
        return found

    def settle(self, isOver: Callable[[], bool] = lambda: True) -> None:
        """
        Wait until all that is due has come, and something else is so; or until
        nothing has come for a while.
        """
        last, since = -1, time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS:
            arrived = self.arrived().at
            if not self.books.due() - arrived.keys() and isOver():
                break
            count = sum(len(times) for times in arrived.values())
            if count != last:
                last, since = count, time.monotonic()
            time.sleep(0.2)

    def rows(self) -> dict[str, int]:
        """
        What is in the database, and which files are.
        """
        spool = os.path.join(self.directory, "state", "spool")
        uri = f"file:{os.path.join(spool, 'spool.sqlite')}?mode=ro"
        db = sqlite3.connect(uri, uri=True, timeout=30)
        try:
            names = ("messages", "bodies", "recipients", "destinations", "leaving", "notes")
            counts = {
                name: db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in names
            }
        finally:
            db.close()
        bodies = glob.glob(os.path.join(spool, "bodies", "**"), recursive=True)
        counts["files of bodies"] = len([path for path in bodies if os.path.isfile(path)])
        return counts

    def left(self) -> int:
        """
        How many recipients, bodies and files are still there.
        """
        rows = self.rows()
        return rows["recipients"] + rows["messages"] + rows["files of bodies"]

    def stop(self, server: Any) -> None:
        """
        In an orderly way.
        """
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE)

    def close(self) -> None:
        """
        The neighbours end.
        """
        for one in (self.hop, self.judge, self.names):
            one.close()
