"""
Refusals in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from deferrals.interfaces import IRefusalStore
from deferrals.model.refusal import Refusal


@implementer(IRefusalStore)
class MemoryRefusals:
    """
    See the interface.
    """

    def __init__(self) -> None:
        self._refusals: dict[tuple[str, str], Refusal] = {}

    def add(self, refusals: Sequence[tuple[str, Refusal]]) -> Deferred[None]:
        for owner, refusal in refusals:
            self._refusals.pop((refusal.id, owner), None)
            self._refusals[refusal.id, owner] = refusal
        return succeed(None)

    def find(self, owner: str, since: float, limit: int) -> Deferred[list[Refusal]]:
        found = [
            refusal
            for (_, one), refusal in self._refusals.items()
            if one == owner and refusal.time >= since
        ]
        found.sort(key=lambda one: (-one.time, one.id))
        return succeed(found[:limit])

    def about(self, words: str, since: float, limit: int) -> Deferred[list[Refusal]]:
        found = [one for one in self._refusals.values() if one.time >= since and one.isAbout(words)]
        found.sort(key=lambda one: (-one.time, one.id))
        return succeed(found[:limit])

    def named(self, reference: str, owner: str) -> Deferred[Refusal | None]:
        return succeed(self._refusals.get((reference, owner)))

    def owners(self, since: float) -> Deferred[list[str]]:
        found = {one for (_, one), refusal in self._refusals.items() if refusal.time >= since}
        return succeed(sorted(found))

    def trim(self, before: float, entries: int) -> Deferred[int]:
        byAge = sorted(self._refusals.items(), key=lambda one: one[1].time)
        surplus = max(0, len(byAge) - entries)
        for number, (key, refusal) in enumerate(byAge):
            if refusal.time < before or number < surplus:
                del self._refusals[key]
        return succeed(len(self._refusals))

    def close(self) -> Deferred[None]:
        return succeed(None)
