"""
Whether something explains that a recipient has two copies of a message: a kill, soon after
the first; or that whoever has made one of them was stopped, and thought dead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import attrs

#: A kill may repeat what was delivered so many seconds before.  Some lives of the
#: server are longer, so that what is delivered at their beginning must not come again.
UNDER_WAY_SECONDS = 3.0

#: So long a process may need to hear what the database tells it, in seconds.
HEARD_SECONDS = 1.0


@attrs.frozen(order=True)
class Copy:
    """
    One that has arrived.

    @ivar at: when.
    @ivar began: when its delivery did.
    @ivar by: the process that has made it; 0 where that is not known.
    """

    at: float
    began: float
    by: int = 0


@attrs.frozen
class Nap:
    """
    A machine was stopped, thought dead, and has woken.

    @ivar began: when it was stopped.
    @ivar knew: for each of its processes, when the database began to tell it that what it
        had had was others'.
    """

    began: float
    knew: Mapping[int, float]

    def explains(self, first: Copy, second: Copy) -> bool:
        """
        Whether one of two copies is of a sleeper, which could not know better, and could not
        write it down, since others had it.  The other one is of whoever has had it then.
        """
        if not (first.by and second.by):
            ends = max(self.knew.values()) + UNDER_WAY_SECONDS
            return self.began <= first.at and second.at <= ends
        return self._areBoth(first, second) or self._areBoth(second, first)

    def _areBoth(self, lost: Copy, other: Copy) -> bool:
        known = self.knew.get(lost.by, -math.inf)
        isLost = self.began <= lost.at and lost.began <= known + HEARD_SECONDS
        return isLost and max(self.began, self.knew.get(other.by, 0.0)) <= other.began


def isExplained(copies: Sequence[Copy], kills: Sequence[float], naps: Sequence[Nap]) -> bool:
    """
    Whether there was a kill soon after each copy, and before the next one; or a nap that
    has made both.
    """
    return all(
        any(first.at <= kill <= min(first.at + UNDER_WAY_SECONDS, second.at) for kill in kills)
        or any(nap.explains(first, second) for nap in naps)
        for first, second in itertools.pairwise(copies)
    )


def around(copies: Sequence[Copy], kills: Sequence[float], naps: Sequence[Nap]) -> list[str]:
    """
    When copies came, in seconds behind the first, with what happened at that time.
    """
    zero, last = copies[0].at, copies[-1].at
    events = [(one.at, f"copy by {one.by}, begun {one.began - zero:+.2f}:") for one in copies]
    events += [(at, "kill") for at in kills]
    for nap in naps:
        events += [(nap.began, "nap"), *((at, f"{pid} knew") for pid, at in nap.knew.items())]
    return [
        f"{what} {at - zero:+.2f}"
        for at, what in sorted(events)
        if -10 < at - zero < last + 1 - zero
    ]
