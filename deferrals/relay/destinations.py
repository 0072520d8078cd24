"""
How many attempts may be under way to each destination at once, and which
destinations are left alone for a while.

A destination that fails again and again is backed off as a whole: what waits
for it is not tried, however much and however due it is, except for one message
now and then, the probe.  The first one that meets a hop that is alive opens it
for all.  Destinations in trouble never take more than a quarter of all slots, so
that those which work keep theirs.

Nor does one kind of mail (of one delivery: notices, what one login has sent, what
has come from outside) ever take more than three quarters of the slots that it
finds free.  A stranger who is asked for notices at a hundred silent servers of
its own, or a login that sends to them, so stops mail of its own kind alone.

Nor do servers that are silent.  So many attempts to one destination may wait for an
answer: few where it has not answered lately, half of its own limit otherwise.  All
that wait where nothing has answered lately have half of the slots, of which no kind
takes more than three quarters.  A destination has answered when an attempt meets a hop
that is alive: what was under way to it then counts as answered, too.  And what is
delivered on this machine has a quarter of the slots for itself.

The spool is told when a destination is due again.  What is known of those in trouble
is kept in the server's notes: after a restart they are still in trouble, and each has
one probe at once, since what kept it from working may just have been mended.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypedDict

import attrs
from cachetools import TTLCache
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import asDeferred
from deferrals.interfaces import INotes
from deferrals.logger import Logger
from deferrals.model.backoff import Backoff
from deferrals.model.json import JSON
from deferrals.model.portion import WHOLE, Portion
from deferrals.model.reply import Reply
from deferrals.model.verdict import NO_DETAILS, Details, Outcome, Retry

_log = Logger(namespace="deferrals.delivery")

#: So many attempts in a row have to fail before a destination is backed off.
FAILURES = 3

#: How long at first; twice as long each time; never longer.
FIRST_SECONDS, LONGEST_SECONDS = 60.0, 1800.0

#: Of one kind there may be so many times as many attempts as slots are free.
KIND_TIMES = 3

#: So many attempts to a destination may wait for an answer, where it has not answered
#: for so long, in seconds.
UNANSWERED, ANSWERED_SECONDS = 5, 600.0

#: Fewer slots than this may all wait for a first answer.
FEW = 4

#: The kind and the group of the notes, and how long they are kept.
NOTES, GROUP, NOTED_SECONDS = "backoff", "destinations", LONGEST_SECONDS

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


def hopReport(outcomes: Iterable[Outcome]) -> HopReport | None:
    """
    What outcomes say of the next hop.  It works unless all recipients are to be
    tried again for a reason that is the hop's own (RFC 3463: X.3.X, its system,
    and X.4.X, the way to it; RFC 5321 §3.8: 421).

    @return: C{None} where they say nothing: what was missing was this server's.
    """
    found = list(outcomes)
    retries = [one for one in found if isinstance(one, Retry)]
    isAlive = len(retries) < len(found)
    if not isAlive:
        if all(one.details.isOurs for one in retries):
            return None
        isAlive = not all(_isTheHops(one.reply) for one in retries)
    return HopReport(isAlive, found[0].reply, found[0].host, found[0].details)


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
    @ivar isLocal: whether its mail is delivered on this machine.
    @ivar unanswered: those that wait for an answer.
    @ivar unknown: those of them that began when it had not answered lately, by kind.
    @ivar probing: whether what is under way is the probe.
    @ivar backoff: its failures in a row, and until when it is left alone.
    @ivar report: what it said when it failed.
    """

    running: int = 0
    limit: int = 1
    isLocal: bool = False
    unanswered: int = 0
    unknown: dict[Hashable, int] = attrs.field(factory=dict)
    probing: bool = False
    backoff: Backoff = attrs.field(
        factory=lambda: Backoff(
            tolerated=FAILURES, firstSeconds=FIRST_SECONDS, longestSeconds=LONGEST_SECONDS
        )
    )
    report: HopReport = _UNKNOWN


@attrs.frozen
class Sort:
    """
    Attempts that the same others are in the way of.

    @ivar kind: those that share their slots.
    @ivar isLocal: whether they are delivered on this machine.
    @ivar isKnown: whether they are, or the destination has answered lately.
    """

    kind: Hashable
    isLocal: bool
    isKnown: bool


def _noteOf(state: _DestinationState) -> JSON:
    report, backoff = state.report, state.backoff
    return {
        "failures": backoff.failures,
        "seconds": backoff.nextSeconds,
        "reply": None if report.reply is None else str(report.reply),
        "host": report.host,
    }


def _resumed(value: JSON) -> _DestinationState | None:
    """
    @return: what a note says; C{None} where it is none.
    """
    if not isinstance(value, dict):
        return None
    failures, seconds = value.get("failures"), value.get("seconds")
    reply, host = value.get("reply"), value.get("host")
    if not (isinstance(failures, int) and isinstance(seconds, int | float) and seconds > 0):
        return None
    try:
        said = Reply.parse(reply) if isinstance(reply, str) else None
    except ValueError:
        said = None
    state = _DestinationState(report=HopReport(False, said, host if isinstance(host, str) else ""))
    state.backoff.resume(failures, seconds)
    return state


def _notNoted(failure: Failure, name: str) -> None:
    _log.warn("{name}: not noted: {error}", name=name, error=failure.getErrorMessage())


class Destinations:
    """
    @param clock: its C{seconds()} is the time.
    @param limit: attempts that may be under way at once in all.
    @param chance: returns numbers from 0 to 1, for jitter.
    @param notes: keep what is known of those in trouble; C{None} where the process
        forgets it.
    """

    def __init__(
        self,
        clock: IReactorTime,
        limit: int,
        chance: Callable[[], float] = random.random,
        notes: INotes | None = None,
    ) -> None:
        self._clock = clock
        self._notes = notes
        self._chance = chance
        self._states: dict[str, _DestinationState] = {}
        self.limit = self._whole = limit
        self._portion = WHOLE
        self._running = 0
        self._kinds: defaultdict[Hashable, int] = defaultdict(int)
        self._probes = 0
        self._outside = 0
        self._unknown: Counter[Hashable] = Counter()
        self._answered: TTLCache[str, None] = TTLCache(
            REMEMBERED, ANSWERED_SECONDS, timer=clock.seconds
        )

    async def load(self) -> None:
        """
        Go on with what the process before has known.
        """
        if self._notes is None:
            return
        found: Sequence[tuple[str, JSON, int]]
        found = await asDeferred(self._notes.find, NOTES, GROUP)
        for name, value, _ in found:
            state = _resumed(value)
            if state is not None:
                self._states.setdefault(name, state)

    def heard(self, group: str, name: str, value: JSON) -> None:
        """
        Another process of this server has met trouble; or, C{None}, has found that it is
        over.  What is under way here goes on.
        """
        state = self._states.get(name) or _DestinationState()
        if value is None:
            state.backoff.succeeded()
            return
        found = _resumed(value)
        if found is None or state.backoff.isTroubled:
            return
        seconds = found.backoff.nextSeconds
        until = self._clock.seconds() + seconds / 2  # it is twice what is waited for now
        state.backoff.resume(found.backoff.failures, seconds, until)
        state.report = found.report
        self._remember(name, state)

    def limitTo(self, limit: int) -> None:
        """
        So many attempts may be under way at once in all: this process's part of them.
        """
        self._whole, self.limit = limit, self._portion.of(limit)

    def shareWith(self, portion: Portion) -> None:
        """
        Others deliver to the same destinations.

        @param portion: what this process has of what there may be at once; what is
            delivered on this machine it has whole.
        """
        self._portion = portion
        self.limitTo(self._whole)

    @property
    def room(self) -> int:
        """How many more may begin."""
        return self.limit - self._running

    def isCrowded(self, kind: Hashable) -> bool:
        """
        Whether no attempt of a kind may begin now, wherever it goes.
        """
        return self._kinds.get(kind, 0) >= KIND_TIMES * self.room

    def isSilent(self, kind: Hashable) -> bool:
        """
        Whether no attempt of a kind may begin now where nothing has answered lately.
        """
        room = max(min(FEW, self.limit), self.limit // 2) - self._unknown.total()
        return self._unknown[kind] >= KIND_TIMES * room

    def sort(self, name: str, kind: Hashable, *, isLocal: bool) -> Sort:
        """
        What decides whether others are in the way of an attempt.
        """
        return Sort(kind, isLocal, isLocal or self.hasAnswered(name))

    def hasAnswered(self, name: str) -> bool:
        """
        Whether a destination has done so lately.
        """
        return name in self._answered

    def isBlocked(self, sort: Sort) -> bool:
        """
        Whether others are in the way of all attempts of a sort, so that they have to wait
        until some of those have ended.
        """
        if self.isCrowded(sort.kind) or (not sort.isLocal and self.isFullOutside):
            return True
        return not sort.isKnown and self.isSilent(sort.kind)

    @property
    def isFullOutside(self) -> bool:
        """
        Whether no attempt may begin now that leads away from this machine.
        """
        return self._outside >= max(1, self.limit - self.limit // 4)

    def begin(self, name: str, limit: int | None, kind: Hashable, *, isLocal: bool = False) -> bool:
        """
        An attempt wants to begin.

        @param limit: how many of them may be under way at once; C{None}, as many as there
            may be in all.
        @param kind: which attempts share their slots with it.
        @param isLocal: whether it is delivered on this machine.
        @return: whether it may.
        """
        state = self._states.get(name) or _DestinationState()
        if state.running:
            isLocal = state.isLocal  # two deliveries may have one name for where they lead
        if limit is None:
            limit = self.limit
        elif not isLocal and self._portion is not WHOLE:
            limit = self._portion.of(limit)
        state.limit, state.isLocal = limit, isLocal
        sort = self.sort(name, kind, isLocal=isLocal)
        if self.isBlocked(sort) or self._free(name, state) <= 0:
            return False
        state.running += 1
        self._running += 1
        self._kinds[kind] += 1
        if not isLocal:
            state.unanswered += 1
            self._outside += 1
        if not sort.isKnown:
            state.unknown[kind] = state.unknown.get(kind, 0) + 1
            self._unknown[kind] += 1
        if state.backoff.isTroubled:
            state.probing = True
            self._probes += 1
        self._states[name] = state
        return True

    def _free(self, name: str, state: _DestinationState) -> int:
        if not state.isLocal and self.isFullOutside:
            return 0
        if not state.backoff.isTroubled:
            free = state.limit - state.running
            if state.isLocal:
                return free
            most = max(UNANSWERED, state.limit // 2) if name in self._answered else UNANSWERED
            return min(free, most - state.unanswered)
        if state.running or state.backoff.remaining(self._clock.seconds()):
            return 0
        return 1 if self._probes < max(1, self.limit // 4) else 0

    def ended(
        self, name: str, report: HopReport | None, kind: Hashable, began: float | None = None
    ) -> float | None:
        """
        An attempt has ended.

        @param report: what it met; C{None} if it did not come so far.
        @param kind: as when it began.
        @param began: when that was.
        @return: for how many seconds the destination is to be left alone; 0 if
            it is no longer; C{None} if nothing changes.
        """
        state = self._states[name]
        state.running -= 1
        self._running -= 1
        self._kinds[kind] -= 1
        if not self._kinds[kind]:
            del self._kinds[kind]
        if not state.isLocal:
            self._outside -= 1
        if report is not None and report.isAlive:
            self._heard(name, state)
        else:
            state.unanswered = min(state.unanswered, state.running)
            self._leave(state, {kind: 1} if kind in state.unknown else {})
        if state.probing:
            state.probing = False
            self._probes -= 1
        seconds = None if report is None else self._met(name, state, report, began)
        if state.backoff.failures:
            self._remember(name, state)
        elif not state.running:
            del self._states[name]
        return seconds

    def _heard(self, name: str, state: _DestinationState) -> None:
        """
        It has answered.
        """
        if not state.isLocal:
            self._answered[name] = None
        state.unanswered = 0
        self._leave(state, dict(state.unknown))

    def _leave(self, state: _DestinationState, attempts: Mapping[Hashable, int]) -> None:
        """
        These attempts, by kind, do not wait for a server any longer that has not answered.
        """
        for kind, count in attempts.items():
            for unknown in (self._unknown, state.unknown):
                unknown[kind] -= count
                if not unknown[kind]:
                    del unknown[kind]

    def _met(
        self, name: str, state: _DestinationState, report: HopReport, began: float | None
    ) -> float | None:
        if report.isAlive:
            if not state.backoff.succeeded():
                return None
            self._note(name, None)
            return 0.0
        state.report = report
        jitter = 0.9 + 0.2 * self._chance()
        seconds = state.backoff.failed(self._clock.seconds(), jitter, began)
        if seconds is not None:
            self._note(name, state)
        return seconds

    def _note(self, name: str, state: _DestinationState | None) -> None:
        """
        Keep what is known of a destination; C{None} that it works.
        """
        if self._notes is None:
            return
        if state is None:
            noted: Deferred[int] | Deferred[None] = self._notes.forget(NOTES, GROUP, name)
        else:
            noted = self._notes.put(NOTES, GROUP, name, _noteOf(state), NOTED_SECONDS)
        noted.addErrback(_notNoted, name)

    def _remember(self, name: str, state: _DestinationState) -> None:
        """
        The newest trouble is remembered, the oldest forgotten: that costs one
        attempt too many.
        """
        self._states.pop(name, None)
        self._states[name] = state
        if len(self._states) > REMEMBERED + self.limit:
            oldest = next((one for one, found in self._states.items() if not found.running), None)
            if oldest is not None:
                del self._states[oldest]

    def isTroubled(self, name: str) -> bool:
        """
        Whether a destination is left alone, or probed.
        """
        state = self._states.get(name)
        return state is not None and state.backoff.isTroubled

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
        found = ((name, self.free(name)) for name in self._states)
        return {name: free for name, free in found if free is not None}

    def free(self, name: str) -> int | None:
        """
        The same for one destination; C{None} where it is simply its limit.
        """
        state = self._states.get(name)
        if state is None or not (
            state.running or not state.backoff.remaining(self._clock.seconds())
        ):
            return None
        return self._free(name, state)

    def remaining(self, name: str) -> float:
        """
        For how many seconds a destination is still left alone.
        """
        state = self._states.get(name)
        return 0.0 if state is None else state.backoff.remaining(self._clock.seconds())

    def hasten(self, name: str) -> None:
        """
        A destination is not left alone any longer: the next attempt says whether it works.
        """
        state = self._states.get(name)
        if state is not None:
            state.backoff.hasten(self._clock.seconds())

    def forget(self) -> None:
        """
        The configuration has changed: what did not work may work now.
        """
        for name, state in list(self._states.items()):
            if state.backoff.succeeded():
                self._note(name, None)
            if not state.running:
                del self._states[name]

    @property
    def backedOff(self) -> int:
        """
        How many destinations are in trouble.
        """
        return sum(state.backoff.isTroubled for state in self._states.values())

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
