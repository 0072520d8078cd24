"""
C{/mine/TOKEN}: what was refused for one recipient, and which of the senders it lets in.

A link is a key: its page names no other recipient and leads to no other page.  To open it
changes nothing, since scanners follow links; what changes something is a form that only
this page has.
"""

from __future__ import annotations

from collections.abc import Callable

from cachetools import TTLCache
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request
from twisted.web.template import Flattenable, Tag, tags

from deferrals.deferreds import timeOfDay
from deferrals.errors import DeferralsError
from deferrals.model.admission import AdmissionWish
from deferrals.model.digest import bounded
from deferrals.model.json import JSON, asList, asObject
from deferrals.model.link import SignedLink
from deferrals.model.refusal import SHOWN, Refusal
from deferrals.web.answers import (
    Answering,
    BadRequest,
    FixedAnswer,
    Outcome,
    Page,
    PageAnswer,
    parameter,
)
from deferrals.web.asking import Ask
from deferrals.web.forms import FIELD, FormKey
from deferrals.web.layout import hidden, moment, notice, shown, table

#: How often one link may be asked for within a minute, and how often one address may ask
#: for what opens nothing.
MOST_A_MINUTE = 60

#: So many addresses and links are counted.
MOST_COUNTED = 10_000

#: What is said of a link that opens nothing: not why.
_NOTHING = "This link opens nothing, or no longer."

_COLUMNS = ("When", "Sender", "Refused with", "Let it in next time")


class LinkParts:
    """
    What the pages of links have in common.

    @param ask: asks the server: C{refusals} and C{admit}.
    @param key: signs links.  It may raise L{DeferralsError}, C{OSError} or
        C{ValueError}.
    @param clock: what time it is.
    """

    def __init__(self, ask: Ask, key: Callable[[], bytes], clock: IReactorTime) -> None:
        self._ask = ask
        self.key = key
        self.clock = clock
        self._asked: TTLCache[str, int] = TTLCache(MOST_COUNTED, 60.0, clock.seconds)

    def isTooMuch(self, what: str) -> bool:
        """
        Whether something has asked too often within a minute.
        """
        count = self._asked.get(what, 0) + 1
        if count <= MOST_A_MINUTE:
            self._asked[what] = count
        return count > MOST_A_MINUTE

    def opened(self, token: str) -> SignedLink | None:
        """
        @return: C{None} for what opens nothing.
        """
        try:
            return SignedLink.read(token, self.key(), timeOfDay(self.clock))
        except (DeferralsError, OSError, ValueError):
            return None

    async def asked(self, name: str, *args: JSON) -> JSON:
        """
        @return: what the server says.
        @raise DeferralsError: it does not.
        """
        said = await self._ask(name, *args)
        if said.missing and said.result is None:
            raise DeferralsError("The server does not answer now.")
        return said.result

    def form(self) -> FormKey:
        """
        What makes forms that are ours.
        """
        return FormKey(self.key())


class MinePages(Answering):
    """
    C{/mine}, beneath which the links are.
    """

    def __init__(self, mine: LinkParts) -> None:
        super().__init__()
        self._mine = mine

    def render_GET(self, request: Request) -> bytes:
        """
        See C{Resource}: there is nothing without a link.
        """
        return FixedAnswer(404, f"{_NOTHING}\n").render_GET(request)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See C{Resource}.
        """
        mine, token = self._mine, path.decode("ascii", "replace")
        address = getattr(request.getClientAddress(), "host", "local")
        link = mine.opened(token)
        # Behind a proxy all have one address: who guesses there keeps out no one else.
        asker = f"address {address}" if link is None else f"link {link.recipient}"
        if mine.isTooMuch(asker):
            return FixedAnswer(429, "too often: wait a minute\n")
        return FixedAnswer(404, f"{_NOTHING}\n") if link is None else MinePage(mine, link, token)


class MinePage(PageAnswer):
    """
    The page of one link.
    """

    def __init__(self, mine: LinkParts, link: SignedLink, token: str) -> None:
        super().__init__(mine.clock)
        self._mine = mine
        self._link = link
        self._token = token

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        See C{Resource}.
        """
        if path == b"admit":
            return AdmitForm(self._mine, self._link, self._token)
        return FixedAnswer(404, f"{_NOTHING}\n")

    async def page(self, request: Request) -> Outcome:
        """
        See L{PageAnswer}.
        """
        return await pageOf(self._mine, self._link, self._token)


class AdmitForm(PageAnswer):
    """
    What the form of that page leads to.
    """

    methods = (b"POST",)

    def __init__(self, mine: LinkParts, link: SignedLink, token: str) -> None:
        super().__init__(mine.clock)
        self._mine = mine
        self._link = link
        self._token = token

    async def act(self, request: Request) -> Outcome:
        """
        See L{PageAnswer}.
        """
        mine, link = self._mine, self._link
        mine.form().check(request, self._token)
        span = parameter(request, "for")
        if span not in ("once", "always"):
            raise BadRequest("for: expected once or always")
        wish = AdmissionWish(parameter(request, "n"), span == "once", how="link")
        try:
            found = await mine.asked("admit", link.recipient, wish.toJSON())
        except ValueError as error:
            raise BadRequest(str(error)) from None
        if found is None:
            raise BadRequest("This refusal is not kept any longer.")
        said = asObject(found)
        text = f"<{said['sender']}> is let in by {said['by']}"
        often = "once" if said["once"] else "from now on"
        warning = said.get("warning")
        parts = [notice(f"{text}, {often}. It has to send its message again.", "good")]
        if isinstance(warning, str):
            parts.append(notice(f"Beware: {warning}.", "wait"))
        return await pageOf(mine, link, self._token, *parts)


async def pageOf(mine: LinkParts, link: SignedLink, token: str, *said: Flattenable) -> Page:
    """
    @param said: what comes before all else.
    """
    found = await mine.asked("refusals", link.recipient, None, SHOWN)
    refusals = [Refusal.fromJSON(asObject(one)) for one in asList(found)]
    csrf = mine.form().of(token)
    rows = [_row(bounded(one), token, csrf) for one in refusals]
    content = [
        *said,
        tags.p("For ", shown(link.recipient), ". The text of the messages was not kept."),
        table("What was refused, the newest first", _COLUMNS, rows, "Nothing was refused."),
        tags.p("This page is yours: whoever has its link sees the same. It opens until ")(
            moment(link.expires), "."
        ),
    ]
    return Page("What was refused for you", content)


def _row(one: Refusal, token: str, csrf: str) -> list[Flattenable]:
    who: list[Flattenable] = [shown(f"<{one.sender}>")]
    for text in (one.headerFrom, one.subject, f"{one.client} {one.hostname}".rstrip()):
        if text:
            who += [tags.br(), shown(text)]
    return [moment(one.time), tags.div(who), shown(one.reply), _form(one, token, csrf)]


def _form(one: Refusal, token: str, csrf: str) -> Tag:
    way = ", ".join(one.admits) or "its address alone, which anyone can write"
    return tags.form(
        tags.p("Known by ", shown(way)),
        hidden(FIELD, csrf),
        hidden("n", one.id),
        tags.button("Once", type="submit", name="for", value="once"),
        tags.button("From now on", type="submit", name="for", value="always"),
        method="post",
        action=f"/mine/{token}/admit",
    )
