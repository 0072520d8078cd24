"""
See the package.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator

import attrs
from twisted.trial.unittest import SkipTest

from benchmarks import delivered, figures, growth, load
from benchmarks.peers import PEERS, Ground, Peer

#: A peer, what is measured, and a figure.
Figure = tuple[str, str, float]


@attrs.frozen
class Work:
    """
    One column.

    @ivar unit: of its figures.
    @ivar measure: takes a running peer, and how many of it there are to do.
    @ivar amount: how many that is.
    @ivar size: units in each; C{None} where the processor's time says nothing.
    """

    unit: str
    measure: Callable[[Peer, int], float]
    amount: int
    size: int | None = 1


WORKS = {
    # First, while nothing has been freed that could be used again.
    "idle": Work("KiB", lambda peer, n: load.idle(peer.port, peer.pid, n), 5000, None),
    "small": Work("msg/s", lambda peer, n: load.source(peer.port, n, 50, 4096), 10000),
    "large": Work("MiB/s", lambda peer, n: 10 * load.source(peer.port, n, 4, 10 << 20), 120, 10),
    "pipelined": Work("msg/s", lambda peer, n: load.pipelined(peer.port, n, 50, 4096), 10000),
    "recipients": Work("rcpt/s", lambda peer, n: load.recipients(peer.port, n, 100), 400, 100),
}


def one(name: str, works: list[str], part: float) -> Iterator[tuple[str, float]]:
    """
    Start a peer, and have it do the works.
    """
    with contextlib.ExitStack() as stack:
        peer = started(name, stack)
        for work in works:
            yield from measured(peer, work, part)


def started(name: str, stack: contextlib.ExitStack) -> Peer:
    """
    @return: a peer that has done some work already.
    """
    peer = PEERS[name](Ground(stack))
    load.source(peer.port, 200, 50, 4096)  # warm
    return peer


def measured(peer: Peer, name: str, part: float) -> Iterator[tuple[str, float]]:
    """
    A peer does some work; what that costs it follows, in milliseconds of processor time
    for each unit.
    """
    work = WORKS[name]
    amount = int(min(work.amount, peer.most if work.size is None else work.amount) * part)
    amount = max(amount, 8)
    before = load.cpu(peer.pid)
    yield name, work.measure(peer, amount)
    if work.size is not None:
        used = load.cpu(peer.pid) - before
        yield f"{name}, CPU ms", 1000 * used / amount / work.size


def oneByOne(names: list[str], works: list[str], rounds: int, part: float) -> Iterator[Figure]:
    """
    Each peer is started for itself, once in a round.
    """
    left = list(names)
    for _ in range(rounds):
        for name in list(left):
            try:
                for work, figure in one(name, works, part):
                    yield name, work, figure
            except SkipTest as reason:
                print(f"{name}: left out: {reason}", file=sys.stderr)
                left.remove(name)


def byTurns(names: list[str], works: list[str], rounds: int, part: float) -> Iterator[Figure]:
    """
    All peers run at once, and do each work one after the other, in either order: what
    else the machine does in a minute is the same for all.
    """
    with contextlib.ExitStack() as stack:
        peers = {}
        for name in names:
            try:
                peers[name] = started(name, stack)
            except SkipTest as reason:
                print(f"{name}: left out: {reason}", file=sys.stderr)
        order = list(peers)
        for _ in range(rounds):
            order.reverse()
            for work in works:
                for name in order:
                    for what, figure in measured(peers[name], work, part):
                        yield name, what, figure


def table(found: dict[str, dict[str, list[float]]], columns: list[str]) -> str:
    """
    Medians with their ranges, and the ratio to stock.
    """
    base = found.get("stock", {})
    titles = [
        f"{column}, {WORKS[column].unit}" if column in WORKS else column for column in columns
    ]
    lines = ["| server | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(columns)]
    for name, row in found.items():
        cells = []
        for column in columns:
            rounds, stock = row.get(column), base.get(column)
            cell = figures.said(rounds) if rounds else "-"
            if rounds and stock and name != "stock":
                cell += f", {figures.ratio(rounds, stock):.2f} x"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def accepting(peers: list[str], works: list[str], rounds: int, part: float, together: bool) -> str:
    """
    All rounds of taking mail in.

    @param together: whether all peers run at once, and are measured by turns.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in peers}
    measure = byTurns if together else oneByOne
    for name, work, figure in measure(peers, works, rounds, part):
        found[name].setdefault(work, []).append(figure)
        print(f"{name}: {work}: {figure:.4g}", file=sys.stderr)
    found = {name: row for name, row in found.items() if row}
    return table(found, list(dict.fromkeys(column for row in found.values() for column in row)))


PARTS = ("accepting", "delivered", "growth")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="default: %(default)s")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--works", default=",".join(WORKS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", type=float, default=1.0, help="how much of the work; 1 is all")
    parser.add_argument("--turns", action="store_true", help="accepting: all peers at once")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, one round")
    growth.options(parser)
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    rounds, part = (1, 0.1) if arguments.quick else (arguments.rounds, arguments.part)
    print(figures.machine(Ground.top()), "\n")
    if "accepting" in parts:
        peers, works = arguments.peers.split(","), arguments.works.split(",")
        print(
            f"## Accepting\n\n{accepting(peers, works, rounds, part, arguments.turns)}\n",
            flush=True,
        )
    if "delivered" in parts:
        found = delivered.table(delivered.SERVERS, rounds, int(part * delivered.MESSAGES))
        print(f"## Accepted and delivered\n\n{found}\n", flush=True)
    if "growth" in parts:
        print("## Growth\n", flush=True)
        growth.tables(arguments.axes.split(","), rounds, part, arguments.long)
    return 0


if __name__ == "__main__":
    sys.exit(main())
