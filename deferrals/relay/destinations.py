"""
How much may be on its way to each destination at once, and which ones are left
alone for a while.

A destination that fails again and again is backed off as a whole: what waits
for it is not tried, however much and however due it is, except for one message
now and then, the probe.  The first one that meets a hop that is alive opens it
for all.  Destinations in trouble never take more than half of all slots, so
that those which work keep theirs.

What is known here lives with the process; the spool is told when a destination
is due again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from deferrals.model.reply import Reply
from deferrals.model.verdict import Outcome, Retry

#: So many attempts in a row have to fail before a destination is backed off.
FAILURES = 3

#: How long at first; twice as long each time; never longer.
FIRST_SECONDS, LONGEST_SECONDS = 60.0, 1800.0

#: So many destinations in trouble are remembered.
REMEMBERED = 10_000


def isAlive(outcomes: Iterable[Outcome]) -> bool:
    """
    Whether an attempt has met a next hop that works: unless everybody is to be
    retried for a reason that is the hop's own (RFC 3463: X.3.X, its system,
    and X.4.X, the way to it; RFC 5321 §3.8: 421).
    """
    return not all(isinstance(one, Retry) and _isTheHops(one.reply) for one in outcomes)


def _isTheHops(reply: Reply) -> bool:
    return reply.code == 421 or (reply.enhanced or "").split(".")[1:2] in (["3"], ["4"])


@attrs.define
class _DestinationState:
    """
    @ivar running: attempts that are under way.
    @ivar limit: how many there may be.
    @ivar failures: attempts in a row that met no hop that works.
    @ivar backedOff: how often it has been backed off since it last worked.
    @ivar until: nothing is tried before that.
    @ivar probing: whether what is under way is the probe.
    @ivar said: what it said when it failed, and who said that.
    """

    running: int = 0
    limit: int = 1
    failures: int = 0
    backedOff: int = 0
    until: float = 0.0
    probing: bool = False
    said: tuple[Reply | None, str] = (None, "")


class Destinations:
    """
    @param clock: its C{seconds()} is the time.
    @param limit: attempts that may be under way at once in all.
    @param chance: returns numbers from 0 to 1, for jitter.
    """

    def __init__(self, clock: Any, limit: int, chance: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._chance = chance
        self._states: dict[str, _DestinationState] = {}
        self.limit = limit
        self._running = 0
        self._probes = 0

    @property
    def room(self) -> int:
        """How many more may begin."""
        return self.limit - self._running

    def begin(self, name: str, limit: int) -> bool:
        """
        An attempt wants to begin.

        @param limit: how many of them may be under way at once.
        @return: whether it may.
        """
        state = self._states.get(name)
        if state is None:
            state = _DestinationState()
        state.limit = limit
        if self.room <= 0 or self._free(state) <= 0:
            return False
        state.running += 1
        self._running += 1
        if state.failures >= FAILURES:
            state.probing = True
            self._probes += 1
        self._states[name] = state
        return True

    def _free(self, state: _DestinationState) -> int:
        if state.failures < FAILURES:
            return state.limit - state.running
        if state.running or self._clock.seconds() < state.until:
            return 0
        return 1 if self._probes < max(1, self.limit // 2) else 0

    def ended(
        self, name: str, alive: bool | None, said: tuple[Reply | None, str] = (None, "")
    ) -> float | None:
        """
        An attempt has ended.

        @param alive: whether it met a hop that works; L{None} if it did not
            come so far.
        @param said: what a hop that does not work said, and who said it.
        @return: for how many seconds the destination is to be left alone; 0 if
            it is no longer; L{None} if nothing changes.
        """
        state = self._states[name]
        state.running -= 1
        self._running -= 1
        if state.probing:
            state.probing = False
            self._probes -= 1
        wait: float | None = None
        if alive:
            wait = 0.0 if state.failures >= FAILURES else None
            state.failures = state.backedOff = 0
            state.until = 0.0
        elif alive is not None:
            wait = self._failed(state, said)
        if not state.running and not state.failures:
            del self._states[name]
        elif state.failures:
            self._remember(name, state)
        return wait

    def _failed(self, state: _DestinationState, said: tuple[Reply | None, str]) -> float | None:
        state.failures += 1
        state.said = said
        now = self._clock.seconds()
        if state.failures < FAILURES or now < state.until:
            return None
        wait = min(FIRST_SECONDS * 2**state.backedOff, LONGEST_SECONDS)
        wait *= 0.9 + 0.2 * self._chance()
        state.backedOff = min(state.backedOff + 1, 16)
        state.until = now + wait
        return wait

    def _remember(self, name: str, state: _DestinationState) -> None:
        """
        The newest trouble is remembered, the oldest forgotten: that costs one
        attempt too many.
        """
        self._states[name] = self._states.pop(name)
        if len(self._states) > REMEMBERED + self.limit:
            oldest = next((one for one, found in self._states.items() if not found.running), None)
            if oldest is not None:
                del self._states[oldest]

    def said(self, name: str) -> tuple[Reply | None, str]:
        """
        Why a destination is in trouble: what was said, and by whom.
        """
        state = self._states.get(name)
        return (None, "") if state is None else state.said

    def shares(self) -> dict[str, int]:
        """
        How many may begin, for the destinations where this is not simply their
        limit.
        """
        now = self._clock.seconds()
        return {
            name: self._free(state)
            for name, state in self._states.items()
            if state.running or state.until <= now
        }

    def forget(self) -> None:
        """
        The configuration has changed: what did not work may work now.
        """
        for name, state in list(self._states.items()):
            state.failures = state.backedOff = 0
            state.until = 0.0
            if not state.running:
                del self._states[name]

    def troubles(self) -> dict[str, Any]:
        """
        Who is in trouble, for people: at most a hundred.
        """
        now = self._clock.seconds()
        found = {
            name: {
                "failures": state.failures,
                "seconds": round(max(0.0, state.until - now)),
                "reply": None if state.said[0] is None else str(state.said[0]),
                "host": state.said[1],
            }
            for name, state in self._states.items()
            if state.failures >= FAILURES
        }
        return dict(list(found.items())[:100])
