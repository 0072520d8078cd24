"""
The stage C{milter}: asks a filter of the milter protocol, as mail servers have asked such
filters for decades.

As a content stage it holds one conversation for each cohort, with that cohort's
recipients, from the stored message; or one for the message, which all share.  As an
envelope stage it asks at RCPT TO about one recipient.

What a filter may change is offered in the negotiation: header fields, and the
quarantine; never the body, the sender or the recipients.

What needs C{kilter.protocol} is imported by what uses it, once the settings have found
that it is there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from zope.interface import implementer

from deferrals.deferreds import asDeferred
from deferrals.errors import StageError
from deferrals.interfaces import (
    IEditingStage,
    IEnvelopeStage,
    IExpectingStage,
    IMessage,
    IServices,
)
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_STAGE_FAILED, Reply
from deferrals.model.settings import BadSetting, Octets, Seconds, checked, positive
from deferrals.model.text import hasControls
from deferrals.model.verdict import NO_MARKS, Accept, ContentVerdict, Marks, Refuse
from deferrals.stages.content.scanner import OnError, Scanner, TooLargeMeans, tooLarge
from deferrals.stages.milter.macros import written
from deferrals.stages.remote import RemoteService

if TYPE_CHECKING:
    from deferrals.stages.milter.dialogue import Dialogue, Outcome, Said, Told
    from deferrals.stages.milter.link import FilterLink, FilterLinks

_log = Logger(namespace="deferrals.stages.milter")

#: What may be offered to a filter.
CHANGES = ("headers", "quarantine")

R451_FILTER = Reply(451, "4.7.1", "try again later")


def _isInstalled() -> bool:
    try:
        return importlib.util.find_spec("kilter.protocol") is not None
    except ModuleNotFoundError:
        return False


def _changes(value: Iterable[str]) -> None:
    for one in value:
        if one not in CHANGES:
            raise ValueError(f'headers or quarantine, not "{one}"')


def _macros(value: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((written(name), text) for name, text in dict(value).items()))


def _sendable(value: Iterable[tuple[str, str]]) -> None:
    for name, text in value:
        if not name.isascii() or hasControls(name + text):
            raise ValueError("names and values without control characters")


@attrs.frozen(kw_only=True)
class FilterSettings:
    """
    What is said of a filter, wherever it is asked.

    @ivar socket: the filter: a Twisted client endpoint string.
    @ivar may: what it is offered to change.
    @ivar macros: further macros, by name, or others in place of ours; sent at the step
        where filters expect them.
    @ivar reply: what a recipient refuses with, where the filter has no text of its own.
    @ivar timeout: for one conversation; a filter that says that it works gets it anew, in
        all eight times.
    @ivar on_error: what it means that there is no answer.
    @ivar concurrency: conversations at once.
    """

    socket: str
    may: tuple[str, ...] = attrs.field(default=CHANGES, validator=checked(_changes))
    macros: dict[str, str] = attrs.field(
        factory=dict, converter=_macros, validator=checked(_sendable)
    )
    reply: str = attrs.field(default="550 5.7.1 refused", validator=checked(Reply.parseRefusal))
    timeout: Seconds = attrs.field(default=Seconds(15.0), validator=checked(positive))
    on_error: OnError = "refuse-temporarily"
    concurrency: int = attrs.field(default=20, validator=checked(positive))

    def __attrs_post_init__(self) -> None:
        if not _isInstalled():
            raise BadSetting("use", 'another stage, or: pip install "deferrals[milter]"')


@attrs.frozen(kw_only=True)
class MilterCheckSettings(FilterSettings):
    """
    @ivar may: what it is offered to change; at RCPT TO it never comes to that, but there
        are filters that refuse to work with less.
    @ivar on_error: what it means that there is no answer: 451, or as if this stage were
        not there.
    """


@attrs.frozen(kw_only=True)
class MilterSettings(FilterSettings):
    """
    @ivar may: what the filter may change: C{"headers"}, C{"quarantine"}.  One that insists
        on more is not asked.
    @ivar on_error: what it means that there is no answer: 451; accept, with a field in
        the copy that says so; or as if this stage were not there.
    @ivar per: a conversation for each C{"cohort"}, with its recipients; or one for the
        C{"message"}, with all recipients that have this filter, whose answer is
        everybody's.
    @ivar recipients: whom the filter is told of: the C{"cohort"}, or C{"all"} that have
        this filter.
    @ivar max_size: larger messages are too large, and not sent; nor are those with a
        header field of 64 KiB or more, at which the library hangs up that most filters
        are made of.
    @ivar too_large: what that means: accept; accept, with a field that says so
        (C{Deferrals-Unscanned}); or refuse.
    """

    may: tuple[str, ...] = attrs.field(default=("headers",), validator=checked(_changes))
    per: Literal["cohort", "message"] = "cohort"
    recipients: Literal["cohort", "all"] = "cohort"
    max_size: Octets = attrs.field(default=Octets(50 << 20), validator=checked(positive))
    too_large: TooLargeMeans = "mark"


@attrs.frozen
class _Patience:
    """
    What L{Scanner} needs to know: for how long the longest conversation may go on.
    """

    timeout: Seconds
    on_error: OnError
    concurrency: int


@attrs.frozen
class Heard:
    """
    @ivar recipients: whom the filter was told of.
    @ivar outcome: what it has said.
    """

    recipients: Sequence[Recipient]
    outcome: Outcome


class Filter:
    """
    One filter as one stage asks it.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: FilterSettings, services: IServices) -> None:
        import deferrals
        from deferrals.stages.milter.link import FilterLinks

        self._settings = settings
        self._hostname = services.hostname
        self._version = f"deferrals {deferrals.__version__}"
        offered = tuple(sorted(set(settings.may)))
        endpoint = services.connect(settings.socket)
        self._links: FilterLinks = services.common(
            ("milter", settings.socket, offered),
            lambda: FilterLinks(endpoint, services.reactor, offered),
        )

    async def ask(
        self, envelope: Envelope, recipients: Sequence[Recipient], message: IMessage | None
    ) -> Outcome:
        """
        Hold one conversation.

        @param message: C{None} where there is none yet.
        """
        from deferrals.stages.milter.told import toldOf

        macros = dict(self._settings.macros)
        told = toldOf(envelope, recipients, self._hostname, self._version, macros)
        client = envelope.client
        session = (client, client.hostname, told.macros.session)

        def talk(link: FilterLink) -> Deferred[Outcome]:
            return Deferred.fromCoroutine(_talk(link, told, message, session))

        return await self._links.use(session, self._settings.timeout, talk)

    def refusal(self, said: Said, reply: str) -> Refuse | None:
        """
        @param reply: what stands for a refusal without words.
        @return: C{None} where it does not refuse.
        """
        why = f"milter {self._settings.socket}: {said.kind}"
        if said.reply is not None:
            return Refuse(said.reply, why=why)
        if said.kind == "reject":
            return Refuse(Reply.parseRefusal(reply), why=why)
        return Refuse(R451_FILTER, why=why) if said.kind in ("tempfail", "connfail") else None


async def _talk(
    link: FilterLink,
    told: Told,
    message: IMessage | None,
    session: Hashable,
) -> Outcome:
    """
    One conversation over one connection, which is left so that another one can follow.
    """
    from deferrals.stages.milter.dialogue import MilterTalk, Said
    from deferrals.stages.milter.told import bodyOf, fieldsOf

    talk = MilterTalk(link.negotiated, told)

    def whole() -> Dialogue[Outcome]:
        found = yield from talk.envelope(link.session == session)
        if found is not None:
            return found
        if message is None:
            return talk.outcome(Said("continue"))
        return (yield from talk.content(fieldsOf(message), lambda: bodyOf(message)))

    outcome = await link.run(whole())
    link.session = session if outcome.isGreeted else None
    link.say(talk.leaving())
    return outcome


@implementer(IEditingStage, IExpectingStage)
class MilterStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: MilterSettings, services: IServices) -> None:
        from deferrals.stages.milter.link import MOST_TIMES

        self._settings = settings
        self._filter = Filter(settings, services)
        longest = Seconds(MOST_TIMES * settings.timeout)
        patience = _Patience(longest, settings.on_error, settings.concurrency)
        self._scanner = Scanner("milter", settings.socket, patience, services)
        self._expected: WeakKeyDictionary[Envelope, list[Recipient]] = services.common(
            ("milter", settings.socket, "expected"), WeakKeyDictionary
        )

    def cohort(self, recipient: Recipient) -> Hashable:
        """
        @return: how the recipient refuses in words of its own; nothing where it has none.
        """
        return recipient.own("milter", "reply")

    def expect(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> None:
        """
        See L{IExpectingStage.expect}.
        """
        self._expected.setdefault(envelope, []).extend(recipients)

    def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> Deferred[ContentVerdict]:
        from deferrals.stages.milter.told import fits

        settings = self._settings
        if message.size > settings.max_size or not fits(message):
            return succeed(tooLarge("milter", settings.too_large, "too large to be filtered"))
        told = recipients
        if settings.per == "message" or settings.recipients == "all":
            expected = self._expected.get(envelope, recipients)
            told = list({one.address.key: one for one in expected}.values())

        async def ask() -> Heard:
            return Heard(told, await self._filter.ask(envelope, told, message))

        whom = None if settings.per == "message" else tuple(one.address.key for one in recipients)
        key = (settings.per, whom, settings.recipients, settings.may, settings.macros)
        return self._scanner.judge(
            message, envelope, key, ask, lambda asked: self._decide(asked, recipients)
        )

    def _decide(self, asked: Heard, recipients: Sequence[Recipient]) -> ContentVerdict:
        """
        @param recipients: all of which have the same words of their own.
        """
        settings, outcome = self._settings, asked.outcome
        told = {one.address.key for one in asked.recipients}
        if not all(one.address.key in told for one in recipients):
            raise StageError("the filter was not told of all recipients")
        own = self.cohort(recipients[0])
        reply = settings.reply if own is None else str(own)
        refusal = self._filter.refusal(outcome.said, reply)
        if refusal is not None and set(outcome.apart.values()) <= {outcome.said}:
            return refusal
        apart = {}
        for index, one in enumerate(asked.recipients):
            refused = refusal
            if index in outcome.apart:
                refused = self._filter.refusal(outcome.apart[index], reply)
            if refused is not None:
                apart[one.address.key] = refused
        why = f"milter {settings.socket}: {outcome.said.kind}"
        if outcome.said.kind == "discard":
            return Accept(nowhere=True, apart=apart, why=why)
        return Accept(
            Marks(edits=outcome.edits) if outcome.edits else NO_MARKS,
            isQuarantined=outcome.quarantine is not None,
            apart=apart,
            why=why if outcome.quarantine is None else f"{why}, quarantine {outcome.quarantine}",
        )


@implementer(IEnvelopeStage)
class MilterCheck:
    """
    See the module: the filter is told of the client, the sender and one recipient.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: MilterCheckSettings, services: IServices) -> None:
        from deferrals.stages.milter.link import MOST_TIMES

        self._settings = settings
        self._filter = Filter(settings, services)
        self._seconds = MOST_TIMES * settings.timeout
        self._remote = services.common(
            ("milter", settings.socket, settings.concurrency, "check"),
            lambda: RemoteService(
                f"milter {settings.socket} (check)", services, settings.concurrency
            ),
        )

    def judgeRecipient(
        self, envelope: Envelope, recipient: Recipient
    ) -> Deferred[Accept | Refuse | None]:
        return asDeferred(self._judge, envelope, recipient)

    async def _judge(self, envelope: Envelope, recipient: Recipient) -> Accept | Refuse | None:
        settings = self._settings
        try:
            outcome = await self._remote.ask(
                self._seconds, self._filter.ask, envelope, [recipient], None
            )
        except CancelledError:
            raise
        except Exception as error:
            return self._unanswered(envelope, recipient, error)
        own = recipient.own("milter", "reply")
        reply = settings.reply if own is None else str(own)
        if outcome.said.kind == "discard":
            return Accept(nowhere=True, why=f"milter {settings.socket}: discard")
        return self._filter.refusal(outcome.said, reply)

    def _unanswered(
        self, envelope: Envelope, recipient: Recipient, error: Exception
    ) -> Refuse | None:
        onError = self._settings.on_error
        _log.warn(
            "{transaction}: asking milter {socket} about <{recipient}>: {error}, so {on_error}",
            transaction=envelope.id,
            socket=self._settings.socket,
            recipient=str(recipient),
            on_error=onError,
            error=f"{type(error).__name__}: {error}",
        )
        if onError != "refuse-temporarily":
            return None
        return Refuse(R451_STAGE_FAILED, why=f"milter {self._settings.socket}: no answer")
