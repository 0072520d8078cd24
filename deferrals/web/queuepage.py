"""
C{/queue}: which recipients wait, for what and since when; and what operators do with
them.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlencode

import attrs
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request
from twisted.web.template import Flattenable, Tag, tags

from deferrals.deferreds import SharedResult, TimeoutError, errorText, withDeadline
from deferrals.logger import Logger
from deferrals.model.ids import parseId
from deferrals.model.json import JSON, asInteger, asList, asNumber, asObject
from deferrals.model.selection import STATUSES, Selection, exactly
from deferrals.model.settings import parseSeconds
from deferrals.model.status import Status
from deferrals.web.answers import (
    BadRequest,
    Elsewhere,
    Outcome,
    Page,
    PageAnswer,
    parameter,
    parameters,
)
from deferrals.web.asking import Ask, ServerSaid, text
from deferrals.web.layout import (
    State,
    Viewer,
    badge,
    choice,
    field,
    hidden,
    notice,
    section,
    shown,
    span,
    table,
)
from deferrals.web.now import messageLink
from deferrals.web.visitors import ViewedPage, Visitors, clientOf, operatorOf

_log = Logger(namespace="deferrals.operator")

#: Recipients on a page, and how many times the server is asked for them: each time it
#: looks through some thousands.
ROWS, LOOKS = 50, 8

#: How long a cursor may be.
MAX_CURSOR = 600

#: So many changes may wait for one that is under way.
MAX_WAITING = 5

#: How long an operator's change is waited for, in seconds; it goes on behind that.
CHANGE_SECONDS = 8.0

VERBS = {"retry": "Try again now", "hold": "Hold", "release": "Release", "remove": "Remove"}

_DONE = {"retry": "due now", "hold": "held", "release": "released", "remove": "removed"}

#: What that is for those that are being delivered.
_ACTIVE = {
    "retry": "they were left alone",
    "hold": "they are held when that ends and has not delivered them",
    "release": "they go on",
    "remove": "they were not removed",
}

_FILTERS = ("from", "to", "destination", "status", "older", "newer")

_STATES: Mapping[str, State] = {"stuck": "bad", "damaged": "bad", "held": "wait"}


@attrs.frozen
class QueueFilter:
    """
    What of the queue is shown.

    @ivar said: the parameters that say so, as they came.
    """

    said: dict[str, str]
    ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: Request) -> QueueFilter:
        """
        @raise BadRequest: it is none.
        """
        said = {name: parameter(request, name) for name in _FILTERS if parameter(request, name)}
        ids = tuple(dict.fromkeys(one.strip().upper() for one in parameters(request, "id")))
        return cls(said, ids)

    @property
    def selection(self) -> Selection:
        """
        @raise BadRequest: there is none such.
        """
        status = self.said.get("status")
        if status is not None and status not in STATUSES:
            raise BadRequest(f"status: expected one of {', '.join(STATUSES)}")
        for one in self.ids:
            _checkId(one)
        sender = self.said.get("from")
        return Selection(
            self.ids,
            "" if sender == "<>" else sender,
            self.said.get("to"),
            self.said.get("destination"),
            status,
            _seconds(self.said, "older"),
            _seconds(self.said, "newer"),
        )

    def path(self, **more: str) -> str:
        """
        Where this is shown.
        """
        said = {**self.said, **more}
        return f"/queue?{urlencode(said)}" if said else "/queue"


def _checkId(number: str) -> None:
    try:
        parseId(number)
    except ValueError:
        raise BadRequest("id: expected a message's") from None


def _seconds(said: Mapping[str, str], name: str) -> float | None:
    value = said.get(name)
    if value is None:
        return None
    try:
        return float(parseSeconds(float(value) if value.isdigit() else value))
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"{name}: expected {error}") from None


def cursorText(after: JSON) -> str:
    """
    Where a page ended, for a link.
    """
    octets = json.dumps(after, separators=(",", ":")).encode("ascii")
    return base64.urlsafe_b64encode(octets).decode("ascii").rstrip("=")


def readCursor(written: str) -> JSON:
    """
    The inverse of L{cursorText}; C{None} for the beginning.

    @raise BadRequest: it is none of ours.
    """
    if not written:
        return None
    try:
        if len(written) > MAX_CURSOR:
            raise ValueError("too long")
        octets = base64.b64decode(written + "=" * (-len(written) % 4), b"-_", validate=True)
        found: JSON = json.loads(octets)
    except (ValueError, binascii.Error, RecursionError):
        raise BadRequest("after: expected where a page has ended") from None
    places = found.values() if isinstance(found, dict) else [found]
    keys = found if isinstance(found, dict) else ()
    if not (all(map(_isPlace, places)) and all(key.isdecimal() for key in keys)):
        raise BadRequest("after: expected where a page has ended")
    return found


def _isPlace(value: JSON) -> bool:
    if value is None:
        return True
    most = 1 << 62
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(one) is int and -most < one < most for one in value)
    )


class QueuePage(ViewedPage):
    """
    C{/queue}.

    @param changes: what operators do.
    """

    def __init__(
        self, clock: IReactorTime, visitors: Visitors, ask: Ask, changes: QueueChanges
    ) -> None:
        super().__init__(clock, visitors)
        self._ask = ask
        self._changes = changes

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See C{Resource}.
        """
        verb = path.decode("ascii", "replace")
        if verb in VERBS and not request.postpath:
            return ChangeAnswer(self._clock, self._visitors, verb, self._changes)
        return super().getChild(path, request)

    async def view(self, request: Request, viewer: Viewer) -> Outcome:
        chosen, after = QueueFilter.of(request), readCursor(parameter(request, "after"))
        numbers = await self._ask("numbers")
        rows, end, said = await self._rows(chosen.selection, after)
        content = [
            *_told(request),
            *said.remarks(),
            _summary(asObject(numbers.result)) if after is None else "",
            _filter(chosen),
            _list(chosen, rows, end, viewer, isFirst=after is None),
        ]
        return Page("Queue", content, viewer, "/queue")

    async def _rows(
        self, selection: Selection, after: JSON
    ) -> tuple[list[Mapping[str, JSON]], JSON, ServerSaid]:
        """
        A page, of what a bounded part of the queue has.
        """
        rows: list[Mapping[str, JSON]] = []
        said = ServerSaid(None)
        for _ in range(LOOKS):
            said = await self._ask("look", selection.toJSON(), ROWS - len(rows), after)
            found, after = asList(said.result)
            rows += map(asObject, asList(found))
            if after is None or len(rows) >= ROWS:
                break
        return rows, after, said


def _told(request: Request) -> Iterator[Flattenable]:
    """
    What an operator's change has come to.
    """
    verb, count = parameter(request, "did"), parameter(request, "count")
    if verb not in _DONE:
        return
    if not count.isdecimal():
        yield notice("This takes a while and goes on; the log says when it has ended.", "wait")
        return
    yield notice(f"{int(count[:12]):,} recipients: {_DONE[verb]}.", "good")
    active, missing = parameter(request, "active"), parameter(request, "missing")
    if active.isdecimal():
        yield notice(f"{int(active[:12]):,} are being delivered now: {_ACTIVE[verb]}.", "wait")
    if missing.isdecimal():
        yield notice(f"{int(missing[:3])} workers did not answer: theirs are as they were.", "bad")


def _summary(queue: Mapping[str, JSON]) -> Tag:
    rows: list[list[Flattenable]] = []
    found = [asObject(one) for one in asList(queue["deliveries"])]
    found.sort(key=lambda one: -asNumber(one["oldest_seconds"]))
    for one in found:
        status = text(one, "status")
        link = tags.a(badge(status, _STATES.get(status, "plain")), href=f"/queue?status={status}")
        count = tags.span(f"{asInteger(one['recipients']):,}", class_="number")
        rows.append(
            [shown(text(one, "delivery")), link, count, span(asNumber(one["oldest_seconds"]))]
        )
    ages = [
        tags.li(tags.a(f"older than {age}", href=f"/queue?older={age}"))
        for age in ("1h", "4h", "1d")
    ]
    heads = ["Delivery", "Status", "Recipients", "The oldest"]
    return section(
        f"{asInteger(queue['messages']):,} messages",
        table("What waits, by delivery", heads, rows, "The queue is empty."),
        _destinations([asObject(one) for one in asList(queue["destinations"])]),
        tags.ul(ages, class_="ways", **{"aria-label": "By age"}) if rows else "",
    )


def _destinations(found: Sequence[Mapping[str, JSON]]) -> Flattenable:
    """
    What is not being delivered, by where it is to go.
    """
    rows: list[list[Flattenable]] = []
    for one in found:
        name = text(one, "destination")
        link = tags.a(shown(name), href=f"/queue?{urlencode({'destination': exactly(name)})}")
        count = tags.span(f"{asInteger(one['recipients']):,}", class_="number")
        place: Flattenable = link if name else "not known yet"
        rows.append([place, count, span(asNumber(one["oldest_seconds"]))])
    heads = ["Destination", "Recipients", "The oldest"]
    title = "What waits, by destination, the most first"
    return table(title, heads, rows) if rows else ""


def _filter(chosen: QueueFilter) -> Tag:
    said = chosen.said
    states = [("", "any"), *((one, one) for one in STATUSES)]
    made = tags.form(
        field("From", "from", said.get("from", ""), size="16", placeholder="*@example.org, <>"),
        field("To", "to", said.get("to", ""), size="16", placeholder="*@example.net"),
        field("Destination", "destination", said.get("destination", ""), size="16"),
        choice("Status", "status", states, said.get("status", "")),
        field("Older than", "older", said.get("older", ""), placeholder="2h", size="6"),
        field("Newer than", "newer", said.get("newer", ""), placeholder="1d", size="6"),
        tags.button("Show", type="submit"),
        tags.a("All", href="/queue", class_="button"),
        method="get",
        action="/queue",
        class_="filter",
        role="search",
        **{"aria-label": "Filter"},
    )
    return section("Which", made)


def _list(
    chosen: QueueFilter,
    rows: Sequence[Mapping[str, JSON]],
    end: JSON,
    viewer: Viewer,
    isFirst: bool,
) -> Tag:
    heads = ["Message", "Age", "Status", "Sender", "Recipient", "Destination", "Last said"]
    made: list[Flattenable] = [
        table(
            "Recipients, the oldest first",
            heads,
            [list(_row(one, viewer)) for one in rows],
            "Nothing here is so; there may be some further on." if end else "None.",
        )
    ]
    if viewer.mayOperate and rows:
        made += _actions(chosen, viewer)
    ways = tags.p()
    if not isFirst:
        ways(tags.a("To the beginning", href=chosen.path(), class_="button"), " ")
    if end is not None:
        ways(
            tags.a("Further", href=chosen.path(after=cursorText(end)), class_="button", rel="next")
        )
    form = tags.form(made, method="post") if viewer.mayOperate else made
    return section("Recipients", form, ways)


def _row(one: Mapping[str, JSON], viewer: Viewer) -> Iterator[Flattenable]:
    number, status = text(one, "id"), text(one, "status")
    link: Flattenable = messageLink(number)
    if viewer.mayOperate:
        name = f"choose the message {number} to {text(one, 'recipient')}"
        box = tags.input(type="checkbox", name="id", value=number, **{"aria-label": name})
        link = [box, link]
    yield link
    yield span(asNumber(one["age_seconds"]))
    yield badge(_state(one, status), _STATES.get(status, "plain"))
    yield shown(f"<{text(one, 'sender')}>")
    yield shown(f"<{text(one, 'recipient')}>")
    place = text(one, "destination") or text(one, "delivery")
    destination = {"destination": exactly(text(one, "destination"))}
    isLink = bool(text(one, "destination"))
    yield tags.a(shown(place), href=f"/queue?{urlencode(destination)}") if isLink else shown(place)
    said = " ".join(filter(None, (text(one, "host"), text(one, "reply"))))
    yield shown(f"{text(one, 'attempts')}x: {said}" if said else f"{text(one, 'attempts')}x", 300)


def _state(one: Mapping[str, JSON], status: str) -> str:
    due = asNumber(one["due_seconds"])
    return (f"in {span(due)}" if due > 0 else "due") if status == "queued" else status


def _actions(chosen: QueueFilter, viewer: Viewer) -> list[Flattenable]:
    """
    What an operator may do with those that are chosen, or with all that are shown.
    """
    found: list[Flattenable] = [hidden("csrf", viewer.csrf)]
    found += [hidden(name, value) for name, value in chosen.said.items()]
    if chosen.said:
        box = tags.input(type="checkbox", name="all", value="yes", id="f-all")
        label = tags.label(box, "all that the filter finds, on other pages, too", for_="f-all")
        found.append(tags.p(label))
    buttons = tags.div(tags.span(**{"data-all": "id"}), class_="actions")
    for verb in ("retry", "hold", "release"):
        buttons(tags.button(VERBS[verb], type="submit", formaction=f"/queue/{verb}"))
    gone = tags.button("Remove for good", type="submit", formaction="/queue/remove")
    sentence = "They are taken out of the queue, and their senders are not told. "
    more = tags.details(tags.summary("Remove …"), tags.p(sentence, gone))
    return [*found, buttons, more]


class QueueChanges:
    """
    What operators do with the queue: one thing after the other.

    @param ask: asks the server.
    @param status: where what operators do is counted.
    """

    def __init__(self, ask: Ask, status: Status) -> None:
        self._ask = ask
        self._status = status
        self._lock = DeferredLock()

    async def make(
        self, viewer: Viewer, client: str, verb: str, selection: Selection
    ) -> ChangeMade:
        """
        Change all that are selected; the log says who has done it.

        @param client: where the operator is.
        """
        if len(self._lock.waiting) >= MAX_WAITING:
            raise BadRequest("Other changes are under way: wait until they have ended.", 503)
        await self._lock.acquire()
        changed, outcome = ChangeMade(), "failed"
        try:
            after: JSON = None
            while True:
                said = await self._ask("change", verb, selection.toJSON(), after)
                count, active, after = asList(said.result)
                changed = changed.plus(asInteger(count), asInteger(active), said.missing)
                if after is None:
                    break
            outcome = "done"
        finally:
            self._tell(viewer, client, verb, selection, changed, outcome)
            self._lock.release()
        return changed

    def _tell(
        self,
        viewer: Viewer,
        client: str,
        verb: str,
        selection: Selection,
        changed: ChangeMade,
        outcome: str,
    ) -> None:
        _log.tell(
            self._status,
            "{user} at {client}: {action} of {recipients} recipients ({selection}) {outcome}",
            event="operator",
            user=viewer.name,
            client=client,
            action=verb,
            recipients=changed.count,
            selection=selectionText(selection),
            outcome=outcome,
        )


@attrs.frozen
class ChangeMade:
    """
    What a change has come to.

    @ivar count: how many recipients were changed.
    @ivar active: how many are being delivered.
    @ivar missing: the workers that have not contributed.
    """

    count: int = 0
    active: int = 0
    missing: frozenset[int] = frozenset()

    def plus(self, count: int, active: int, missing: Iterable[int]) -> ChangeMade:
        """
        @return: what both are together.
        """
        return ChangeMade(self.count + count, self.active + active, self.missing | {*missing})


def selectionText(selection: Selection) -> str:
    """
    A selection for the log, and not too long.
    """
    said = selection.toJSON().items()
    texts = [
        f"{name}={' '.join(value) if isinstance(value, list) else value}"
        for name, value in said
        if value is not None and value != []
    ]
    return " ".join(texts)[:1000]


class ChangeAnswer(PageAnswer):
    """
    C{/queue/VERB}.
    """

    methods = (b"POST",)

    def __init__(
        self, clock: IReactorTime, visitors: Visitors, verb: str, changes: QueueChanges
    ) -> None:
        super().__init__(clock)
        self._visitors = visitors
        self._verb = verb
        self._changes = changes

    async def act(self, request: Request) -> Outcome:
        viewer = await operatorOf(request, self._visitors)
        chosen = QueueFilter.of(request)
        if parameter(request, "all"):
            chosen = attrs.evolve(chosen, ids=())
        elif not chosen.ids:
            raise BadRequest("Choose what is to be changed.")
        selection = chosen.selection
        if selection.isEverything:
            raise BadRequest("Choose what is to be changed: a filter, or messages.")
        made = self._changes.make(viewer, clientOf(request), self._verb, selection)
        whole: SharedResult[ChangeMade] = SharedResult(Deferred.fromCoroutine(made))
        whole.wait().addErrback(_notChanged)  # it does not end with whoever waits for it
        try:
            changed = await withDeadline(self._clock, CHANGE_SECONDS, whole.wait)
        except TimeoutError:
            return Elsewhere(chosen.path(did=self._verb, count="later"))
        more = {name: str(value) for name, value in _numbers(changed) if value}
        return Elsewhere(chosen.path(did=self._verb, count=str(changed.count), **more))


def _numbers(changed: ChangeMade) -> Iterator[tuple[str, int]]:
    yield "active", changed.active
    yield "missing", len(changed.missing)


def _notChanged(failure: Failure) -> None:
    if not failure.check(BadRequest):
        _log.error("a change of the queue has failed: {error}", error=errorText(failure))
