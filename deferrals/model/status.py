"""
What an operator can see of a running server: counters, times, and what each part
says of itself.  Kept in memory, and gone with the process.

Everything is counted here, and once: C{deferrals status} and C{/metrics} both show
these numbers.
"""

from __future__ import annotations

import contextlib
import weakref
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from deferrals.model.json import JSON, asInteger, asList, asNumber, asObject

#: What says of itself how it is, by name.
Parts: TypeAlias = "Mapping[str, Callable[[], Any]]"

#: Which kind of something: a word, or one for each of its sides.
Kind: TypeAlias = "str | tuple[str, ...]"

#: What an event says.  The log takes anything.
Values: TypeAlias = Mapping[str, object]

#: Counts an event by what it says.
Counting: TypeAlias = "Callable[[Status, Values], None]"

#: Is told an event, by its name, with what it says.  It must not fail.
Watch: TypeAlias = Callable[[str, Values], None]

#: So many events are counted at once, if nobody looks before.
AT_ONCE = 200

#: So many kinds there may be of one thing; what is beyond is counted as C{OTHER}.
MOST_KINDS = 2000
OTHER = "other"

#: The upper ends of the buckets of what is timed or measured, by name.
BUCKETS: Mapping[str, Sequence[float]] = {
    "replies": (0.001, 0.005, 0.025, 0.1, 0.5, 2, 10, 50),
    "mixed": (10, 60, 600, 3600, 21600),
    "commit seconds": (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
    "commit messages": (1, 2, 5, 10, 20, 50, 100, 200),
}

#: What people are told of the buckets of C{"mixed"}.
_SPANS = ("< 10 s", "< 10 min", "< 10 min", "< 1 h", ">= 1 h", ">= 1 h")

_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300)


class Histogram:
    """
    How large something was, each time.

    @param bounds: the upper ends of all buckets but the last one.
    @ivar counts: how often each bucket was met.
    @ivar total: the sum of all.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0


class Status:
    """
    One per server; handed to each part that has something to tell.

    @ivar ofStages: what the stages in force show, by name.  A reload sets it: a
        service that is no longer asked is no longer seen.
    @ivar watch: is told each event, where there are pages that show it.
    """

    def __init__(self) -> None:
        self._counters: dict[str, dict[Kind, int]] = {}
        self._histograms: dict[str, dict[Kind, Histogram]] = {}
        self.ofStages: Parts = {}
        self.watch: Watch | None = None
        self._parts: dict[str, Callable[[], Any]] = {}
        self._collecting: dict[str, Callable[[], Any]] | None = None
        self._uses: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()
        self._waiting: list[tuple[Counting, Values]] = []

    def later(self, count: Counting, values: Values) -> None:
        """
        An event has happened, and is counted before anybody looks: many at once, which
        costs a fraction of one by one.

        @param count: counts it; it must not fail.
        @param values: what the event says; they do not change any more.
        """
        self._waiting.append((count, values))
        if len(self._waiting) >= AT_ONCE:
            self._settle()

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        for count, values in waiting:
            count(self, values)

    def count(self, name: str, kind: Kind, by: int = 1) -> None:
        """
        Something has happened.

        @param name: what is counted, e.g. C{"transactions"}.
        @param kind: which kind of it, e.g. C{"prdr"}; never an address.
        """
        try:
            self._counters[name][kind] += by
        except KeyError:
            kinds = self._counters.setdefault(name, {})
            kind = _bounded(kind, kinds)
            kinds[kind] = kinds.get(kind, 0) + by

    def counted(self, name: str, kind: Kind) -> int:
        """
        How often it has happened.
        """
        self._settle()
        return self._counters.get(name, {}).get(kind, 0)

    def kinds(self, name: str) -> dict[Kind, int]:
        """
        How often each kind of it has happened.
        """
        self._settle()
        return dict(self._counters.get(name, {}))

    def measure(self, name: str, kind: Kind, amount: float) -> None:
        """
        Something took so many seconds, or had such a size.
        """
        try:
            histogram = self._histograms[name][kind]
        except KeyError:
            histogram = self._histogram(name, kind)
        histogram.counts[bisect_left(histogram.bounds, amount)] += 1
        histogram.total += amount

    def _histogram(self, name: str, kind: Kind) -> Histogram:
        """
        That of a kind which was not measured before.
        """
        kinds = self._histograms.setdefault(name, {})
        bounds = BUCKETS.get(name, _BUCKETS)
        return kinds.setdefault(_bounded(kind, kinds), Histogram(bounds))

    def measured(self, name: str) -> dict[Kind, Histogram]:
        """
        What was measured, of each kind.
        """
        self._settle()
        return dict(self._histograms.get(name, {}))

    # For another process, which adds up what several count.

    def dump(self) -> dict[str, JSON]:
        """
        All that was counted and measured, as JSON can carry it.
        """
        self._settle()
        counters: dict[str, JSON] = {}
        for name, kinds in self._counters.items():
            counters[name] = [[kind, count] for kind, count in kinds.items()]
        histograms: dict[str, JSON] = {}
        for name, measured in self._histograms.items():
            histograms[name] = [[kind, [*one.counts], one.total] for kind, one in measured.items()]
        return {"counters": counters, "histograms": histograms}

    def add(self, dump: Mapping[str, JSON]) -> None:
        """
        Count what another process has counted.

        @param dump: what L{dump} has made there.
        """
        for name, kinds in asObject(dump["counters"]).items():
            for kind, count in map(asList, asList(kinds)):
                self.count(name, _kind(kind), asInteger(count))
        for name, kinds in asObject(dump["histograms"]).items():
            for kind, counts, total in map(asList, asList(kinds)):
                histogram = self._histogram(name, _kind(kind))
                histogram.total += asNumber(total)
                for bucket, count in enumerate(asList(counts)):
                    histogram.counts[bucket] += asInteger(count)

    def named(self, stage: object, use: str) -> None:
        """
        A stage is what a configuration calls C{use}.
        """
        with contextlib.suppress(TypeError):  # it cannot be referred to weakly
            self._uses[stage] = use

    def useOf(self, stage: object) -> str:
        """
        What a configuration calls a stage; otherwise the name of its class.
        """
        try:
            return self._uses.get(stage) or type(stage).__name__
        except Exception:  # what others wrote may have any hash
            return type(stage).__name__

    def show(self, part: str, describe: Callable[[], Any]) -> None:
        """
        A part of the server says what state it is in.

        @param part: its name, e.g. C{"rspamd http://127.0.0.1:11333"}; the last
            one to use a name counts.
        @param describe: returns what JSON can carry.
        """
        collecting = self._parts if self._collecting is None else self._collecting
        collecting[part] = describe

    @contextlib.contextmanager
    def collecting(self) -> Iterator[Parts]:
        """
        What is shown meanwhile is put there, and not seen until that is said.
        """
        before, found = self._collecting, dict[str, Callable[[], Any]]()
        self._collecting = found
        try:
            yield found
        finally:
            self._collecting = before

    def parts(self) -> dict[str, object]:
        """
        What each part says.
        """
        parts = {**self._parts, **self.ofStages}
        return {part: describe() for part, describe in parts.items()}

    def snapshot(self) -> dict[str, Any]:
        """
        Everything, as JSON can carry it.
        """
        self._settle()
        counters = {name: _worded(kinds) for name, kinds in self._counters.items()}
        for histogram in self._histograms.get("mixed", {}).values():
            counters["seconds to the last recipient"] = _spans(histogram)
        return {"counters": counters, "parts": self.parts()}


def _kind(kind: JSON) -> Kind:
    return kind if isinstance(kind, str) else tuple(map(str, asList(kind)))


def _bounded(kind: Kind, known: Mapping[Kind, object]) -> Kind:
    if kind in known or len(known) < MOST_KINDS:
        return kind
    return OTHER if isinstance(kind, str) else (OTHER,) * len(kind)


def _spans(histogram: Histogram) -> dict[str, int]:
    """
    For people, of what is measured by the bounds of C{"mixed"}.
    """
    found: Counter[str] = Counter()
    for name, count in zip(_SPANS, histogram.counts, strict=True):
        found[name] += count
    return {name: count for name, count in found.items() if count}


def _worded(kinds: Mapping[Kind, int]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for kind, count in kinds.items():
        found[kind if isinstance(kind, str) else " ".join(filter(None, kind))] += count
    return dict(found)
