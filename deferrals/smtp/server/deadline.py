"""
A moment by which something is due.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Deadline:
    """
    One deadline at a time, moved many times and hardly ever met: a timer that goes
    off too early looks when it should have.

    @param clock: timers.
    """

    __slots__ = ("_at", "_clock", "_due", "_met", "_timer")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._at = 0.0  # the timer's time
        self._due = 0.0
        self._met: Callable[[], None] | None = None

    def until(self, due: float, met: Callable[[], None]) -> None:
        """
        From now on, this is the deadline.

        @param due: by the clock's time.
        @param met: called then.
        """
        self._due, self._met = due, met
        if self._timer is None:
            self._start()
        elif self._at > due:
            self._stop()
            self._start()

    def clear(self) -> None:
        """
        There is none for the time being.
        """
        self._met = None

    def stop(self) -> None:
        """
        There is none, and will hardly be one: no timer is left.
        """
        self._met = None
        self._stop()

    def _start(self) -> None:
        self._at = self._due
        self._timer = self._clock.callLater(
            max(0.0, self._due - self._clock.seconds()), self._wentOff
        )

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _wentOff(self) -> None:
        self._timer = None
        met = self._met
        if met is None:
            return
        if self._due > self._clock.seconds():
            self._start()
        else:
            self._met = None
            met()
