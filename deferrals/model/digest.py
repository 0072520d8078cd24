"""
The message by which a recipient is told what was refused for it: as text and as HTML.

Everything in it that comes from senders is text for people (L{deferrals.model.text}), and
in HTML it is escaped; templates only say where it stands.
"""

from __future__ import annotations

import datetime
import html
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from string import Template
from typing import TypeAlias

import attrs

from deferrals.model.address import Mailbox
from deferrals.model.refusal import SHOWN, Refusal
from deferrals.model.text import cleaned

#: So many refusals a digest shows; the page behind its link has more.
MOST_ENTRIES = 100

#: So many characters of each text of a refusal it shows: what is longer has a gap, so that
#: a domain, and the reference of a reply, are still there.
MOST_CHARACTERS = 100

_HALF = MOST_CHARACTERS // 2

#: The names of the templates, and what may stand in them.
TEXT, HTML = "digest.txt", "digest.html"
NAMES = frozenset({"recipient", "count", "since", "until", "hostname", "link", "entries"})

_TEXT = Template("""\
$count messages for $recipient were refused between $since and $until.

Their senders were told.  The text of the messages was not kept.

$link
$entries
$hostname
""")

_HTML = Template("""\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>What was refused for you</title></head>
<body>
<p>$count messages for <b>$recipient</b> were refused between $since and $until.</p>
<p>Their senders were told.  The text of the messages was not kept.</p>
$link
$entries
<p>$hostname</p>
</body></html>
""")

#: Makes a text fit to stand somewhere.
Fit: TypeAlias = "Callable[[str], str]"

_HOW = "Let a sender in next time, on a page that only this link opens"


@attrs.frozen
class Templates:
    """
    The two texts of a digest.
    """

    text: Template = _TEXT
    html: Template = _HTML

    @classmethod
    def of(cls, text: str, html: str) -> Templates:
        """
        @raise ValueError: something stands in one of them that there is not.
        """
        for name, one in ((TEXT, text), (HTML, html)):
            try:
                Template(one).substitute(dict.fromkeys(NAMES, ""))
            except (KeyError, ValueError):
                names = ", ".join(f"${known}" for known in sorted(NAMES))
                raise ValueError(f"{name} in which only {names} stand, and $$ for $") from None
        return cls(Template(text), Template(html))


@attrs.frozen
class Digest:
    """
    What one recipient is told.

    @ivar recipient: whom.
    @ivar refusals: what was refused for it, the newest first.
    @ivar count: how many there were: not all may be shown.  No more than C{SHOWN} are
        counted.
    @ivar since: from when on they are, in seconds since the epoch.
    @ivar until: up to when.
    @ivar hostname: this server's name.
    @ivar url: the link; empty where there is none.
    """

    recipient: Mailbox
    refusals: Sequence[Refusal]
    count: int
    since: float
    until: float
    hostname: str
    url: str = ""
    templates: Templates = Templates()

    @property
    def text(self) -> str:
        """
        For readers without HTML.
        """
        link = f"{_HOW}:\n{self.url}\n" if self.url else ""
        entries = "\n".join(_entry(bounded(one)) for one in self.refusals)
        return self.templates.text.substitute(self._values(link, entries, cleaned))

    @property
    def html(self) -> str:
        """
        For the others.
        """
        link = f'<p><a href="{_escaped(self.url)}">{_HOW}</a>.</p>' if self.url else ""
        rows = "".join(_row(bounded(one)) for one in self.refusals)
        head = "".join(f"<th>{name}</th>" for name in ("When", "Sender", "Answer"))
        entries = f'<table border="1"><tr>{head}</tr>{rows}</table>'
        return self.templates.html.substitute(self._values(link, entries, _escaped))

    def _values(self, link: str, entries: str, fit: Fit) -> dict[str, str]:
        return {
            "recipient": fit(str(self.recipient)),
            "count": str(self.count) if self.count < SHOWN else f"{SHOWN} or more",
            "since": _moment(self.since),
            "until": _moment(self.until),
            "hostname": fit(self.hostname),
            "link": link,
            "entries": entries,
        }

    def message(self, author: str | None, now: float, unique: str) -> bytes:
        """
        @param author: who it is from; C{None} for the postmaster of the domain.
        @param unique: what no other message has.
        @return: the octets.
        """
        domain = self.recipient.domain
        author = author or f"postmaster@{domain}"
        isPlain = str(self.recipient).isascii() and author.isascii()
        message = EmailMessage(policy=SMTP if isPlain else SMTPUTF8)
        message["From"] = author
        message["To"] = str(self.recipient)
        message["Subject"] = "What was refused for you"
        message["Date"] = format_datetime(datetime.datetime.fromtimestamp(now).astimezone())
        message["Message-ID"] = f"<digest-{unique}@{self.hostname}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(self.text, cte="base64")
        message.add_alternative(self.html, subtype="html", cte="base64")
        return bytes(message)


def bounded(one: Refusal) -> Refusal:
    """
    As much of it as is shown: it is a sender who says how long it is.
    """
    return attrs.evolve(
        one,
        sender=_part(one.sender),
        client=_part(one.client),
        hostname=_part(one.hostname),
        headerFrom=None if one.headerFrom is None else _part(one.headerFrom),
        subject=None if one.subject is None else _part(one.subject),
        reply=_part(one.reply),
        rule=_part(one.rule),
    )


def _part(text: str) -> str:
    """
    @return: its beginning and its end, clean.
    """
    if len(text) <= MOST_CHARACTERS:
        text = cleaned(text)  # which may be longer
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{cleaned(text[:_HALF])[:_HALF]}\u2026{cleaned(text[-_HALF:])[1 - _HALF :]}"


def _entry(one: Refusal) -> str:
    lines = [f"{_moment(one.time)}  <{one.sender}> from {one.client} {one.hostname}".rstrip()]
    if one.headerFrom is not None:
        lines.append(f"  From: {one.headerFrom}")
    if one.subject is not None:
        lines.append(f"  Subject: {one.subject}")
    lines += [f"  {one.reply}", f"  {one.rule}"]
    return "".join(cleaned(line).rstrip() + "\n" for line in lines if line.strip())


def _row(one: Refusal) -> str:
    who = [f"<{one.sender}>", f"from {one.client} {one.hostname}".rstrip()]
    if one.headerFrom is not None:
        who.append(f"From: {one.headerFrom}")
    if one.subject is not None:
        who.append(f"Subject: {one.subject}")
    cells = ([_moment(one.time)], who, [one.reply, one.rule])
    said = ("<br>".join(_escaped(line) for line in cell if line) for cell in cells)
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in said)}</tr>"


def _moment(when: float) -> str:
    return datetime.datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M %z")


def _escaped(text: str) -> str:
    return html.escape(cleaned(text), quote=True)


def dueBefore(now: float, minute: int, weekly: bool) -> float:
    """
    When the last digest was due, by local time.

    @param minute: of the day.
    @param weekly: on Mondays; otherwise each day.
    @return: in seconds since the epoch, not after C{now}.
    """
    day = datetime.datetime.fromtimestamp(now).astimezone().date()
    for back in range(15):
        found = day - datetime.timedelta(days=back)
        if weekly and found.weekday():
            continue
        time = datetime.time(minute // 60, minute % 60)
        # a time that a change of the clock leaves out is the one behind it
        moment = datetime.datetime.combine(found, time).astimezone().timestamp()
        if moment <= now:
            return moment
    raise AssertionError("no Monday within two weeks")
