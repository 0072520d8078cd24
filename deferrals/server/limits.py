"""
What clients and users may have of something: so many at once, or so much within
a while.  One for all listeners; what was spent outlives a restart.
"""

from __future__ import annotations

import json
from typing import TypeAlias

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.deferreds import timeOfDay
from deferrals.interfaces import ILimits, ISpool
from deferrals.logger import Logger
from deferrals.model.windows import KEYS, Windows

_log = Logger(namespace="deferrals")

#: What names of notes begin with.
_PREFIX = "limit "

#: How many keys a limit has, where it is not what others have.
KEYS_OF = {"auth-known": 20_000, "auth-today": 20_000}

#: How long changes are gathered before they are noted, in seconds: a process
#: that is killed forgets not more than that.
SAVE_SECONDS = 1.0


#: What one key of a limit has spent: how long it counts, and amounts with how long ago
#: they were spent.
Spending: TypeAlias = tuple[str, str, float, list[tuple[float, int]]]


@implementer(ILimits)
class SharedLimits:
    """
    Limits of one process.

    @param clock: timers, and the time of day.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._entered: dict[tuple[str, str], int] = {}
        self._windows: dict[str, Windows] = {}
        self._spool: ISpool | None = None
        self._changed: set[tuple[str, str]] = set()
        self._timer: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] | None = None

    def enter(self, limit: str, key: str, most: int) -> Deferred[bool]:
        return succeed(self.entered(limit, key, most))

    def entered(self, limit: str, key: str, most: int) -> bool:
        """
        The same, at once.
        """
        entry = (limit, key)
        count = self._entered.get(entry, 0)
        if count < most:
            self._entered[entry] = count + 1
        return count < most

    def leave(self, limit: str, key: str) -> None:
        entry = (limit, key)
        count = self._entered.get(entry, 0)
        if count > 1:
            self._entered[entry] = count - 1
        else:
            self._entered.pop(entry, None)

    def spend(self, limit: str, key: str, amount: int, most: int, seconds: float) -> Deferred[bool]:
        return self._loaded().addCallback(lambda _: self.spent(limit, key, amount, most, seconds))

    def spent(self, limit: str, key: str, amount: int, most: int, seconds: float) -> bool:
        """
        The same, at once.
        """
        isThere = self._of(limit).spend(key, amount, most, seconds, self._clock.seconds())
        if amount and isThere:
            self._note(limit, key)
        return isThere

    def _of(self, limit: str) -> Windows:
        found = self._windows.get(limit)
        if found is None:
            found = self._windows[limit] = Windows(KEYS_OF.get(limit, KEYS))
        return found

    def used(self, limit: str) -> dict[str, int]:
        """
        What counts now, by key.
        """
        windows = self._windows.get(limit)
        return {} if windows is None else dict(windows.all(self._clock.seconds()))

    # For another process that counts the same.

    def spendings(self) -> list[Spending]:
        """
        All that was spent and counts now.
        """
        now, found = self._clock.seconds(), []
        for limit, windows in self._windows.items():
            for key, _ in list(windows.all(now)):
                seconds, spent = windows.dump(key, now)
                found.append((limit, key, seconds, spent))
        return found

    def add(self, spending: Spending) -> None:
        """
        Count what another process has spent.
        """
        limit, key, seconds, spent = spending
        self._of(limit).load(key, seconds, spent, self._clock.seconds())

    # Over a restart.

    def keepIn(self, spool: ISpool) -> None:
        """
        Note in a spool what is spent.  Until L{load} it is not known what was,
        so questions wait.
        """
        self._spool, self._waiting = spool, []

    def load(self) -> Deferred[None]:
        """
        Know what was spent before a restart.

        @return: a Deferred; it never fails.
        """
        return self._load().addCallback(self._ready)

    def _load(self) -> Deferred[None]:
        assert self._spool is not None
        d: Deferred[dict[str, str]] = self._spool.notes()
        return d.addCallback(self._read).addErrback(self._notRead)

    def _read(self, notes: dict[str, str]) -> None:
        now, wall = self._clock.seconds(), timeOfDay(self._clock)
        for name, value in notes.items():
            if name.startswith(_PREFIX):
                limit, _, key = name.removeprefix(_PREFIX).partition(" ")
                try:
                    seconds, spent = json.loads(value)
                    spent = [(wall - float(when), int(amount)) for when, amount in spent]
                    windows = self._of(limit)
                    windows.load(key, float(seconds), spent, now)
                except (ValueError, TypeError):
                    _log.failure("a note on limits cannot be read")

    async def adopt(self, spool: ISpool) -> None:
        """
        Count what was spent by a process that there is no longer, as this one's.

        @raise SpoolError: its notes cannot be read.
        """
        before = SharedLimits(self._clock)
        notes: dict[str, str] = await spool.notes()
        before._read(notes)
        spendings = before.spendings()
        for spending in spendings:
            self.add(spending)
            self._note(*spending[:2])
        await self.adopted(spendings)
        for name in notes:
            if name.startswith(_PREFIX):
                spool.forget(name)

    async def adopted(self, spendings: list[Spending]) -> None:
        """
        This process has more spent: others may have to know.
        """

    def _notRead(self, failure: Failure) -> None:
        """
        The server runs all the same, with fresh limits.
        """
        _log.error(
            "what was spent of limits cannot be read: {error}", error=failure.getErrorMessage()
        )

    def _ready(self, _: None) -> None:
        waiting, self._waiting = self._waiting or [], None
        for d in waiting:
            if not d.called:
                d.callback(None)

    def _loaded(self) -> Deferred[None]:
        if self._waiting is None:
            return succeed(None)
        d: Deferred[None] = Deferred()
        self._waiting.append(d)
        return d

    def _note(self, limit: str, key: str) -> None:
        if self._spool is None:
            return
        self._changed.add((limit, key))
        if self._timer is None:
            self._timer = self._clock.callLater(SAVE_SECONDS, self._save)

    def close(self) -> None:
        """
        Note what is not noted yet.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._save()

    def _save(self) -> None:
        self._timer = None
        changed, self._changed = self._changed, set()
        now, wall = self._clock.seconds(), timeOfDay(self._clock)
        assert self._spool is not None
        for limit, key in changed:
            name = f"{_PREFIX}{limit} {key}"
            seconds, spent = self._windows[limit].dump(key, now)
            if spent:
                value = [seconds, [(wall - ago, amount) for ago, amount in spent]]
                self._spool.note(name, json.dumps(value), seconds)
            else:
                self._spool.forget(name)
