"""
What is spent within a while: by key, in a window that slides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

#: A window is counted in so many steps: what was spent counts for up to one step
#: longer than it has to.
STEPS = 60

#: How many keys there may be.
KEYS = 10_000


@attrs.define
class _Spent:
    """
    What one key has spent.

    @ivar seconds: how long it counts.
    @ivar steps: amounts, by the number of their step.
    """

    seconds: float
    steps: dict[int, int] = attrs.field(factory=dict)

    def step(self, now: float) -> int:
        return int(now // (self.seconds / STEPS))

    def total(self, now: float) -> int:
        """
        What counts now.  What does not is forgotten.
        """
        oldest = self.step(now) - STEPS
        for step in [one for one in self.steps if one < oldest]:
            del self.steps[step]
        return max(0, sum(self.steps.values()))

    def giveBack(self, amount: int) -> None:
        """
        What was spent last goes first: were it taken from what is spent now, it would
        make room once more when what it belongs to does not count any longer.
        """
        for step in sorted(self.steps, reverse=True):
            part = min(amount, self.steps[step])
            amount -= part
            self.steps[step] -= part
            if not self.steps[step]:
                del self.steps[step]

    @property
    def latest(self) -> float:
        """When the last of it was spent."""
        return max(self.steps, default=0) * (self.seconds / STEPS)


class Windows:
    """
    The time is an argument, and never goes back.

    @param keys: how many keys there may be.  Where there are more, those that
        have spent least go first: a flood of new keys does not free an old one
        that has spent much.
    """

    def __init__(self, keys: int = KEYS) -> None:
        self._most = keys
        self._spent: dict[str, _Spent] = {}

    def spend(self, key: str, amount: int, most: int, seconds: float, now: float) -> bool:
        """
        Take an amount of what there is within a window, as
        L{ILimits.spend<deferrals.interfaces.ILimits.spend>} has it.
        """
        used = self.used(key, now)
        if amount > 0 and used + amount > most:
            return False
        if not amount:
            return used < most
        found = self._spent.get(key)
        if amount < 0:
            if found is not None:
                found.giveBack(-amount)
            return True
        if found is None:
            found = self._spent[key] = _Spent(seconds)
        step = found.step(now)
        found.steps[step] = found.steps.get(step, 0) + amount
        if len(self._spent) > self._most:
            self._forget(now, key)
        return True

    def used(self, key: str, now: float) -> int:
        """
        What a key has spent that counts now.
        """
        found = self._spent.get(key)
        return 0 if found is None else found.total(now)

    def all(self, now: float) -> Iterator[tuple[str, int]]:
        """
        The keys that have spent something, with how much.
        """
        for key, found in list(self._spent.items()):
            total = found.total(now)
            if total:
                yield key, total
            else:
                del self._spent[key]

    def _forget(self, now: float, kept: str) -> None:
        """
        Make room for a while: a tenth of all keys.
        """
        totals = dict(self.all(now))
        totals.pop(kept, None)
        order = sorted(totals, key=lambda key: (totals[key], self._spent[key].latest))
        for key in order[: max(1, self._most // 10)]:
            del self._spent[key]

    # For a restart.

    def dump(self, key: str, now: float) -> tuple[float, list[tuple[float, int]]]:
        """
        @return: how long it counts, and amounts with how long ago they were
            spent.
        """
        found = self._spent.get(key)
        if found is None or not found.total(now):
            return 0.0, []
        width = found.seconds / STEPS
        return found.seconds, [(now - step * width, one) for step, one in found.steps.items()]

    def load(
        self, key: str, seconds: float, spent: Iterable[tuple[float, int]], now: float
    ) -> None:
        """
        Count what was spent before a restart, beside what has been since.
        """
        found = self._spent.setdefault(key, _Spent(seconds))
        for ago, amount in spent:
            step = found.step(now - min(max(ago, 0.0), seconds))
            found.steps[step] = found.steps.get(step, 0) + amount
        if len(self._spent) > self._most:
            self._forget(now, key)
