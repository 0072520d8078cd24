"""
What users who have logged in may send: as whom, and how much of it within an
hour.

L{Submission} is asked at MAIL FROM, at each RCPT TO that the rules let in, and
when the message is complete.  It says nothing of clients without a login.
"""

from __future__ import annotations

from typing import Literal
from weakref import WeakSet

import attrs
from cachetools import LRUCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel
from zope.interface import implementer

from deferrals.deferreds import asDeferred
from deferrals.errors import PeerError, StageError
from deferrals.interfaces import (
    IEnvelopeStage,
    IMessage,
    ISenderStage,
    IServices,
    MaybeAwaitable,
)
from deferrals.logger import Logger
from deferrals.model.address import Mailbox, comparable
from deferrals.model.completion import Submitter
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.json import JSON
from deferrals.model.reply import (
    R450_OVER_LIMIT,
    R451_NO_LOOK_UP,
    R553_NOT_YOUR_SENDER,
)
from deferrals.model.rowlists import listed
from deferrals.model.settings import Octets, checked, parseOctets, positive
from deferrals.model.tablekeys import TableKeys, TableRow
from deferrals.model.taggedsenders import itself
from deferrals.model.verdict import EnvelopeAnswer, Refuse
from deferrals.stages.envelope.ownsenders import OWN, Senders, listedSenders, ownAddress
from deferrals.stages.tables.own import OwnTable

_log = Logger(namespace="deferrals.submission")

#: How long what was sent counts, in seconds.
HOUR = 3600.0

#: How many logins the status shows.
SHOWN = 20

_NAMES = ("messages", "recipients", "octets")


@attrs.frozen(kw_only=True)
class SubmissionSettings(OwnTable):
    """
    The C{[submission]} table.  A row of a table, by the login's address, has columns
    C{senders}, C{messages}, C{recipients} and C{octets}, which count for it.

    @ivar senders: what a login may use as MAIL FROM: C{"own"}, its own address;
        patterns, for those senders besides, in which C{{user}} stands for the
        login; or C{"any"}.  Others get 553 5.7.1.
    @ivar messages: how many a login may send within an hour; then 450 4.7.1.
    @ivar recipients: the same for recipients of its messages.
    @ivar octets: the same for the octets of its messages.
    @ivar over: what becomes of more: it is refused for now, or taken and held
        in the queue until an operator releases it, up to as much again.
    """

    senders: Senders = OWN
    messages: int = attrs.field(default=500, validator=checked(positive))
    recipients: int = attrs.field(default=2000, validator=checked(positive))
    octets: Octets = attrs.field(default=Octets(1 << 30), validator=checked(positive))
    over: Literal["refuse", "hold"] = "refuse"


@attrs.frozen
class LoginRights:
    """
    What a login may do.

    @ivar user: its name.
    @ivar own: its own address.
    @ivar listed: the senders that its row names.
    @ivar most: how much it may send within an hour, by name.
    @ivar row: what its row says.
    """

    user: str
    own: Mailbox | None
    listed: Senders
    most: dict[str, int]
    row: TableRow | None

    @property
    def key(self) -> str:
        """What its messages are counted by."""
        return comparable(self.user)


@implementer(ISenderStage)
class Submission:
    """
    See the module.
    """

    def __init__(self, settings: SubmissionSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        self._table = settings.opened(services)
        self._known: LRUCache[str, LoginRights] = LRUCache(10_000)
        self._held: WeakSet[Envelope] = WeakSet()

    def judgeSender(self, envelope: Envelope) -> Deferred[Refuse | None]:
        return Deferred.fromCoroutine(self._judgeSender(envelope))

    async def _judgeSender(self, envelope: Envelope) -> Refuse | None:
        if envelope.client.user is None:
            return None
        login = await self._login(envelope)
        if login is None:
            return Refuse(R451_NO_LOOK_UP)
        if not self._owns(login, envelope.sender):
            self._report(envelope, "not its sender", "senders refused")
            return Refuse(R553_NOT_YOUR_SENDER)
        amounts = {"messages": 1, "recipients": 0, "octets": 0}
        for name, amount in amounts.items():
            if not await self._spend(envelope, login, name, amount):
                return Refuse(R450_OVER_LIMIT)
        return None

    def _owns(self, login: LoginRights, sender: Mailbox | None) -> bool:
        """
        The null path is for all logins: clients send notices of their own with it
        (RFC 8098 §3).
        """
        if sender is None:
            return True
        if login.own is not None and login.own.key in [one.key for one in itself(sender)]:
            return True
        return any(one.allow(sender, login.user) for one in (self._settings.senders, login.listed))

    def counting(self, stage: IEnvelopeStage) -> IEnvelopeStage:
        """
        @return: an envelope stage that decides as C{stage} does, and counts the
            recipients that it lets in.
        """
        return _CountingStage(stage, self)

    async def admit(self, envelope: Envelope) -> bool:
        """
        One more recipient.

        @return: whether it may be.
        """
        login = await self._login(envelope)
        return login is not None and await self._spend(envelope, login, "recipients", 1)

    def weigh(self, message: IMessage, envelope: Envelope) -> Deferred[IMessage]:
        """
        A message is complete.

        @return: a Deferred of C{message}; fails with
            L{PeerError<deferrals.errors.PeerError>} where it is too much.
        """
        return Deferred.fromCoroutine(self._weigh(message, envelope))

    async def _weigh(self, message: IMessage, envelope: Envelope) -> IMessage:
        if envelope.client.user is not None:
            login = await self._login(envelope)
            if login is None:
                raise PeerError("the table cannot be asked", R451_NO_LOOK_UP)
            if not await self._spend(envelope, login, "octets", message.size):
                raise PeerError("over its limit", R450_OVER_LIMIT)
        return message

    def submitter(self, envelope: Envelope) -> Submitter | None:
        """
        @return: the user who has logged in, as the author of a message; C{None}
            where it is none, or has no address that the message could name.
        """
        user = envelope.client.user
        own = None if user is None else ownAddress(user, self._services.hostname)
        if user is None or own is None:
            return None
        if not (own.local.isascii() or envelope.parameters.smtputf8):
            return None
        known = self._known.get(user)  # from MAIL FROM
        listed = OWN if known is None else known.listed
        return Submitter(
            own,
            lambda one: self._settings.senders.allow(one, user) or listed.allow(one, user),
        )

    def isHeld(self, envelope: Envelope) -> bool:
        """
        Whether a message waits for an operator.
        """
        return envelope in self._held

    async def _spend(self, envelope: Envelope, login: LoginRights, name: str, amount: int) -> bool:
        """
        @return: whether the message may go on, perhaps to be held.
        """
        limits, most = self._services.limits, login.most[name]
        if await limits.spend(f"submission-{name}", login.key, amount, most, HOUR):
            return True
        isHeld = self._settings.over == "hold" and await limits.spend(
            f"submission-held-{name}", login.key, amount, most, HOUR
        )
        if isHeld and envelope not in self._held:
            self._held.add(envelope)
            self._report(envelope, f"over its {name}, held", "held", name)
        if not isHeld:
            self._report(envelope, f"over its {name}", f"over {name}", name)
        return isHeld

    def _report(self, envelope: Envelope, why: str, outcome: str, limit: str = "") -> None:
        _log.tell(
            self._services.status,
            "{transaction}: {user} sends as <{sender}>: {why}",
            event="submission",
            level=LogLevel.warn,
            transaction=envelope.id,
            client=envelope.client.address,
            user=envelope.client.user,
            sender=str(envelope.sender or ""),
            why=why,
            outcome=outcome,
            limit=limit,
        )

    # What a login may do.

    async def _login(self, envelope: Envelope) -> LoginRights | None:
        """
        @return: C{None} where that is not known now.
        """
        user = envelope.client.user or ""
        try:
            found = await self._lookUp(user)
        except CancelledError:
            raise
        except Exception as error:
            _log.tell(
                self._services.status,
                "{transaction}: no look-up of {user}: {error}",
                event="no-login-look-up",
                level=LogLevel.warn,
                transaction=envelope.id,
                user=user,
                error=f"{type(error).__name__}: {error}",
            )
            return None
        self._known[user] = found
        return found

    async def _lookUp(self, user: str) -> LoginRights:
        own = ownAddress(user, self._services.hostname)
        row: TableRow | None = None
        if self._table is not None and own is not None:
            row = await self._table.lookUp(TableKeys.of(own))
        known = self._known.get(user)
        if known is not None and known.row is row:  # it has been read already
            return known
        said = row or {}
        most = {name: _number(name, said.get(name)) for name in _NAMES}
        return LoginRights(
            user,
            own,
            sendersIn(said.get("senders")),
            {name: one or getattr(self._settings, name) for name, one in most.items()},
            row,
        )

    def describe(self) -> dict[str, int | dict[str, dict[str, list[int]]]]:
        """
        For the status: the logins that have used most of what they may.
        """
        used: dict[str, dict[str, int]] = {}
        for name in _NAMES:
            for key, amount in self._services.limits.used(f"submission-{name}").items():
                used.setdefault(key, {})[name] = amount
        most = {one.key: one.most for one in self._known.values()}
        ordinary = {name: int(getattr(self._settings, name)) for name in _NAMES}
        found = [(_share(one, most.get(key, ordinary)), key, one) for key, one in used.items()]
        found.sort(key=lambda one: (-one[0], one[1]))
        shown = {
            key: {name: [one.get(name, 0), most.get(key, ordinary)[name]] for name in _NAMES}
            for _, key, one in found[:SHOWN]
        }
        return {"logins": len(found), "most_used": shown}


@implementer(IEnvelopeStage)
class _CountingStage:
    """
    A stage whose recipients are counted: L{Submission.counting}.
    """

    def __init__(self, stage: IEnvelopeStage, submission: Submission) -> None:
        self._stage = stage
        self._submission = submission

    def judgeRecipient(
        self, envelope: Envelope, recipient: Recipient
    ) -> MaybeAwaitable[EnvelopeAnswer | None]:
        if envelope.client.user is None or recipient.aliases:
            return self._stage.judgeRecipient(envelope, recipient)
        return self._judge(envelope, recipient)

    async def _judge(self, envelope: Envelope, recipient: Recipient) -> EnvelopeAnswer | None:
        verdict: EnvelopeAnswer | None = await asDeferred(
            self._stage.judgeRecipient, envelope, recipient
        )
        if verdict is None or isinstance(verdict, Refuse):
            return verdict
        return verdict if await self._submission.admit(envelope) else Refuse(R450_OVER_LIMIT)


def _number(column: str, value: JSON) -> int | None:
    """
    @raise StageError: it is none.
    """
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        found = parseOctets(value)
    except ValueError:
        raise StageError(f"{column}: expected a number, not {value!r}") from None
    if not found:
        raise StageError(f"{column}: expected more than 0")
    return found


def sendersIn(value: JSON) -> Senders:
    """
    A list of patterns, in a row.

    @raise StageError: it is none.
    """
    if value is None:
        return OWN
    try:
        return listedSenders(listed(value))
    except ValueError as error:
        raise StageError(f"senders: expected a list of patterns ({error})") from None


def _share(used: dict[str, int], most: dict[str, int]) -> float:
    return max((amount / most[name] for name, amount in used.items()), default=0.0)
