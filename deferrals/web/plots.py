"""
Drawings as SVG: bars for shares, and a histogram of scores with its limits.

Each has its numbers beside it as text, too, so a drawing says nothing that is not there
for those who cannot see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
from twisted.web.template import Tag

#: The colours that bars and limits have.
Kind = Literal["good", "wait", "bad", ""]

WIDTH = 640


@attrs.frozen
class Bar:
    """
    @ivar amount: how long it is.
    @ivar text: what stands behind it.
    """

    label: str
    amount: float
    text: str
    kind: Kind = ""


def _svg(height: int, title: str, width: int = WIDTH) -> Tag:
    view = f"0 0 {width} {height}"
    made = Tag("svg")(viewBox=view, role="img", **{"aria-label": title})
    return made(Tag("title")(title))


def _text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> Tag:
    made = Tag("text")(content, x=f"{x:g}", y=f"{y:g}", **{"text-anchor": anchor})
    return made(class_=kind) if kind else made


def _rect(x: float, y: float, width: float, height: float, kind: str) -> Tag:
    places = {"x": x, "y": y, "width": max(0.0, width), "height": max(0.0, height)}
    return Tag("rect")(class_=kind, **{name: f"{value:.4g}" for name, value in places.items()})


def bars(title: str, rows: Sequence[Bar], width: int = 360) -> Tag:
    """
    One bar below the other, the longest as wide as there is room.
    """
    left, right, step = 92, 96, 24
    most = max([one.amount for one in rows] + [1e-9])
    made = _svg(step * max(1, len(rows)) + 4, title, width)(class_="bars")
    for number, one in enumerate(rows):
        top, room = number * step, width - left - right
        made(
            _text(left - 8, top + 16, one.label, "end"),
            _rect(left, top + 4, room, 16, "track"),
            _rect(left, top + 4, room * one.amount / most, 16, f"bar {one.kind}".strip()),
            _text(left + room + 8, top + 16, one.text),
        )
    return made


@attrs.frozen
class LimitMark:
    """
    A line that a limit is.
    """

    score: float
    label: str
    kind: Kind


def histogram(
    title: str, counts: Sequence[int], lowest: float, step: float, marks: Sequence[LimitMark]
) -> Tag:
    """
    @param counts: the first one is of what is below C{lowest}, the last one of what is
        above all steps.
    @param marks: limits; what is to their right has met them.
    """
    first, last = _range(counts, lowest, step, marks)
    shown, height, base = counts[first : last + 1], 240, 200
    made = _svg(height, title)
    room = WIDTH - 60
    wide, most = room / len(shown), max([*shown, 1])
    for number, count in enumerate(shown):
        tall = (base - 40) * count / most
        made(_rect(40 + number * wide + 0.5, base - tall, wide - 1, tall, "bar"))
    made(_line(40, base, WIDTH - 20, base, "axis"), _text(36, 52, str(most), "end", "faint"))
    begin = lowest + (first - 1) * step

    def place(score: float) -> float:
        return min(WIDTH - 20.0, max(40.0, 40 + (score - begin) / step * wide))

    every = max(1, round(len(shown) / 10))
    for number in range(0, len(shown) + 1, every):
        made(_text(40 + number * wide, base + 18, f"{begin + number * step:g}", "middle", "faint"))
    for number, one in enumerate(marks):
        x, y = place(one.score), 14 + 14 * (number % 3)
        made(_line(x, y + 4, x, base, f"limit {one.kind}".strip()))
        anchor = "end" if x > WIDTH - 160 else "start"
        made(_text(x + (-5 if anchor == "end" else 5), y, one.label, anchor))
    made(_text(WIDTH - 20, height - 4, "score", "end", "faint"))
    return made


def _line(x: float, y: float, right: float, bottom: float, kind: str) -> Tag:
    ends = {"x1": x, "y1": y, "x2": right, "y2": bottom}
    return Tag("line")(class_=kind, **{name: f"{value:.4g}" for name, value in ends.items()})


def _range(
    counts: Sequence[int], lowest: float, step: float, marks: Sequence[LimitMark]
) -> tuple[int, int]:
    """
    The steps that are worth showing: those with scores, and with limits.
    """
    wanted = [number for number, count in enumerate(counts) if count]
    for one in marks:
        if abs(one.score) < float("inf"):
            wanted.append(min(len(counts) - 1, max(0, int((one.score - lowest) // step) + 1)))
    first, last = min(wanted, default=1), max(wanted, default=len(counts) - 2)
    return max(0, first - 2), min(len(counts) - 1, max(last + 2, first + 12))
