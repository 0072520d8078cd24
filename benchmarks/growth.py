"""
How the cost of a message grows: with its recipients, their cohorts, its size, with
connections, and with what waits in the queue.

    python -m benchmarks.growth [--rounds 5] [--part 1.0] [--axes size,queue] [--long]

Rounds are interleaved: in each, each server takes each size once.  A queue of a million
is filled only with C{--long}.  A table and a plot for each axis.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Sequence

import attrs
from twisted.trial.unittest import SkipTest

from benchmarks import delivered, figures, load
from benchmarks.figures import Figure
from benchmarks.peers import PEERS, Ground, Peer, withCohorts

#: What a client asks of a server: C{(peer, size, part)}.
Ask = Callable[[Peer, int, float], Figure]

#: Recipients of a message with cohorts.
IN_COHORTS = 60


@attrs.frozen
class Axis:
    """
    One thing that grows.

    @ivar title: what that is.
    @ivar unit: what is counted.
    @ivar sizes: how much of it there is.
    @ivar peers: the servers, as L{PEERS} names them.
    @ivar ask: has a server do the work.
    @ivar isHeld: whether only so much is asked as a server can hold.
    """

    title: str
    unit: str
    sizes: Sequence[int]
    peers: Sequence[str]
    ask: Ask
    isHeld: bool = False


def measured(peer: Peer, units: int, work: Callable[[], object]) -> Figure:
    """
    @param units: how many of them the work is.
    """
    used, began = load.cpu(peer.pid), time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return Figure(units / seconds, 1000 * (load.cpu(peer.pid) - used) / units)


def recipients(peer: Peer, size: int, part: float) -> Figure:
    """Messages of 4 KiB with so many recipients each."""
    messages = max(2, int(part * min(2000, 10_000 // size)))
    work = lambda: load.recipients(peer.port, messages, size)  # noqa: E731
    return measured(peer, messages * size, work)


def cohorts(peer: Peer, size: int, part: float) -> Figure:
    """Messages for sixty recipients, in so many cohorts."""
    messages = max(2, int(part * 200))

    def named(number: int) -> str:
        return f"user{number}@c{number % size}.bench.test"

    work = lambda: load.recipients(peer.port, messages, IN_COHORTS, named)  # noqa: E731
    return measured(peer, messages, work)


def octets(peer: Peer, size: int, part: float) -> Figure:
    """Messages of so many KiB, from four senders."""
    messages = max(8, int(part * min(2000, 1_000_000 // size)))
    return measured(peer, messages, lambda: load.source(peer.port, messages, 4, size << 10))


def connections(peer: Peer, size: int, part: float) -> Figure:
    """Messages of 4 KiB, from so many senders."""
    messages = max(size, int(part * 4000))
    return measured(peer, messages, lambda: load.source(peer.port, messages, size, 4096))


#: So many connections are asked of a server that has a process for each.
PROCESSES = 500

#: Ours with judgements of their own for thirty domains.
APART = "deferrals+match"

SERVERS = ("deferrals", "postfix", "exim", "stock")

AXES: dict[str, Axis] = {
    "recipients": Axis(
        "Recipients of a message", "recipient", (1, 10, 100, 1000), SERVERS, recipients
    ),
    "cohorts": Axis("Cohorts of a message for sixty", "message", (1, 3, 10, 30), (APART,), cohorts),
    "size": Axis("KiB of a message", "message", (1, 32, 1024, 10_240), SERVERS, octets),
    "connections": Axis(
        "Connections", "message", (10, 100, 500, 2000), SERVERS, connections, isHeld=True
    ),
}

#: What waits in the queue beforehand, for a next hop that is not due.
QUEUES, LONG_QUEUES = (0, 1000, 10_000, 100_000), (1_000_000,)


def start(name: str, ground: Ground) -> Peer:
    """
    @raise SkipTest: it is not installed.
    """
    return withCohorts(ground) if name == APART else PEERS[name](ground)


def grown(axis: Axis, rounds: int, part: float, kept: contextlib.ExitStack) -> figures.Growth:
    """
    All rounds of one axis.

    @param kept: when the servers' directories go.
    """
    found: dict[str, dict[int, list[Figure]]] = {name: {} for name in axis.peers}
    for number in range(rounds):
        for name in list(found):
            try:
                with contextlib.ExitStack() as stack:
                    peer = start(name, Ground(stack, kept))
                    for size in axis.sizes:
                        if not axis.isHeld or size <= max(peer.most, PROCESSES):
                            found[name].setdefault(size, []).append(axis.ask(peer, size, part))
            except SkipTest as reason:
                print(f"{name}: left out: {reason}", file=sys.stderr)
                del found[name]
        print(f"{axis.title}: round {number + 1} of {rounds}", file=sys.stderr)
    return found


def queued(
    rounds: int, part: float, sizes: Sequence[int], kept: contextlib.ExitStack
) -> figures.Growth:
    """
    Accepted and delivered while so much waits for another destination.

    @param kept: when the servers' directories go.
    """
    found: dict[int, list[Figure]] = {}
    messages = max(100, int(part * 2000))
    for number in range(rounds):
        for size in sizes:
            with contextlib.ExitStack() as stack:
                server = delivered.ours(Ground(stack, kept), size)
                server.work(delivered.WARM)
                found.setdefault(size, []).append(Figure(*server.work(messages)))
        print(f"Queue: round {number + 1} of {rounds}", file=sys.stderr)
    return {"deferrals": found}


def tables(names: Sequence[str], rounds: int, part: float, isLong: bool) -> None:
    """
    Print what was found.
    """
    for name in names:
        with contextlib.ExitStack() as kept:
            if name == "queue":
                sizes = (*QUEUES, *(LONG_QUEUES if isLong else ()))
                title, unit = "In the queue", "message"
                found = queued(rounds, part, sizes, kept)
            else:
                axis = AXES[name]
                title, unit, sizes = axis.title, axis.unit, tuple(axis.sizes)
                found = grown(axis, rounds, part, kept)
        print(figures.growth(title, unit, found, sizes), flush=True)


def options(parser: argparse.ArgumentParser) -> None:
    """
    What this takes from the command line.
    """
    parser.add_argument("--axes", default=",".join([*AXES, "queue"]), help="default: %(default)s")
    parser.add_argument("--long", action="store_true", help="also with a million in the queue")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", type=float, default=1.0, help="how much of the work; 1 is all")
    options(parser)
    arguments = parser.parse_args()
    print(figures.machine(Ground.top()))
    tables(arguments.axes.split(","), arguments.rounds, arguments.part, arguments.long)
    return 0


if __name__ == "__main__":
    sys.exit(main())
