"""
Where a server is seen by HTTP: the port of C{[web]}, from a configuration.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import TypeAlias

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
from deferrals.config.tables import Config
from deferrals.deferreds import knownNow
from deferrals.errors import ConfigError, ListenError
from deferrals.interfaces import IReactor
from deferrals.logger import Logger
from deferrals.model.web import WebSettings
from deferrals.server.listeners import describe, serverEndpoint
from deferrals.server.mailserver import MailServer
from deferrals.web.metrics import CONTENT_TYPE, Metrics, QueueFigures, Sources
from deferrals.web.site import WebSite, siteOf, tokenOf

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


class WebPort:
    """
    One port, or none; what L{prepare} has made counts from L{commit} on.
    """

    def __init__(self, reactor: IReactor, server: MailServer) -> None:
        self._reactor = reactor
        self._server = server
        self._metrics: Metrics | None = None
        self._now: tuple[str, IListeningPort, _Front] | None = None
        self._next: tuple[str, IListeningPort, _Front] | None = None
        self._following: _Factory | None = None

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
        self._following = self._factory(config, settings)
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
        if self._now is not None:
            self._now[2].factory = self._following
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
        if former is not None:
            await maybeDeferred(former[1].stopListening)

    def _factory(self, config: Config, settings: WebSettings) -> _Factory:
        if self._metrics is None:
            self._metrics = Metrics(sourcesOf(self._server), self._reactor)
        site = siteOf(
            self._metrics.get,
            CONTENT_TYPE,
            lambda: self._server.reasons,
            settings.names,
            _token(config, settings),
            self._reactor,
        )
        if settings.certificate is None:
            return site
        pair = settings.certificate, settings.key or settings.certificate
        certificates = Keyring(config.baseDir, self._reactor).get(*pair)
        return TLSMemoryBIOFactory(certificates, False, site, self._reactor)


def _token(config: Config, settings: WebSettings) -> Callable[[], bytes | None]:
    if settings.token_file is None:
        return lambda: None
    path = os.path.join(config.baseDir, settings.token_file)
    return lambda: tokenOf(path)


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
        problems.append(("web.endpoint", f"expected a server endpoint: {error}"))
    try:
        if settings.certificate is not None:
            pair = settings.certificate, settings.key or settings.certificate
            Keyring(config.baseDir, reactor).get(*pair)
    except ValueError as error:
        problems.append(("web.certificate", f"expected {error}"))
    try:
        if _token(config, settings)() == b"":
            problems.append(("web.token_file", "expected a token in its first line"))
    except OSError as error:
        problems.append(("web.token_file", f"expected a readable file: {error}"))
    if settings.users is not None:
        path = os.path.join(config.baseDir, settings.users)
        if not os.access(path, os.R_OK):
            problems.append(("web.users", f"expected a readable file: {path}"))
    if problems:
        raise ConfigError(config.path, problems)


def sourcesOf(server: MailServer) -> Sources:
    """
    Where the numbers of a server come from.
    """
    return Sources(
        status=server.status,
        build={
            "version": deferrals.__version__,
            "python": platform.python_version(),
            "twisted": twisted.__version__,
        },
        sessions=lambda: server.sessionsOpen,
        backedOff=lambda: server.backedOff,
        queue=lambda: _queueFigures(server),
    )


def _queueFigures(server: MailServer) -> Deferred[QueueFigures]:
    if server.queue is None or "starting" in server.reasons:
        return succeed(QueueFigures())
    return Deferred.fromCoroutine(_counted(server))


async def _counted(server: MailServer) -> QueueFigures:
    assert server.queue is not None
    numbers = await server.queue.numbers()
    recipients: dict[tuple[str, str], int] = {}
    oldest: dict[str, float] = {}
    for one in numbers.get("deliveries", ()):
        key = use, _ = server.useOf(one["delivery"]), one["status"]
        recipients[key] = recipients.get(key, 0) + one["recipients"]
        oldest[use] = max(oldest.get(use, 0.0), one["oldest_seconds"])
    return QueueFigures(recipients, oldest)
