"""
How many attempts may be under way to each destination at once, and which
destinations are left alone for a while.

A destination that fails again and again is backed off as a whole: what waits
for it is not tried, however much and however due it is, except for one message
now and then, the probe.  The first one that meets a hop that is alive opens it
for all.  Destinations in trouble never take more than half of all slots, so
that those which work keep theirs.

Nor does one kind of mail (of one delivery: notices, what one login has sent, what
has come from outside) ever take more than three quarters of the slots that it
finds free.  A stranger who is asked for notices at a hundred silent servers of
its own, or a login that sends to them, so stops mail of its own kind alone.

What is known here lives with the process; the spool is told when a destination
is due again.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypedDict

import attrs
from twisted.internet.interfaces import IReactorTime

from deferrals.model.backoff import Backoff
from deferrals.model.reply import Reply
from deferrals.model.verdict import NO_DETAILS, Details, Outcome, Retry

#: So many attempts in a row have to fail before a destination is backed off.
FAILURES = 3

#: How long at first; twice as long each time; never longer.
FIRST_SECONDS, LONGEST_SECONDS = 60.0, 1800.0

#: Of one kind there may be so many times as many attempts as slots are free.
KIND_TIMES = 3

#: So many destinations in trouble are remembered.
REMEMBERED = 10_000

#: So many of them are shown to the operator.
SHOWN = 100


@attrs.frozen
class HopReport:
    """
    What an attempt met at its next hop.

    @ivar isAlive: whether that works.
    @ivar reply: what it said.
    @ivar host: its name.
    @ivar details: what else there is to know.
    """

    isAlive: bool
    reply: Reply | None = None
    host: str = ""
    details: Details = attrs.field(default=NO_DETAILS, eq=False)


def hopReport(outcomes: Iterable[Outcome]) -> HopReport:
    """
    What outcomes say of the next hop.  It works unless all recipients are to be
    tried again for a reason that is the hop's own (RFC 3463: X.3.X, its system,
    and X.4.X, the way to it; RFC 5321 §3.8: 421).
    """
    found = list(outcomes)
    isDead = all(isinstance(one, Retry) and _isTheHops(one.reply) for one in found)
    return HopReport(not isDead, found[0].reply, found[0].host, found[0].details)


def _isTheHops(reply: Reply) -> bool:
    return reply.code == 421 or (reply.enhanced or "").split(".")[1:2] in (["3"], ["4"])


#: A destination of which nothing is known works.
_UNKNOWN = HopReport(True)


class Trouble(TypedDict):
    """
    A destination in trouble, as C{deferrals status} shows it.
    """

    failures: int
    seconds: int
    reply: str | None
    host: str
    cause: str


@attrs.define
class _DestinationState:
    """
    @ivar running: attempts that are under way.
    @ivar limit: how many there may be.
    @ivar probing: whether what is under way is the probe.
    @ivar backoff: its failures in a row, and until when it is left alone.
    @ivar report: what it said when it failed.
    """

    running: int = 0
    limit: int = 1
    probing: bool = False
    backoff: Backoff = attrs.field(
        factory=lambda: Backoff(
            tolerated=FAILURES, firstSeconds=FIRST_SECONDS, longestSeconds=LONGEST_SECONDS
        )
    )
    report: HopReport = _UNKNOWN


class Destinations:
    """
    @param clock: its C{seconds()} is the time.
    @param limit: attempts that may be under way at once in all.
    @param chance: returns numbers from 0 to 1, for jitter.
    """

    def __init__(
        self, clock: IReactorTime, limit: int, chance: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._states: dict[str, _DestinationState] = {}
        self.limit = limit
        self._running = 0
        self._kinds: Counter[Hashable] = Counter()
        self._probes = 0

    @property
    def room(self) -> int:
        """How many more may begin."""
        return self.limit - self._running

    def isCrowded(self, kind: Hashable) -> bool:
        """
        Whether no attempt of a kind may begin now, wherever it goes.
        """
        return self._kinds[kind] >= KIND_TIMES * self.room

    def begin(self, name: str, limit: int, kind: Hashable) -> bool:
        """
        An attempt wants to begin.

        @param limit: how many of them may be under way at once.
        @param kind: which attempts share their slots with it.
        @return: whether it may.
        """
        state = self._states.get(name) or _DestinationState()
        state.limit = limit
        if self.isCrowded(kind) or self._free(state) <= 0:
            return False
        state.running += 1
        self._running += 1
        self._kinds[kind] += 1
        if state.backoff.isTroubled:
            state.probing = True
            self._probes += 1
        self._states[name] = state
        return True

    def _free(self, state: _DestinationState) -> int:
        if not state.backoff.isTroubled:
            return state.limit - state.running
        if state.running or state.backoff.remaining(self._clock.seconds()):
            return 0
        return 1 if self._probes < max(1, self.limit // 2) else 0

    def ended(self, name: str, report: HopReport | None, kind: Hashable) -> float | None:
        """
        An attempt has ended.

        @param report: what it met; C{None} if it did not come so far.
        @param kind: as when it began.
        @return: for how many seconds the destination is to be left alone; 0 if
            it is no longer; C{None} if nothing changes.
        """
        state = self._states[name]
        state.running -= 1
        self._running -= 1
        self._kinds[kind] -= 1
        if not self._kinds[kind]:
            del self._kinds[kind]
        if state.probing:
            state.probing = False
            self._probes -= 1
        seconds = None if report is None else self._met(state, report)
        if state.backoff.failures:
            self._remember(name, state)
        elif not state.running:
            del self._states[name]
        return seconds

    def _met(self, state: _DestinationState, report: HopReport) -> float | None:
        if report.isAlive:
            return 0.0 if state.backoff.succeeded() else None
        state.report = report
        return state.backoff.failed(self._clock.seconds(), jitter=0.9 + 0.2 * self._chance())

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

    def lastReport(self, name: str) -> HopReport:
        """
        Why a destination is in trouble.
        """
        state = self._states.get(name)
        return _UNKNOWN if state is None else state.report

    def shares(self) -> dict[str, int]:
        """
        How many may begin, for the destinations where this is not simply their
        limit.
        """
        now = self._clock.seconds()
        return {
            name: self._free(state)
            for name, state in self._states.items()
            if state.running or not state.backoff.remaining(now)
        }

    def forget(self) -> None:
        """
        The configuration has changed: what did not work may work now.
        """
        for name, state in list(self._states.items()):
            state.backoff.succeeded()
            if not state.running:
                del self._states[name]

    def troubles(self) -> dict[str, Trouble]:
        """
        The destinations in trouble, for the operator: not more than L{SHOWN}.
        """
        now = self._clock.seconds()
        found: dict[str, Trouble] = {}
        for name, state in self._states.items():
            if state.backoff.isTroubled and len(found) < SHOWN:
                report = state.report
                found[name] = {
                    "failures": state.backoff.failures,
                    "seconds": round(state.backoff.remaining(now)),
                    "reply": None if report.reply is None else str(report.reply),
                    "host": report.host,
                    "cause": report.details.cause,
                }
        return found
