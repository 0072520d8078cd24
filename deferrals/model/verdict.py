"""
What stages answer: accept, refuse, defer; and what became of a delivery.

Values are checked where they are made, so that a mistake shows up in the stage
that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from deferrals.model.address import Mailbox
from deferrals.model.headertext import isFieldName
from deferrals.model.reply import Reply
from deferrals.model.shortage import isOurs
from deferrals.model.text import cleaned

__all__ = [
    "ACCEPT",
    "AT_END",
    "NOWHERE",
    "NO_MARKS",
    "Accept",
    "ContentVerdict",
    "Defer",
    "Delivered",
    "Details",
    "EnvelopeVerdict",
    "Expand",
    "Failed",
    "HeaderEdit",
    "Marks",
    "Outcome",
    "Overrides",
    "Refuse",
    "Retry",
    "Route",
]

#: What a sender may have to be told of a delivery: L{Delivered.action}.
_ACTIONS = frozenset({"delivered", "relayed", "passed", "expanded"})


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


@attrs.frozen(cache_hash=True)
class HeaderEdit:
    """
    One change of a header section, in the sense of the milter protocol.

    @ivar kind: C{"insert"}, C{"change"} or C{"remove"}.
    @ivar name: the field's.
    @ivar value: what it says; it may be folded, its lines ended by LF or CRLF.  A change
        to nothing removes.
    @ivar index: of an insertion: how many fields stand in front of it, this server's own
        C{Received}, the first one, among them; behind the last one, where there are fewer
        (L{AT_END}).  Otherwise: which of the fields of this
        name, from 1.  A change of one that is not there adds it behind all others; to
        remove it is nothing.
    @raise TypeError: an attribute is of another type.
    @raise ValueError: there is no such kind, or index, or no field can have such a name.
    """

    kind: Literal["insert", "change", "remove"]
    name: str
    value: str = ""
    index: int = 1

    def __attrs_post_init__(self) -> None:
        _check(self, "name", str, "a name")
        _check(self, "value", str, "text")
        _check(self, "index", int, "a number")
        if self.kind not in ("insert", "change", "remove"):
            raise ValueError(f"HeaderEdit.kind: expected insert, change or remove: {self.kind!r}")
        if not isFieldName(self.name):
            raise ValueError(f"HeaderEdit.name: no field can be called {self.name[:100]!r}")
        if self.index < (0 if self.kind == "insert" else 1):
            raise ValueError(f"HeaderEdit.index: no place is {self.index}")


#: The L{index<HeaderEdit.index>} of what is added behind all fields.
AT_END = 2**31 - 1


@attrs.frozen(cache_hash=True)
class Marks:
    """
    How one cohort's copies of a message differ from the message as it came
    in.  The copies of other recipients never show them.

    What stands here is done in this order: C{edits}, one after the other, to the header
    section as it came in; C{removed} and C{subjectPrefix}, to what came of that; and
    C{headers}, in front of it.

    @ivar headers: fields to put in front, as (name, value) in their order.
    @ivar removed: names of fields to leave out.
    @ivar subjectPrefix: text to put in front of the Subject.
    @ivar junk: whether a mail store should file the copy as junk.
    @ivar edits: further changes of the header section.  A stage that has any provides
        L{IEditingStage<deferrals.interfaces.IEditingStage>}: so it sees what those before
        it have changed, and counts in that.
    @raise TypeError: an attribute is of another type.
    @raise ValueError: no field can have such a name.
    """

    headers: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    subjectPrefix: str = ""
    junk: bool = False
    edits: tuple[HeaderEdit, ...] = ()

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
        _check(self, "edits", tuple, "a tuple of HeaderEdit")
        if not all(isinstance(edit, HeaderEdit) for edit in self.edits):
            raise TypeError(f"Marks.edits: expected a tuple of HeaderEdit: {self.edits!r}")

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
            self.edits + other.edits,
        )

    def toJSON(self) -> dict[str, Any] | None:
        """
        The least JSON that L{fromJSON} reads back.
        """
        if self is NO_MARKS or self == NO_MARKS:
            return None
        found: dict[str, Any] = {
            "headers": [list(pair) for pair in self.headers],
            "removed": list(self.removed),
            "subjectPrefix": self.subjectPrefix,
            "junk": self.junk,
        }
        if self.edits:
            found["edits"] = [list(attrs.astuple(edit)) for edit in self.edits]
        return found

    @classmethod
    def fromJSON(cls, data: dict[str, Any] | None) -> Marks:
        """
        The inverse of L{toJSON}.
        """
        if data is None:
            return NO_MARKS
        # an older version may have kept names that are none
        headers = tuple((n, str(value)) for n, value in data["headers"] if isFieldName(n))
        edits = tuple(HeaderEdit(*edit) for edit in data.get("edits", ()))
        return cls(headers, tuple(data["removed"]), data["subjectPrefix"], data["junk"], edits)


NO_MARKS = Marks()


#: A recipient's own settings: pairs of name and value, sorted by name.
Overrides = tuple[tuple[str, float | str], ...]


@attrs.frozen(cache_hash=True)
class Route:
    """
    What applies to a recipient once the envelope has let it in.

    @ivar policy: the name of the policy whose content stages judge for it.
    @ivar delivery: the name under which the configuration knows its delivery.
    @ivar overrides: settings of its own, in place of those of the policy's
        content stages.  For the content stages only: the spool forgets them.
    @ivar subaddress: what begins a subaddress in the recipient's address; empty
        where that may not have one.
    @ivar admitted: what may lift refusals of this transaction for the recipient, which
        has let its sender in: such a recipient is judged for itself.  The server's own,
        which the spool forgets.
    @raise TypeError: an attribute is of another type.
    """

    policy: str
    delivery: str
    overrides: Overrides = ()
    subaddress: str = ""
    admitted: tuple[str, ...] = attrs.field(default=(), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.policy, str):
            _check(self, "policy", str, "a name")
        if not isinstance(self.delivery, str):
            _check(self, "delivery", str, "a name")
        if not isinstance(self.overrides, tuple):
            _check(self, "overrides", tuple, "a tuple of (name, value)")
        if not isinstance(self.subaddress, str):
            _check(self, "subaddress", str, "a character, or none")

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
    @ivar nowhere: whether the message is thrown away for this recipient: the sender is
        told that it is taken, there is no copy, and nothing more is ever said of it.  No
        stage behind this one is asked.
    @ivar isQuarantined: from a content stage: whether its copy goes to the quarantine of
        its policy, in place of its delivery.
    @ivar apart: from a content stage: refusals of recipients of the cohort that refuse all
        the same, by the L{key<Mailbox.key>} of the address; they stand, whatever a stage
        behind this one says of the cohort.
    @ivar why: what decided, in a few words: a rule, a score and its limit.  For the
        log alone.
    @raise TypeError: an attribute is of another type.
    """

    marks: Marks = NO_MARKS
    route: Route | None = None
    nowhere: bool = False
    isQuarantined: bool = attrs.field(default=False, kw_only=True)
    apart: Mapping[str, Refuse] = attrs.field(factory=dict, kw_only=True, hash=False)
    why: str = attrs.field(default="", converter=_cause, eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.marks, Marks):
            _check(self, "marks", Marks, "Marks")
        if self.route is not None and not isinstance(self.route, Route):
            _check(self, "route", Route, "a Route, or None")
        _check(self, "nowhere", bool, "True or False")
        _check(self, "isQuarantined", bool, "True or False")
        _check(self, "apart", Mapping, "refusals by key")
        if not all(isinstance(refusal, Refuse) for refusal in self.apart.values()):
            raise TypeError(f"Accept.apart: expected refusals by key: {self.apart!r}")


@attrs.frozen
class Refuse:
    """
    The recipient does not take the message, for good (5xx) or for now (4xx).

    @ivar why: what decided, in a few words: a rule, a score and its limit.  For the
        log alone.
    @ivar policy: the policy of a recipient that is refused before the data, where a
        rule has one for it: whose quarantine gets the copy of an alias' member.
    @ivar score: the score that decided, if one did.
    @ivar stage: what a policy's C{admits} calls such refusals; by default what a
        configuration calls the stage.
    @raise TypeError: the reply is none.
    @raise ValueError: the reply does not refuse.
    """

    reply: Reply
    why: str = attrs.field(default="", converter=_cause, eq=False, kw_only=True)
    policy: str = attrs.field(default="", eq=False, kw_only=True)
    score: float | None = attrs.field(default=None, eq=False, kw_only=True)
    stage: str = attrs.field(default="", eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _checkRefusal(self)


@attrs.frozen
class Defer:
    """
    An envelope stage cannot know: the content decides (S-1).

    @ivar route: what applies from here on; C{None} leaves what an earlier
        stage said.
    @ivar asRuled: whether only the route is meant: where rules decide, what they and
        the checks before have said of the recipient stands.
    @ivar why: what decided, in a few words: a rule, a score and its limit.  For the
        log alone.
    @raise TypeError: the route is none.
    """

    route: Route | None = None
    asRuled: bool = attrs.field(default=False, eq=False, kw_only=True)
    why: str = attrs.field(default="", converter=_cause, eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.route is not None and not isinstance(self.route, Route):
            _check(self, "route", Route, "a Route, or None")


ACCEPT = Accept()

#: The message is thrown away for a recipient, whom the envelope has let in.
NOWHERE = Accept(nowhere=True)


@attrs.frozen
class Expand:
    """
    An envelope stage knows that the recipient is an alias: others are meant, its
    members.  Each is asked about as if RCPT TO had named it, and has a policy and a
    delivery of its own; the sender gets one answer, for the address that it named.

    One of the members may be the recipient itself, who so keeps a copy.

    @ivar members: their addresses.  None at all is an address that is not there.
    @ivar refusers: what becomes of the copies of members that refuse what others
        accept: C{"file"}, to their policy's quarantine, or C{"drop"}.
    @ivar route: what applies to the recipient, where it is one of its own members;
        C{None} leaves what an earlier stage said.
    @ivar later: so often it is refused for now because a member refuses for now; then
        that one counts as one that refuses.
    @ivar nesting: so many aliases may stand in each other: beyond, it is refused for
        now.
    @ivar most: so many addresses may come of it in all, likewise.
    @ivar why: what decided, in a few words.  For the log alone.
    @raise TypeError: an attribute is of another type.
    @raise ValueError: there is no such C{refusers}.
    """

    members: tuple[Mailbox, ...]
    refusers: Literal["file", "drop"] = attrs.field(default="file", kw_only=True)
    route: Route | None = attrs.field(default=None, kw_only=True)
    later: int = attrs.field(default=3, kw_only=True)
    nesting: int = attrs.field(default=10, kw_only=True)
    most: int = attrs.field(default=1000, kw_only=True)
    why: str = attrs.field(default="", converter=_cause, eq=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _check(self, "members", tuple, "a tuple of Mailbox")
        for one in self.members:
            if not isinstance(one, Mailbox):
                raise TypeError(f"Expand.members: expected a tuple of Mailbox: {one!r}")
        for name in ("later", "nesting", "most"):
            _check(self, name, int, "a number")
        if self.route is not None:
            _check(self, "route", Route, "a Route, or None")
        if self.refusers not in ("file", "drop"):
            raise ValueError(f'Expand.refusers: expected "file" or "drop", not {self.refusers!r}')


def refusedBy(name: str, verdict: Refuse, use: str = "") -> Refuse:
    """
    A refusal that says what decided: the stage of that name, where nothing more is
    known.

    @param use: what a configuration calls the stage.
    """
    return attrs.evolve(verdict, why=verdict.why or name, stage=verdict.stage or use)


def isNowhere(verdict: ContentVerdict | None) -> bool:
    """
    Whether it throws the message away, for a recipient whose sender is told that it is
    taken.
    """
    return isinstance(verdict, Accept) and verdict.nowhere


#: What is said of a recipient at RCPT TO, and what a content stage may answer.
EnvelopeVerdict = Accept | Refuse | Defer
ContentVerdict = Accept | Refuse

#: What an envelope stage may answer.
EnvelopeAnswer = EnvelopeVerdict | Expand


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
        no DSN; C{"expanded"}, an alias whose members have it now; or nothing,
        C{"passed"} to a hop that will tell.
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
