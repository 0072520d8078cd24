"""
kill -9, again and again, while senders pump numbered messages of all kinds; then the
books are closed (L{tests.crash.books}): nothing is lost, torn, or with a recipient
that refused; every copy is counted, and a second one needs a kill that explains it.

    python -m tests.crash.rig --kills 5000

runs for as long as one likes.  Whether the rig sees what it is there for:

    python -m tests.crash.rig --sabotage no-removal
    python -m tests.crash.rig --sabotage all
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
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

#: Every fourth life of the server is a long one, in seconds: what is delivered at its
#: beginning must not come again (L{UNDER_WAY_SECONDS<tests.crash.books>}).
LONG_LIFE = 4.5


class Rig:
    """
    @param directory: where configuration, state and mail are.
    @param kills: how many there are to be.
    @param seed: of all that is random.
    @param sabotage: what is wrong with the server, by its name.
    """

    def __init__(self, directory: str, kills: int, seed: int, sabotage: str = "") -> None:
        self.kills = kills
        self.random = random.Random(seed)
        self.world = ServerWorld(directory, seed, sabotage)
        own = self.world
        kinds = {name: KINDS[name] for name in FOCUS.get(sabotage, KINDS)}
        self.senders = [Sender(own.books, own.ports, seed + n, kinds) for n in range(SENDERS)]
        self.killed: list[float] = []

    def run(self) -> dict[str, Any]:
        """
        @return: the counts.
        """
        began = time.monotonic()
        for sender in self.senders:
            sender.start()
        while len(self.killed) < self.kills:
            self._life(isLong=len(self.killed) % 4 == 1)
        server = self.world.start()
        self.world.greets()
        time.sleep(0.5)
        for sender in self.senders:
            sender.stopping = True
        for sender in self.senders:
            sender.join(PATIENCE)
        self.world.settle()
        time.sleep(1)
        self.world.stop(server)
        counts = closed(self.world.books, self.world.arrived(), self.killed)
        self.world.close()
        head = {"kills": len(self.killed), "seconds": round(time.monotonic() - began)}
        return {**head, **counts, "left": self.world.left()}

    def _life(self, isLong: bool) -> None:
        """
        One life of the server.
        """
        server = self.world.start()
        if isLong or self.random.random() < 0.9:
            self.world.greets()
        time.sleep(LONG_LIFE + self.random.random() if isLong else self.random.random() * 0.5)
        server.kill()
        self.killed.append(time.monotonic())
        server.wait(PATIENCE)


def run(kills: int, seed: int, sabotage: str = "") -> dict[str, Any]:
    """
    One run in a directory of its own, which stays where something was wrong that was
    not wanted.
    """
    directory = tempfile.mkdtemp(prefix="deferrals-crash-")
    counts = Rig(directory, kills, seed, sabotage).run()
    counts["seed"] = seed
    if isGood(counts) or sabotage:
        shutil.rmtree(directory)
    else:
        counts["directory"] = directory
    return counts


def isGood(counts: dict[str, Any]) -> bool:
    """
    Whether the promise was kept, and the run was worth something.
    """
    isWorth = counts["accepted"] > counts["kills"] and len(counts["kinds"]) >= len(KINDS) * 0.8
    return isRight(counts) and isWorth and not counts["left"]


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
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--sabotage", choices=["all", *SABOTAGES, *INVISIBLE])
    arguments = parser.parse_args()
    if arguments.sabotage:
        chosen = arguments.sabotage
        names = [*SABOTAGES, *INVISIBLE] if chosen == "all" else [chosen]
        kills = arguments.kills or SABOTAGE_KILLS
        return 1 if _sabotaged(names, kills, arguments.seed) else 0
    counts = run(arguments.kills or 1000, arguments.seed)
    for name, count in counts.items():
        print(f"{name}: {count}")
    return 0 if isGood(counts) else 1


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())
