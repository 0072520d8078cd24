"""
How much has happened within the last minute, hour and day: what is counted is looked at
every now and then, and the looks are subtracted.  Nothing is counted a second time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from deferrals.logger import Logger
from deferrals.model.status import BUCKETS, Kind, Status

_log = Logger(namespace="deferrals.web")

#: How often it is looked, in seconds, and how many looks are remembered: for a minute,
#: and for a day.
FINE_SECONDS, FINE = 15.0, 8
COARSE_SECONDS, COARSE = 300.0, 290

#: The periods that are shown, in seconds, by name.
PERIODS = {"minute": 60.0, "hour": 3600.0, "day": 86400.0}

#: What was counted, by what it is: a word for the kind of count, and its sides.
Count = tuple[str, ...]

REPLIES = ("rcpt", "recipient", "final")


def countsOf(status: Status) -> Counter[Count]:
    """
    What a look remembers: a few dozen numbers, whatever there is in the configuration.
    """
    found: Counter[Count] = Counter()
    for kind, count in status.kinds("verdicts").items():
        stage, _, code = _sides(kind, 3)
        found["verdict", stage, _answer(code)] += count
    for kind, count in status.kinds("transactions").items():
        found["rung", str(kind)] += count
    for kind, count in status.kinds("deliveries").items():
        found["delivery", _sides(kind, 2)[1]] += count
    for reply, histogram in status.measured("replies").items():
        for bucket, count in enumerate(histogram.counts):
            found["seconds", str(reply), str(bucket)] += count
    return found


def _sides(kind: Kind, count: int) -> Sequence[str]:
    return (kind,) * count if isinstance(kind, str) else kind


def _answer(code: str) -> str:
    return {"2": "accepted", "4": "later", "5": "refused"}.get(code[:1], "other")


@attrs.frozen
class Period:
    """
    What has happened within a while.

    @ivar seconds: how long that really is: a server that has just begun has less.
    """

    seconds: float
    counts: Counter[Count]

    def of(self, *count: str) -> int:
        """
        How often.
        """
        return self.counts[count]

    def rungs(self) -> list[tuple[str, int]]:
        """
        How transactions have ended, and how many, most first.
        """
        found = [(key[1], n) for key, n in self.counts.items() if key[0] == "rung" and n]
        return sorted(found, key=lambda one: (-one[1], one[0]))

    def waited(self, reply: str) -> list[int]:
        """
        How many replies took how long: by the buckets of C{"replies"}.
        """
        return [self.of("seconds", reply, str(one)) for one in range(len(BUCKETS["replies"]) + 1)]


def within(counts: Sequence[int], share: float) -> float | None:
    """
    @param counts: as L{Period.waited} has them.
    @return: the bound, in seconds, that such a share has kept; infinite where it is the
        last bucket's; C{None} where there are none.
    """
    total, so = sum(counts), 0
    for bound, count in zip((*BUCKETS["replies"], float("inf")), counts, strict=True):
        so += count
        if total and so >= share * total:
            return float(bound)
    return None


class Looks:
    """
    @param status: what was counted.
    @param clock: the time.
    """

    def __init__(self, status: Callable[[], Status], clock: IReactorTime) -> None:
        self._status = status
        self._clock = clock
        self._fine: deque[tuple[float, Counter[Count]]] = deque(maxlen=FINE)
        self._coarse: deque[tuple[float, Counter[Count]]] = deque(maxlen=COARSE)
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    def start(self) -> None:
        """
        From now on.
        """
        if not self._loop.running:
            d = self._loop.start(FINE_SECONDS)
            d.addErrback(lambda failure: _log.failure("nothing is looked at", failure=failure))

    def stop(self) -> None:
        """
        No more; what was seen is forgotten.
        """
        if self._loop.running:
            self._loop.stop()
        self._fine.clear()
        self._coarse.clear()

    def _look(self) -> None:
        look = self._clock.seconds(), countsOf(self._status())
        self._fine.append(look)
        if not self._coarse or look[0] - self._coarse[-1][0] >= COARSE_SECONDS:
            self._coarse.append(look)

    def period(self, seconds: float) -> Period:
        """
        What has happened within so many seconds.
        """
        now, counts = self._clock.seconds(), countsOf(self._status())
        when, before = _before((*self._coarse, *self._fine), now - seconds)
        difference = Counter({key: count - before[key] for key, count in counts.items()})
        return Period(seconds if when is None else min(seconds, now - when), difference)


def _before(
    looks: Iterable[tuple[float, Counter[Count]]], when: float
) -> tuple[float | None, Counter[Count]]:
    """
    The look that is nearest to a time; the first one, where there is none so old.
    """
    found = min(looks, key=lambda look: abs(look[0] - when), default=None)
    return (None, Counter()) if found is None else found
