"""
C{/}: what the server does now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlencode

from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request
from twisted.web.template import Flattenable, Tag, tags

from deferrals.model.json import JSON, asInteger, asList, asNumber, asObject
from deferrals.model.selection import exactly
from deferrals.model.status import BUCKETS
from deferrals.web.answers import Outcome, Page
from deferrals.web.asking import Ask, ServerSaid, text
from deferrals.web.layout import (
    State,
    Viewer,
    badge,
    facts,
    moment,
    section,
    shown,
    span,
    table,
)
from deferrals.web.looks import PERIODS, REPLIES, Looks, Period, within
from deferrals.web.plots import Bar, bars
from deferrals.web.visitors import ViewedPage, Visitors

#: So many of the last transactions are shown, and of destinations in trouble.
RECENT, TROUBLES = 20, 50

#: Where the script finds what happens, and the page of each message.
_LIVE = {"data-live-source": "/events", "data-live-message": "/message/"}

#: The columns of transactions, as the script has them, too.
COLUMNS = ("When", "Id", "Client", "Sender", "Accepted", "Answer")

_STATES: Mapping[str, State] = {"working": "good", "probing": "wait", "resting": "bad"}

_REASONS = {
    "starting": "it is starting",
    "spool": "the spool cannot be written, or has no room: see the log",
    "listeners": "it does not listen everywhere",
    "stopping": "it is stopping",
    "workers": "none of its workers runs",
}

_WAITS = {
    "rcpt": "after RCPT TO",
    "recipient": "after the data, for a recipient's reply",
    "final": "after the data, for the final reply",
}


class NowPage(ViewedPage):
    """
    See the module.
    """

    def __init__(self, clock: IReactorTime, visitors: Visitors, ask: Ask, looks: Looks) -> None:
        super().__init__(clock, visitors)
        self._ask = ask
        self._looks = looks

    async def view(self, request: Request, viewer: Viewer) -> Outcome:
        said = await self._ask("status")
        numbers, recent = await self._ask("numbers"), await self._ask("recent", RECENT)
        status, parts = asObject(said.result), asObject(asObject(said.result)["parts"])
        periods = {name: self._looks.period(seconds) for name, seconds in PERIODS.items()}
        content = [
            *said.remarks(),
            _readiness(status),
            _figures(status, numbers),
            tags.div(_funnel(periods), _ladder(periods["hour"]), class_="columns"),
            _latency(periods["hour"]),
            tags.div(_scanners(parts), _destinations(parts), class_="columns"),
            *_workers(status, said),
            _recent(asList(recent.result)),
        ]
        return Page("Now", content, viewer, "/")


def _readiness(status: Mapping[str, JSON]) -> Tag:
    text, state = _ready(status)
    made = tags.p(tags.span(text, **{"data-live": "ready"}), role="status")
    return made(class_=f"notice {state}")


def _ready(status: Mapping[str, JSON]) -> tuple[str, State]:
    reasons = [str(one) for one in asList(status.get("reasons") or [])]
    if not reasons:
        return "Mail is taken.", "good"
    return f"No mail is taken: {', '.join(_REASONS.get(one, one) for one in reasons)}.", "bad"


def _figures(status: Mapping[str, JSON], numbers: ServerSaid) -> Tag:
    queue = asObject(numbers.result)
    live = liveTexts({**status})
    pairs: list[tuple[str, Flattenable]] = [
        (name.capitalize() + " a minute", tags.span(str(live[name]), **{"data-live": name}))
        for name in ("transactions", "accepted", "refused")
    ]
    pairs += [
        ("Messages in the queue", tags.a(f"{asInteger(queue['messages']):,}", href="/queue")),
        ("The oldest is", span(asNumber(queue["oldest_seconds"]))),
        ("Version", text(status, "version")),
        ("Runs for", span(asNumber(status.get("uptime_seconds") or 0))),
    ]
    return section("In short", facts(pairs), tags.div(**_LIVE))


def liveTexts(status: dict[str, JSON]) -> dict[str, JSON]:
    """
    What a script puts into the page while it is looked at, by name.
    """
    rates = asObject(status.get("rates") or {})
    found: dict[str, JSON] = {
        name: f"{asNumber(rates.get(name) or 0):g}"
        for name in ("transactions", "accepted", "refused")
    }
    found["ready"] = _ready(status)[0]
    return found


_FUNNEL: tuple[tuple[str, Callable[[Period], int], State], ...] = (
    ("Recipients answered", lambda one: _answered(one), "plain"),
    ("Envelope: accepted", lambda one: one.of("verdict", "envelope", "accepted"), "good"),
    ("Envelope: refused for now", lambda one: one.of("verdict", "envelope", "later"), "wait"),
    ("Envelope: refused", lambda one: one.of("verdict", "envelope", "refused"), "bad"),
    ("Content: accepted", lambda one: one.of("verdict", "content", "accepted"), "good"),
    ("Content: refused for now", lambda one: one.of("verdict", "content", "later"), "wait"),
    ("Content: refused", lambda one: one.of("verdict", "content", "refused"), "bad"),
    ("Delivery: delivered", lambda one: one.of("delivery", "delivered"), "good"),
    ("Delivery: thrown away", lambda one: one.of("delivery", "discarded"), "wait"),
    ("Delivery: to be tried again", lambda one: one.of("delivery", "retry"), "wait"),
    (
        "Delivery: failed",
        lambda one: one.of("delivery", "failed") + one.of("delivery", "expired"),
        "bad",
    ),
)


def _answered(period: Period) -> int:
    return sum(count for key, count in period.counts.items() if key[0] == "verdict")


def _funnel(periods: Mapping[str, Period]) -> Tag:
    """
    What becomes of recipients, from step to step.
    """
    rows: list[list[Flattenable]] = [
        [badge(name, state), *(_number(count(one)) for one in periods.values())]
        for name, count, state in _FUNNEL
    ]
    hour = periods["hour"]
    drawn = [
        Bar("Answered", _answered(hour), f"{_answered(hour):,}"),
        Bar("To content", _at(hour, "content"), f"{_at(hour, 'content'):,}"),
        Bar("Accepted", _accepted(hour), f"{_accepted(hour):,}", "good"),
        Bar("Delivered", hour.of("delivery", "delivered"), _delivered(hour), "good"),
    ]
    return section(
        "What becomes of recipients",
        bars(
            "Recipients of the last hour: answered, judged on content, accepted, delivered", drawn
        ),
        table(_since(periods["day"]), ["Step", *periods], rows, figures=True),
    )


def _since(day: Period) -> str:
    said = "Recipients within the last minute, hour and day"
    isWhole = day.seconds >= PERIODS["day"]
    return said if isWhole else f"{said}, counted for {span(day.seconds)} so far"


def _at(period: Period, stage: str) -> int:
    return sum(n for key, n in period.counts.items() if key[:2] == ("verdict", stage))


def _accepted(period: Period) -> int:
    stages = ("envelope", "content")
    return sum(period.of("verdict", stage, "accepted") for stage in stages)


def _delivered(period: Period) -> str:
    return f"{period.of('delivery', 'delivered'):,}"


def _number(count: int) -> Tag:
    return tags.span(f"{count:,}", class_="number")


def _ladder(hour: Period) -> Tag:
    """
    How senders were told.
    """
    rungs = hour.rungs()
    total = sum(count for _, count in rungs)
    title = "How senders were answered, within the last hour"
    if not rungs:
        return section("The ladder of answers", tags.p("Nothing within the last hour."))
    drawn = [Bar(name, count, f"{count:,}") for name, count in rungs]
    rows: list[list[Flattenable]] = [
        [name, _number(count), f"{100 * count / total:.1f} %"] for name, count in rungs
    ]
    return section(
        "The ladder of answers",
        bars(title, drawn),
        table(title, ["Rung", "Transactions", "Share"], rows, figures=True),
    )


def _latency(hour: Period) -> Tag:
    rows: list[list[Flattenable]] = []
    for reply in REPLIES:
        counts = hour.waited(reply)
        quantiles = [_bound(within(counts, share)) for share in (0.5, 0.95, 0.99)]
        rows.append([_WAITS[reply], _number(sum(counts)), *quantiles])
    heads = ["Wait", "Replies", "Half within", "95 % within", "99 % within"]
    title = "How long clients waited, within the last hour"
    return section("How long replies take", table(title, heads, rows, figures=True))


def _bound(seconds: float | None) -> str:
    if seconds is None:
        return "–"  # noqa: RUF001 -- nothing to tell
    if seconds == float("inf"):
        return f"over {BUCKETS['replies'][-1]:g} s"
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _scanners(parts: Mapping[str, JSON]) -> Tag:
    rows = [list(_service(name, part)) for name, part in parts.items() if _isService(part)]
    heads = ["Service", "State", "Under way", "Last error"]
    nothing = "Nothing is asked of others."
    return section(
        "Scanners and tables", table("What this server asks of others", heads, rows, nothing)
    )


def _isService(part: JSON) -> bool:
    return isinstance(part, dict) and part.get("state") in _STATES


def _service(name: str, part: JSON) -> Iterator[Flattenable]:
    one = asObject(part)
    yield shown(name)
    yield badge(text(one, "state"), _STATES[text(one, "state")])
    yield text(one, "under_way")
    yield shown(text(one, "last_error"))


def _destinations(parts: Mapping[str, JSON]) -> Tag:
    found = asObject(parts.get("destinations") or {})
    rows: list[list[Flattenable]] = []
    for name, trouble in list(found.items())[:TROUBLES]:
        one = asObject(trouble)
        said = " ".join(filter(None, (text(one, key) for key in ("host", "reply", "cause"))))
        link = tags.a(shown(name), href=f"/queue?{urlencode({'destination': exactly(name)})}")
        rows.append([link, text(one, "failures"), span(asNumber(one["seconds"])), shown(said)])
    heads = ["Destination", "Failures", "Again in", "Last said"]
    return section(
        "Destinations in trouble",
        table("Destinations that are left alone for a while", heads, rows, "None."),
    )


def _workers(status: Mapping[str, JSON], said: ServerSaid) -> Iterator[Tag]:
    workers = [asObject(one) for one in asList(status.get("workers") or [])]
    if workers:
        rows = [list(_worker(one, said)) for one in workers]
        heads = ["Worker", "State", "For", "Process", "Begun again"]
        yield section("Workers", table("The processes of this server", heads, rows))


def _worker(one: Mapping[str, JSON], said: ServerSaid) -> Iterator[Flattenable]:
    number = asInteger(one["worker"])
    isGood = one["state"] == "running" and number not in said.missing
    yield str(number)
    yield badge("does not answer" if number in said.missing else text(one, "state"), _how(isGood))
    yield span(asNumber(one["seconds"]))
    yield text(one, "pid")
    yield text(one, "restarts")


def _how(isGood: bool) -> State:
    return "good" if isGood else "bad"


def _recent(found: list[JSON]) -> Tag:
    rows = [transactionRow(asObject(one)) for one in found]
    made = table("The last transactions, the newest first", COLUMNS, rows, live="transactions")
    return section("Lately", made)


def transactionRow(one: Mapping[str, JSON]) -> list[Flattenable]:
    """
    The end of a transaction, under L{COLUMNS}.
    """
    return [
        moment(asNumber(one["time"])),
        messageLink(text(one, "transaction")),
        shown(text(one, "client")),
        shown(f"<{text(one, 'sender')}>"),
        f"{text(one, 'accepted')} of {text(one, 'recipients')}",
        shown(text(one, "reply"), 200),
    ]


def messageLink(number: str) -> Tag:
    """
    The way to a message's page.
    """
    return tags.a(shown(number), href=f"/message/{number}", class_="id")
