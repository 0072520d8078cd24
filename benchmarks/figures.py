"""
What was measured, as text: medians with their ranges, a plot, and what it was measured
on.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sysconfig
from collections.abc import Mapping, Sequence

import attrs

#: The longest bar of a plot, in letters.
WIDTH = 40


@attrs.frozen
class Figure:
    """
    One round.

    @ivar rate: units per second.
    @ivar milliseconds: of processor time for each unit, of the whole process tree.
    """

    rate: float
    milliseconds: float


#: The rounds of each server at each size.
Growth = Mapping[str, Mapping[int, Sequence[Figure]]]


def said(figures: Sequence[float]) -> str:
    """
    The median, and what the least and the most were.
    """
    middle, least, most = map(_short, (statistics.median(figures), min(figures), max(figures)))
    return f"{middle} ({least} to {most})"


def ratio(figures: Sequence[float], base: Sequence[float]) -> float:
    """
    That of the medians.
    """
    return statistics.median(figures) / statistics.median(base)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def growth(title: str, unit: str, found: Growth, sizes: Sequence[int]) -> str:
    """
    A table of one thing that grows, and its plot.

    @param unit: what the rate counts.
    """
    lines = [f"### {title}", ""]
    lines.append(f"| server | figure | {' | '.join(f'{size:,}' for size in sizes)} |")
    lines.append("| --- | --- |" + " --- |" * len(sizes))
    for name, rounds in found.items():
        for what in ("rate", "milliseconds"):
            label = f"{unit}/s" if what == "rate" else f"CPU ms per {unit}"
            cells = [
                said([getattr(one, what) for one in rounds[size]]) if rounds.get(size) else "-"
                for size in sizes
            ]
            lines.append(f"| {name} | {label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "```text", plot(unit, found, sizes), "```", ""])


def plot(unit: str, found: Growth, sizes: Sequence[int]) -> str:
    """
    Bars for the medians of the processor's time: each letter more is as much as the one
    before it, times the same.
    """
    medians = {
        (name, size): statistics.median(one.milliseconds for one in rounds[size])
        for name, rounds in found.items()
        for size in sizes
        if rounds.get(size)
    }
    known = [value for value in medians.values() if value > 0]
    least, most = min(known, default=1.0), max(known, default=1.0)
    lines = [f"CPU ms per {unit}, from {_short(least)} to {_short(most)}, logarithmic"]
    names = max(map(len, found), default=0)
    for (name, size), value in medians.items():
        bar = "#" * letters(value, least, most)
        lines.append(f"{name:<{names}} {size:>10,} {bar} {_short(value)}")
    return "\n".join(lines)


def letters(value: float, least: float, most: float) -> int:
    """
    How long a bar is: one letter for the least, L{WIDTH} for the most.
    """
    if value <= least or most <= least:
        return 1
    return 1 + round((WIDTH - 1) * math.log(value / least) / math.log(most / least))


def machine(directory: str) -> str:
    """
    The interpreter's build and the machine, which belong to every figure.

    @param directory: where the servers write.
    """
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    return (
        f"{platform.python_implementation()} {platform.python_version()} ({build()}),"
        f" {platform.system()} {platform.release()}, {os.cpu_count()} x {_processor()},"
        f" {_fileSystem(directory)}; load {load}"
    )


def build() -> str:
    """
    How the interpreter was built, as far as that matters.
    """
    given = sysconfig.get_config_var("CONFIG_ARGS") or ""
    profiled = "with" if "--enable-optimizations" in given else "without"
    linked = "with" if "--with-lto" in given else "without"
    return f"{profiled} PGO, {linked} LTO, {platform.python_compiler()}"


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _fileSystem(directory: str) -> str:
    """
    The kind of the file system that a directory is on.
    """
    real, best, kind = os.path.realpath(directory), "", "unknown file system"
    with open("/proc/mounts", encoding="utf-8") as file:
        for line in file:
            _, place, name, *_ = line.split()
            if os.path.commonpath([real, place]) == place and len(place) >= len(best):
                best, kind = place, name
    return kind
