"""
C{/search}: transactions by id, address, domain, Message-ID, client or login; and what was
refused, by words of its Subject, where these are kept.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.web.server import Request
from twisted.web.template import Flattenable, Tag, tags

from deferrals.model.ids import parseId
from deferrals.model.json import JSON, asList, asNumber, asObject
from deferrals.model.selection import Selection, exactly
from deferrals.web.answers import Elsewhere, Outcome, Page, parameter
from deferrals.web.asking import Ask, text
from deferrals.web.layout import Viewer, field, moment, section, shown, span, table
from deferrals.web.now import messageLink
from deferrals.web.visitors import ViewedPage, Visitors

#: So much is shown, and so often the queue is asked for it.
MOST, LOOKS = 50, 8


class SearchPage(ViewedPage):
    """
    See the module.
    """

    def __init__(self, clock: IReactorTime, visitors: Visitors, ask: Ask) -> None:
        super().__init__(clock, visitors)
        self._ask = ask

    async def view(self, request: Request, viewer: Viewer) -> Outcome:
        sought = parameter(request, "q")
        if _isId(sought):
            return Elsewhere(f"/message/{sought.upper()}")
        content: list[Flattenable] = [_form(sought)]
        if sought:
            found = await self._ask("find", sought, MOST)
            content += [*found.remarks(), _lately(asList(found.result))]
            content.append(_queued(*await self._waiting(sought)))
            about = asList((await self._ask("about", sought, MOST)).result)
            content += [_refused(about)] if about else []
        return Page("Search", content, viewer, "/search")

    async def _waiting(self, sought: str) -> tuple[dict[str, dict[str, JSON]], bool]:
        """
        Recipients in the queue of such a sender or recipient; and whether that is all.
        """
        pattern = exactly(sought.strip("<>"))
        pattern = pattern if "@" in pattern.strip("@") else f"*@{pattern.strip('@')}"
        found: dict[str, dict[str, JSON]] = {}
        isWhole = True
        for selection in (Selection(sender=pattern), Selection(recipient=pattern)):
            after: JSON = None
            for _ in range(LOOKS):
                said = await self._ask("look", selection.toJSON(), MOST, after)
                rows, after = asList(said.result)
                for one in map(asObject, asList(rows)):
                    found.setdefault(f"{one['id']} {one['seq']}", one)
                if after is None or len(found) >= MOST:
                    break
            isWhole = isWhole and after is None
        return found, isWhole


def _isId(sought: str) -> bool:
    try:
        return bool(parseId(sought))
    except ValueError:
        return False


def _form(sought: str) -> Tag:
    made = tags.form(
        field(
            "Id, address, domain, Message-ID, client, login, or words of a Subject",
            "q",
            sought,
            kind="search",
            size="40",
            autocomplete="off",
        ),
        tags.button("Search", type="submit"),
        method="get",
        action="/search",
        class_="filter",
        role="search",
    )
    note = (
        "The last transactions are searched, and the queue; for words of a Subject what was "
        "refused, where Subjects are kept ([refusals] subject). Older transactions are in the "
        "logs: deferrals explain finds them there."
    )
    return section("What", made, tags.p(note, class_="quiet"))


def _lately(found: list[JSON]) -> Tag:
    rows: list[list[Flattenable]] = []
    for one in map(asObject, found):
        rows.append(
            [
                moment(asNumber(one["time"])),
                messageLink(text(one, "transaction")),
                shown(f"<{text(one, 'sender')}>") if "sender" in one else "",
                shown(f"<{text(one, 'recipient')}>") if one.get("recipient") else "",
                shown(text(one, "reply") or text(one, "text"), 200),
            ]
        )
    heads = ["When", "Message", "Sender", "Recipient", "Answer"]
    nothing = "None of the last transactions has to do with it."
    return section("Lately", table("Transactions, the newest first", heads, rows, nothing))


def _queued(found: dict[str, dict[str, JSON]], isWhole: bool) -> Tag:
    rows: list[list[Flattenable]] = []
    for one in list(found.values())[:MOST]:
        rows.append(
            [
                messageLink(text(one, "id")),
                span(asNumber(one["age_seconds"])),
                text(one, "status"),
                shown(f"<{text(one, 'sender')}>"),
                shown(f"<{text(one, 'recipient')}>"),
            ]
        )
    heads = ["Message", "Age", "Status", "Sender", "Recipient"]
    more = "" if isWhole else tags.p("There may be more: the queue's own page has filters.")
    nothing = "Nothing that waits is from or to it."
    return section("In the queue", table("Recipients that wait", heads, rows, nothing), more)


def _refused(found: list[JSON]) -> Tag:
    rows: list[list[Flattenable]] = []
    for one in map(asObject, found):
        rows.append(
            [
                moment(asNumber(one["time"])),
                messageLink(text(one, "id")),
                shown(text(one, "subject"), 200),
                shown(f"<{text(one, 'sender')}>"),
                shown(f"<{text(one, 'recipient')}>"),
                shown(text(one, "reply"), 200),
            ]
        )
    heads = ["When", "Message", "Subject", "Sender", "Recipient", "Answer"]
    return section("Refused, by Subject", table("Refusals, the newest first", heads, rows))
