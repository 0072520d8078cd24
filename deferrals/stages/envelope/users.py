"""
The envelope stage C{users}: what a recipient has set for itself, from a table.

It says a recipient's policy, delivery, thresholds, and the senders that it takes
mail from in any case, or in none.  What is not said there stays as the rule has it.
"""

from __future__ import annotations

from typing import Literal

import attrs
from cachetools import LRUCache
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel
from zope.interface import implementer

from deferrals.errors import StageError, TableError
from deferrals.interfaces import IEnvelopeStage, IServices
from deferrals.logger import Logger
from deferrals.model.address import separator
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_NO_LOOK_UP, R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.settings import checked
from deferrals.model.tablekeys import TableKeys, TableRow
from deferrals.model.taggedsenders import everyForm, itself
from deferrals.model.verdict import Defer, EnvelopeAnswer, Expand, Refuse, Route
from deferrals.stages.envelope.rules import isNamed
from deferrals.stages.envelope.usersettings import UserSettings, readRow
from deferrals.stages.tables.own import OwnTable

_log = Logger(namespace="deferrals.stages.users")

#: So many rows are remembered as they are read, the ones of recipients that were named last.
MAX_READ = 256

_NO_SPAM_FILTER = ("spam_filter", 0.0)


@attrs.frozen(kw_only=True)
class UsersSettings(OwnTable):
    """
    One of C{table}, C{sqlite} and C{url} says where the table is.

    @ivar subaddress: the character that ends the user's part of a local part: with
        C{"+"}, C{anna+lists} is looked up as such, and then as C{anna}; by default
        the rule's.
    @ivar missing: what it means that there is no row: the rule counts, or 550
        5.1.1.
    @ivar on_error: what it means that the table cannot be asked, and nothing
        is known from before: 451, or the rule counts.
    @ivar denied_reply: what a sender is told that the recipient denies.
    """

    subaddress: str | None = attrs.field(default=None, validator=checked(separator))
    missing: Literal["pass", "refuse"] = "pass"
    on_error: Literal["refuse-temporarily", "pass"] = "refuse-temporarily"
    denied_reply: str = attrs.field(
        default="550 5.7.1 takes no mail from you", validator=checked(Reply.parseRefusal)
    )

    def __attrs_post_init__(self) -> None:
        self.checkPlaces(1)


@implementer(IEnvelopeStage)
class UsersStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: UsersSettings, services: IServices) -> None:
        self._settings = settings
        self._status = services.status
        table = settings.opened(services)
        assert table is not None
        self._table = table
        self._read: LRUCache[TableKeys, tuple[TableRow, UserSettings]] = LRUCache(MAX_READ)

    def judgeRecipient(
        self, envelope: Envelope, recipient: Recipient
    ) -> Deferred[EnvelopeAnswer | None]:
        return Deferred.fromCoroutine(self._judge(envelope, recipient))

    async def _judge(self, envelope: Envelope, recipient: Recipient) -> EnvelopeAnswer | None:
        user, _ = recipient.parted(self._settings.subaddress)
        keys = TableKeys.of(recipient.address, user)
        try:
            row = await self._table.lookUp(keys)
        except TableError as error:
            return self._unknown(envelope, recipient, error)
        if row is None:
            return self._missing()
        try:
            settings = self._settingsOf(keys, row)
        except StageError as error:
            return self._unreadable(envelope, recipient, error)
        return self._verdict(settings, envelope, recipient)

    def _settingsOf(self, keys: TableKeys, row: TableRow) -> UserSettings:
        """
        A list may have thousands of senders: it is read once for as long as the table
        remembers the row, and not for each RCPT TO.
        """
        before, settings = self._read.get(keys, (None, None))
        if settings is None or before is not row:
            settings = readRow(row)
            self._read[keys] = row, settings
        return settings

    def _unknown(
        self, envelope: Envelope, recipient: Recipient, error: TableError
    ) -> EnvelopeAnswer | None:
        """
        The table cannot be asked: whether there is a row is not known.
        """
        on_error = self._settings.on_error
        self._tell(f"no look-up of <{recipient}>, so {on_error}", envelope, error)
        return None if on_error == "pass" else Refuse(R451_NO_LOOK_UP, why="users: no look-up")

    def _unreadable(self, envelope: Envelope, recipient: Recipient, error: StageError) -> Refuse:
        """
        There is a row.  What it says is not known, and that is no yes, whatever
        C{on_error} says of tables that are away.
        """
        self._tell(f"the row of <{recipient}> cannot be read, so 451", envelope, error)
        return Refuse(R451_NO_LOOK_UP, why=f"users: {error}")

    def _tell(self, what: str, envelope: Envelope, error: StageError) -> None:
        _log.tell(
            self._status,
            "{transaction}: {what}: {error}",
            event="no-look-up",
            level=LogLevel.warn,
            transaction=envelope.id,
            what=what,
            error=str(error),
        )

    def _missing(self) -> Refuse | None:
        if self._settings.missing != "refuse":
            return None
        return Refuse(R550_UNKNOWN_RECIPIENT, why="users: no row, missing refuse")

    def _verdict(
        self, settings: UserSettings, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeAnswer:
        sender = envelope.sender
        allowed = sender is not None and isNamed(itself(sender), settings.allow)
        if not allowed and sender is not None and isNamed(everyForm(sender), settings.deny):
            reply = Reply.parseRefusal(self._settings.denied_reply)
            return Refuse(reply, why="users: its row denies this sender")
        ruled = recipient.route or Route("", "")
        overrides = settings.overrides
        if allowed:
            kept = [pair for pair in overrides if pair[0].rpartition(".")[2] != "spam_filter"]
            overrides = tuple(sorted([*kept, _NO_SPAM_FILTER]))
        route = attrs.evolve(
            ruled,
            policy=settings.policy or ruled.policy,
            delivery=settings.delivery or ruled.delivery,
            overrides=overrides,
        )
        if not settings.forward:
            return Defer(route, asRuled=True)
        own = (recipient.address,) if settings.keeps else ()
        return Expand((*settings.forward, *own), route=route, why="users: forward")
