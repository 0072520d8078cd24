"""
What operators, and recipients behind their links, ask about refusals, and say of their
senders.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from deferrals.deferreds import timeOfDay
from deferrals.model.admission import AdmissionWish, admitted, keyOf
from deferrals.model.json import JSON
from deferrals.model.refusal import SHOWN
from deferrals.server.admissions import Admissions
from deferrals.server.digests import Digests
from deferrals.server.refusals import Refusals


class RefusalDesk:
    """
    @param refusals: what is kept.
    @param admissions: whom recipients let in.
    @param digests: tell them.
    @param clock: what time it is.
    """

    def __init__(
        self,
        refusals: Refusals,
        admissions: Admissions,
        digests: Digests,
        clock: IReactorTime,
    ) -> None:
        self._refusals = refusals
        self._admissions = admissions
        self._digests = digests
        self._clock = clock

    async def refusals(
        self, recipient: str, seconds: float | None, limit: int
    ) -> list[dict[str, JSON]]:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        since = self._refusals.settings.since(timeOfDay(self._clock), seconds)
        store, owner = self._refusals.store, keyOf(recipient)
        found = await store.find(owner, since, min(limit, SHOWN))
        return [one.toJSON() for one in found]

    async def about(self, words: str, limit: int) -> list[dict[str, JSON]]:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        since = self._refusals.settings.since(timeOfDay(self._clock))
        found = await self._refusals.store.about(words, since, min(limit, SHOWN))
        return [one.toJSON() for one in found]

    async def admit(self, recipient: str, wish: AdmissionWish) -> dict[str, JSON] | None:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        settings, owner = self._refusals.settings, keyOf(recipient)
        refusal = await self._refusals.store.named(wish.reference.upper(), owner)
        now = timeOfDay(self._clock)
        if refusal is None or refusal.time < settings.since(now):
            return None
        admission = admitted(refusal, wish, now, settings.admit_for)
        await self._admissions.add(owner, admission)
        return admission.told(owner)

    async def _owners(self, recipient: str | None) -> list[str]:
        return await self._admissions.owners() if recipient is None else [keyOf(recipient)]

    async def admissions(self, recipient: str | None) -> list[dict[str, JSON]]:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        found: list[dict[str, JSON]] = []
        for owner in await self._owners(recipient):
            found += [one.shown(owner) for one in await self._admissions.of(owner)]
        return found

    async def removeAdmissions(self, recipient: str | None) -> int:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        return sum([await self._admissions.remove(one) for one in await self._owners(recipient)])

    async def digest(self, recipient: str | None, isDry: bool) -> list[dict[str, JSON]]:
        """
        See L{Desk<deferrals.operator.control.Desk>}.
        """
        owner = None if recipient is None else keyOf(recipient)
        return [{**one} for one in await self._digests.tellNow(owner, isDry)]
