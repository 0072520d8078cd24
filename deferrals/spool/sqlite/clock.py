"""
The spool's time: how long it has been in use.

Stored times (when a recipient is due, when a message is given up) are in this
time, so that a time of day that is set, by hours or by years, makes nothing
expire early and nothing stick.  In a process it goes on with the process's
timers.  From one process to the next it goes on by the time of day, as far as
that can be believed: a break of more than an hour does not count, since it
cannot be told from a clock that was set, and nothing could be delivered in it.
"""

from __future__ import annotations

from collections.abc import Callable

#: The longest break that counts.
BREAK_SECONDS = 3600.0


class SpoolClock:
    """
    @param seconds: the process's timers' time.
    @param wall: the time of day, in seconds since the epoch.
    """

    def __init__(self, seconds: Callable[[], float], wall: Callable[[], float]) -> None:
        self._seconds = seconds
        self.wall = wall
        self._offset = 0.0

    def now(self) -> float:
        """
        The spool's time, in seconds.
        """
        return self._seconds() + self._offset

    def saved(self) -> tuple[float, float]:
        """
        What L{resume} needs to know in the next process.
        """
        return self.wall(), self.now()

    def resume(self, wall: float, now: float) -> None:
        """
        Go on from what a process before this one has L{saved}.
        """
        away = self.wall() - wall
        counted = away if 0 <= away <= BREAK_SECONDS else 0.0
        self._offset = now + counted - self._seconds()
