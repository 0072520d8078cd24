"""
What stages answer: accept, refuse, defer; and what became of a delivery.
"""

from __future__ import annotations

from typing import Any

import attrs

from deferrals.model.reply import Reply


@attrs.frozen
class Marks:
    """
    How one cohort's copies of a message differ from the message as it came
    in.  The copies of other recipients never show them.

    @ivar headers: fields to put in front, as (name, value) in their order.
    @ivar removed: names of fields to leave out.
    @ivar subjectPrefix: text to put in front of the Subject.
    @ivar junk: whether a mail store should file the copy as junk.
    """

    headers: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    subjectPrefix: str = ""
    junk: bool = False

    def plus(self, other: Marks) -> Marks:
        """
        Both: what a later stage of the chain adds comes behind.
        """
        if other is NO_MARKS:
            return self
        return Marks(
            self.headers + other.headers,
            self.removed + other.removed,
            other.subjectPrefix + self.subjectPrefix,
            self.junk or other.junk,
        )

    def toJSON(self) -> dict[str, Any] | None:
        """
        The least JSON that L{fromJSON} reads back.
        """
        if self == NO_MARKS:
            return None
        return {
            "headers": [list(pair) for pair in self.headers],
            "removed": list(self.removed),
            "subjectPrefix": self.subjectPrefix,
            "junk": self.junk,
        }

    @classmethod
    def fromJSON(cls, data: dict[str, Any] | None) -> Marks:
        """
        The inverse of L{toJSON}.
        """
        if data is None:
            return NO_MARKS
        headers = tuple((str(name), str(value)) for name, value in data["headers"])
        return cls(headers, tuple(data["removed"]), data["subjectPrefix"], data["junk"])


NO_MARKS = Marks()


#: A recipient's own settings: pairs of name and value, sorted by name.
Overrides = tuple[tuple[str, float | str], ...]


@attrs.frozen
class Route:
    """
    What applies to a recipient once the envelope has let it in.

    @ivar policy: the name of the policy whose content stages judge for it.
    @ivar delivery: the name under which the configuration knows its delivery.
    @ivar overrides: settings of its own, in place of those of the policy's
        content stages.  For the content stages only: the spool forgets them.
    """

    policy: str
    delivery: str
    overrides: Overrides = ()

    def own(self, stage: str, key: str) -> float | str | None:
        """
        The recipient's own value of a stage's setting: what is said for this
        stage (C{rspamd.refuse_score}), otherwise what is said for all
        (C{refuse_score}); C{None}, where nothing is.
        """
        own = dict(self.overrides)
        return own.get(f"{stage}.{key}", own.get(key))


@attrs.frozen
class Accept:
    """
    The recipient takes the message.

    @ivar marks: from a content stage: how its copy is marked.
    @ivar route: from an envelope stage: what applies to it from here on;
        C{None} leaves what an earlier stage said.
    """

    marks: Marks = NO_MARKS
    route: Route | None = None


@attrs.frozen
class Refuse:
    """
    The recipient does not take the message, for good (5xx) or for now (4xx).
    """

    reply: Reply


@attrs.frozen
class Defer:
    """
    An envelope stage cannot know: the content decides (S-1).

    @ivar route: what applies from here on; C{None} leaves what an earlier
        stage said.
    """

    route: Route | None = None


ACCEPT = Accept()

#: What an envelope stage may answer, and what a content stage may answer.
EnvelopeVerdict = Accept | Refuse | Defer
ContentVerdict = Accept | Refuse


@attrs.frozen
class Delivered:
    """
    The recipient has the message, or the next hop has taken it.

    @ivar reply: what the next hop said, if there is one.
    @ivar host: the server that said it.
    @ivar action: what a sender who asked for it (NOTIFY=SUCCESS) is to be told
        by us (RFC 3461 §5.2): C{"delivered"}; C{"relayed"}, to a hop that knows
        no DSN; or nothing, C{"passed"} to a hop that will tell.
    """

    reply: Reply | None = None
    host: str = ""
    action: str = "delivered"


@attrs.frozen
class Failed:
    """
    The recipient will never have the message: a DSN tells the sender.

    @ivar told: whether the sender has been told, and the recipient is the
        sender's again: then there is no DSN.
    """

    reply: Reply
    host: str = ""
    told: bool = False


@attrs.frozen
class Retry:
    """
    Not now.

    @ivar after: seconds before which another attempt is pointless; C{None}
        leaves it to the schedule.
    """

    reply: Reply
    host: str = ""
    after: float | None = None


Outcome = Delivered | Failed | Retry
