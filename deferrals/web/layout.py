"""
What all pages look like: one frame, and the parts that they are made of.

Everything that is put into these goes through twisted.web.template, which escapes it.
What comes from outside goes through L{shown}, too: it stands on its own, and has a bound.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import attrs
from twisted.web.template import Flattenable, Tag, tags

from deferrals.model.text import cleaned
from deferrals.web.assets import ASSETS

#: So much of one text is shown.
MAX_SHOWN = 1000

#: How a thing is, in colour and in words.
State = Literal["good", "wait", "bad", "plain"]

#: The parts of the site, by path.
_PARTS = {"/": "Now", "/queue": "Queue", "/search": "Search", "/policy": "Policies"}

#: The attributes that lead to a page.
_WAYS = (
    *("href", "src", "action", "formaction"),
    *("data-live-source", "data-live-message"),
)


@attrs.frozen
class Viewer:
    """
    Who looks at a page.

    @ivar name: the login; empty, where none is needed.
    @ivar mayOperate: whether the queue is this viewer's to change.
    @ivar csrf: what a form of this viewer's carries, and no other site knows.
    """

    name: str = ""
    mayOperate: bool = False
    csrf: str = ""


def document(
    title: str, content: Flattenable, viewer: Viewer | None, here: str = "", root: str = ""
) -> Flattenable:
    """
    A whole page.

    @param title: what it is about.
    @param viewer: for whom it is; a stranger (C{None}) has no way to other pages.
    @param here: the path of the part that it belongs to.
    @param root: the path that browsers see before that of each page.
    """
    title = cleaned(title[:MAX_SHOWN])
    made = tags.html(
        tags.head(
            tags.meta(charset="utf-8"),
            tags.title(f"{title} · deferrals"),
            tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
            tags.meta(name="color-scheme", content="light dark"),
            tags.link(rel="icon", href=ASSETS.path("icon.svg")),
            tags.link(rel="stylesheet", href=ASSETS.path("pages.css")),
            tags.script(src=ASSETS.path("pages.js"), defer="defer"),
        ),
        tags.body(
            tags.a("To the content", href="#content", class_="skip"),
            _header(viewer, here),
            Tag("main")(tags.h1(title), content, id="content", tabindex="-1"),
        ),
        lang="en",
    )
    return rooted(made, root) if root else made


def rooted(part: Flattenable, root: str) -> Flattenable:
    """
    @return: the same, its ways to other pages of ours as browsers see them.
    """
    if isinstance(part, Tag):
        ways = {name: _way(name, value, root) for name, value in part.attributes.items()}
        return Tag(part.tagName, ways, [rooted(one, root) for one in part.children])
    if isinstance(part, list | tuple | Iterator):
        return [rooted(one, root) for one in part]
    return part


def _way(name: str | bytes, value: Flattenable, root: str) -> Flattenable:
    isOurs = name in _WAYS and isinstance(value, str) and value.startswith("/")
    return [root, value] if isOurs else rooted(value, root)


def _header(viewer: Viewer | None, here: str) -> Tag:
    found = tags.header(tags.span("deferrals", class_="name"))
    if viewer is None:
        return found
    ways = tags.ul()
    for path, name in _PARTS.items():
        link = tags.a(name, href=path)
        ways(tags.li(link(**{"aria-current": "page"}) if path == here else link))
    found(tags.nav(ways, **{"aria-label": "Pages"}))
    if viewer.name:
        found(
            tags.form(
                tags.span(shown(viewer.name), class_="user"),
                hidden("csrf", viewer.csrf),
                tags.button("Log out", type="submit"),
                method="post",
                action="/logout",
            )
        )
    return found


def shown(text: str, most: int = MAX_SHOWN) -> Tag:
    """
    Text from outside, on its own: what it holds does not turn what stands around it.
    """
    text = cleaned(text[:most] + ("…" if len(text) > most else ""))
    return Tag("bdi")(text)


def hidden(name: str, value: str) -> Tag:
    """
    A field of a form that is not seen.
    """
    return tags.input(type="hidden", name=name, value=value)


def notice(text: str, state: State = "plain") -> Tag:
    """
    A sentence that comes before all else.
    """
    role = "alert" if state == "bad" else "status"
    return tags.p(shown(text), class_=f"notice {state}", role=role)


def badge(text: str, state: State = "plain") -> Tag:
    """
    A word for how a thing is.
    """
    return tags.span(text, class_=f"badge {state}")


def section(title: str, *content: Flattenable) -> Tag:
    """
    A part of a page, with its heading.
    """
    return tags.section(tags.h2(title), *content)


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Flattenable]],
    nothing: str = "Nothing.",
    live: str = "",
    figures: bool = False,
) -> Tag:
    """
    A table that a narrow screen shows as one block for each row, and a screen reader as
    a table all the same: hence its roles.

    @param nothing: what stands there without rows.
    @param live: the name by which a script adds to it.
    @param figures: whether it is so narrow that it stays a table.
    """
    body = tags.tbody(role="rowgroup", **({"data-live-rows": live} if live else {}))
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 -- used behind the loop
        cells = zip(columns, row, strict=True)
        body(tags.tr([_cell(name, one) for name, one in cells], role="row"))
    if not count and not live:
        return tags.p(nothing, class_="nothing")
    head = tags.tr(
        [tags.th(name, scope="col", role="columnheader") for name in columns], role="row"
    )
    found = tags.table(tags.caption(caption), tags.thead(head, role="rowgroup"), body, role="table")
    return tags.div(found, class_="wide figures" if figures else "wide stacked")


def _cell(name: str, content: Flattenable) -> Tag:
    return tags.td(tags.div(content), role="cell", **{"data-label": name})


def facts(pairs: Iterable[tuple[str, Flattenable]]) -> Tag:
    """
    Names, and what each of them is.
    """
    found = tags.dl(class_="facts")
    for name, value in pairs:
        found(tags.div(tags.dt(name), tags.dd(value)))
    return found


def field(label: str, name: str, value: str = "", kind: str = "text", **more: str) -> Tag:
    """
    A field of a form, with its label.
    """
    own = f"f-{name}"
    made = tags.input(type=kind, name=name, id=own, value=value, **more)
    return tags.div(tags.label(label, for_=own), made, class_="field")


def choice(label: str, name: str, options: Iterable[tuple[str, str]], chosen: str) -> Tag:
    """
    A field with a list of values.

    @param options: each value, and how it is called.
    """
    own, made = f"f-{name}", tags.select(name=name, id=f"f-{name}")
    for value, text in options:
        option = tags.option(text, value=value)
        made(option(selected="selected") if value == chosen else option)
    return tags.div(tags.label(label, for_=own), made, class_="field")


def moment(seconds: float) -> Tag:
    """
    A time of day, in the server's own zone.

    @param seconds: since the epoch.
    """
    try:
        when = datetime.datetime.fromtimestamp(seconds).astimezone()
    except (OverflowError, OSError, ValueError):
        return tags.span("at no time")
    stamp = when.isoformat(timespec="seconds")
    return tags.time(when.strftime("%Y-%m-%d %H:%M:%S"), datetime=stamp)


def span(seconds: float) -> str:
    """
    A time span in its largest unit.
    """
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def octets(count: float) -> str:
    """
    A size in its largest unit.
    """
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} octets"
