"""
The envelope stage C{users}: what a recipient has set for itself, from a table.

The table is a SQLite file, or behind an HTTP look-up.  It says a recipient's
policy, delivery, thresholds, and the senders that it takes mail from in any
case, or in none.  What is not said there stays as the rule has it.

What was found is remembered for a while, so a change counts without a restart;
when the table cannot be asked, what was known last still counts.  SQLite is
read in threads.
"""

from __future__ import annotations

from typing import Literal

import attrs
from cachetools import LRUCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel
from zope.interface import implementer

from deferrals.deferreds import SharedResult
from deferrals.interfaces import IEnvelopeStage, IServices
from deferrals.logger import Logger
from deferrals.model.address import Mailbox, separator, splitSubaddress
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import R451_LOCAL_ERROR, R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.settings import BadSetting, Seconds, checked, positive, template
from deferrals.model.taggedsenders import everyForm, itself
from deferrals.model.verdict import Defer, EnvelopeVerdict, Refuse, Route
from deferrals.stages.envelope.rules import isNamed
from deferrals.stages.envelope.tables import DEFAULT_QUERY, SqliteTable, Table, WebTable, checkQuery
from deferrals.stages.envelope.usersettings import UserSettings, readRow
from deferrals.stages.web import httpURL, shownURL

_log = Logger(namespace="deferrals.stages.users")

_NO_SPAM_FILTER = ("spam_filter", 0.0)


def _lookupURL(value: str) -> None:
    httpURL(value)
    template(value, "address", "local", "domain", "user")


@attrs.frozen
class UsersSettings:
    """
    One of C{sqlite} and C{url} says where the table is.

    @ivar sqlite: a SQLite file.
    @ivar query: the SELECT that gives a recipient's row; C{:address},
        C{:local} and C{:domain} stand for the recipient, in lower case, C{:user} for
        its local part without a subaddress.  The first row counts.
    @ivar url: answers GET with a JSON object, or with 404; C{{address}},
        C{{local}}, C{{domain}} and C{{user}} stand in it for the recipient, quoted.
    @ivar subaddress: the character that ends the user's part of a local part: with
        C{"+"}, C{anna+lists} is looked up as such, and then as C{anna}; by default
        the rule's.
    @ivar timeout: for one look-up.
    @ivar missing: what it means that there is no row: the rule counts, or 550
        5.1.1.
    @ivar on_error: what it means that the table cannot be asked, and nothing
        is known from before: 451, or the rule counts.
    @ivar denied_reply: what a sender is told that the recipient denies.
    @ivar cache: how long a row, or its absence, is remembered.
    @ivar cache_entries: how many are remembered.
    """

    sqlite: str | None = None
    query: str = attrs.field(default=DEFAULT_QUERY, validator=checked(checkQuery))
    url: str | None = attrs.field(default=None, validator=checked(_lookupURL))
    subaddress: str | None = attrs.field(default=None, validator=checked(separator))
    timeout: Seconds = attrs.field(default=Seconds(5.0), validator=checked(positive))
    missing: Literal["pass", "refuse"] = "pass"
    on_error: Literal["refuse-temporarily", "pass"] = "refuse-temporarily"
    denied_reply: str = attrs.field(
        default="550 5.7.1 takes no mail from you", validator=checked(Reply.parseRefusal)
    )
    cache: Seconds = Seconds(60.0)
    cache_entries: int = attrs.field(default=100_000, validator=checked(positive))

    def __attrs_post_init__(self) -> None:
        if (self.sqlite is None) == (self.url is None):
            raise BadSetting("sqlite", "either sqlite or url")


@attrs.define
class _Known:
    """
    What is known of one recipient.

    @ivar settings: C{None}, where there is no row.
    @ivar until: when it is to be asked for again.
    """

    settings: UserSettings | None
    until: float


@implementer(IEnvelopeStage)
class UsersStage:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: UsersSettings, services: IServices) -> None:
        self._settings = settings
        self._clock = services.reactor
        self._status = services.status
        self._table: Table = (
            WebTable(settings.url, settings.timeout, services)
            if settings.sqlite is None
            else SqliteTable(settings.sqlite, settings.query, settings.timeout, services)
        )
        self._known: LRUCache[str, _Known] = LRUCache(settings.cache_entries)
        self._asking: dict[str, SharedResult[UserSettings | None]] = {}
        self._same: dict[UserSettings, UserSettings] = {}

    def judgeRecipient(
        self, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeVerdict | Deferred[EnvelopeVerdict | None] | None:
        """
        At once, where the answer is remembered.
        """
        known = self._known.get(recipient.address.key)
        if known is not None and known.until > self._clock.seconds():
            return self._verdict(known.settings, envelope, recipient)
        return Deferred.fromCoroutine(self._lookUp(envelope, recipient, known))

    async def _lookUp(
        self, envelope: Envelope, recipient: Recipient, known: _Known | None
    ) -> EnvelopeVerdict | None:
        settings: UserSettings | None
        try:
            settings = await self._ask(recipient.address)
        except CancelledError:
            raise
        except Exception as error:
            onError = "what was known" if known is not None else self._settings.on_error
            _log.tell(
                self._status,
                "{transaction}: no look-up of <{recipient}> in {table}, so {on_error}: {error}",
                event="no-look-up",
                level=LogLevel.warn,
                transaction=envelope.id,
                table=self._settings.sqlite or shownURL(self._settings.url or ""),
                recipient=str(recipient),
                on_error=onError,
                error=f"{type(error).__name__}: {error}",
            )
            if known is None:
                if onError != "refuse-temporarily":
                    return None
                return Refuse(R451_LOCAL_ERROR, why="users: no look-up")
            settings = known.settings
        return self._verdict(settings, envelope, recipient)

    def _ask(self, address: Mailbox) -> Deferred[UserSettings | None]:
        """
        There is one look-up at a time for each recipient.
        """
        asking = self._asking.get(address.key)
        if asking is None:
            self._status.count("users", "asked")
            asking = self._asking[address.key] = SharedResult(
                Deferred.fromCoroutine(self._find(address))
            )
            asking.wait().addBoth(lambda _: self._asking.pop(address.key, None))
        return asking.wait()

    async def _find(self, address: Mailbox) -> UserSettings | None:
        user, _ = splitSubaddress(address, self._settings.subaddress or "")
        row = await self._table.find(address, user.local)
        if row is None and user != address:
            row = await self._table.find(user)
        settings = None if row is None else readRow(row)
        if settings is not None:
            settings = self._same.setdefault(settings, settings)
        self._remember(address.key, settings)
        return settings

    def _remember(self, key: str, settings: UserSettings | None) -> None:
        """
        Equal settings are one object, however many recipients have them.
        """
        if len(self._same) > self._settings.cache_entries:
            self._same.clear()
        self._known[key] = _Known(settings, self._clock.seconds() + self._settings.cache)

    def _verdict(
        self, settings: UserSettings | None, envelope: Envelope, recipient: Recipient
    ) -> EnvelopeVerdict | None:
        if settings is None:
            if self._settings.missing != "refuse":
                return None
            return Refuse(R550_UNKNOWN_RECIPIENT, why="users: no row, missing refuse")
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
        return Defer(
            Route(settings.policy or ruled.policy, settings.delivery or ruled.delivery, overrides)
        )
