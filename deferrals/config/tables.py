"""
The configuration: TOML into settings, with errors that name file, key and what
was expected.  No objects are made here beyond settings; L{deferrals.app.service}
builds from them.

The attributes of the classes below are the keys of the file.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
from collections.abc import Iterable, Mapping
from typing import Literal

import attrs
import cattrs
from cattrs.errors import BaseValidationError
from zope.interface import Interface

from deferrals.config.crosscheck import crossCheck
from deferrals.config.structuring import apart, makeConverter, problemsOf, structured
from deferrals.config.workers import Workers
from deferrals.errors import ConfigError
from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    INamedPlugin,
    ITable,
)
from deferrals.model.address import AddressError, normalDomain, separator
from deferrals.model.dkim import SigningSettings
from deferrals.model.limits import (
    BOUNCE_OCTETS,
    GRACE_SECONDS,
    MAX_DELIVERING,
    MAX_JUDGING,
    Limits,
    ReplyTimes,
)
from deferrals.model.listener import ListenerOptions
from deferrals.model.networks import dnsServers
from deferrals.model.refusal import RefusalSettings
from deferrals.model.reply import Reply
from deferrals.model.schedule import Schedule
from deferrals.model.settings import BadSetting, Octets, Seconds, checked, positive
from deferrals.model.srs import SRSSettings
from deferrals.model.store import SpoolSettings
from deferrals.model.web import WebSettings
from deferrals.stages.envelope.rules import Allowed, Pattern
from deferrals.stages.envelope.submission import SubmissionSettings
from deferrals.stages.tables.frame import TableSettings

#: The stages and tables there are, by interface and name.
Plugins = Mapping[tuple[type[Interface], str], INamedPlugin]

#: Where state is, beside a configuration that does not say; and the operator's socket
#: in it.
STATE_DIR, CONTROL = "state", "control"

#: What signs links, in the same place.
LINK_KEY = "link.key"

#: What runs without --config.  {hostname} is this machine's name.
DEFAULT = """\
state_dir = "deferrals-state"
bounces = "senders"

[[listen]]
endpoint = "tcp:2525:interface=127.0.0.1"

[deliveries.senders]
use = "mx"

[policies.open]
envelope = "accept"

[policies.checked]
envelope = "defer"
content = [
  { use = "match", rules = [
    { test = "gtube" },
    { test = "eicar" },
    { attachment = ["*.exe", "*.scr", "*.com", "*.pif", "*.bat", "*.vbs"] },
  ] },
]

[[recipients]]
match = "postmaster@localhost"
policy = "open"
deliver = { use = "maildir", path = "deferrals-state/mail/{domain}/{local}" }

[[recipients]]
match = "postmaster@{hostname}"
policy = "open"
deliver = { use = "maildir", path = "deferrals-state/mail/{domain}/{local}" }

[[recipients]]
match = "*@localhost"
policy = "checked"
deliver = { use = "maildir", path = "deferrals-state/mail/{domain}/{local}" }

[[recipients]]
match = "*@{hostname}"
policy = "checked"
deliver = { use = "maildir", path = "deferrals-state/mail/{domain}/{local}" }
"""


def _clients(value: tuple[str, ...] | None) -> None:
    if value is not None and not value:
        raise ValueError('"authenticated", addresses, networks; without any, no client is meant')
    Allowed.parse(value or ())


def _names(value: Iterable[str]) -> None:
    for name in value:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"names of letters, digits, - and _, not {name!r}")


def defaultHostname() -> str:
    """
    This machine's name, as far as it is one that mail can use.  Asks no DNS.
    """
    name = socket.gethostname().lower()
    try:
        return normalDomain(name)
    except AddressError:
        return "localhost"


@attrs.frozen
class Stage:
    """
    One stage's table.

    @ivar plugin: what C{use} names.
    @ivar settings: an instance of its settings class.
    """

    plugin: INamedPlugin
    settings: object


@attrs.frozen
class ContentStage(Stage):
    """
    A table in a policy's C{content}.
    """


@attrs.frozen
class DeliveryStage(Stage):
    """
    A C{deliver} table.

    @ivar schedule: when its recipients are tried again, and given up.
    """

    schedule: Schedule = Schedule()


@attrs.frozen
class EnvelopeStage(Stage):
    """
    A table in a rule's C{check}.
    """


@attrs.frozen
class LookUpTable(Stage):
    """
    One C{[tables.NAME]} table.

    @ivar frame: what it has whatever its kind.
    """

    frame: TableSettings

    @property
    def path(self) -> str | None:
        """
        The file that it is in; C{None} where it is in none.
        """
        path = getattr(self.settings, "path", None)
        return path if isinstance(path, str) else None


@attrs.frozen(kw_only=True)
class Listener(ListenerOptions):
    """
    One C{[[listen]]} table.

    @ivar endpoint: a Twisted server endpoint string.
    @ivar certificate: a PEM file for this listener: its certificate, then those
        between it and its root; C{[tls]} has the one for all others.
    @ivar key: a PEM file with its key; by default the certificate's file.
    """

    endpoint: str
    certificate: str | None = None
    key: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise BadSetting("key", "no key without a certificate")


@attrs.frozen
class TLSTable:
    """
    The C{[tls]} table.

    @ivar certificate: a PEM file: the server's certificate, then those between
        it and its root; read again when it changes.
    @ivar key: a PEM file with its key, without a passphrase; by default the
        certificate's file.
    """

    certificate: str
    key: str | None = None


@attrs.frozen
class Policy:
    """
    One C{[policies.NAME]} table.

    @ivar envelope: what RCPT TO is answered: C{"accept"}, C{"defer"} (judged on
        content) or C{"refuse"}.
    @ivar content: the content stages, in their order; with C{"accept"}, for those
        recipients for whom a check, such as C{dnsbl}, leaves it to the content.
    @ivar reply: with C{"refuse"}: the reply.
    @ivar admits: the stages whose refusals are lifted for a sender that a recipient has let
        in.  A scanner for viruses is one only where it is named here; C{"rspamd.forced"} is
        what rspamd refuses for another reason than its score.
    @ivar quarantine: where a copy goes that is refused although its message
        had to be accepted (C{mixed = "file"}, or another member of an alias accepts): a
        delivery's table, or the name of one of C{[deliveries]}.
    """

    envelope: Literal["accept", "defer", "refuse"] = "defer"
    content: tuple[ContentStage, ...] = ()
    quarantine: DeliveryStage | str | None = None
    reply: str | None = attrs.field(default=None, validator=checked(Reply.parseRefusal))
    admits: tuple[str, ...] = ("rspamd", "spamassassin", "dnsbl", "authenticate")

    def __attrs_post_init__(self) -> None:
        if self.content and self.envelope == "refuse":
            raise BadSetting("content", 'no content stages with envelope = "refuse"')
        if self.reply is not None and self.envelope != "refuse":
            raise BadSetting("reply", 'no reply, unless envelope = "refuse"')
        if self.quarantine is not None and self.envelope == "refuse":
            raise BadSetting("quarantine", 'no quarantine with envelope = "refuse"')

    @property
    def mayJudge(self) -> bool:
        """
        Whether the content may decide.
        """
        return self.envelope == "defer" or bool(self.content)


@attrs.frozen
class RecipientRule:
    """
    One C{[[recipients]]} table.

    @ivar match: C{user@domain}, C{*@domain}, C{*@*.domain} or C{*}.
    @ivar policy: the name of a policy.
    @ivar deliver: where its mail goes: a delivery's table, or the name of one
        of C{[deliveries]}; nowhere, if the policy refuses.
    @ivar check: envelope stages that are asked about recipients that the policy
        lets in.
    @ivar allow: the clients that the rule is for: C{"authenticated"}, addresses
        and networks, C{"unix"} for Unix sockets; it does not match for others.
        C{"members"} is for members of aliases, whoever sends to the alias.
        By default it is for all, which C{"*"} with a delivery that leads out
        cannot be; nor for networks that keep hardly anybody out (together an
        eighth of all addresses), whatever their form.
    @ivar sender_routing: lets local parts with C{%}, C{!} or C{@}, or that begin
        with C{|} or C{/}, pass where the delivery leads on to another mail server
        (C{smtp}, C{lmtp}, C{mx}); otherwise 550 5.7.1.
    @ivar subaddress: see that of the whole file, which it takes the place of.
    """

    match: str = attrs.field(validator=checked(Pattern.parse))
    policy: str
    deliver: DeliveryStage | str | None = None
    check: tuple[EnvelopeStage, ...] = ()
    allow: tuple[str, ...] | None = attrs.field(default=None, validator=checked(_clients))
    sender_routing: bool = False
    subaddress: str | None = attrs.field(default=None, validator=checked(separator))


def _hostname(value: str) -> None:
    try:
        normalDomain(value)
    except AddressError:
        raise ValueError("a host's name, such as mx.example.net") from None


@attrs.frozen(kw_only=True)
class Config(ReplyTimes):
    """
    A whole file.

    @ivar hostname: how the server introduces itself; this machine's name.
    @ivar state_dir: where the spool is; made with mode 0700, and taken away from
        other users at a start where it had another mode.
    @ivar max_judging: messages in the content stage at once.
    @ivar max_delivering: attempts to deliver that are under way at once.
    @ivar workers: how many processes the server is, each with a queue of its own; with
        C{"auto"}, as many as there are processors for it.
    @ivar bounces: the name of the delivery that takes notices to senders that
        no rule for recipients knows; C{"none"}, where they are not told, and that
        is meant.  It may be missing only where no mail can fail.
    @ivar bounce_size: no larger message is sent back whole (RET=FULL).
    @ivar grace: how long transactions may take to end when the server stops.
    @ivar dns: the DNS servers that are asked where mail goes (MX), whether a
        sender may be written to (SPF), and what clients are called (PTR), each
        perhaps with C{:PORT}; by default the system's.
    @ivar reverse_dns: whether DNS is asked for the name of each client's address,
        which C{Received} shows, and scanners are told: one that leads back to it.
        A message waits for it 5 seconds at most; then it is C{unknown}.
    @ivar subaddress: the character that begins a subaddress: with C{"+"}, a rule for
        C{anna@example.net} is for C{anna+lists@example.net}, too, unless that has one
        of its own; so are rows of C{users}, and mailboxes of C{maildir}.  Without
        it, there are none.
    @ivar listen: where mail comes in: at least one.
    @ivar tls: the certificate of listeners that have none of their own.
    @ivar limits: what one client may ask for.
    @ivar submission: what users who have logged in may send.
    @ivar dkim: the keys with which messages are signed for their senders' domains.
    @ivar policies: what recipients think of mail, by name.
    @ivar deliveries: deliveries that several rules, or stages, refer to by name.
    @ivar srs: how reverse paths of forwarded mail are rewritten.
    @ivar tables: what stages look up, by name.
    @ivar spool: what several machines share in a database.
    @ivar refusals: what is kept of refusals, for their recipients; nothing by default.
    @ivar web: where pages and monitoring show the server; nowhere without it.
    @ivar recipients: which recipients there are; the first rule that matches counts.
    """

    listen: tuple[Listener, ...]
    hostname: str = attrs.field(factory=defaultHostname, validator=checked(_hostname))
    state_dir: str = STATE_DIR
    max_judging: int = attrs.field(default=MAX_JUDGING, validator=checked(positive))
    max_delivering: int = attrs.field(default=MAX_DELIVERING, validator=checked(positive))
    workers: Workers = Workers(1)
    bounces: str | None = None
    bounce_size: Octets = BOUNCE_OCTETS
    grace: Seconds = GRACE_SECONDS
    dns: tuple[str, ...] = attrs.field(default=(), validator=checked(dnsServers))
    reverse_dns: bool = True
    subaddress: str = attrs.field(default="", validator=checked(separator))
    tls: TLSTable | None = None
    limits: Limits = Limits()
    submission: SubmissionSettings = SubmissionSettings()
    dkim: tuple[SigningSettings, ...] = ()
    policies: dict[str, Policy] = attrs.field(factory=dict)
    deliveries: dict[str, DeliveryStage] = attrs.field(factory=dict, validator=checked(_names))
    tables: dict[str, LookUpTable] = attrs.field(factory=dict, validator=checked(_names))
    recipients: tuple[RecipientRule, ...] = ()
    srs: SRSSettings | None = None
    spool: SpoolSettings = SpoolSettings()
    refusals: RefusalSettings = RefusalSettings()
    web: WebSettings | None = None
    path: str | None = attrs.field(default=None, init=False, eq=False)
    text: str = attrs.field(default="", init=False, eq=False, repr=False)
    sharers: int = attrs.field(default=1, init=False, eq=False)

    def cameFrom(self, path: str | None, text: str, sharers: int = 1) -> None:
        """
        Remember what the file says.

        @param sharers: so many processes share what this says.
        """
        for name, value in (("path", path), ("text", text), ("sharers", sharers)):
            object.__setattr__(self, name, value)

    @property
    def baseDir(self) -> str:
        """
        Where relative paths start: the file's directory, or the current one.
        """
        return os.path.dirname(os.path.abspath(self.path)) if self.path else os.getcwd()

    @property
    def stateDir(self) -> str:
        """
        The absolute path of C{state_dir}.
        """
        return os.path.join(self.baseDir, self.state_dir)

    @property
    def spoolDirectory(self) -> str:
        """
        Where the spool is; that of the first worker, where there are several.
        """
        return self.spoolOf(0)

    def spoolOf(self, worker: int) -> str:
        """
        Where the spool of one of the workers is.
        """
        own = (self.workersDirectory, str(worker)) if worker else (self.stateDir,)
        return os.path.join(*own, "spool")

    @property
    def workersDirectory(self) -> str:
        """
        Where the spools of all workers but the first are.
        """
        return os.path.join(self.stateDir, "workers")

    @property
    def refusalsPath(self) -> str:
        """
        Where refusals are kept: all workers have it open.
        """
        return os.path.join(self.stateDir, "refusals.sqlite")

    @property
    def linkKeyPath(self) -> str:
        """
        The file with what links are signed with.
        """
        return os.path.join(self.stateDir, LINK_KEY)

    @property
    def controlPath(self) -> str:
        """
        The name of the operator's socket.
        """
        return os.path.join(self.stateDir, CONTROL)

    def certificateOf(self, listener: Listener) -> tuple[str, str] | None:
        """
        The files with a listener's certificate and its key.
        """
        table = self.tls if listener.certificate is None else listener
        if table is None or table.certificate is None:
            return None
        return table.certificate, table.key or table.certificate


def load(path: str | None, plugins: Plugins, text: str | None = None) -> Config:
    """
    Read a configuration.

    @param path: the file; C{None} for the built-in default.
    @param plugins: the stages there are, by interface and name.
    @param text: what the file says, where that is known.
    @raise ConfigError: with every problem that was found.
    """
    if text is None:
        text = _textOf(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, [("", f"not TOML: {error}")]) from None
    try:
        config: Config = _converter(plugins).structure(data, Config)
    except BaseValidationError as error:
        raise ConfigError(path, problemsOf(error)) from None
    problems = crossCheck(config)
    if problems:
        raise ConfigError(path, problems)
    config.cameFrom(path, text)
    return config


def _textOf(path: str | None) -> str:
    if path is None:
        return DEFAULT.replace("{hostname}", defaultHostname())
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, [("", f"cannot be read: {error}")]) from None


def _converter(plugins: Plugins) -> cattrs.Converter:
    converter = makeConverter()

    def content(table: object, _: object) -> ContentStage:
        return ContentStage(*_stage(converter, plugins, table, IContentStage))

    def envelope(table: object, _: object) -> EnvelopeStage:
        return EnvelopeStage(*_stage(converter, plugins, table, IEnvelopeStage))

    def delivery(table: object, _: object) -> DeliveryStage:
        own, schedule = apart(table, Schedule)
        plugin, settings = _stage(converter, plugins, own, IDeliveryStage)
        return DeliveryStage(plugin, settings, converter.structure(schedule, Schedule))

    def lookUp(table: object, _: object) -> LookUpTable:
        own, frame = apart(table, TableSettings)
        plugin, settings = _stage(converter, plugins, own, ITable)
        return LookUpTable(plugin, settings, converter.structure(frame, TableSettings))

    converter.register_structure_hook(LookUpTable, lookUp)
    converter.register_structure_hook(ContentStage, content)
    converter.register_structure_hook(EnvelopeStage, envelope)
    converter.register_structure_hook(DeliveryStage, delivery)
    return converter


def _stage(
    converter: cattrs.Converter, plugins: Plugins, table: object, interface: type[Interface]
) -> tuple[INamedPlugin, object]:
    """
    A stage's table: the plugin that C{use} names, and settings of its class.
    """
    if not isinstance(table, dict) or not isinstance(table.get("use"), str):
        raise ValueError('a table such as { use = "NAME", … }')
    plugin = plugins.get((interface, table["use"]))
    if plugin is None:
        names = sorted(name for found, name in plugins if found is interface)
        raise ValueError(f'a table whose "use" is one of: {", ".join(names)}')
    rest = {key: one for key, one in table.items() if key != "use"}
    return plugin, structured(converter, rest, plugin.settings)
