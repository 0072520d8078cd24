"""
So many failures in a row, and something is left alone for a while: twice as
long each time, until it works again.
"""

from __future__ import annotations

import attrs


@attrs.define
class Backoff:
    """
    What is known of one thing that may fail.

    Times are seconds of any clock, as long as it is the same one.

    @ivar tolerated: so many failures in a row have to come first.
    @ivar firstSeconds: how long it is left alone then.
    @ivar longestSeconds: what that is doubled up to.
    @ivar failures: failures in a row.
    @ivar until: it is left alone until then.
    """

    tolerated: int
    firstSeconds: float
    longestSeconds: float
    failures: int = 0
    until: float = 0.0
    _nextSeconds: float = 0.0
    _failed: float = float("-inf")

    @property
    def isTroubled(self) -> bool:
        """Whether it has failed so often that only probes are in order."""
        return self.failures >= self.tolerated

    def remaining(self, now: float) -> float:
        """
        For how many seconds it is still to be left alone.
        """
        return max(0.0, self.until - now) if self.isTroubled else 0.0

    @property
    def nextSeconds(self) -> float:
        """How long it is left alone at its next failure."""
        return self._nextSeconds

    def resume(self, failures: int, nextSeconds: float, until: float = 0.0) -> None:
        """
        It had failed so often before.

        @param until: when it is to be tried; by default now.
        """
        self.failures, self.until = failures, until
        self._nextSeconds = min(nextSeconds, self.longestSeconds)

    def failed(self, now: float, jitter: float = 1.0, began: float | None = None) -> float | None:
        """
        It has failed.  What fails while it is left alone had begun before, and
        changes nothing.

        What had begun before the last failure that counts is part of that one: a
        restart breaks all connections at once, and the next try finds it works.

        @param jitter: a factor for the time.
        @param began: when it began; C{None} where it fails at once.
        @return: for how many seconds it is to be left alone from now on;
            C{None} if nothing changes.
        """
        if began is not None and began < self._failed:
            return None
        self._failed = now
        self.failures += 1
        if not self.isTroubled or now < self.until:
            return None
        seconds = self._nextSeconds or self.firstSeconds
        self._nextSeconds = min(seconds * 2, self.longestSeconds)
        self.until = now + seconds * jitter
        return seconds * jitter

    def hasten(self, now: float) -> None:
        """
        It is to be tried now.  How often it has failed is not forgotten.
        """
        self.until = min(self.until, now)

    def succeeded(self) -> bool:
        """
        It works.

        @return: whether it had been in trouble.
        """
        troubled = self.isTroubled
        self.failures, self.until, self._nextSeconds = 0, 0.0, 0.0
        return troubled
