"""
The mail server's side of the milter protocol, without I/O: what a filter is told, one
step after the other, and what its answers mean.

A dialogue is a generator.  It yields what is to be sent (L{Tell}), is sent the filter's
answer where one is due, and returns what came of it.  What a filter says that it may not
say is a L{StageError<deferrals.errors.StageError>}; and nothing but its own word makes an
acceptance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, TypeVar

import attrs
from kilter.protocol.messages import (
    Abort,
    Accept,
    ActionFlags,
    AddHeader,
    AddRecipient,
    AddRecipientPar,
    Body,
    ChangeHeader,
    ChangeSender,
    Connect,
    Continue,
    Data,
    Discard,
    EndOfHeaders,
    EndOfMessage,
    EnvelopeFrom,
    EnvelopeRecipient,
    Header,
    Helo,
    InsertHeader,
    Message,
    Negotiate,
    ProtocolFlags,
    Quarantine,
    Reject,
    RemoveRecipient,
    ReplaceBody,
    ReplyCode,
    Skip,
    Stage,
    TemporaryFailure,
)

from deferrals.errors import StageError
from deferrals.model.envelope import Recipient
from deferrals.model.headertext import isFieldName
from deferrals.model.reply import Reply, kept
from deferrals.model.verdict import AT_END, HeaderEdit
from deferrals.stages.milter.macros import FilterStep, Macros
from deferrals.stages.milter.wire import (
    ConnectionFailure,
    NamedMacro,
    packed,
)

_T = TypeVar("_T")

#: The versions of the protocol that are spoken: what we offer, and what a filter may
#: fall back to.
VERSION, OLDEST = 6, 2

#: From this version on there is a step for DATA, and macros at the end of the header.
_WITH_DATA = 4

#: No more changes of one header section, and no more of their octets, are made.
MAX_EDITS, MAX_EDIT_OCTETS = 1000, 256 * 1024

#: So much is told in one step: at more, the library of most filters hangs up.
MAX_STEP_OCTETS = 65535

_P = ProtocolFlags

#: What a filter may leave out, and what it may leave unanswered.
_STEPS: dict[FilterStep, tuple[int, Stage | None, ProtocolFlags, ProtocolFlags]] = {
    FilterStep.CONNECT: (Connect.ident, Stage.CONNECT, _P.NO_CONNECT, _P.NR_CONNECT),
    FilterStep.HELO: (Helo.ident, Stage.HELO, _P.NO_HELO, _P.NR_HELO),
    FilterStep.MAIL: (EnvelopeFrom.ident, Stage.ENVELOPE_FROM, _P.NO_MAIL, _P.NR_MAIL),
    FilterStep.RCPT: (EnvelopeRecipient.ident, Stage.ENVELOPE_RECIPIENT, _P.NO_RCPT, _P.NR_RCPT),
    FilterStep.DATA: (Data.ident, Stage.DATA, _P.NO_DATA, _P.NR_DATA),
    FilterStep.HEADER: (Header.ident, None, _P.NO_HEADERS, _P.NR_HEADER),
    FilterStep.EOH: (EndOfHeaders.ident, Stage.END_HEADERS, _P.NO_EOH, _P.NR_EOH),
    FilterStep.BODY: (Body.ident, None, _P.NO_BODY, _P.NR_BODY),
    FilterStep.EOM: (EndOfMessage.ident, Stage.END_MESSAGE, _P.NONE, _P.NONE),
}

#: All that may be asked of us beside that.
_OFFERED = _P.SKIP | _P.NO_UNKNOWN | _P.NR_UNKNOWN | _P.HDR_LEADSPC
for _step in _STEPS.values():
    _OFFERED |= _step[2] | _step[3]

#: Bits with which some filters speak to their own library.
_INTERNAL = 0x70000000

#: What changes a message, by the message of the protocol that asks for it.
_ACTIONS: dict[type[Message], ActionFlags] = {
    AddHeader: ActionFlags.ADD_HEADERS,
    InsertHeader: ActionFlags.ADD_HEADERS,
    ChangeHeader: ActionFlags.CHANGE_HEADERS,
    Quarantine: ActionFlags.QUARANTINE,
    ReplaceBody: ActionFlags.CHANGE_BODY,
    AddRecipient: ActionFlags.ADD_RECIPIENT,
    AddRecipientPar: ActionFlags.ADD_RECIPIENT_PAR,
    RemoveRecipient: ActionFlags.DELETE_RECIPIENT,
    ChangeSender: ActionFlags.CHANGE_FROM,
}

#: What a filter may want, in words.
_WANTS = {
    ActionFlags.ADD_HEADERS | ActionFlags.CHANGE_HEADERS: 'headers ("headers")',
    ActionFlags.QUARANTINE: 'the quarantine ("quarantine")',
    ActionFlags.CHANGE_BODY: "the body",
    ActionFlags.ADD_RECIPIENT
    | ActionFlags.ADD_RECIPIENT_PAR
    | ActionFlags.DELETE_RECIPIENT: "the recipients",
    ActionFlags.CHANGE_FROM: "the sender",
}

#: What C{may} offers.
OFFERS = {
    "headers": ActionFlags.ADD_HEADERS | ActionFlags.CHANGE_HEADERS,
    "quarantine": ActionFlags.QUARANTINE,
}

#: To which steps a filter may answer that the message is thrown away.
_MESSAGE_STEPS = frozenset(FilterStep) - {FilterStep.CONNECT, FilterStep.HELO}

_REPLY_LINE = re.compile(r"([45])[0-9]{2}(?:[ -].*)?", re.S)

Kind = Literal["accept", "continue", "reject", "tempfail", "reply", "discard", "connfail"]


def insists(flags: int) -> StageError:
    """
    What is wrong with a filter that wants more than it is offered.
    """
    named = ", ".join(text for bits, text in _WANTS.items() if flags & bits)
    what = named or f"actions 0x{flags:x}"
    return StageError(f"the filter insists on changing more than it may: {what}")


@attrs.frozen
class Tell:
    """
    The next octets for the filter.

    @ivar isAnswered: whether its next message is waited for.
    """

    octets: bytes
    isAnswered: bool


Dialogue: TypeAlias = Generator[Tell, "Message | None", _T]


@attrs.frozen
class Said:
    """
    What a filter has decided, about a message or about one recipient of it.

    @ivar reply: with C{"reply"}: its own.
    """

    kind: Kind
    reply: Reply | None = None


@attrs.frozen
class Outcome:
    """
    What came of a message.

    @ivar said: about the message.
    @ivar apart: what is said of single recipients, by their position.
    @ivar edits: changes of its header section.
    @ivar quarantine: why it is to go into quarantine; C{None} where it is not.
    @ivar isGreeted: whether the filter has taken the session, and may be told of its next
        message.
    """

    said: Said
    apart: Mapping[int, Said] = attrs.field(factory=dict)
    edits: tuple[HeaderEdit, ...] = ()
    quarantine: str | None = None
    isGreeted: bool = True


@attrs.frozen
class Negotiated:
    """
    What a filter wants.

    @ivar version: of the protocol.
    @ivar actions: what it may change.
    @ivar steps: what it wants to be told, and what it answers.
    @ivar macros: which ones it wants, by step; where it has not said which, all.
    """

    version: int
    actions: ActionFlags
    steps: ProtocolFlags
    macros: Mapping[Stage, Sequence[str]] = attrs.field(factory=dict)

    def knows(self, step: FilterStep) -> bool:
        """
        Whether the version that it speaks has macros there.
        """
        return self.version >= _WITH_DATA or step not in (FilterStep.DATA, FilterStep.EOH)

    def wants(self, step: FilterStep) -> bool:
        """
        Whether it is told of a step.
        """
        if step is FilterStep.DATA and self.version < _WITH_DATA:
            return False
        return not self.steps & _STEPS[step][2]

    def answers(self, step: FilterStep) -> bool:
        """
        Whether it answers to it.
        """
        return not self.steps & _STEPS[step][3]

    def macrosAt(self, step: FilterStep) -> tuple[str, ...] | None:
        """
        The macros that it wants there; C{None} where it has not said which.
        """
        stage = _STEPS[step][1]
        found = None if stage is None else self.macros.get(stage)
        return None if found is None else tuple(found)


def negotiation(offered: ActionFlags) -> Dialogue[Negotiated]:
    """
    A filter that says it wants more than it is offered may live without: there are some
    that say so to everyone.

    @param offered: what the filter may change.
    """
    offered |= ActionFlags.SETSYMLIST
    offer = Negotiate(VERSION, offered, _OFFERED)
    answer = yield Tell(packed(offer, 13), True)
    if not isinstance(answer, Negotiate):
        raise StageError(f"the filter does not negotiate, but says {_named(answer)}")
    if not OLDEST <= answer.version <= VERSION:
        raise StageError(f"the filter speaks version {answer.version} of the protocol")
    steps = int(answer.protocol_flags) & ~_INTERNAL
    if steps & ~int(_OFFERED):
        raise StageError(f"the filter wants steps that are not offered: 0x{steps:x}")
    macros = {stage: tuple(names) for stage, names in answer.macros.items()}
    actions = ActionFlags(int(answer.action_flags) & int(offered))
    return Negotiated(answer.version, actions, ProtocolFlags(steps), macros)


@attrs.frozen
class Told:
    """
    What a filter is told of a message before its content.

    @ivar connect: the client.
    @ivar helo: its name.
    @ivar mail: the sender.
    @ivar rcpt: the recipients.
    @ivar recipients: the same, for the macros.
    """

    connect: Connect
    helo: Helo
    mail: EnvelopeFrom
    rcpt: Sequence[EnvelopeRecipient]
    recipients: Sequence[Recipient]
    macros: Macros


class MilterTalk:
    """
    What is said about one message, to a filter that has negotiated.
    """

    def __init__(self, filter: Negotiated, told: Told) -> None:
        self._filter = filter
        self._told = told
        self._apart: dict[int, Said] = {}
        self._isGreeted = False
        self._edits: list[HeaderEdit] = []
        self._editOctets = 0
        self._quarantine: str | None = None

    def envelope(self, isGreeted: bool) -> Dialogue[Outcome | None]:
        """
        The client, the sender and the recipients.

        @param isGreeted: whether the filter knows the session.
        @return: what came of it, where that is decided.
        """
        if not isGreeted:
            for step in (FilterStep.CONNECT, FilterStep.HELO):
                message = self._told.connect if step is FilterStep.CONNECT else self._told.helo
                said = self._meaning(step, (yield from self._tell(step, message)))
                if said is not None:
                    return self.outcome(said)
        self._isGreeted = True
        said = self._meaning(
            FilterStep.MAIL, (yield from self._tell(FilterStep.MAIL, self._told.mail))
        )
        if said is not None:
            return self.outcome(said)
        for index, rcpt in enumerate(self._told.rcpt):
            answer = yield from self._tell(FilterStep.RCPT, rcpt, self._told.recipients[index])
            said = self._meaning(FilterStep.RCPT, answer)
            if said is not None and said.kind in ("accept", "discard", "connfail"):
                return self.outcome(said)
            if said is not None:
                self._apart[index] = said
        if len(self._apart) == len(self._told.rcpt):
            return self.outcome(next(iter(self._apart.values())))
        return None

    def content(
        self, fields: Iterable[tuple[str, bytes]], chunks: Callable[[], Iterable[bytes]]
    ) -> Dialogue[Outcome]:
        """
        The message itself.

        @param fields: of its header section: names, and what stands behind their colons.
        @param chunks: gives its body.
        """
        said = self._meaning(FilterStep.DATA, (yield from self._tell(FilterStep.DATA, Data())))
        if said is not None:
            return self.outcome(said)
        said = yield from self._header(fields)
        if said is not None:
            return self.outcome(said)
        if self._filter.wants(FilterStep.BODY):
            for chunk in chunks():
                answer = yield from self._tell(FilterStep.BODY, Body(chunk), octets=len(chunk))
                if isinstance(answer, Skip) and self._filter.steps & _P.SKIP:
                    break
                said = self._meaning(FilterStep.BODY, answer)
                if said is not None:
                    return self.outcome(said)
        return self.outcome((yield from self._end()))

    def leaving(self) -> bytes:
        """
        What is sent so that the filter forgets the message.
        """
        return packed(Abort(), 0)

    def outcome(self, said: Said) -> Outcome:
        """
        What has come of it, where this is said of the message.
        """
        isGreeted = self._isGreeted and said.kind != "connfail"
        return Outcome(said, self._apart, tuple(self._edits), self._quarantine, isGreeted)

    def _header(self, fields: Iterable[tuple[str, bytes]]) -> Dialogue[Said | None]:
        for name, value in fields if self._filter.wants(FilterStep.HEADER) else ():
            if not self._filter.steps & _P.HDR_LEADSPC:
                value = value.removeprefix(b" ")
            octets = len(name) + len(value)
            answer = yield from self._tell(FilterStep.HEADER, Header(name, value), octets=octets)
            said = self._meaning(FilterStep.HEADER, answer)
            if said is not None:
                return said
        return self._meaning(
            FilterStep.EOH, (yield from self._tell(FilterStep.EOH, EndOfHeaders()))
        )

    def _end(self) -> Dialogue[Said]:
        """
        The end of the message: changes, and then what becomes of it.
        """
        answer: Message | None
        answer = yield from self._tell(FilterStep.EOM, EndOfMessage(b""))
        while type(answer) in _ACTIONS:
            assert answer is not None
            self._act(answer)
            answer = yield Tell(b"", True)
        assert answer is not None
        return self._meaning(FilterStep.EOM, answer) or Said("continue")

    def _act(self, message: Message) -> None:
        """
        A change is asked for.

        @raise StageError: it may not be.
        """
        action = _ACTIONS[type(message)]
        if not self._filter.actions & action:
            raise insists(action)
        if isinstance(message, Quarantine):
            self._quarantine = message.reason
        elif isinstance(message, Header | ChangeHeader):
            self._edits.append(self._edit(message))
        else:
            raise insists(action)

    def _edit(self, message: Header | ChangeHeader) -> HeaderEdit:
        value = bytes(message.value).decode("utf-8", "replace")
        self._editOctets += len(message.name) + len(value)
        if len(self._edits) >= MAX_EDITS or self._editOctets > MAX_EDIT_OCTETS:
            raise StageError("the filter changes too much of the header section")
        if not isFieldName(message.name):
            raise StageError(f"the filter adds a field that is called {message.name[:50]!r}")
        if isinstance(message, InsertHeader):
            return HeaderEdit("insert", message.name, value, min(message.index, AT_END))
        if isinstance(message, ChangeHeader):
            return HeaderEdit("change", message.name, value, max(1, message.index))
        return HeaderEdit("insert", message.name, value, AT_END)

    def _tell(
        self,
        step: FilterStep,
        message: Message,
        recipient: Recipient | None = None,
        octets: int = 0,
    ) -> Dialogue[Message]:
        """
        One step.  Macros are sent even where the filter wants none of it: it may ask for
        them later.

        @param octets: about as many as the message has.
        @return: the filter's answer; to go on, where it has none.
        """
        macros = {}
        if self._filter.knows(step):
            macros = self._told.macros.at(step, self._filter.macrosAt(step), recipient)
        before = b""
        if macros:
            about = sum(4 * (len(name) + len(value)) + 2 for name, value in macros.items())
            before = packed(NamedMacro(_STEPS[step][0], macros), about)
        if not self._filter.wants(step):
            if before:
                yield Tell(before, False)
            return Continue()
        isAnswered = self._filter.answers(step)
        answer = yield Tell(before + packed(message, octets or _octetsOf(message)), isAnswered)
        if not isAnswered:
            return Continue()
        assert answer is not None
        return answer

    def _meaning(self, step: FilterStep, answer: Message) -> Said | None:
        """
        What an answer says; C{None}: to go on.

        @raise StageError: it is none to this step.
        """
        if isinstance(answer, Continue):
            return None
        if isinstance(answer, ReplyCode):
            return Said("reply", replyOf(bytes(answer.content)))
        for kind, name in _KINDS.items():
            if isinstance(answer, kind) and (kind is not Discard or step in _MESSAGE_STEPS):
                return Said(name)
        raise StageError(f"the filter answers {_named(answer)} to the step {step.value}")


_KINDS: dict[type[Message], Kind] = {
    Accept: "accept",
    Reject: "reject",
    TemporaryFailure: "tempfail",
    Discard: "discard",
    ConnectionFailure: "connfail",
}


def _named(message: Message | None) -> str:
    return type(message).__name__


def _octetsOf(message: Message) -> int:
    """
    As many as a message of the envelope has, or more.
    """
    if isinstance(message, EnvelopeFrom):
        return sum(len(one) + 1 for one in (message.sender, *message.arguments))
    if isinstance(message, EnvelopeRecipient):
        return sum(len(one) + 1 for one in (message.recipient, *message.arguments))
    if isinstance(message, Connect | Helo):
        return 4 * len(message.hostname) + 64
    return 0


def replyOf(content: bytes) -> Reply:
    """
    A filter's own reply.

    @raise StageError: it refuses nothing, or is none.
    """
    text = content.partition(b"\0")[0].decode("utf-8", "replace").replace("%%", "%")
    lines = [line for line in re.split(r"\r\n|\r|\n", text) if line]
    if not lines or not all(map(_REPLY_LINE.fullmatch, lines)):
        raise StageError(f"the filter replies {text[:100]!r}, which refuses nothing")
    reply = kept(Reply.ofLines(lines))
    enhanced = reply.enhanced or f"{reply.code // 100}.0.0"
    code = 550 if reply.code == 551 else reply.code  # a 551 names where else to send it
    return Reply(code, enhanced, reply.text).forRecipient()
