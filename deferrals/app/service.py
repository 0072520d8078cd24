"""
Everything is built and wired here, and nowhere else.

L{MailService} is what twistd runs: listeners in front, stages behind them, the
spool, and the scheduler of deliveries.  A reload builds new stages from the new
configuration and hands them to the listeners; sessions that are under way end
with what they began with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application import service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.app.listeners import Keyring, limitConnections, listenerSettings, serverEndpoint
from deferrals.app.mixed import MixedPolicies
from deferrals.app.queue import Queue
from deferrals.app.services import Services
from deferrals.app.stages import CurrentStages, StageSet
from deferrals.auth.authenticator import Authenticator
from deferrals.config.tables import Config
from deferrals.errors import ConfigError
from deferrals.interfaces import IDeliveryStage, IReactor
from deferrals.model.ids import TransactionIds
from deferrals.model.listener import ListenerSettings
from deferrals.model.networks import dnsServers
from deferrals.smtp.server.connectionlimits import ConnectionLimits
from deferrals.smtp.server.session import SessionFactory
from deferrals.smtp.server.settings import Backend

_log = Logger(namespace="deferrals")

#: What a reload does not change.
_AT_START = ("state_dir", "hostname", "max_judging", "dns")


class MailService(service.Service):
    """
    The server.

    @param config: what to begin with.
    @param reload: reads the configuration again, or raises L{ConfigError}.
    @param authenticator: checks passwords; L{None} where no client can log in.
    """

    def __init__(
        self,
        config: Config,
        reactor: IReactor,
        reload: Callable[[], Config],
        authenticator: Authenticator | None = None,
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._reload = reload
        self._ids = TransactionIds(os.getpid())
        self._authenticator = authenticator
        self._connections = ConnectionLimits()
        limitConnections(self._connections, config.limits)
        self._keyring = Keyring(config.baseDir, reactor)
        self._services = Services(
            reactor,
            config.hostname,
            config.stateDir,
            config.baseDir,
            dns=dnsServers(config.dns),
            listening=self._listening,
        )
        self._services.status.show("next hops", self._services.nextHops.describe)
        self._stages = CurrentStages(StageSet(config, self._services))
        self._queue = Queue(config, self._services, self._ids, lambda: self._stages.now)
        self._mixed = MixedPolicies(config, self._services, self._queue.spool)
        self._factories: dict[str, SessionFactory] = {}
        self._ports: dict[str, IListeningPort] = {}

    @property
    def addresses(self) -> dict[str, IAddress]:
        """
        Where the listeners are, by endpoint.
        """
        return {endpoint: port.getHost() for endpoint, port in self._ports.items()}

    def _listening(self) -> list[tuple[str, int]]:
        """
        The addresses of L{addresses} that have a port.
        """
        found = self.addresses.values()
        return [(one.host, one.port) for one in found if isinstance(one, IPv4Address | IPv6Address)]

    def privilegedStartService(self) -> None:
        """
        Bind all ports, or say why not and end the process.
        """
        for settings in listenerSettings(self._config, self._keyring):
            failures: list[Failure] = []
            self._listen(settings).addErrback(failures.append)
            if failures:
                text = failures[0].getErrorMessage()
                _log.critical(
                    "cannot listen on {endpoint}: {error}", endpoint=settings.name, error=text
                )
                raise SystemExit(1)

    def _listen(self, settings: ListenerSettings) -> Deferred[None]:
        factory = SessionFactory(settings, self._backend(settings), self._reactor)
        self._factories[settings.name] = factory

        def listening(port: IListeningPort) -> None:
            self._ports[settings.name] = port
            _log.info(
                "listening on {address} for {protocol}",
                address=describe(port.getHost()),
                protocol=settings.protocol,
            )

        endpoint = serverEndpoint(self._reactor, settings.name)
        return maybeDeferred(endpoint.listen, factory).addCallback(listening)

    def _backend(self, settings: ListenerSettings) -> Backend:
        stages = self._stages
        return Backend(
            ids=self._ids,
            envelope=stages.now.envelope,
            content=stages.now.content,
            spool=self._queue.spool,
            release=self._queue.release,
            status=self._services.status,
            mixed=self._mixed.forListener(settings, stages.now.quarantine, stages.canWriteTo),
            connectionLimits=self._connections,
            authenticator=self._authenticator,
            binary=stages.now.takesBinary,
            attempt=self._queue.attempt if settings.enumerate == "delivery" else None,
            deliverySeconds=settings.delivery_deadline,
        )

    def startService(self) -> None:
        """
        Open the spool, then deliver.
        """
        service.Service.startService(self)
        self._opened = maybeDeferred(self._queue.start)
        self._opened.addCallback(lambda _: self._mixed.load())
        self._opened.addErrback(self._noSpool)

    def _noSpool(self, failure: Failure) -> None:
        """
        Without a spool there is no mail: end, with exit status 1.
        """
        _log.critical("cannot run without a spool: {error}", error=failure.getErrorMessage())
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.callWhenRunning(self._reactor.stop)

    def stopService(self) -> Deferred[None]:
        """
        Take no more connections, let transactions end, then deliveries, then
        close the spool.  What is not delivered stays in it.
        """
        service.Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._opened
        for port in self._ports.values():
            await maybeDeferred(port.stopListening)
        seconds = self._config.grace
        await gatherResults([factory.shutdown(seconds) for factory in self._factories.values()])
        await self._queue.stop()
        await self._services.nextHops.close()

    def reload(self) -> None:
        """
        Read the configuration again.  If it is broken, the old one stays.
        """
        try:
            config = self._reload()
            stages = StageSet(config, self._services, self._stages.now)
            wanted = {one.name: one for one in listenerSettings(config, self._keyring)}
        except ConfigError as error:
            _log.error("configuration not reloaded, the old one stays: {error}", error=str(error))
            return
        for name in _AT_START:
            if getattr(config, name) != getattr(self._config, name):
                _log.warn("{key} changes at the next start", key=name)
        self._config, self._stages.now = config, stages
        limitConnections(self._connections, config.limits)
        self._keyring.reload(wanted.values())
        self._queue.reloaded(config)
        self._changeListeners(wanted)
        _log.info("configuration reloaded")

    def _changeListeners(self, wanted: Mapping[str, ListenerSettings]) -> None:
        for endpoint in set(self._factories) - set(wanted):
            self._unlisten(endpoint)
        for endpoint, settings in wanted.items():
            factory = self._factories.get(endpoint)
            if factory is None:
                self._listen(settings).addErrback(self._notListening, endpoint)
            else:
                factory.settings, factory.backend = settings, self._backend(settings)

    def _unlisten(self, endpoint: str) -> None:
        self._factories.pop(endpoint).shutdown(self._config.grace)
        port = self._ports.pop(endpoint, None)
        if port is not None:
            port.stopListening()
        _log.info("no longer listening on {endpoint}", endpoint=endpoint)

    def _notListening(self, failure: Failure, endpoint: str) -> None:
        del self._factories[endpoint]
        _log.error(
            "cannot listen on {endpoint}: {error}",
            endpoint=endpoint,
            error=failure.getErrorMessage(),
        )


def describe(address: IAddress) -> str:
    """
    An address as one writes it: C{127.0.0.1:2525}, C{[::1]:2525}, a path.
    """
    if not isinstance(address, IPv4Address | IPv6Address):
        return str(getattr(address, "name", address))
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def checkConfig(config: Config, reactor: Any) -> Mapping[str, IDeliveryStage]:
    """
    Build everything that a configuration says, and start nothing.

    @param reactor: the global one, whose type Twisted says in part only.
    @return: the deliveries, by name.
    @raise ConfigError: a stage does not want its settings, or an endpoint is
        none.
    """
    services = Services(reactor, config.hostname, config.stateDir, config.baseDir)
    problems = []
    for index, listener in enumerate(config.listen):
        try:
            serverEndpoint(reactor, listener.endpoint)
        except Exception as error:
            problems.append((f"listen[{index}].endpoint", f"expected a server endpoint: {error}"))
    if problems:
        raise ConfigError(config.path, problems)
    listenerSettings(config, Keyring(config.baseDir, reactor))
    return StageSet(config, services).deliveries
