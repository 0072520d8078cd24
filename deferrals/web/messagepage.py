"""
C{/message/ID}: what became of a message, recipient by recipient and stage by stage; and
what was said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request
from twisted.web.template import Flattenable, Tag, tags

from deferrals.model.ids import parseId
from deferrals.model.json import JSON, asInteger, asList, asNumber, asObject
from deferrals.web.answers import Outcome, Page
from deferrals.web.asking import Ask, text
from deferrals.web.layout import (
    State,
    Viewer,
    badge,
    facts,
    moment,
    notice,
    octets,
    section,
    shown,
    span,
    table,
)
from deferrals.web.visitors import ViewedPage, Visitors

#: So many recipients have their story on the page, and so many lines are said.
MAX_RECIPIENTS, MAX_LINES = 200, 400

Event = Mapping[str, JSON]


class MessagePages(ViewedPage):
    """
    C{/message}, and all beneath it.
    """

    def __init__(self, clock: IReactorTime, visitors: Visitors, ask: Ask) -> None:
        super().__init__(clock, visitors)
        self._ask = ask

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See C{Resource}.
        """
        number = path.decode("ascii", "replace").upper()
        try:
            parseId(number)
        except ValueError:
            return self.missing("No message has such an id.")
        return MessagePage(self._clock, self._visitors, self._ask, number)

    async def view(self, request: Request, viewer: Viewer) -> Outcome:
        """
        See L{ViewedPage}: by itself it shows none.
        """
        return await self.missing("Which message?").view(request, viewer)


@attrs.frozen
class MessageKnown:
    """
    What is known of a message.

    @ivar events: what has happened lately.
    @ivar dropped: how many events are not kept.
    @ivar spool: what the queue knows; C{None} for nothing.
    """

    events: Sequence[Event]
    dropped: int
    spool: Event | None

    def of(self, name: str) -> list[Event]:
        """
        The events of one kind.
        """
        return [one for one in self.events if one.get("event") == name]

    @property
    def end(self) -> Event | None:
        """
        How the transaction has ended.
        """
        return next(iter(self.of("transaction")), None)


class MessagePage(ViewedPage):
    """
    See the module.

    @param number: the message's id.
    """

    def __init__(self, clock: IReactorTime, visitors: Visitors, ask: Ask, number: str) -> None:
        super().__init__(clock, visitors)
        self._ask = ask
        self._number = number

    async def view(self, request: Request, viewer: Viewer) -> Outcome:
        kept, shown_ = (
            await self._ask("events", self._number),
            await self._ask("show", self._number),
        )
        events = [asObject(one) for one in asList(asObject(kept.result)["events"])]
        dropped = asInteger(asObject(kept.result)["dropped"])
        spool = None if shown_.result is None else asObject(shown_.result)
        known = MessageKnown(events, dropped, spool)
        title = f"Message {self._number}"
        if not events and spool is None:
            said = (
                "Nothing is known of it here. The pages keep the last transactions only; "
                "deferrals explain finds it in the logs."
            )
            return Page(title, [*shown_.remarks(), notice(said, "wait")], viewer, code=404)
        content = [
            *shown_.remarks(),
            _gone(known),
            _transaction(known),
            _stories(known),
            _queued(known),
            _transcript(known),
            _history(known),
        ]
        return Page(title, content, viewer)


def _gone(known: MessageKnown) -> Flattenable:
    if not known.dropped:
        return ""
    return notice(f"{known.dropped} of its events are not kept: the log has them.", "wait")


def _transaction(known: MessageKnown) -> Flattenable:
    end, pairs = known.end, list[tuple[str, Flattenable]]()
    if end is not None:
        pairs = [
            ("Ended", moment(asNumber(end["time"]))),
            ("Client", shown(text(end, "client"))),
            ("It calls itself", shown(text(end, "helo"))),
            ("TLS", shown(text(end, "tls") or "none")),
            ("Login", shown(text(end, "user") or "none")),
            ("Sender", shown(f"<{text(end, 'sender')}>")),
            ("Message-ID", shown(text(end, "messageId") or "none")),
            ("Size", octets(asNumber(end["size"]))),
            ("Answered as", text(end, "rung")),
            ("Accepted", f"{text(end, 'accepted')} of {text(end, 'recipients')}"),
            ("Took", f"{text(end, 'milliseconds')} ms"),
            ("Reply", shown(text(end, "reply"))),
        ]
    elif known.spool is not None and not known.spool["gone"]:
        envelope = known.spool["envelope"]
        sender = text(envelope, "sender") if isinstance(envelope, dict) else ""
        pairs = [
            ("Came", moment(asNumber(known.spool["received"]))),
            ("Size", octets(asNumber(known.spool["size"]))),
            ("Sender", shown(f"<{sender}>")),
        ]
    return section("The transaction", facts(pairs)) if pairs else ""


def _recipients(known: MessageKnown) -> dict[str, list[Event]]:
    """
    The events of each recipient.
    """
    found: dict[str, list[Event]] = {}
    for one in known.events:
        address = text(one, "recipient")
        if address:
            found.setdefault(address, []).append(one)
    return found


def _stories(known: MessageKnown) -> Flattenable:
    """
    What became of each recipient, step by step.
    """
    found = _recipients(known)
    parts: list[Flattenable] = []
    for address, events in list(found.items())[:MAX_RECIPIENTS]:
        steps = [tags.li(_step(one)) for one in events]
        parts.append(
            [tags.h3(shown(f"<{address}>"), " ", _latest(events)), tags.ol(steps, class_="steps")]
        )
    if len(found) > MAX_RECIPIENTS:
        parts.append(tags.p(f"{len(found) - MAX_RECIPIENTS} further recipients are not shown."))
    return section("Recipient by recipient", *parts) if parts else ""


def _latest(events: Sequence[Event]) -> Tag:
    last = events[-1]
    if last.get("event") == "delivery":
        outcome = text(last, "outcome")
        states: dict[str, State] = {"delivered": "good", "retry": "wait", "discarded": "wait"}
        return badge(outcome, states.get(outcome, "bad"))
    return badge(*_answer(text(last, "reply")))


def _answer(reply: str) -> tuple[str, State]:
    found: dict[str, tuple[str, State]] = {
        "2": ("accepted", "good"),
        "4": ("refused for now", "wait"),
        "5": ("refused", "bad"),
    }
    return found.get(reply[:1], ("", "plain"))


def _step(one: Event) -> Flattenable:
    name, when = text(one, "event"), [moment(asNumber(one["time"])), " "]
    if name == "recipient":
        why = f" [{text(one, 'why')}]" if one.get("why") else ""
        marked = [" ", badge("marked", "wait")] if one.get("marked") else ""
        cohort = f", {text(one, 'cohort')}" if one.get("cohort") else ""
        took = f" ({text(one, 'milliseconds')} ms)"
        said = shown(f"{text(one, 'reply')}{why}")
        return [when, tags.b(f"{text(one, 'stage')}{cohort}: "), said, marked, took]
    if name == "delivery":
        by = f"attempt {text(one, 'attempt')} by {text(one, 'delivery')}"
        more = (text(one, key) for key in ("outcome", "host", "reply", "cause", "tls"))
        took = f" ({text(one, 'seconds')} s)" if "seconds" in one else ""
        where = shown(by if one.get("delivery") else "none")
        return [when, tags.b("delivery, ", where, ": "), shown(" ".join(filter(None, more))), took]
    return [when, tags.b(name, ": "), shown(text(one, "text"))]


def _queued(known: MessageKnown) -> Flattenable:
    """
    Those that are still in the queue.
    """
    if known.spool is None or known.spool["gone"]:
        return ""
    rows: list[list[Flattenable]] = []
    for one in map(asObject, asList(known.spool["recipients"])[:MAX_RECIPIENTS]):
        due = asNumber(one["due_seconds"])
        rows.append(
            [
                shown(f"<{text(one, 'recipient')}>"),
                badge(text(one, "status")),
                f"in {span(due)}" if due > 0 else "now",
                text(one, "attempts"),
                shown(text(one, "destination") or text(one, "delivery")),
                shown(" ".join(filter(None, (text(one, "host"), text(one, "reply"))))),
            ]
        )
    heads = ["Recipient", "Status", "Due", "Attempts", "Destination", "Last said"]
    return section("In the queue", table("Recipients that wait", heads, rows, "None."))


def _transcript(known: MessageKnown) -> Flattenable:
    """
    The dialogue, as far as the log has it.
    """
    end = known.end
    if end is None:
        return ""
    lines = list(_dialogue(known, end))
    made = [
        tags.li(tags.span(f"{side}:", class_=f"side {kind}"), shown(line))
        for side, kind, line in lines[:MAX_LINES]
    ]
    more = len(lines) - MAX_LINES
    return section(
        "The dialogue",
        tags.p("As the log has it: C is the client, S this server.", class_="quiet"),
        tags.ol(made, class_="transcript"),
        tags.p(f"{more} further lines are not shown.") if more > 0 else "",
    )


def _dialogue(known: MessageKnown, end: Event) -> Iterator[tuple[str, str, str]]:
    """
    Who says what: the side, its colour, and the line.
    """
    rung, verdicts = text(end, "rung"), [one for one in known.of("recipient") if not one["alias"]]
    yield "C", "client", f"{'LHLO' if rung == 'lmtp' else 'EHLO'} {text(end, 'helo')}"
    extension = {"deferrals": " DEFERRALS", "prdr": " PRDR"}.get(rung, "")
    yield "C", "client", f"MAIL FROM:<{text(end, 'sender')}>{extension}"
    for one in verdicts:
        yield "C", "client", f"RCPT TO:<{text(one, 'recipient')}>"
        isOpen = one["stage"] == "content"
        waits = (
            "352 decided after the data" if rung == "deferrals" else "250 (decided after the data)"
        )
        yield "S", "server", waits if isOpen else text(one, "reply")
    judged = [one for one in verdicts if one["stage"] == "content"]
    if asNumber(end["size"]) or judged:
        yield "C", "client", f"DATA, or BDAT: {octets(asNumber(end['size']))}"
    if rung in ("deferrals", "prdr"):
        yield "S", "server", "353 the recipients' replies follow"
    if rung in ("deferrals", "prdr", "lmtp", "exdata"):
        yield from (("S", "server", _own(one)) for one in _answeredInTurn(rung, verdicts, judged))
    yield "S", "server", text(end, "reply")


def _own(one: Event) -> str:
    return f"{text(one, 'reply')} (for <{text(one, 'recipient')}>)"


def _answeredInTurn(
    rung: str, verdicts: Iterable[Event], judged: Sequence[Event]
) -> Sequence[Event]:
    """
    Who gets a reply of its own behind the data.
    """
    if rung == "deferrals":
        return judged
    isOpen = ("2", "3")
    return [one for one in verdicts if one in judged or text(one, "reply").startswith(isOpen)]


def _history(known: MessageKnown) -> Flattenable:
    history = [] if known.spool is None else asList(known.spool["history"])
    rows: list[list[Flattenable]] = []
    for one in map(asObject, history[-MAX_LINES:]):
        said = " ".join(filter(None, (text(one, "host"), text(one, "reply"))))
        rows.append(
            [
                moment(asNumber(one["time"])),
                text(one, "seq"),
                shown(text(one, "event")),
                shown(said),
            ]
        )
    if not rows:
        return ""
    heads = ["When", "Recipient", "What", "Said"]
    return section("The spool's history", table("What the spool has noted", heads, rows))
