"""
What stages answer: accept, refuse, defer; and what became of a delivery.

Values are checked where they are made, so that a mistake shows up in the stage
that makes it.
"""

from __future__ import annotations

from typing import Any

import attrs

from deferrals.model.headertext import isFieldName
from deferrals.model.reply import Reply
from deferrals.model.shortage import isOurs
from deferrals.model.text import cleaned

__all__ = [
    "ACCEPT",
    "NO_MARKS",
    "Accept",
    "ContentVerdict",
    "Defer",
    "Delivered",
    "Details",
    "EnvelopeVerdict",
    "Failed",
    "Marks",
    "Outcome",
    "Overrides",
    "Refuse",
    "Retry",
    "Route",
]

#: What a sender may have to be told of a delivery: L{Delivered.action}.
_ACTIONS = frozenset({"delivered", "relayed", "passed"})


#: No more of a cause is kept.
CAUSE_LETTERS = 500


def _cause(text: str) -> str:
    if not text:
        return ""
    return cleaned(" ".join(text[: 4 * CAUSE_LETTERS].split()))[:CAUSE_LETTERS]


def _check(value: object, name: str, types: type | tuple[type, ...], expected: str) -> None:
    """
    @raise TypeError: an attribute is of another type.
    """
    found = getattr(value, name)
    if not isinstance(found, types):
        raise TypeError(f"{type(value).__name__}.{name}: expected {expected}, not {found!r}")


def _checkRefusal(value: Refuse | Failed | Retry) -> None:
    """
    @raise TypeError: its reply is none.
    @raise ValueError: its reply does not refuse.
    """
    reply = value.reply
    if not isinstance(reply, Reply):
        _check(value, "reply", Reply, 'a Reply such as Reply(550, "5.7.1", "no")')
    if reply.code < 400:
        raise ValueError(f"{type(value).__name__}: expected a reply of 4xx or 5xx, not {reply}")


def _isPair(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return isinstance(value[0], str) and isinstance(value[1], str)


@attrs.frozen
class Marks:
    """
    How one cohort's copies of a message differ from the message as it came
    in.  The copies of other recipients never show them.

    @ivar headers: fields to put in front, as (name, value) in their order.
    @ivar removed: names of fields to leave out.
    @ivar subjectPrefix: text to put in front of the Subject.
    @ivar junk: whether a mail store should file the copy as junk.
    @raise TypeError: an attribute is of another type.
    @raise ValueError: no field can have such a name.
    """

    headers: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    subjectPrefix: str = ""
    junk: bool = False

    def __attrs_post_init__(self) -> None:
        _check(self, "headers", tuple, "a tuple of (name, value)")
        _check(self, "removed", tuple, "a tuple of names")
        _check(self, "subjectPrefix", str, "text")
        _check(self, "junk", bool, "True or False")
        if not all(map(_isPair, self.headers)):
            raise TypeError(f"Marks.headers: expected a tuple of (name, value): {self.headers!r}")
        for name, _ in self.headers:
            if not isFieldName(name):
                raise ValueError(f"Marks.headers: no field can be called {name[:100]!r}")
        if not all(isinstance(name, str) for name in self.removed):
            raise TypeError(f"Marks.removed: expected a tuple of names: {self.removed!r}")

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
        # an older version may have kept names that are none
        headers = tuple((n, str(value)) for n, value in data["headers"] if isFieldName(n))
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
    @raise TypeError: an attribute is of another type.
    """

    policy: str
    delivery: str
    overrides: Overrides = ()

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.policy, str):
            _check(self, "policy", str, "a name")
        if not isinstance(self.delivery, str):
            _check(self, "delivery", str, "a name")
        if not isinstance(self.overrides, tuple):
            _check(self, "overrides", tuple, "a tuple of (name, value)")

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
    @ivar why: what decided, in a few words: a rule, a score and its limit.  For the
        log alone.
    @raise TypeError: an attribute is of another type.
    """

    marks: Marks = NO_MARKS
    route: Route | None = None
    why: str = attrs.field(default="", converter=_cause, eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.marks, Marks):
            _check(self, "marks", Marks, "Marks")
        if self.route is not None and not isinstance(self.route, Route):
            _check(self, "route", Route, "a Route, or None")


@attrs.frozen
class Refuse:
    """
    The recipient does not take the message, for good (5xx) or for now (4xx).

    @ivar why: what decided, in a few words: a rule, a score and its limit.  For the
        log alone.
    @raise TypeError: the reply is none.
    @raise ValueError: the reply does not refuse.
    """

    reply: Reply
    why: str = attrs.field(default="", converter=_cause, eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _checkRefusal(self)


@attrs.frozen
class Defer:
    """
    An envelope stage cannot know: the content decides (S-1).

    @ivar route: what applies from here on; C{None} leaves what an earlier
        stage said.
    @ivar why: what decided, in a few words: a rule, a score and its limit.  For the
        log alone.
    @raise TypeError: the route is none.
    """

    route: Route | None = None
    why: str = attrs.field(default="", converter=_cause, eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.route is not None and not isinstance(self.route, Route):
            _check(self, "route", Route, "a Route, or None")


ACCEPT = Accept()


def refusedBy(name: str, verdict: Refuse) -> Refuse:
    """
    A refusal that says what decided: the stage of that name, where nothing more is
    known.
    """
    return verdict if verdict.why else attrs.evolve(verdict, why=name)


#: What an envelope stage may answer, and what a content stage may answer.
EnvelopeVerdict = Accept | Refuse | Defer
ContentVerdict = Accept | Refuse


@attrs.frozen
class Details:
    """
    What the log and the operator are told of a delivery, and no sender ever is:
    it may name paths, addresses and programs of the inside.  In a text that is
    made of it by mistake it says nothing.

    @ivar cause: why it went wrong, in whatever words, an exception's included.
    @ivar final: the last reply to the message, where it is not the recipient's
        own: it has the next hop's id.
    @ivar address: where the next hop was found: an IP address, or a path.
    @ivar port: the port there; 0 where there is none.
    @ivar tls: protocol and cipher of the connection; empty, where it was in clear.
    @ivar verified: whether the server has proved its name.
    @ivar isOurs: whether it is for want of something of this server's own (a port, a
        process, the network), and says nothing of the next hop.
    """

    cause: str = attrs.field(default="", converter=_cause)
    final: Reply | None = None
    address: str = ""
    port: int = 0
    tls: str = ""
    verified: bool = False
    isOurs: bool = False

    @classmethod
    def ofError(cls, error: BaseException) -> Details:
        """
        An exception as the cause.
        """
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        return cls(text, isOurs=isOurs(error))

    def __str__(self) -> str:
        return "the log has the details"

    def line(self) -> str:
        """
        For the log, and for the operator.
        """
        where = f"[{self.address}]:{self.port}" if self.port else self.address
        proof = "" if not self.tls else " verified" if self.verified else " not verified"
        said = [
            "" if self.final is None else f"final: {self.final}",
            f"at {where}" if where else "",
            f"{self.tls}{proof}",
            f"cause: {self.cause}" if self.cause else "",
        ]
        return "; ".join(filter(None, said))


NO_DETAILS = Details()


@attrs.frozen
class Delivered:
    """
    The recipient has the message, or the next hop has taken it.

    @ivar reply: what the next hop said, if there is one.
    @ivar host: the server that said it.
    @ivar action: what a sender who asked for it (NOTIFY=SUCCESS) is to be told
        by us (RFC 3461 §5.2): C{"delivered"}; C{"relayed"}, to a hop that knows
        no DSN; or nothing, C{"passed"} to a hop that will tell.
    @ivar details: what else there is to know, for the log alone.
    @raise TypeError: an attribute is of another type.
    @raise ValueError: the reply refuses, or there is no such action.
    """

    reply: Reply | None = None
    host: str = ""
    action: str = "delivered"
    details: Details = attrs.field(default=NO_DETAILS, eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _check(self, "host", str, "a name")
        _check(self, "details", Details, "Details")
        if self.action not in _ACTIONS:
            raise ValueError(f"Delivered.action: expected {sorted(_ACTIONS)}, not {self.action!r}")
        if self.reply is None:
            return
        _check(self, "reply", Reply, "a Reply, or None")
        if self.reply.code >= 400:
            raise ValueError(f"Delivered: expected a reply that accepts, not {self.reply}")


@attrs.frozen
class Failed:
    """
    The recipient will never have the message: a DSN tells the sender.

    @ivar reply: what the sender is told: what C{host} has said, or else words of
        ours.
    @ivar host: the SMTP server that has said it; empty where none has.
    @ivar told: whether the sender has been told, and the recipient is the
        sender's again: then there is no DSN.
    @ivar details: what else there is to know, for the log alone.
    @raise TypeError: an attribute is of another type.
    @raise ValueError: the reply does not refuse.
    """

    reply: Reply
    host: str = ""
    told: bool = False
    details: Details = attrs.field(default=NO_DETAILS, eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _checkRefusal(self)
        _check(self, "host", str, "a name")
        _check(self, "details", Details, "Details")


@attrs.frozen
class Retry:
    """
    Not now.

    @ivar reply: as that of L{Failed}.
    @ivar host: as that of L{Failed}.
    @ivar after: seconds before which another attempt is pointless; C{None}
        leaves it to the schedule.
    @ivar details: what else there is to know, for the log alone.
    @raise TypeError: an attribute is of another type.
    @raise ValueError: the reply does not refuse, or C{after} is no span of time.
    """

    reply: Reply
    host: str = ""
    after: float | None = None
    details: Details = attrs.field(default=NO_DETAILS, eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _checkRefusal(self)
        _check(self, "host", str, "a name")
        _check(self, "details", Details, "Details")
        if self.after is None:
            return
        _check(self, "after", (float, int), "seconds, or None")
        if not 0 <= self.after < float("inf"):
            raise ValueError(f"Retry.after: expected seconds, not {self.after}")


Outcome = Delivered | Failed | Retry
