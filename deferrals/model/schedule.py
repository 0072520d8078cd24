"""
When a delivery is tried again, when its sender is warned, and when it is given
up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType

import attrs

from deferrals.model.settings import Seconds, checked, ofTheirTypes, parseSeconds, positive

__all__ = ["Schedule"]

if TYPE_CHECKING:
    Steps = tuple[float, ...]
else:
    #: Time spans, as in C{"5m 15m 1h"}: each word is one.
    Steps = NewType("Steps", tuple[float, ...])

#: No attempt is put off for longer than this, whatever a next hop asks for.
LONGEST_SECONDS = 86400.0

#: By how much a wait may be shorter or longer than its schedule says.
JITTER = 0.1


def parseSteps(value: object) -> Steps:
    """
    @raise ValueError: these are no time spans.
    """
    words = value.split() if isinstance(value, str) else [value]
    try:
        steps = tuple(float(parseSeconds(word)) for word in words)
    except ValueError:
        steps = ()
    if not steps or min(steps) <= 0:
        raise ValueError('time spans such as "5m 15m 1h": the last one repeats')
    return Steps(steps)


def _steps(value: tuple[float, ...]) -> None:
    if not value or min(value) <= 0:
        raise ValueError("a time span at least, each more than 0")


#: What stands for L{Schedule.concurrency} by default.
CONCURRENCY = 20


@attrs.frozen(field_transformer=ofTheirTypes)
class Schedule:
    """
    What applies to the recipients of one delivery.

    @ivar retry: how long to wait after each attempt; the last one repeats.
    @ivar expire: seconds after its arrival when a message is given up.
    @ivar warn: seconds after its arrival when its sender is told that it is
        late; 0 for never.
    @ivar concurrency: messages on their way to one destination at once; by default
        20, and as many as C{max_delivering} lets for a delivery that shares what
        messages cost, as C{maildir} does.
    """

    retry: Steps = attrs.field(
        default=Steps((300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0)), validator=checked(_steps)
    )
    expire: Seconds = attrs.field(default=Seconds(432000.0), validator=checked(positive))
    warn: Seconds = Seconds(14400.0)
    concurrency: int | None = attrs.field(default=None, validator=checked(positive))

    def wait(self, attempts: int, after: float | None, chance: float) -> float:
        """
        How long until the next attempt.

        @param attempts: how many there were, at least one.
        @param after: seconds that the next hop asked for, if it did.
        @param chance: a number from 0 to 1 that decides about the jitter: so
            that what failed together does not come back together.
        """
        step = self.retry[min(attempts, len(self.retry)) - 1]
        step *= 1 - JITTER + 2 * JITTER * chance
        return max(step, min(after or 0.0, LONGEST_SECONDS))
