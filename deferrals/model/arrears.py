"""
What a count that all machines share lacks of what this one has counted, or has too much of:
while nobody answers.

What it lacks is not brought in later, so that it need not be known for long; but what is
given back is taken from that first.  What it has too much of is given back when it answers
again: otherwise a password that was right would count as one that was wrong.
"""

from __future__ import annotations

import attrs

#: A limit, and a key of it.
Entry = tuple[str, str]


@attrs.frozen
class _Arrear:
    """
    @ivar amount: how much the shared count lacks; below 0, has too much.
    @ivar seconds: for how long it counts.
    @ivar until: when it does not count any longer.
    """

    amount: int
    seconds: float
    until: float


class Arrears:
    """
    @param most: of so many keys it is known; those that were missed first go first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._arrears: dict[Entry, _Arrear] = {}

    def missed(self, entry: Entry, amount: int, seconds: float, now: float) -> None:
        """
        The shared count was not told of an amount.
        """
        self._set(entry, self._amount(entry, now) + amount, seconds, now)

    def rest(self, entry: Entry, amount: int, seconds: float, now: float) -> int:
        """
        @param amount: is given back, if it is below 0.
        @return: how much of it the shared count has to be told.
        """
        lacking = min(max(0, self._amount(entry, now)), -amount)
        if lacking <= 0:
            return amount
        self._set(entry, self._amount(entry, now) - lacking, seconds, now)
        return amount + lacking

    def owed(self, now: float) -> list[tuple[Entry, int, float]]:
        """
        @return: what is to be given back now, with the seconds of its window; it is not
            known here any longer.
        """
        current = {key: one for key, one in self._arrears.items() if now < one.until}
        self._arrears = {key: one for key, one in current.items() if one.amount > 0}
        return [(key, one.amount, one.seconds) for key, one in current.items() if one.amount < 0]

    def _amount(self, entry: Entry, now: float) -> int:
        found = self._arrears.get(entry)
        return 0 if found is None or now >= found.until else found.amount

    def _set(self, entry: Entry, amount: int, seconds: float, now: float) -> None:
        self._arrears.pop(entry, None)
        if amount:
            self._arrears[entry] = _Arrear(amount, seconds, now + seconds)
        if len(self._arrears) > self._most:
            del self._arrears[next(iter(self._arrears))]
