"""
Which recipients of the queue an operator means.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, TypedDict

import attrs

from deferrals.model.address import AddressError, Mailbox, comparable
from deferrals.model.taggedsenders import everyForm

#: A recipient, a message or the whole queue, as the commands' C{--json} shows it.
Shown: TypeAlias = dict[str, Any]


class RescuedMessage(TypedDict):
    """
    A message in a database that was set aside: its id, sender, recipients and size.
    """

    id: str
    sender: str
    recipients: list[str]
    size: int


class SetAside(TypedDict, total=False):
    """
    What was set aside: its name, its kind (C{database}, C{log}, C{content},
    C{message} or C{file}), the id of its message, how large it is, and why it was.

    Where it was shown: the messages in it, and how many, or the lines of its
    header.  Where it was taken back: the ids of what was, and of what was not,
    with the reason; and what status the recipients have now.
    """

    name: str
    kind: str
    id: str
    octets: int
    why: str
    messages: list[RescuedMessage]
    count: int
    header: list[str]
    restored: list[str]
    skipped: dict[str, str]
    status: str


#: What stands in the queue beside recipients that wait or are under way.
STATUSES = ("staged", "queued", "active", "held", "ended", "stuck", "damaged")


#: What stands for something in a pattern.
_SPECIAL = str.maketrans({"*": "[*]", "?": "[?]", "[": "[[]"})


def exactly(text: str) -> str:
    """
    @return: the pattern that only this text fits, such as C{tcp:[::1]:25}.
    """
    return text.translate(_SPECIAL)


@attrs.frozen
class Selection:
    """
    All conditions have to be met; patterns are as in a shell, without case.

    @ivar ids: messages; none for all.
    @ivar sender: pattern of the reverse-path; empty is C{<>}.
    @ivar recipient: pattern of the address.
    @ivar destination: pattern of the next hop.
    @ivar status: one of L{STATUSES}.
    @ivar olderSeconds: at least that long in the queue.
    @ivar newerSeconds: at most that long.
    """

    ids: tuple[str, ...] = ()
    sender: str | None = None
    recipient: str | None = None
    destination: str | None = None
    status: str | None = None
    olderSeconds: float | None = None
    newerSeconds: float | None = None

    def matches(self, found: Mapping[str, Any]) -> bool:
        """
        @param found: a recipient, as L{IQueue.recipients} shows it.
        """
        patterns = (
            (self.recipient, found["recipient"]),
            (self.destination, found["destination"]),
            (self.status, found["status"]),
        )
        age = found["age_seconds"]
        return (
            all(_fits(pattern, text) for pattern, text in patterns)
            and any(_fits(self.sender, text) for text in _forms(found["sender"]))
            and (not self.ids or found["id"] in self.ids)
            and (self.olderSeconds is None or age >= self.olderSeconds)
            and (self.newerSeconds is None or age <= self.newerSeconds)
        )

    @property
    def isEverything(self) -> bool:
        """
        Whether there is no condition.
        """
        return self == Selection()

    def toJSON(self) -> Shown:
        """
        What L{fromJSON} reads back.
        """
        return {**attrs.asdict(self), "ids": list(self.ids)}

    @classmethod
    def fromJSON(cls, data: Mapping[str, Any]) -> Selection:
        """
        The inverse of L{toJSON}.

        @raise ValueError: it is none.
        """
        try:
            return cls(**{**data, "ids": tuple(data.get("ids", ()))})
        except TypeError as error:
            raise ValueError(f"no selection: {error}") from None


def _forms(sender: str) -> list[str]:
    """
    A sender as it is written, and who that is where it is signed or rewritten.
    """
    try:
        return [sender, *map(str, everyForm(Mailbox.parse(sender)))]
    except AddressError:
        return [sender]


def _fits(pattern: str | None, text: str) -> bool:
    return pattern is None or fnmatchcase(comparable(text), comparable(pattern))
