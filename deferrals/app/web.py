"""
Where a server is seen by HTTP: the port of C{[web]}, from a configuration.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from typing import TypeAlias

import attrs
from twisted.cred.credentials import UsernamePassword
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

import deferrals
import twisted
from deferrals.app.listeners import Keyring
from deferrals.auth.authenticator import Authenticator
from deferrals.auth.checker import PasswordFile, readPasswords
from deferrals.auth.throttle import Throttle
from deferrals.config.tables import Config
from deferrals.deferreds import knownNow
from deferrals.errors import ConfigError, ListenError
from deferrals.interfaces import IReactor
from deferrals.logger import Logger
from deferrals.model.json import JSON
from deferrals.model.sasl import SaslError, saslprep
from deferrals.model.status import Status
from deferrals.model.web import WebSettings
from deferrals.operator.control import Partial, Result
from deferrals.operatorfiles import readSecret
from deferrals.server.digests import LinkSecret
from deferrals.server.linkkey import LinkKey
from deferrals.server.listeners import describe, serverEndpoint
from deferrals.server.mailserver import MailServer
from deferrals.server.services import Services
from deferrals.web.asking import ServerSaid
from deferrals.web.looks import Looks
from deferrals.web.metrics import CONTENT_TYPE, QueueFigures, Sources
from deferrals.web.mine import LinkParts, MinePages
from deferrals.web.now import liveTexts
from deferrals.web.pages import PageParts, pagesOf
from deferrals.web.policypage import Scoring
from deferrals.web.queuepage import QueueChanges
from deferrals.web.site import WebSite, siteOf
from deferrals.web.streaming import EventStream
from deferrals.web.visitors import Sessions, Visitors

_log = Logger(namespace="deferrals.web")


#: So many connections are taken within a second.
PER_SECOND = 20


class _Front(Factory):
    """
    What connections come to: whatever the configuration says now.

    They are few in a second; those beyond wait where they cost nothing, and have
    their turn: in the port's queue.

    @param clock: timers.
    @ivar factory: makes their protocols; C{None} closes them.
    @ivar port: whose connections they are.
    """

    noisy = False
    factory: _Factory | None = None
    port: IListeningPort | None = None

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._taken = 0
        self._second: IDelayedCall | None = None

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """
        See C{Factory}.
        """
        if self._second is None:
            self._taken = 0
            self._second = self._clock.callLater(1.0, self._goOn)
        self._taken += 1
        port = IPushProducer(self.port, None)
        if self._taken == PER_SECOND and port is not None:
            port.pauseProducing()
        return None if self.factory is None else self.factory.buildProtocol(addr)

    def _goOn(self) -> None:
        self._second = None
        port = IPushProducer(self.port, None)
        if self._taken >= PER_SECOND and port is not None:
            port.resumeProducing()

    def stopFactory(self) -> None:
        """
        See C{Factory}.
        """
        second, self._second = self._second, None
        if second is not None:
            second.cancel()


#: What makes the protocols of one configuration.
_Factory: TypeAlias = "WebSite | TLSMemoryBIOFactory"


@attrs.frozen(kw_only=True)
class Seen:
    """
    What can be seen of a server.

    @ivar metrics: what C{/metrics} answers.
    @ivar reasons: why mail cannot be taken now.
    @ivar ask: asks the server, as operators do.
    @ivar status: what was counted, by all its processes.
    @ivar counted: where that is counted which happens here.
    """

    metrics: Callable[[], Deferred[bytes]]
    reasons: Callable[[], Sequence[str]]
    ask: Callable[..., Deferred[Result]]
    status: Callable[[], Status]
    counted: Status

    def said(self, name: str, *args: JSON) -> Deferred[ServerSaid]:
        """
        See L{Ask<deferrals.web.asking.Ask>}.
        """
        d: Deferred[Result] = maybeDeferred(self.ask, name, *args)
        return d.addCallback(_said)


def _said(result: Result) -> ServerSaid:
    return (
        ServerSaid(result.result, result.missing)
        if isinstance(result, Partial)
        else ServerSaid(result)
    )


@attrs.frozen
class _PasswordUsers:
    """
    A file of C{deferrals passwd}, and how often passwords may be tried.
    """

    file: PasswordFile
    authenticator: Authenticator

    def login(self, user: str, password: str, address: str) -> Deferred[str]:
        """
        See L{WebUsers<deferrals.web.visitors.WebUsers>}.
        """
        said = UsernamePassword(user.encode("utf-8"), password.encode("utf-8"))
        return self.authenticator.login(said, address)

    def stamp(self, user: str) -> Deferred[str]:
        """
        See L{WebUsers<deferrals.web.visitors.WebUsers>}.
        """
        return self.file.stamp(user)


@attrs.frozen
class _Made:
    """
    What answers by one configuration.

    @ivar factory: makes the protocols of connections.
    @ivar stream: those who listen.
    """

    factory: _Factory
    stream: EventStream


class WebPort:
    """
    One port, or none; what L{prepare} has made counts from L{commit} on.

    @param seen: what can be seen there.
    @param key: what links are signed with; by default the file that a configuration says.
    """

    def __init__(self, reactor: IReactor, seen: Seen, key: LinkSecret | None = None) -> None:
        self._reactor = reactor
        self._seen = seen
        self._key = key
        self._mine: dict[str, LinkParts] = {}
        self._services = Services(reactor, hostname="localhost")
        self._sessions = Sessions(reactor)
        self._looks = Looks(seen.status, reactor)
        self._changes = QueueChanges(seen.said, seen.counted)
        self._now: tuple[str, IListeningPort, _Front] | None = None
        self._next: tuple[str, IListeningPort, _Front] | None = None
        self._made: _Made | None = None
        self._following: _Made | None = None

    @property
    def address(self) -> IAddress | None:
        """
        Where it listens now.
        """
        return None if self._now is None else self._now[1].getHost()

    async def prepare(self, config: Config) -> None:
        """
        Listen where that is new.

        @raise ConfigError: a file cannot be used.
        @raise ListenError: the port cannot be had; nothing has changed.
        """
        checkWeb(config, self._reactor)
        settings = config.web
        if settings is None:
            self._following = self._next = None
            return
        self._following = self._make(config, settings)
        if self._now is not None and self._now[0] == settings.endpoint:
            self._next = self._now
            return
        front = _Front(self._reactor)
        try:
            port = await serverEndpoint(self._reactor, settings.endpoint).listen(front)
        except (CannotListenError, OSError) as error:
            raise ListenError(settings.endpoint, str(error)) from None
        front.port = port
        self._next = settings.endpoint, port, front

    async def undo(self) -> None:
        """
        It stays as it was.
        """
        made, self._next, self._following = self._next, None, None
        if made is not None and made != self._now:
            await maybeDeferred(made[1].stopListening)

    async def commit(self) -> None:
        """
        The former port takes no more connections.
        """
        former, self._now, self._next = self._now, self._next, None
        before, self._made, self._following = self._made, self._following, None
        if before is not None:
            before.stream.close()  # they come again, and show who they are
        if self._now is not None and self._made is not None:
            self._now[2].factory = self._made.factory
            self._looks.start()
        else:
            self._looks.stop()
        if former == self._now:
            return
        if former is not None:
            await maybeDeferred(former[1].stopListening)
        if self._now is not None:
            where = describe(self._now[1].getHost())
            _log.info("listening on {address} for {protocol}", address=where, protocol="web")

    def openNow(self, config: Config) -> None:
        """
        The same at a start, for a caller that cannot wait.

        @raise ListenError: the port cannot be had.
        """
        if config.web is None:
            return

        async def opened() -> None:
            await self.prepare(config)
            await self.commit()

        knownNow(opened(), lambda failure: _log.failure("cannot listen", failure=failure))

    async def close(self) -> None:
        """
        No more.
        """
        former, self._now = self._now, None
        made, self._made = self._made, None
        self._looks.stop()
        if made is not None:
            made.stream.close()
        if former is not None:
            await maybeDeferred(former[1].stopListening)

    def _mineOf(self, path: str) -> LinkParts:
        """
        One for as long as the process lives: what has asked too often has done so, over
        reloads, too.
        """
        if path not in self._mine:
            key = self._key or LinkKey(path)
            self._mine[path] = LinkParts(self._seen.said, key.get, self._reactor)
        return self._mine[path]

    def _make(self, config: Config, settings: WebSettings) -> _Made:
        stream = EventStream(self._seen.said, liveTexts, self._reactor)
        parts = PageParts(
            ask=self._seen.said,
            status=self._seen.status,
            looks=self._looks,
            stream=stream,
            changes=self._changes,
            visitors=self._visitors(config, settings),
            policies=scoringPolicies(config),
        )
        site = siteOf(
            self._seen.metrics,
            CONTENT_TYPE,
            self._seen.reasons,
            settings.names,
            _token(config, settings),
            self._reactor,
            {**pagesOf(parts, self._reactor), b"mine": MinePages(self._mineOf(config.linkKeyPath))},
            settings.root,
        )
        if settings.certificate is None:
            return _Made(site, stream)
        pair = settings.certificate, settings.key or settings.certificate
        certificates = Keyring(config.baseDir, self._reactor).get(*pair)
        return _Made(TLSMemoryBIOFactory(certificates, False, site, self._reactor), stream)

    def _visitors(self, config: Config, settings: WebSettings) -> Visitors:
        users = None
        if settings.users is not None:
            path = os.path.join(config.baseDir, settings.users)
            file = PasswordFile(path, self._services.inThread)
            throttle = Throttle(self._services.limits, config.limits, self._reactor)
            users = _PasswordUsers(file, Authenticator([file], throttle))
        operators = frozenset(map(_login, settings.operators))
        counted = self._seen.counted
        return Visitors(self._sessions, users, operators, settings.isSecure, counted)


def scoringPolicies(config: Config) -> dict[str, list[Scoring]]:
    """
    The policies, with their stages that have scores.
    """
    found: dict[str, list[Scoring]] = {}
    for name, policy in config.policies.items():
        found[name] = []
        for stage in policy.content:
            settings = stage.settings
            if hasattr(settings, "refuse_score") and hasattr(settings, "mark_score"):
                limits = settings.refuse_score, settings.mark_score
                found[name].append(Scoring(stage.plugin.name, *limits))
    return found


def _token(config: Config, settings: WebSettings) -> Callable[[], bytes | None]:
    if settings.token_file is None:
        return lambda: None
    path = os.path.join(config.baseDir, settings.token_file)
    return lambda: readSecret(path).strip().encode("utf-8")


def checkWeb(config: Config, reactor: IReactor) -> None:
    """
    Look at what C{[web]} names.

    @raise ConfigError: it cannot be used.
    """
    settings = config.web
    if settings is None:
        return
    problems: list[tuple[str, str]] = []
    try:
        serverEndpoint(reactor, settings.endpoint)
    except Exception as error:
        problems.append(("web.endpoint", f"expected {error}"))
    try:
        if settings.certificate is not None:
            pair = settings.certificate, settings.key or settings.certificate
            Keyring(config.baseDir, reactor).get(*pair)
    except ValueError as error:
        problems.append(("web.certificate", f"expected {error}"))
    try:
        _token(config, settings)()
    except OSError as error:
        problems.append(("web.token_file", f"expected a readable file: {error}"))
    except ValueError as error:
        problems.append(("web.token_file", f"expected a token in its first line: {error}"))
    try:
        if settings.users is not None:
            readPasswords(os.path.join(config.baseDir, settings.users))
    except OSError as error:
        problems.append(("web.users", f"expected a readable file: {error}"))
    except ValueError as error:
        problems.append(("web.users", str(error)))
    if problems:
        raise ConfigError(config.path, problems)


def webRemarks(config: Config) -> list[tuple[str, str]]:
    """
    @return: operators who can never be: the file of users does not have them.  Reads it.
    """
    settings = config.web
    if settings is None or settings.users is None:
        return []
    try:
        known = readPasswords(os.path.join(config.baseDir, settings.users))
    except (OSError, ValueError):
        return []  # others say so
    missing = [one for one in settings.operators if _login(one) not in known]
    return [("web.operators", f"{one} is none of the users in {settings.users}") for one in missing]


def _login(name: str) -> str:
    """
    A name as whoever has logged in with it is called; another spelling of it is no login.
    """
    try:
        return saslprep(name)
    except SaslError:  # nobody can have it
        return name


def sourcesOf(server: MailServer) -> Sources:
    """
    Where the numbers of a server come from.
    """
    return Sources(
        status=lambda: server.status,
        build=buildOf(),
        sessions=lambda: server.sessionsOpen,
        backedOff=lambda: server.backedOff,
        queue=lambda: queueFigures(server),
    )


def buildOf() -> dict[str, str]:
    """
    What runs.
    """
    return {
        "version": deferrals.__version__,
        "python": platform.python_version(),
        "twisted": twisted.__version__,
    }


def queueFigures(server: MailServer) -> Deferred[QueueFigures]:
    """
    What is in a server's queue, for monitoring.
    """
    if server.queue is None or "starting" in server.reasons:
        return succeed(QueueFigures())
    return Deferred.fromCoroutine(_counted(server))


async def _counted(server: MailServer) -> QueueFigures:
    assert server.queue is not None
    recipients: dict[tuple[str, str], int] = {}
    oldest: dict[str, float] = {}
    left = server.leftQueues
    for queue in filter(None, (server.queue, *left.values())):
        for one in (await queue.numbers()).get("deliveries", ()):
            key = use, _ = server.useOf(one["delivery"]), one["status"]
            recipients[key] = recipients.get(key, 0) + one["recipients"]
            oldest[use] = max(oldest.get(use, 0.0), one["oldest_seconds"])
    return QueueFigures(recipients, oldest, [one for one, queue in left.items() if queue is None])
