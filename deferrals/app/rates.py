"""
How much happens in a minute, from what is counted.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from deferrals.logger import Logger
from deferrals.model.status import Status

_log = Logger(namespace="deferrals")

#: How often it is looked, in seconds, and how many looks are remembered.
LOOK_SECONDS = 15.0
LOOKS = 20

NAMES = ("transactions", "accepted", "refused")


class Rates:
    """
    @param clock: the time.
    """

    def __init__(self, status: Status, clock: IReactorTime) -> None:
        self._status = status
        self._clock = clock
        self._looks: deque[tuple[float, tuple[int, ...]]] = deque(maxlen=LOOKS)
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    def start(self) -> None:
        """
        From now on.
        """
        d = self._loop.start(LOOK_SECONDS)
        d.addErrback(lambda failure: _log.failure("no rates", failure))

    def stop(self) -> None:
        """
        No more.
        """
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        self._looks.append((self._clock.seconds(), self._counts()))

    def _counts(self) -> tuple[int, ...]:
        verdicts = self._status.kinds("verdicts").items()
        accepted = sum(count for kind, count in verdicts if kind[-1].startswith("2"))
        refused = sum(count for kind, count in verdicts) - accepted
        return sum(self._status.kinds("transactions").values()), accepted, refused

    def perMinute(self) -> dict[str, float]:
        """
        Transactions, and recipients that were accepted and refused, per minute of
        the last five.
        """
        if not self._looks:
            return dict.fromkeys(NAMES, 0.0)
        began, before = self._looks[0]
        minutes = max(self._clock.seconds() - began, 1.0) / 60
        rates = [(now - then) / minutes for now, then in zip(self._counts(), before, strict=True)]
        return dict(zip(NAMES, (round(rate, 1) for rate in rates), strict=True))
