"""
What was refused for a recipient, as it is kept for a while; and what a configuration
says of that.  Never anything of the body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import Literal

import attrs

from deferrals.model.address import AddressError, Mailbox, comparable
from deferrals.model.json import JSON
from deferrals.model.settings import BadSetting, Seconds, checked, positive
from deferrals.model.text import cleaned

#: How often a recipient is told.
HowOften = Literal["off", "daily", "weekly"]

#: So many characters of a text are kept.
MOST_CHARACTERS = 500

#: So many refusals are shown at once.
SHOWN = 1000

#: So much of a field is looked at.
_HEADER_CHARACTERS = 2000

_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")

DAY_SECONDS = 86400.0


def _timeOfDay(text: str) -> None:
    if not _CLOCK.fullmatch(text):
        raise ValueError('a time of day such as "07:00"')


def _address(text: str) -> None:
    try:
        Mailbox.parse(text)
    except AddressError:
        raise ValueError("an address such as postmaster@example.net") from None


@attrs.frozen
class RefusalSettings:
    """
    The C{[refusals]} table.

    @ivar keep: how long a refusal is remembered for its recipient; 0: not at all.
    @ivar entries: how many are remembered; the oldest go first.
    @ivar subject: whether the Subject is kept.
    @ivar header_from: whether the From field is kept.
    @ivar digest: whether recipients whose C{users} row says nothing (column C{digest})
        get a list of them: C{"off"}, C{"daily"} or C{"weekly"} (on Mondays).
    @ivar digest_at: when it is sent, by this machine's local time.
    @ivar digest_from: the author that it shows; C{postmaster@} the recipient's domain.
    @ivar digest_template: a directory with C{digest.txt} and C{digest.html}
        (C{string.Template}); built in ones by default.
    @ivar links: how long a link in a digest opens.
    @ivar admit_for: how long a sender is admitted that is so from now on.
    """

    keep: Seconds = Seconds(0.0)
    entries: int = attrs.field(default=1_000_000, validator=checked(positive))
    subject: bool = False
    header_from: bool = False
    digest: HowOften = "off"
    digest_at: str = attrs.field(default="07:00", validator=checked(_timeOfDay))
    digest_from: str | None = attrs.field(default=None, validator=checked(_address))
    digest_template: str | None = None
    links: Seconds = attrs.field(default=Seconds(7 * DAY_SECONDS), validator=checked(positive))
    admit_for: Seconds = attrs.field(default=Seconds(90 * DAY_SECONDS), validator=checked(positive))

    def __attrs_post_init__(self) -> None:
        if self.digest != "off" and not self.keep:
            raise BadSetting("digest", "keep, too: without it there is nothing to tell")

    @property
    def digestMinute(self) -> int:
        """
        C{digest_at} in minutes since midnight.
        """
        hours, minutes = self.digest_at.split(":")
        return int(hours) * 60 + int(minutes)

    def since(self, now: float, seconds: float | None = None) -> float:
        """
        @param seconds: no older ones are asked for; C{None} for all.
        @return: the time of the oldest refusal that is shown, although older ones may
            still be there.
        """
        return now - (self.keep if seconds is None else min(seconds, self.keep))


@attrs.frozen(kw_only=True)
class Refusal:
    """
    One message, or its envelope, that was refused for one recipient, for good.

    @ivar time: in seconds since the epoch.
    @ivar id: of the transaction: the reference that the sender's reply has, too.
    @ivar recipient: its address.
    @ivar sender: the reverse path; empty for the null path.
    @ivar client: the client's IP address.
    @ivar hostname: the client's name; empty where it is not known.
    @ivar headerFrom: the From field; C{None} where that is not kept.
    @ivar subject: the Subject; C{None} where that is not kept.
    @ivar kind: of the stages that refused it: C{"envelope"} or C{"content"}; what policies
        call the stage itself is L{Refuse.stage<deferrals.model.verdict.Refuse>}.
    @ivar policy: the recipient's; empty where none is known.
    @ivar rule: what decided.
    @ivar score: the score that did, if one did.
    @ivar reply: the recipient's answer.
    @ivar admits: what the sender proved, by which it can be admitted.
    """

    time: float
    id: str
    recipient: str
    sender: str
    client: str
    hostname: str = ""
    headerFrom: str | None = None
    subject: str | None = None
    kind: str = "content"
    policy: str = ""
    rule: str = ""
    score: float | None = None
    reply: str = ""
    admits: tuple[str, ...] = ()

    def isAbout(self, words: str) -> bool:
        """
        Whether its Subject, where that is kept, has these words, in whatever letters.
        """
        return bool(self.subject) and comparable(words) in comparable(self.subject or "")

    def toJSON(self) -> dict[str, JSON]:
        """
        As C{deferrals refusals --json} shows it, and the store keeps it.
        """
        return {
            "time": round(self.time, 3),
            "id": self.id,
            "recipient": self.recipient,
            "sender": self.sender,
            "client": self.client,
            "hostname": self.hostname,
            "header_from": self.headerFrom,
            "subject": self.subject,
            "stage": self.kind,
            "policy": self.policy,
            "rule": self.rule,
            "score": self.score,
            "reply": self.reply,
            "admits": list(self.admits),
        }

    @classmethod
    def fromJSON(cls, data: Mapping[str, JSON]) -> Refusal:
        """
        The inverse of L{toJSON}.

        @raise ValueError: it is none.
        """
        score, admits = data.get("score"), data.get("admits")
        try:
            return cls(
                time=float(str(data["time"])),
                id=str(data["id"]),
                recipient=str(data["recipient"]),
                sender=str(data["sender"]),
                client=str(data["client"]),
                hostname=str(data.get("hostname", "")),
                headerFrom=_optional(data.get("header_from")),
                subject=_optional(data.get("subject")),
                kind=str(data.get("stage", "content")),
                policy=str(data.get("policy", "")),
                rule=str(data.get("rule", "")),
                score=float(score) if isinstance(score, int | float) else None,
                reply=str(data.get("reply", "")),
                admits=tuple(map(str, admits)) if isinstance(admits, list) else (),
            )
        except KeyError as error:
            raise ValueError(f"a refusal with {error}") from None


def _optional(value: JSON) -> str | None:
    return value if isinstance(value, str) else None


def headerText(value: str) -> str:
    """
    A field's value for people: MIME words decoded, where that can be done.
    """
    value = value[:_HEADER_CHARACTERS]
    if "=?" not in value:
        return short(value)
    try:
        return short(str(make_header(decode_header(value))))
    except (ValueError, LookupError, HeaderParseError):
        return short(value)


def short(text: str) -> str:
    """
    As much of a text as is kept: one line, in which nothing acts or hides.
    """
    return cleaned(text[:MOST_CHARACTERS])[:MOST_CHARACTERS]
