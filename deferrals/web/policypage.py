"""
C{/policy/NAME}: what a policy has refused and marked lately; and its limits over the
scores that it has seen, so that one sees what another limit would do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import quote

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request
from twisted.web.template import Flattenable, Tag, tags

from deferrals.model.json import JSON, asInteger, asList, asNumber, asObject
from deferrals.model.recent import LOWEST, STEP
from deferrals.model.status import Status
from deferrals.web.answers import BadRequest, Outcome, Page, parameter
from deferrals.web.asking import Ask, text
from deferrals.web.layout import Viewer, badge, field, moment, section, shown, table
from deferrals.web.now import messageLink
from deferrals.web.plots import LimitMark, histogram
from deferrals.web.visitors import ViewedPage, Visitors

#: So many limits are drawn.
MAX_DRAWN = 6


@attrs.frozen
class Scoring:
    """
    A stage of a policy that has a score.

    @ivar use: its name.
    @ivar refuse: the policy's limit, from which on it refuses; C{None} where its
        scanner says that.
    @ivar mark: likewise, for a mark.
    """

    use: str
    refuse: float | None = None
    mark: float | None = None


#: The policies there are, with their stages that have scores.
Policies = Mapping[str, Sequence[Scoring]]


class PolicyPages(ViewedPage):
    """
    C{/policy}, and all beneath it.

    @param policies: those of the configuration.
    @param status: what was counted.
    """

    def __init__(
        self,
        clock: IReactorTime,
        visitors: Visitors,
        ask: Ask,
        policies: Policies,
        status: Callable[[], Status],
    ) -> None:
        super().__init__(clock, visitors)
        self._ask = ask
        self._policies = policies
        self._status = status

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See C{Resource}.
        """
        name = path.decode("utf-8", "replace")
        if name not in self._policies:
            return self.missing("No policy has such a name.")
        return PolicyPage(self._clock, self._visitors, self._ask, name, self._policies[name])

    async def view(self, request: Request, viewer: Viewer) -> Outcome:
        counts: dict[str, dict[str, int]] = {name: {} for name in self._policies}
        for kind, count in self._status().kinds("verdicts").items():
            _, name, code = kind if isinstance(kind, tuple) else ("", "", "")
            if name in counts:
                found = counts[name]
                found[code[:1]] = found.get(code[:1], 0) + count
        rows: list[list[Flattenable]] = [
            [tags.a(name, href=policyPath(name)), *(f"{found.get(one, 0):,}" for one in "245")]
            for name, found in counts.items()
        ]
        heads = ["Policy", "Accepted", "Refused for now", "Refused"]
        content = section(
            "All", table("Recipients, since the server began", heads, rows, figures=True)
        )
        return Page("Policies", content, viewer, "/policy")


class PolicyPage(ViewedPage):
    """
    C{/policy/NAME}.

    @param name: the policy's.
    @param scorings: its stages that have scores.
    """

    def __init__(
        self,
        clock: IReactorTime,
        visitors: Visitors,
        ask: Ask,
        name: str,
        scorings: Sequence[Scoring],
    ) -> None:
        super().__init__(clock, visitors)
        self._ask = ask
        self._name = name
        self._scorings = scorings

    async def view(self, request: Request, viewer: Viewer) -> Outcome:
        at = _at(parameter(request, "at"))
        said = await self._ask("policy", self._name)
        found = asObject(said.result)
        scores = {use: asObject(one) for use, one in asObject(found["scores"]).items()}
        known = {one.use: one for one in self._scorings}
        content = [
            *said.remarks(),
            *(
                _scores(self._name, known.get(use, Scoring(use)), one, at)
                for use, one in scores.items()
            ),
            *(_none(one) for one in self._scorings if one.use not in scores),
            _lately(asList(found["lately"])),
        ]
        return Page(f"Policy {self._name}", content, viewer, "/policy")


def policyPath(name: str) -> str:
    """
    Where a policy's page is, whatever there is in its name.
    """
    return f"/policy/{quote(name, safe='')}"


def _at(written: str) -> float | None:
    """
    Another limit.

    @raise BadRequest: it is no number.
    """
    if not written:
        return None
    try:
        found = float(written)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise BadRequest("at: expected a score")
    return found


def _none(scoring: Scoring) -> Tag:
    return section(f"Scores of {scoring.use}", tags.p("None since the server began."))


def _scores(name: str, scoring: Scoring, seen: Mapping[str, JSON], at: float | None) -> Tag:
    """
    The scores of one stage, and its limits.
    """
    counts = [asInteger(one) for one in asList(seen["counts"])]
    limits = _limits(scoring, seen)
    marks = [*limits, LimitMark(at, f"at {at:g}", "good")] if at is not None else limits
    total = sum(counts)
    title = f"{total:,} recipients' mail by its score from {scoring.use}"
    rows: list[list[Flattenable]] = [
        [f"{one.label}", f"{_above(counts, one.score):,}", _share(counts, one.score)]
        for one in marks
    ]
    rows += [
        [f"{score:g}", f"{_above(counts, score):,}", _share(counts, score)]
        for score in _others(counts, marks)
    ]
    ask = tags.form(
        field(
            "Another limit", "at", "" if at is None else f"{at:g}", inputmode="decimal", size="6"
        ),
        tags.button("Show what it would do", type="submit"),
        method="get",
        action=policyPath(name),
        class_="filter",
    )
    return section(
        f"Scores of {scoring.use}",
        histogram(title, counts, LOWEST, STEP, marks),
        tags.p(_whose(scoring), class_="quiet"),
        ask,
        table("What a limit meets", ["Limit", "Recipients", "Share"], rows, figures=True),
    )


def _whose(scoring: Scoring) -> str:
    said = "Counted since the server began, in steps of half a point."
    if scoring.refuse is None:
        return f"{said} Where no limit stands, {scoring.use} itself says what is refused."
    return f"{said} Recipients may have limits of their own; those are drawn, too."


def _limits(scoring: Scoring, seen: Mapping[str, JSON]) -> list[LimitMark]:
    """
    The policy's limits, and those that recipients of their own have met, most often
    first.
    """
    refuse: dict[float, int] = {} if scoring.refuse is None else {scoring.refuse: 1 << 40}
    mark: dict[float, int] = {} if scoring.mark is None else {scoring.mark: 1 << 40}
    for first, second, count in map(asList, asList(seen["limits"])):
        for kinds, limit in ((refuse, first), (mark, second)):
            if limit is not None:
                kinds[asNumber(limit)] = kinds.get(asNumber(limit), 0) + asInteger(count)
    found = [LimitMark(one, f"refuse {one:g}", "bad") for one in _most(refuse)]
    return found + [LimitMark(one, f"mark {one:g}", "wait") for one in _most(mark)]


def _most(limits: Mapping[float, int]) -> list[float]:
    known = [one for one in limits if math.isfinite(one)]
    return sorted(sorted(known, key=lambda one: -limits[one])[: MAX_DRAWN // 2])


def _others(counts: Sequence[int], marks: Iterable[LimitMark]) -> list[float]:
    """
    Whole scores around those that there are, as further limits to look at.
    """
    used = [number for number, count in enumerate(counts) if count]
    if not used:
        return []
    first = math.floor(LOWEST + (used[0] - 1) * STEP)
    last = math.ceil(LOWEST + used[-1] * STEP)
    known = {one.score for one in marks}
    every = max(1, (last - first) // 12)
    return [float(one) for one in range(first, last + 1, every) if one not in known]


def _above(counts: Sequence[int], score: float) -> int:
    """
    How many have this score at least, as far as steps tell.
    """
    first = max(0, math.ceil((score - LOWEST) / STEP) + 1)
    return sum(counts[first:])


def _share(counts: Sequence[int], score: float) -> str:
    total = sum(counts)
    return f"{100 * _above(counts, score) / total:.1f} %" if total else ""


def _lately(found: list[JSON]) -> Tag:
    rows: list[list[Flattenable]] = []
    for one in map(asObject, found):
        isRefused = not text(one, "reply").startswith("2")
        isForNow = text(one, "reply").startswith("4")
        what = "refused for now" if isForNow else "refused" if isRefused else "marked"
        rows.append(
            [
                moment(asNumber(one["time"])),
                messageLink(text(one, "transaction")),
                badge(what, "bad" if isRefused and not isForNow else "wait"),
                shown(f"<{text(one, 'sender')}>"),
                shown(f"<{text(one, 'recipient')}>"),
                shown(text(one, "reply"), 200),
                shown(text(one, "why"), 200),
            ]
        )
    heads = ["When", "Message", "What", "Sender", "Recipient", "Reply", "Why"]
    nothing = "Nothing lately."
    return section("Refused and marked lately", table("The newest first", heads, rows, nothing))
