"""
A server that runs for long, with all kinds of traffic and all that goes wrong:
clients that vanish at each step, TLS that is given up, a next hop and a service that
fail and recover, reloads.

    python -m tests.crash.soak --minutes 60

After a third of the time the traffic pauses until all that was taken has arrived, and
what the process holds is counted; and again at the end.  It must hold no more than
then, and the books must be right (L{tests.crash.books}), without a kill that could
explain a second copy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from tests.crash.books import WRONG, closed, isRight
from tests.crash.traffic import ASKED, KINDS, Kind, Sender, Vanisher
from tests.crash.world import ServerWorld
from tests.integration.support import PATIENCE, until
from tests.tls import makeCertificate

SENDERS, VANISHERS = 3, 3

#: Something of what is around the server changes so often, in seconds.
CHANGE_SECONDS = 1.5

#: The service that judges is left alone for a while when it has failed; so long it may
#: be until nothing that was begun is held any longer (TLS handshakes that were given
#: up, connections to next hops that are kept for the next message).
IDLE_SECONDS = 90.0

#: So much more than at the first count is no growth.  Memory comes in arenas, and what
#: an allocator keeps is not given back at once; objects are those of what is
#: remembered, which is bounded by numbers of its own.
TOLERANCES: dict[str, Callable[[float], float]] = {
    "memory, MiB": lambda before: before * 1.15 + 8,
    "descriptors": lambda before: before + 2,
    "timers": lambda before: before + 2,
    "threads": lambda before: before + 4,  # pools begin theirs when they need them
    "objects": lambda before: before * 1.1 + 5000,
    "messages": lambda before: 0,
    "bodies": lambda before: 0,
    "recipients": lambda before: 0,
    "destinations": lambda before: before + 2,
    "leaving": lambda before: 0,
    "files of bodies": lambda before: 0,
    "notes": lambda before: before + 100,
}


class Soak:
    """
    @param directory: where configuration, state and mail are.
    @param seconds: how long the traffic lasts, in all.
    """

    def __init__(self, directory: str, seconds: float, seed: int) -> None:
        self.seconds, self.seed = seconds, seed
        self.random = random.Random(seed)
        certificate, key = makeCertificate(directory)
        tls = f'certificate = "{certificate}"\nkey = "{key}"'
        self.world = ServerWorld(directory, seed, tls=tls)
        self.reloads = self.left = 0

    def run(self) -> dict[str, Any]:
        """
        @return: the counts, with what was held under C{first} and C{last}.
        """
        began = time.monotonic()
        server = self.world.start()
        self.world.greets()
        self._traffic(server, self.seconds / 3, self.seed)
        first = self._held(server)
        self._traffic(server, self.seconds * 2 / 3, self.seed + 1000)
        last = self._held(server, first)
        self.world.stop(server)
        counts = closed(self.world.books, self.world.arrived(), [])
        self.world.close()
        return {
            "seconds": round(time.monotonic() - began),
            "reloads": self.reloads,
            "clients that vanished": self.left,
            **counts,
            "first": first,
            "last": last,
            "grown": grown(first, last),
        }

    def _traffic(self, server: Any, seconds: float, seed: int) -> None:
        """
        All kinds of it, for a while; and then until all has arrived.
        """
        own = self.world
        kinds = {**KINDS, "asked": Kind([ASKED]), "asked, many": Kind([ASKED, "r@asked.example"])}
        senders = [Sender(own.books, own.ports, seed + n, kinds) for n in range(SENDERS)]
        vanishers = [Vanisher(own.books, own.ports, seed - n - 1, True) for n in range(VANISHERS)]
        everybody: list[Sender | Vanisher] = [*senders, *vanishers]
        for one in everybody:
            one.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(CHANGE_SECONDS)
            self._change(server)
        own.hop.isDown = own.judge.isDown = False
        for one in everybody:
            one.stopping = True
        for one in everybody:
            one.join(PATIENCE)
        self.left += sum(one.left for one in vanishers)
        own.settle(lambda: not own.left())

    def _change(self, server: Any) -> None:
        """
        Something fails, recovers, or is configured anew.
        """
        what = self.random.choice(("hop", "judge", "reload"))
        if what == "hop":
            self.world.hop.isDown = not self.world.hop.isDown
        elif what == "judge":
            self.world.judge.isDown = not self.world.judge.isDown
        else:
            self.reloads += 1
            self.world.configure(f"bounce_size = {100_000 + self.reloads % 5}\n")
            server.send_signal(signal.SIGHUP)

    def _held(self, server: Any, before: dict[str, float] | None = None) -> dict[str, float]:
        """
        What is held when nothing is under way: now, or when what is kept for a while
        has been let go.
        """
        found = self._count(server)
        end = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < end and (before is None or grown(before, found)):
            time.sleep(3)
            again = self._count(server)
            if before is None and again["timers"] >= found["timers"] and _isQuiet(again, found):
                return again
            found = again
        return found

    def _count(self, server: Any) -> dict[str, float]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.world.held)
        server.send_signal(signal.SIGUSR2)
        until(lambda: os.path.exists(self.world.held), "what is held")
        with open(self.world.held, encoding="ascii") as file:
            return {**json.load(file), **self.world.rows()}


def _isQuiet(now: dict[str, float], before: dict[str, float]) -> bool:
    return all(now[name] >= before[name] for name in ("descriptors", "recipients", "objects"))


def grown(before: dict[str, float], now: dict[str, float]) -> dict[str, list[float]]:
    """
    @return: what there is too much of: how much there was, and how much there is.
    """
    return {
        name: [before[name], now[name]]
        for name, most in TOLERANCES.items()
        if now[name] > most(before[name])
    }


def isSound(counts: dict[str, Any]) -> bool:
    """
    Whether nothing was lost, and nothing grew; and whether there was any traffic.
    """
    isWorth = len(counts["kinds"]) >= len(KINDS) * 0.8 and counts["clients that vanished"] > 10
    return isRight(counts) and isWorth and not counts["grown"]


def run(seconds: float, seed: int) -> dict[str, Any]:
    """
    One run in a directory of its own, which stays where something was wrong.
    """
    directory = tempfile.mkdtemp(prefix="deferrals-soak-")
    counts = Soak(directory, seconds, seed).run()
    counts["seed"] = seed
    if isSound(counts):
        shutil.rmtree(directory)
    else:
        counts["directory"] = directory
    return counts


def main() -> int:
    """
    C{python -m tests.crash.soak}.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    counts = run(arguments.minutes * 60, arguments.seed)
    for name, count in counts.items():
        print(f"{name}: {count}")
    return 0 if isSound(counts) else 1


__all__ = ["WRONG", "Soak", "grown", "isSound", "run"]


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())
