"""
Functions whose growth is known: what is counted has to show it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_SCANS_AGAIN = re.compile(r"<[^>]*x")
_FORWARD = re.compile(r"(?:[^\"\\]|\\.)*+", re.S)


def joinsOctets(data: bytes) -> None:
    """Octets that grow one by one."""
    out = b""
    for start in range(len(data)):
        out += data[start : start + 1]


def joinsText(data: bytes) -> None:
    """The same with text, written otherwise."""
    out = ""
    for octet in data:
        out = f"{out}{octet}"


def copiesList(data: bytes) -> None:
    """A list that is made anew for each item."""
    found: list[int] = []
    for octet in data:
        found = [*found, octet]


def seeksInList(data: bytes) -> None:
    """A list that is searched for each item."""
    found: list[int] = []
    for number in range(len(data)):
        if number not in found:
            found.append(number)


def cutsFront(data: bytes) -> None:
    """Octets whose rest is copied for each piece."""
    while data:
        data = data[1:]


def splitsFront(data: bytes) -> None:
    """The same with a method."""
    while b"x" in data:
        _, _, data = data.partition(b"x")


def popsFront(data: bytes) -> None:
    """A list that moves up for each item."""
    items = list(data)
    while items:
        items.pop(0)


def searchesAgain(data: bytes) -> None:
    """A search for what is not there, from each place."""
    for start in range(len(data)):
        data.find(b"y", start)


def backtracks(data: bytes) -> None:
    """A pattern that tries again from each place."""
    _SCANS_AGAIN.search("<" * len(data))


def loopsTwice(data: bytes) -> None:
    """A loop in a loop."""
    assert all(one is not None for _ in data for one in data)


def appends(data: bytes) -> None:
    """What grows in place."""
    out, pieces = bytearray(), []
    for start in range(len(data)):
        out += data[start : start + 1]
        pieces.append(data[start : start + 1])
    assert bytes(out) == b"".join(pieces)


def walks(data: bytes) -> None:
    """A search that goes on where it was, and takes from the front what it has."""
    start, rest = 0, bytearray(data)
    while start >= 0:
        start = data.find(b"x", start + 1)
        del rest[:1]


def matches(data: bytes) -> None:
    """A pattern that never goes back."""
    _FORWARD.fullmatch(data.decode("latin-1"))


QUADRATIC: list[Callable[[bytes], None]] = [
    *(joinsOctets, joinsText, copiesList, seeksInList, cutsFront, splitsFront, popsFront),
    *(searchesAgain, backtracks, loopsTwice),
]
LINEAR: list[Callable[[bytes], None]] = [appends, walks, matches]
