"""
A server with all that is around it, for the rigs.
"""

from __future__ import annotations

import glob
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.crash.books import Arrived, Books, CopiesReader, MaildirReader
from tests.crash.inside import HELD, PROGRAM
from tests.crash.neighbours import FlakyHop, Judge, NoNames
from tests.crash.support import STAGE
from tests.crash.traffic import BOX, CONFIG, PORTS
from tests.integration.support import PATIENCE, ROOT, greeting, until
from tests.ports import freePort
from tests.zygote import Forked, popen

#: So long nothing more has to come before what is missing is lost, in seconds.
QUIET_SECONDS = 15.0


class ServerWorld:
    """
    @param directory: where configuration, state and mail are.
    @param sabotage: what is wrong with the server, by its name.
    @param tls: lines for its first listener.
    @param workers: how many processes take mail.
    @param name: of its files.
    @param tables: what else is configured, behind the rest.
    @param top: what else is configured, in front of it.
    @param beside: another one, whose books and neighbours it has, too.
    @ivar books: what senders know.
    """

    def __init__(
        self,
        directory: str,
        seed: int,
        sabotage: str = "",
        tls: str = "",
        workers: int = 1,
        name: str = "server",
        tables: str = "",
        top: str = "",
        beside: ServerWorld | None = None,
    ) -> None:
        self.directory, self.top = directory, top
        self.books = beside.books if beside else Books()
        self.hop = beside.hop if beside else FlakyHop(seed)
        self.judge = beside.judge if beside else Judge()
        self.names = beside.names if beside else NoNames()
        self.ports = {name: freePort() for name in PORTS}
        self.path = os.path.join(directory, f"{name}.toml")
        neighbours = {"hop": self.hop.port, "judge": self.judge.port, "dns": self.names.port}
        self.own = CONFIG.format(**self.ports, **neighbours, tls=tls) + tables
        self.renumber(workers)
        self.log = os.path.join(directory, f"{name}.log")
        self.held = os.path.join(directory, f"{name}.held.json")
        paths = filter(None, [ROOT, STAGE, os.environ.get("PYTHONPATH")])
        own = {"PYTHONPATH": os.pathsep.join(paths), HELD: self.held}
        self.env = {**os.environ, **own, "DEFERRALS_RIG_SABOTAGE": sabotage}

    @property
    def config(self) -> str:
        """What is configured."""
        return f"workers = {self.workers}\n{self.top}{self.own}"

    def renumber(self, workers: int) -> None:
        """
        Let another number of processes take mail from the next start on.
        """
        self.workers = workers
        self.configure("")

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
            until(lambda port=port: greeting(port).startswith(b"220"), f"220: {self.tail()}")

    def tail(self) -> str:
        """The log's end."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]

    def said(self, pattern: str) -> int:
        """
        How often the log says something.
        """
        if not os.path.exists(self.log):
            return 0
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return len(re.findall(pattern, file.read()))

    def arrived(self) -> Arrived:
        """
        Every copy, wherever it came, as it is now.
        """
        return Arrivals(self).look()

    def settle(self, isOver: Callable[[], bool] = lambda: True) -> None:
        """
        Wait until all that is due has come, and something else is so; or until
        nothing has come for a while.
        """
        arrivals = Arrivals(self)
        last, since = -1, time.monotonic()
        while time.monotonic() - since < QUIET_SECONDS:
            arrived = arrivals.look().at
            if not self.books.due() - arrived.keys() and isOver():
                break
            count = sum(len(times) for times in arrived.values())
            if count != last:
                last, since = count, time.monotonic()
            time.sleep(0.2)

    def rows(self) -> Counter[str]:
        """
        What is in the databases, and which files are.
        """
        state = os.path.join(self.directory, "state")
        spools = [os.path.join(state, "spool"), *glob.glob(f"{state}/workers/*/spool")]
        found: Counter[str] = Counter()
        for spool in spools:
            found.update(_rows(spool))  # a sum would leave out what is 0
        return found

    def children(self, server: Any) -> list[int]:
        """
        The processes that take mail, where these are several.

        @raise FileNotFoundError: the server has ended: it does where a worker dies before
            all have started.
        """
        with open(f"/proc/{server.pid}/task/{server.pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]

    def queue(self, command: str) -> None:
        """
        Let an operator C{retry} or C{release} all there is, when all processes are there.
        """
        words = ("-m", "deferrals.cli", "queue", command, "--all", "--config", self.path)

        def said() -> bool:
            done = subprocess.run(
                [sys.executable, *words], env=self.env, check=False, capture_output=True, text=True
            )
            return done.returncode < 2 and not done.stderr  # 1: there was none

        until(said, f"{command}: {self.tail()}")

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


def _rows(spool: str) -> Counter[str]:
    """
    Likewise, of one of them.
    """
    uri = f"file:{os.path.join(spool, 'spool.sqlite')}?mode=ro"
    db = sqlite3.connect(uri, uri=True, timeout=30)
    try:
        names = ("messages", "bodies", "recipients", "destinations", "leaving", "notes")
        counts = {name: db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in names}
    finally:
        db.close()
    bodies = glob.glob(os.path.join(spool, "bodies", "**"), recursive=True)
    counts["files of bodies"] = len([path for path in bodies if os.path.isfile(path)])
    return Counter(counts)


class Arrivals:
    """
    What has come to all places: each copy is read once, however often one looks.
    """

    def __init__(self, world: ServerWorld) -> None:
        self._found = Arrived()
        self._hop, self._seen = world.hop, 0
        self._copies = CopiesReader(os.path.join(world.directory, "copies.jsonl"))
        self._mail = MaildirReader(os.path.join(world.directory, "mail", "box", "new"), BOX)

    def look(self) -> Arrived:
        """
        @return: all of it.
        """
        self._copies.more(self._found)
        self._mail.more(self._found)
        self._seen = self._hop.read(self._found, self._seen)
        return self._found
