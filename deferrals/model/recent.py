"""
What has happened lately: the events of the last transactions, and what each policy has
refused, marked and scored.  For pages; kept in memory, within bounds, and gone with the
process.

It is fed by the same events as the log and the counters.  An answer is what JSON can
carry, so that the parent of several processes can ask each, and make their answers one.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from deferrals.model.json import JSON, asInteger, asList, asNumber, asObject
from deferrals.model.scoretext import ScoreSeen, scoresIn
from deferrals.model.status import Values
from deferrals.model.text import word

#: The events that are kept.
KEPT = ("recipient", "transaction", "delivery", "late", "notice", "untold")

#: So many events are kept, so many transactions, and so many events of one; the rest
#: of these is only counted.
MAX_EVENTS = 5000
MAX_TRANSACTIONS = 1000
MAX_OF_ONE = 250

#: So many policies have what they have refused and marked, and so much of it.
MAX_POLICIES = 200
MAX_LATELY = 100

#: So many kinds of scores a policy has, and so many limits of one are told apart.
MAX_USES = 10
MAX_LIMITS = 20

#: Scores are counted in steps; the first and the last one have all that is beyond.
LOWEST, HIGHEST, STEP = -10.0, 40.0, 0.5
STEPS = int((HIGHEST - LOWEST) / STEP) + 2

#: What of an event a search may name.
_NAMES = ("transaction", "sender", "recipient", "alias", "client", "helo", "user", "messageId")

#: So much of a word of the log is kept.
_MAX_WORD = 250

#: An event with its time, in seconds since the epoch.
Kept = tuple[float, Values]


def stepOf(score: float) -> int:
    """
    Where a score is counted.
    """
    return max(0, min(STEPS - 1, int((score - LOWEST) // STEP) + 1))


@attrs.define
class _RecentTransaction:
    """
    @ivar events: what is kept of it.
    @ivar dropped: how many events are not.
    """

    events: list[Kept] = attrs.field(factory=list)
    dropped: int = 0


@attrs.define
class _ScoreCounts:
    """
    @ivar counts: how many recipients' copies had which score.
    @ivar limits: how often each pair of limits held.
    """

    counts: list[int] = attrs.field(factory=lambda: [0] * STEPS)
    limits: dict[tuple[float | None, float | None], int] = attrs.field(factory=dict)

    def add(self, seen: ScoreSeen) -> None:
        self.counts[stepOf(seen.score)] += 1
        key = seen.refuse, seen.mark
        if key in self.limits or len(self.limits) < MAX_LIMITS:
            self.limits[key] = self.limits.get(key, 0) + 1


@attrs.define
class _RecentPolicy:
    """
    @ivar lately: what was refused or marked.
    @ivar scores: by whose they are.
    """

    lately: deque[Kept] = attrs.field(factory=lambda: deque(maxlen=MAX_LATELY))
    scores: dict[str, _ScoreCounts] = attrs.field(factory=dict)


class RecentEvents:
    """
    @param now: the time of day, in seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._count = 0
        self._transactions: dict[str, _RecentTransaction] = {}
        self._policies: dict[str, _RecentPolicy] = {}

    def take(self, event: str, values: Values) -> None:
        """
        See L{Status.watch<deferrals.model.status.Status>}.
        """
        if event not in KEPT:
            return
        kept = self._now(), values
        self._keep(str(values.get("transaction", "")), kept, isEnd=event == "transaction")
        if event == "recipient":
            self._judged(kept)

    def _keep(self, number: str, kept: Kept, isEnd: bool) -> None:
        found = self._transactions.get(number)
        if found is None:
            found = self._transactions[number] = _RecentTransaction()
        if len(found.events) >= MAX_OF_ONE and not isEnd:
            found.dropped += 1
            return
        found.events.append(kept)
        self._count += 1
        while self._count > MAX_EVENTS or len(self._transactions) > MAX_TRANSACTIONS:
            oldest = self._transactions.pop(next(iter(self._transactions)))
            self._count -= len(oldest.events)

    def _judged(self, kept: Kept) -> None:
        _, values = kept
        name = str(values.get("cohort") or "").rpartition("/")[0]
        if not name:
            return
        policy = self._policies.get(name)
        if policy is None:
            if len(self._policies) >= MAX_POLICIES:
                return
            policy = self._policies[name] = _RecentPolicy()
        if values.get("marked") or not str(values.get("reply", "")).startswith("2"):
            policy.lately.append(kept)
        for seen in scoresIn(str(values.get("why") or "")):
            if seen.use in policy.scores or len(policy.scores) < MAX_USES:
                policy.scores.setdefault(seen.use, _ScoreCounts()).add(seen)

    def clear(self) -> None:
        """
        No page shows it any longer.
        """
        self._count = 0
        self._transactions.clear()
        self._policies.clear()

    # What is asked.

    def transactions(self, limit: int) -> JSON:
        """
        The ends of the last transactions, the newest first.
        """
        return [*itertools.islice(self._ends(), limit)]

    def _ends(self) -> Iterator[JSON]:
        for found in reversed(self._transactions.values()):
            for kept in found.events:
                if kept[1].get("event") == "transaction":
                    yield _said(kept)

    def events(self, number: str) -> JSON:
        """
        What is kept of a transaction: its events, and how many are not.
        """
        found = self._transactions.get(number)
        if found is None:
            return {"events": [], "dropped": 0}
        return {"events": [_said(kept) for kept in found.events], "dropped": found.dropped}

    def find(self, text: str, limit: int) -> JSON:
        """
        The transactions that have to do with an address, a domain, a Message-ID, a
        client, a login: the last event of each that says so, the newest first.
        """
        sought = word(text.strip().strip("<>").removeprefix("@"), _MAX_WORD).casefold()
        found: list[JSON] = []
        for one in reversed(self._transactions.values()):
            event = next((kept for kept in reversed(one.events) if _names(kept, sought)), None)
            if event is not None and sought:
                found.append(_said(event))
            if len(found) >= limit:
                break
        return found

    def policy(self, name: str) -> JSON:
        """
        What a policy has refused and marked lately, and the scores it has seen.
        """
        found = self._policies.get(name, _RecentPolicy())
        scores: dict[str, JSON] = {
            use: {
                "counts": [*one.counts],
                "limits": [[*pair, count] for pair, count in one.limits.items()],
            }
            for use, one in found.scores.items()
        }
        return {"lately": [_said(kept) for kept in reversed(found.lately)], "scores": scores}


def _names(kept: Kept, sought: str) -> bool:
    for key in _NAMES:
        value = kept[1].get(key)
        if isinstance(value, str) and value:
            text = value.casefold()
            if text == sought or text.rpartition("@")[2] == sought:
                return True
    return False


def _said(kept: Kept) -> JSON:
    """
    An event as the log's JSON has it; its time is a number.
    """
    when, values = kept
    found: dict[str, JSON] = {
        "time": when,
        "level": str(getattr(values.get("log_level"), "name", "info")),
        "logger": str(values.get("log_namespace", "")),
        "text": _line(values),
    }
    for key, value in values.items():
        if not key.startswith("log_"):
            found[key] = value if isinstance(value, str | int | float | None) else str(value)
    return found


def _line(values: Values) -> str:
    try:
        return str(values["log_format"]).format_map(values)
    except (KeyError, AttributeError, IndexError, TypeError, ValueError):
        return ""


# What several processes have seen.


def _when(event: JSON) -> float:
    return asNumber(asObject(event)["time"])


def mergedLists(said: Sequence[JSON], limit: int) -> JSON:
    """
    Events of several, the newest first.
    """
    found = [event for one in said for event in asList(one)]
    return sorted(found, key=_when, reverse=True)[:limit]


def mergedEvents(said: Sequence[JSON]) -> JSON:
    """
    What several have kept of one transaction.
    """
    ones = [asObject(one) for one in said]
    events = [event for one in ones for event in asList(one["events"])]
    dropped = sum(asInteger(one["dropped"]) for one in ones)
    return {"events": sorted(events, key=_when), "dropped": dropped}


def mergedPolicies(said: Sequence[JSON]) -> JSON:
    """
    What several know of one policy.
    """
    ones = [asObject(one) for one in said]
    scores: dict[str, JSON] = {}
    for one in ones:
        for use, found in asObject(one["scores"]).items():
            scores[use] = _added(asObject(scores[use]), asObject(found)) if use in scores else found
    return {"lately": mergedLists([one["lately"] for one in ones], MAX_LATELY), "scores": scores}


def _added(one: Mapping[str, JSON], other: Mapping[str, JSON]) -> JSON:
    pairs = zip(asList(one["counts"]), asList(other["counts"]), strict=True)
    limits: dict[tuple[JSON, JSON], int] = {}
    for refuse, mark, count in map(asList, (*asList(one["limits"]), *asList(other["limits"]))):
        limits[refuse, mark] = limits.get((refuse, mark), 0) + asInteger(count)
    return {
        "counts": [asInteger(first) + asInteger(second) for first, second in pairs],
        "limits": [[*pair, count] for pair, count in limits.items()],
    }
