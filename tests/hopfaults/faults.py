"""
What a next hop may do instead of what it should: a program of faults, each at one
step of the dialogue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs
from hypothesis import strategies as st

from deferrals.smtp.client.replies import (
    MAX_REPLY_LINE_OCTETS,
    MAX_REPLY_LINES,
    MAX_REPLY_OCTETS,
)

#: What a step may come to.
KINDS = (
    "reply",  # another one than expected
    "closing",  # the same, and the connection is closed behind it
    "cut",  # in the middle of the line
    "hang up",  # without a word
    "silence",  # for ever
    "garbage",  # that is no reply
    "twice",  # the reply, and one that was not asked for
    "early",  # the same, in one segment
    "slow",  # an octet at a time
    "split",  # in two pieces
    "line",  # that is as long as may be, or an octet longer
    "lines",  # as many as may be, or one more
    "octets",  # as many as may be in lines of their own, or one more
    "flood",  # without end
)

#: One of each class, and those that mean something of their own.
CODES = (
    *("250", "251 2.1.5", "252", "220", "221 2.0.0"),
    *("352", "353", "354", "334", "300"),
    *("421 4.3.2", "450 4.2.0", "451 4.3.0", "452 4.5.3", "452", "499"),
    *("500 5.5.1", "503", "550 5.1.1", "552 5.5.3", "554 5.6.0", "555", "558", "599"),
)

GARBAGE = (
    b"\r\n",
    b"hello\r\n",
    b"\xff\xfe\x00 \r\n",
    b"250ok\r\n",
    b"2500 ok\r\n",
    b"250-one\r\n550 two\r\n",
    b"150 wait\r\n",
    b"600 no\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"250",
)

#: What a flood is made of.
FLOODS = (b"250-more\r\n", b"x", b"250 ok\r\n", b"\r\n", b"558-550 5.7.1 no\r\n")


@attrs.frozen
class Fault:
    """
    @ivar step: where: the name of a step.
    @ivar time: the how manieth step of this name, from 0.
    @ivar kind: one of L{KINDS}.
    @ivar code: for those that have a reply.
    @ivar number: of octets, or of a thing in a list.
    """

    step: str
    time: int
    kind: str
    code: str = "250"
    number: int = 0

    @property
    def garbage(self) -> bytes:
        """What is no reply."""
        return GARBAGE[self.number % len(GARBAGE)]

    @property
    def flood(self) -> bytes:
        """What comes without end."""
        return FLOODS[self.number % len(FLOODS)]


def longest(reply: str, kind: str, more: int) -> bytes:
    """
    A reply that begins like another one, and is as long as may be.

    @param kind: C{"line"}, C{"lines"} or C{"octets"}.
    @param more: so much longer.
    """
    code = reply[:3].encode()
    last = code + b" " + reply[4:].encode() + b"\r\n"
    if kind == "line":
        return last[:-2].ljust(MAX_REPLY_LINE_OCTETS - 2 + more, b"x") + b"\r\n"
    if kind == "lines":
        return (code + b"-x\r\n") * (MAX_REPLY_LINES - 1 + more) + last
    left, lines = MAX_REPLY_OCTETS + more - len(last), []
    while left:
        octets = min(left, 2048) if left >= 2048 + 6 or left <= 2048 else left - 6
        lines.append(code + b"-".ljust(octets - 5, b"x") + b"\r\n")
        left -= octets
    return b"".join(lines) + last


class Program:
    """
    Faults in the order of the dialogue.

    @ivar octets: so many are said at a time; 0 for all.
    """

    def __init__(self, faults: Sequence[Fault], octets: int = 0) -> None:
        self.octets = octets
        self._faults = {(fault.step, fault.time): fault for fault in faults}
        self._met: Counter[str] = Counter()

    def at(self, step: str) -> Fault | None:
        """
        What goes wrong at this step; C{None}, where nothing does.
        """
        time, self._met[step] = self._met[step], self._met[step] + 1
        return self._faults.get((step, time))


def faults(steps: Sequence[str]) -> st.SearchStrategy[list[Fault]]:
    """
    Some faults at some of these steps.
    """
    return st.lists(
        st.builds(
            Fault,
            st.sampled_from(steps),
            st.sampled_from([0, 0, 0, 1, 1, 2, 3]),
            st.sampled_from(KINDS),
            st.sampled_from(CODES),
            st.integers(0, 40),
        ),
        max_size=4,
    )
