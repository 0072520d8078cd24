"""
The kill rig for several machines with one queue: everything that may fall away does,
one after the other, while senders pump numbered messages of all kinds; then the books
are closed (L{tests.crash.books}).

    python -m tests.crash.clusterrig --kills 50
    python -m tests.crash.clusterrig --minutes 20

Whether the rig sees what it is there for:

    python -m tests.crash.clusterrig --sabotage heart-deaf
    python -m tests.crash.clusterrig --sabotage all
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from deferrals.workers.reports import LAST_SECONDS, REPORT_SECONDS
from tests.crash.books import closed
from tests.crash.clustersabotage import CLUSTER_SABOTAGES, KINDS_OF_KILL
from tests.crash.clusterworld import ClusterWorld, Machine
from tests.crash.explained import UNDER_WAY_SECONDS, Nap
from tests.crash.rig import isWorth, screams
from tests.crash.sleeping import send, sleep
from tests.crash.traffic import Sender
from tests.integration.support import PATIENCE, greeting, until

#: So many talk to each machine at once.
SENDERS = 2

#: A claim has so many: one kill may repeat them.
BATCH = 20

#: So long something is away, in seconds.
AWAY_SECONDS = 2.5

#: So often it is looked whether others have no connection left.
WITHOUT = 5

#: What a sender is told while nothing can be kept.
AWAY = "452 4.3.1"

#: Counts that must be zero, beside those of the books.
CLUSTER_WRONG = ("never back", "wrong answers", "foreign writes", "left")

#: Where the log says that it is not known whether something was committed.
_UNKNOWN = "may be on no standby|server closed the connection|could not receive data"


class ClusterRig:
    """
    @param directory: where configurations, states and mail are.
    @param seed: of all that is random.
    @param sabotage: what is wrong with the servers, by its name.
    @param only: the kinds of kills; by default all.
    """

    def __init__(
        self, directory: str, seed: int, sabotage: str = "", only: Sequence[str] = ()
    ) -> None:
        self.random = random.Random(seed)
        self.world = ClusterWorld(directory, seed, sabotage)
        self.senders = [
            Sender(self.world.world.books, machine.world.ports, seed + number)
            for number, machine in enumerate(self.world.machines * SENDERS)
        ]
        self.only = [*only] or [*KILLS]
        self.events: list[float] = []
        self.naps: list[Nap] = []
        self.done: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter(dict.fromkeys(CLUSTER_WRONG, 0))
        self.notes: list[str] = []

    def run(self, kills: int, seconds: float = 0) -> dict[str, Any]:
        """
        @param kills: how many there are to be at least; all kinds by turns.
        @param seconds: how long it goes on at least.
        @return: the counts.
        """
        began = time.monotonic()
        try:
            for sender in self.senders:
                sender.start()
            for name in itertools.cycle(self.only):
                if self._isEnough(kills, seconds, began) or self.wrong["never back"]:
                    break
                self._kill(name)
            return {"seconds": round(time.monotonic() - began), **self._closed()}
        finally:
            for sender in self.senders:
                sender.stopping = True
            self.world.close()

    def _isEnough(self, kills: int, seconds: float, began: float) -> bool:
        return self.done.total() >= kills and time.monotonic() - began >= seconds

    def _kill(self, name: str) -> None:
        time.sleep(0.5 + self.random.random())
        self.events.append(time.monotonic())
        KILLS[name](self)
        self.done[name] += 1
        try:
            self.world.back()
        except AssertionError as error:
            self.wrong["never back"] += 1
            self.notes.append(f"{name}: {error}")

    def _closed(self) -> dict[str, Any]:
        time.sleep(1)
        for sender in self.senders:
            sender.stopping = True
        for sender in self.senders:
            sender.join(PATIENCE)
        first = self.world.world
        if not self.wrong["never back"]:
            first.queue("release")  # what has died under a delivery, as far as one can tell
        first.settle()
        self._emptied()
        self.wrong["foreign writes"] = self.world.foreignWrites()
        self.world.stop()
        said = sum(one.world.said(_UNKNOWN) for one in self.world.machines)
        counts = closed(first.books, first.arrived(), sorted(self.events), self.naps, self._isAway)
        return {
            "kills": self.done.total(),
            **{f"kills: {name}": count for name, count in self.done.items()},
            **counts,
            "unknown outcomes, logged": said,
            **self.wrong,
            "notes": self.notes,
        }

    def _isAway(self, at: float) -> bool:
        """
        Whether something fell away around a time.
        """
        return any(abs(one - at) <= UNDER_WAY_SECONDS for one in self.events)

    def _emptied(self) -> None:
        """
        What has left has left the database, too.
        """
        try:
            until(lambda: self.world.rows() == 0, "nothing is left", 20)
        except AssertionError:
            self.wrong["left"] = self.world.rows()
            self.notes += self.world.leftRows()

    # What is told meanwhile.

    def _lasts(self, seconds: float) -> None:
        """
        Something is away for a while: what a sender is told, it may have been delivered
        at any time of it.
        """
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.events.append(time.monotonic())
            time.sleep(0.5)
        self.events.append(time.monotonic())

    def _isRefused(self, name: str, machines: Sequence[Machine] = (), kind: str = "one") -> None:
        """
        Machines tell a sender to come again; by default all of them.
        """
        for machine in machines or self.world.machines:
            said = machine.probe.bring(kind)
            self.events.append(time.monotonic())
            if not said.startswith(AWAY):
                self._isWrong(f"{name}, {machine.name}: {said!r}")

    def _isWrong(self, what: str) -> None:
        self.wrong["wrong answers"] += 1
        self.notes.append(what)

    def _any(self) -> Machine:
        return self.random.choice(self.world.machines)

    # What is killed.

    def killMachine(self) -> None:
        """All processes of a machine die, and are started again."""
        machine = self._any()
        send(machine.processes(), signal.SIGKILL)
        machine.process.wait(PATIENCE)
        machine.start()

    def killWorker(self) -> None:
        """One worker of several dies."""
        machine = self.world.machines[1]
        send(self.random.sample(machine.workers(), 1), signal.SIGKILL)

    def killBackends(self) -> None:
        """The database ends the servers' connections."""
        self._endBackends()

    def _endBackends(self) -> None:
        self.world.primary.instance.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name IN ('one', 'two')"
        )

    def killPrimary(self) -> None:
        """The database crashes, and is started again."""
        primary = self.world.primary.instance
        primary.stop(signal.SIGQUIT)
        self._isRefused("primary")
        primary.start()

    def killStandby(self) -> None:
        """Commits wait for a standby that is gone; their senders come again."""
        standby = self.world.standby.instance
        standby.stop(signal.SIGQUIT)
        self._isRefused("standby")
        self._lasts(AWAY_SECONDS)
        self._isRefused("standby")
        standby.start()
        self.world.replicated()

    def failOver(self) -> None:
        """The primary is gone for good, its standby takes over, and gets a new one."""
        self.world.primary.instance.stop(signal.SIGQUIT)
        self._isRefused("failover")
        self.world.nodes.reverse()
        self.world.primary.instance.promote()
        self.world.standby.instance.follow(self.world.primary.instance)
        self.world.replicated()

    def fillDisk(self) -> None:
        """There is no room for more; what is there is kept."""
        node = self.world.primary
        node.disk.fill()
        ends = time.monotonic() + PATIENCE
        while self._any().probe.bring("large").startswith("250"):
            node.disk.fill()
            if time.monotonic() > ends:
                break
        self._isRefused("disk full", kind="large")
        self._lasts(AWAY_SECONDS)
        node.disk.empty()
        if not node.instance.answers():  # there was no room to recover, either
            node.instance.stop(signal.SIGQUIT)
            node.instance.start()

    def useUp(self) -> None:
        """Others have all connections: one server makes its own again, and one starts."""
        import psycopg

        conninfo, taken = self.world.primary.instance.conninfo, []
        with psycopg.connect(conninfo, autocommit=True) as first:
            _take(conninfo, taken)
            ends, without = time.monotonic() + PATIENCE, 0
            count = "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('one', 'two')"
            end = count.replace("count(*)", "pg_terminate_backend(pid)")
            while without < WITHOUT and time.monotonic() < ends:  # one may be about to begin
                without = without + 1 if first.execute(count).fetchone() == (0,) else 0
                first.execute(end)
                _take(conninfo, taken)
                self.events.append(time.monotonic())
                time.sleep(0.05)
            restarted = self.world.machines[0]
            restarted.process.kill()
            restarted.process.wait(PATIENCE)
            restarted.start()
            self.events.append(time.monotonic())
            self._isRefused("connections", self.world.machines[1:])
            self._turnsAway(restarted)
            for machine in self.world.machines:
                self._saysNo(machine)
        for one in taken:
            one.close()

    def _turnsAway(self, machine: Machine) -> None:
        """
        A machine has started without its database, and takes no connection.
        """
        port, ends = machine.world.ports["plain"], time.monotonic() + PATIENCE
        while not (said := greeting(port)).startswith(b"421 4.3.2") and time.monotonic() < ends:
            self.events.append(time.monotonic())
            time.sleep(0.1)  # it has begun to listen, and has not asked yet
        if not said.startswith(b"421 4.3.2"):
            self._isWrong(f"{machine.name} greets: {said!r}")

    def _saysNo(self, machine: Machine) -> None:
        """
        A machine is not ready, and has said so.  Of several workers it knows that late.
        """
        ends = time.monotonic() + REPORT_SECONDS + LAST_SECONDS
        while (code := machine.ready()) != 503 and time.monotonic() < ends:
            self.events.append(time.monotonic())
            time.sleep(0.2)
        if code != 503:
            self._isWrong(f"{machine.name} says that it is ready: {code}")

    def cut(self) -> None:
        """The network breaks all connections."""
        for node in self.world.nodes:
            node.wire.cut()
        self._isRefused("cut")
        self._lasts(1)
        for node in self.world.nodes:
            node.wire.mend()

    def silence(self) -> None:
        """The network swallows everything."""
        for node in self.world.nodes:
            node.wire.isSilent = True
        self._isRefused("silence")
        self._lasts(AWAY_SECONDS)
        for node in self.world.nodes:
            node.wire.mend()

    def sleep(self) -> None:
        """A machine is stopped for longer than its lease, and wakes."""
        nap, wrong = sleep(self.world, self._any())
        self.naps.append(nap)
        self.events.append(nap.began)  # what was delivered right before that
        if wrong:
            self._isWrong(f"sleeper: {wrong}")


#: Who or what falls away, by turns.
KILLS: dict[str, Callable[[ClusterRig], None]] = {
    "machine": ClusterRig.killMachine,
    "worker": ClusterRig.killWorker,
    "backends": ClusterRig.killBackends,
    "primary": ClusterRig.killPrimary,
    "standby": ClusterRig.killStandby,
    "failover": ClusterRig.failOver,
    "disk full": ClusterRig.fillDisk,
    "connections": ClusterRig.useUp,
    "cut": ClusterRig.cut,
    "silence": ClusterRig.silence,
    "sleeper": ClusterRig.sleep,
}


def _take(conninfo: str, taken: list[Any]) -> None:
    """
    Take all connections that there are.
    """
    import psycopg

    with contextlib.suppress(psycopg.OperationalError):
        while True:
            taken.append(psycopg.connect(conninfo, application_name="others"))


def run(
    kills: int, seed: int, seconds: float = 0, sabotage: str = "", only: Sequence[str] = ()
) -> dict[str, Any]:
    """
    One run in a directory of its own, which stays where something was wrong that was
    not wanted.
    """
    directory = tempfile.mkdtemp(prefix="deferrals-crash-")
    counts = ClusterRig(directory, seed, sabotage, only).run(kills, seconds)
    counts["seed"] = seed
    if isGood(counts) or sabotage:
        shutil.rmtree(directory)
    else:
        counts["directory"] = directory
    return counts


def clusterScreams(counts: dict[str, Any]) -> dict[str, int]:
    """
    @return: which promises were broken, and how often.
    """
    found = screams(counts) | {name: counts[name] for name in CLUSTER_WRONG if counts[name]}
    if counts["duplicates"] > counts["kills"] * BATCH:
        found["duplicates"] = counts["duplicates"]
    return found


def isGood(counts: dict[str, Any]) -> bool:
    """
    Whether the promise was kept, and the run was worth something.
    """
    isShown = isWorth(counts["accepted"], counts["kills"], len(counts["kinds"]))
    return isShown and not clusterScreams(counts)


def _sabotaged(names: Sequence[str], kills: int, seed: int) -> int:
    """
    @return: how many were not seen.
    """
    unseen = 0
    for name in names:
        only = KINDS_OF_KILL[name]
        counts = run(max(kills, len(only)), seed, sabotage=name, only=only)
        found = clusterScreams(counts)
        unseen += not found
        said = ", ".join(f"{count} {what}" for what, count in found.items())
        print(f"{name}: {said or 'NOT SEEN'} ({counts['seconds']} s)", flush=True)
    return unseen


def main() -> int:
    """
    C{python -m tests.crash.clusterrig}.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--sabotage", choices=["all", *CLUSTER_SABOTAGES])
    arguments = parser.parse_args()
    if arguments.sabotage:
        chosen = arguments.sabotage
        names = [*CLUSTER_SABOTAGES] if chosen == "all" else [chosen]
        return 1 if _sabotaged(names, arguments.kills or 4, arguments.seed) else 0
    kills = arguments.kills or (0 if arguments.minutes else 22)
    counts = run(kills, arguments.seed, 60 * arguments.minutes, only=arguments.only)
    for name, count in counts.items():
        print(f"{name}: {count}")
    return 0 if isGood(counts) else 1


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())
