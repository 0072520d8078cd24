"""
kill -9, again and again, while senders pump numbered messages of all kinds; then the
books are closed (L{tests.crash.books}): nothing is lost, torn, or with a recipient
that refused; every copy is counted, and a second one needs a kill that explains it.

    python -m tests.crash.rig --kills 5000
    python -m tests.crash.rig --workers 2 --minutes 30

runs for as long as one likes; with C{--workers 2} it is one worker, several, their
parent or all that are killed, and now and then one is stopped (SIGSTOP) and wakes, or
does not.  Whether the rig sees what it is there for:

    python -m tests.crash.rig --sabotage no-removal
    python -m tests.crash.rig --sabotage all
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from typing import Any

from tests.crash.books import WRONG, closed, isRight
from tests.crash.sabotage import FOCUS, INVISIBLE, SABOTAGES
from tests.crash.traffic import KINDS, Sender
from tests.crash.world import ServerWorld
from tests.integration.support import PATIENCE

#: So many talk at once.
SENDERS = 6

#: So many kills show a sabotage.
SABOTAGE_KILLS = 10

#: On a slow machine there are more kills than were asked for, until enough mail of
#: enough kinds went through; for so long at most, in seconds.
WORTH_SECONDS = 180

#: Every fourth life of the server is a long one, in seconds: what is delivered at its
#: beginning must not come again (L{UNDER_WAY_SECONDS<tests.crash.explained>}).
LONG_LIFE = 4.5


#: Who is killed where there are several processes; the server is the parent then.  One
#: that sleeps is stopped first; it wakes, or is killed as it sleeps.
VICTIMS = ("worker", "worker", "workers", "server", "all", "sleeper")

#: So long it sleeps, at most, in seconds; what it had delivered before has to be
#: explained by a kill behind its sleep.
SLEEP_SECONDS = 2.0

#: So long, where nothing is killed at all: longer than its clients are left to it.
DEEP_SECONDS = 8.0


class Rig:
    """
    @param directory: where configuration, state and mail are.
    @param kills: how many there are to be.
    @param seed: of all that is random.
    @param sabotage: what is wrong with the server, by its name.
    @param workers: how many processes take mail.
    @param seconds: how long it goes on at least.
    @param sleeps: how often a worker is stopped, and wakes, behind the last kill.
    """

    def __init__(
        self,
        directory: str,
        kills: int,
        seed: int,
        sabotage: str = "",
        workers: int = 1,
        seconds: float = 0,
        sleeps: int = 0,
    ) -> None:
        self.kills, self.seconds, self.sleeps = kills, seconds, sleeps
        self.random = random.Random(seed)
        self.world = ServerWorld(directory, seed, sabotage, workers=workers)
        own = self.world
        kinds = {name: KINDS[name] for name in FOCUS.get(sabotage, KINDS)}
        self.senders = [Sender(own.books, own.ports, seed + n, kinds) for n in range(SENDERS)]
        self.kinds = len(kinds)
        self.killed: list[float] = []
        self.slept = 0

    def run(self) -> dict[str, Any]:
        """
        @return: the counts.
        """
        began = time.monotonic()
        for sender in self.senders:
            sender.start()
        while not self._isEnough(time.monotonic() - began):
            self._life(isLong=len(self.killed) % 4 == 1)
        server = self.world.start()
        self.world.greets()
        for _ in range(self.sleeps):  # nothing is killed any longer
            self._sleeps(self.random.choice(self.world.children(server)), DEEP_SECONDS, 1)
        time.sleep(0.5)
        for sender in self.senders:
            sender.stopping = True
        for sender in self.senders:
            sender.join(PATIENCE)
        if self.world.workers > 1:
            self.world.queue("release")  # what workers have died of, as far as one can tell
        self.world.settle()
        time.sleep(1)
        self.world.stop(server)
        counts = closed(self.world.books, self.world.arrived(), self.killed)
        self.world.close()
        head = {"kills": len(self.killed), "sleeps": self.slept}
        head["seconds"] = round(time.monotonic() - began)
        return {**head, **counts, "left": self.world.left()}

    def _isEnough(self, seconds: float) -> bool:
        """
        @param seconds: how long it has gone on.
        """
        if len(self.killed) < self.kills or seconds < self.seconds:
            return False
        return not self.kills or self._isWorth() or seconds >= WORTH_SECONDS

    def _isWorth(self) -> bool:
        """
        Whether the books would show something: they have most kinds of mail, and more
        that was accepted than kills.
        """
        books = self.world.books
        return isWorth(len(books.accepted), len(self.killed), len(books.kinds), self.kinds)

    def _life(self, isLong: bool) -> None:
        """
        One life of the server.
        """
        server = self.world.start()
        if isLong or self.random.random() < 0.9:
            self.world.greets()
        while True:
            time.sleep(LONG_LIFE + self.random.random() if isLong else self.random.random() * 0.5)
            if self._kill(server):
                break
        server.wait(PATIENCE)

    def _kill(self, server: Any) -> bool:
        """
        @return: whether a new server has to be started.
        """
        try:
            workers = self.world.children(server) if self.world.workers > 1 else []
        except FileNotFoundError:
            return True
        whom = self.random.choice(VICTIMS) if workers else "server"
        if whom in ("worker", "sleeper"):
            workers = [self.random.choice(workers)]
        elif whom == "server":
            workers = []
        if whom == "sleeper" and self._sleeps(workers[0], SLEEP_SECONDS):
            return False
        for pid in workers:
            _send(pid, signal.SIGKILL)
        if whom in ("server", "all"):
            server.kill()
        self.killed.append(time.monotonic())
        return whom in ("server", "all")

    def _sleeps(self, pid: int, seconds: float, chance: float = 0.5) -> bool:
        """
        A worker is stopped for a while.

        @param chance: how likely it wakes.
        @return: whether it does: it still sleeps otherwise.
        """
        _send(pid, signal.SIGSTOP)
        time.sleep(self.random.random() * seconds)
        wakes = self.random.random() < chance
        if wakes:
            _send(pid, signal.SIGCONT)
            self.slept += 1
        return wakes


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def run(
    kills: int,
    seed: int,
    sabotage: str = "",
    workers: int = 1,
    seconds: float = 0,
    sleeps: int = 0,
) -> dict[str, Any]:
    """
    One run in a directory of its own, which stays where something was wrong that was
    not wanted.
    """
    directory = tempfile.mkdtemp(prefix="deferrals-crash-")
    counts = Rig(directory, kills, seed, sabotage, workers, seconds, sleeps).run()
    counts["seed"] = seed
    if isGood(counts) or sabotage:
        shutil.rmtree(directory)
    else:
        counts["directory"] = directory
    return counts


def isWorth(accepted: int, kills: int, kinds: int, among: int = len(KINDS)) -> bool:
    """
    @param kinds: how many kinds of mail had an answer.
    @param among: how many were sent.

    @return: whether a run has shown something.
    """
    return accepted > kills and kinds >= among * 0.8


def isGood(counts: dict[str, Any]) -> bool:
    """
    Whether the promise was kept, and the run was worth something.
    """
    isShown = isWorth(counts["accepted"], counts["kills"], len(counts["kinds"]))
    return isRight(counts) and isShown and not counts["left"]


def screams(counts: dict[str, Any]) -> dict[str, int]:
    """
    @return: which promises were broken, and how often.
    """
    return {name: counts[name] for name in WRONG if counts[name]}


def _sabotaged(names: list[str], kills: int, seed: int) -> int:
    """
    @return: how many were not seen.
    """
    unseen = 0
    for name in names:
        if name in INVISIBLE:
            print(f"{name}: {INVISIBLE[name]}")
            continue
        counts = run(kills, seed, name)
        found = screams(counts)
        unseen += not found
        said = ", ".join(f"{count} {what}" for what, count in found.items())
        print(f"{name}: {said or 'NOT SEEN'} ({counts['seconds']} s)", flush=True)
    return unseen


def main() -> int:
    """
    C{python -m tests.crash.rig}.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sabotage", choices=["all", *SABOTAGES, *INVISIBLE])
    arguments = parser.parse_args()
    if arguments.sabotage:
        chosen = arguments.sabotage
        names = [*SABOTAGES, *INVISIBLE] if chosen == "all" else [chosen]
        kills = arguments.kills or SABOTAGE_KILLS
        return 1 if _sabotaged(names, kills, arguments.seed) else 0
    kills = arguments.kills or (0 if arguments.minutes else 1000)
    counts = run(kills, arguments.seed, workers=arguments.workers, seconds=60 * arguments.minutes)
    for name, count in counts.items():
        print(f"{name}: {count}")
    return 0 if isGood(counts) else 1


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())
