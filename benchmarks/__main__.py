"""
See the package.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Callable, Iterator

import attrs
from twisted.trial.unittest import SkipTest

from benchmarks import load
from benchmarks.peers import PEERS, Ground, Peer


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
    Start a peer, and have it do the works; what that costs it follows, in
    milliseconds of processor time for each unit.
    """
    with contextlib.ExitStack() as stack:
        peer = PEERS[name](Ground(stack))
        load.source(peer.port, 200, 50, 4096)  # warm
        for name in works:
            work = WORKS[name]
            amount = int(min(work.amount, peer.most if work.size is None else work.amount) * part)
            amount = max(amount, 8)
            before = load.cpu(peer.pid)
            yield name, work.measure(peer, amount)
            if work.size is not None:
                used = load.cpu(peer.pid) - before
                yield f"{name}, CPU ms", 1000 * used / amount / work.size


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
            figures = row.get(column, [])
            cell = "-"
            if figures:
                middle = statistics.median(figures)
                cell = f"{middle:.3g} ({min(figures):.3g} to {max(figures):.3g})"
                if name != "stock" and base.get(column):
                    cell += f", {middle / statistics.median(base[column]):.2f} x stock"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--works", default=",".join(WORKS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", type=float, default=1.0, help="how much of the work; 1 is all")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, one round")
    arguments = parser.parse_args()
    peers, works = arguments.peers.split(","), arguments.works.split(",")
    rounds, part = (1, 0.1) if arguments.quick else (arguments.rounds, arguments.part)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in peers}
    for number in range(rounds):
        for name in list(found):
            try:
                for work, figure in one(name, works, part):
                    found[name].setdefault(work, []).append(figure)
                    print(f"round {number + 1}: {name}: {work}: {figure:.4g}", file=sys.stderr)
            except SkipTest as reason:
                print(f"{name}: left out: {reason}", file=sys.stderr)
                del found[name]
    columns = dict.fromkeys(column for row in found.values() for column in row)
    print(table(found, list(columns)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
