"""
See the package.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Iterator

import attrs
from twisted.trial.unittest import SkipTest

from benchmarks import load
from benchmarks.peers import PEERS, Ground, Peer


@attrs.frozen
class Work:
    """
    One column.

    @ivar unit: of the figures, which are the higher the better unless
        C{lowerIsBetter}.
    @ivar measure: takes a running peer, and how much to do (1 is everything).
    """

    unit: str
    measure: object
    lowerIsBetter: bool = False


WORKS = {
    # First, while nothing has been freed that could be used again.
    "idle": Work(
        "KiB/conn",
        lambda peer, part: load.idle(peer.port, peer.pid, int(peer.connections * part)),
        True,
    ),
    "small": Work("msg/s", lambda peer, part: load.source(peer.port, int(10000 * part), 50, 4096)),
    "large": Work(
        "MiB/s", lambda peer, part: 10 * load.source(peer.port, int(120 * part) or 4, 4, 10 << 20)
    ),
    "pipelined": Work(
        "msg/s", lambda peer, part: load.pipelined(peer.port, int(10000 * part), 50, 4096)
    ),
}


def one(name: str, works: list[str], part: float) -> Iterator[tuple[str, float]]:
    """
    Start a peer, and have it do the works.
    """
    with contextlib.ExitStack() as stack:
        ground = Ground(stack)
        peer: Peer = PEERS[name](ground)
        load.source(peer.port, 200, 50, 4096)  # warm
        for work in works:
            yield work, WORKS[work].measure(peer, part)  # type: ignore[operator]


def table(found: dict[str, dict[str, list[float]]], works: list[str]) -> str:
    """
    Medians with their ranges, and the ratio to stock.
    """
    base = found.get("stock", {})
    lines = ["| server | " + " | ".join(f"{work}, {WORKS[work].unit}" for work in works) + " |"]
    lines.append("| --- |" + " --- |" * len(works))
    for name, row in found.items():
        cells = []
        for work in works:
            figures = row.get(work)
            if not figures:
                cells.append("-")
                continue
            middle = statistics.median(figures)
            cell = f"{middle:.4g} ({min(figures):.4g} to {max(figures):.4g})"
            if name != "stock" and base.get(work):
                cell += f", {middle / statistics.median(base[work]):.2f} x stock"
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
    print(table(found, works))
    return 0


if __name__ == "__main__":
    sys.exit(main())
