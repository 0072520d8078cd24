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
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.app.listeners import Keyring, limitConnections, listenerSettings, serverEndpoint
from deferrals.app.mixed import MixedPolicies
from deferrals.app.queue import Queue
from deferrals.app.services import Services
from deferrals.app.stages import StageSet
from deferrals.config.tables import Config, Listener
from deferrals.errors import ConfigError
from deferrals.model.ids import TransactionIds
from deferrals.model.listener import ListenerSettings
from deferrals.model.networks import dnsServers
from deferrals.smtp.server.connectionlimits import ConnectionLimits
from deferrals.smtp.server.session import SessionFactory
from deferrals.smtp.server.settings import Backend

_log = Logger(namespace="deferrals")


class MailService(service.Service):
    """
    The server.

    @param config: what to begin with.
    @param reload: reads the configuration again, or raises L{ConfigError}.
    @param gate: L{Authenticator<deferrals.auth.gate.Authenticator>}, or L{None} where nobody can
        log in.
    """

    def __init__(
        self, config: Config, reactor: Any, reload: Callable[[], Config], gate: Any = None
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._reload = reload
        self._ids = TransactionIds(os.getpid())
        self._gate = gate
        self._guard = ConnectionLimits()
        limitConnections(self._guard, config.limits)
        self._keyring = Keyring(config.baseDir, reactor)
        services = Services(
            reactor,
            config.hostname,
            config.stateDir,
            config.baseDir,
            dns=dnsServers(config.dns),
            listening=lambda: [
                (a.host, a.port) for a in self.addresses.values() if hasattr(a, "port")
            ],
        )
        self._services = services
        services.status.show("next hops", services.nextHops.describe)
        self._house = StageSet(config, services)
        self._queue = Queue(config, services, self._ids, lambda: self._house)
        self._rungs = MixedPolicies(config, services, self._queue.spool)
        self._factories: dict[str, SessionFactory] = {}
        self._ports: dict[str, Any] = {}

    @property
    def addresses(self) -> dict[str, Any]:
        """
        Where the listeners are, by endpoint.
        """
        return {endpoint: port.getHost() for endpoint, port in self._ports.items()}

    def privilegedStartService(self) -> None:
        """
        Bind all ports, or say why not and end the process.
        """
        for listener, settings in listenerSettings(self._config, self._keyring):
            failures: list[Failure] = []
            self._listen(listener, settings).addErrback(failures.append)
            if failures:
                text = failures[0].getErrorMessage()
                _log.critical(
                    "cannot listen on {endpoint}: {error}", endpoint=listener.endpoint, error=text
                )
                raise SystemExit(1)

    def _listen(self, listener: Listener, settings: ListenerSettings) -> Deferred[Any]:
        factory = SessionFactory(settings, self._backend(settings), self._reactor)
        self._factories[listener.endpoint] = factory

        def listening(port: Any) -> None:
            self._ports[listener.endpoint] = port
            _log.info(
                "listening on {address} for {protocol}",
                address=describe(port.getHost()),
                protocol=listener.protocol,
            )

        endpoint = serverEndpoint(self._reactor, listener.endpoint)
        return maybeDeferred(endpoint.listen, factory).addCallback(listening)

    def _backend(self, settings: ListenerSettings) -> Backend:
        return Backend(
            ids=self._ids,
            envelope=self._house.envelope,
            content=self._house.content,
            spool=self._queue.spool,
            release=self._queue.release,
            status=self._services.status,
            mixed=self._rungs.rung(
                settings,
                self._house.quarantine,
                lambda sender: self._house.routeBack(sender) is not None,
            ),
            connectionLimits=self._guard,
            authenticator=self._gate,
            binary=self._house.takesBinary,
            attempt=self._queue.attempt if settings.enumerate == "delivery" else None,
            deliverySeconds=settings.delivery_deadline,
        )

    def startService(self) -> None:
        """
        Open the spool, then deliver.
        """
        service.Service.startService(self)
        self._opened = maybeDeferred(self._queue.start)
        self._opened.addCallback(lambda _: self._rungs.load())
        self._opened.addErrback(self._noSpool)

    def _noSpool(self, failure: Failure) -> None:
        """
        Without a spool there is no mail: end, with exit status 1.
        """
        _log.critical("cannot run without a spool: {error}", error=failure.getErrorMessage())
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.callWhenRunning(self._reactor.stop)

    @inlineCallbacks
    def stopService(self) -> Any:
        """
        Take no more connections, let transactions end, then deliveries, then
        close the spool.  What is not delivered stays in it.
        """
        service.Service.stopService(self)
        yield self._opened
        for port in self._ports.values():
            yield maybeDeferred(port.stopListening)
        yield gatherResults(
            [factory.shutdown(self._config.grace) for factory in self._factories.values()]
        )
        yield self._queue.stop()
        yield self._services.nextHops.close()

    def reload(self) -> None:
        """
        Read the configuration again.  If it is broken, the old one stays.
        """
        try:
            config = self._reload()
            house = StageSet(config, self._services, self._house)
            wanted = {
                one.endpoint: (one, new) for one, new in listenerSettings(config, self._keyring)
            }
        except ConfigError as error:
            _log.error("configuration not reloaded, the old one stays: {error}", error=str(error))
            return
        for name in ("state_dir", "hostname", "max_judging", "dns"):
            if getattr(config, name) != getattr(self._config, name):
                _log.warn("{key} changes at the next start", key=name)
        self._config, self._house = config, house
        limitConnections(self._guard, config.limits)
        self._keyring.reload(settings.certificates for _, settings in wanted.values())
        self._queue.reloaded(config)
        for endpoint in set(self._factories) - set(wanted):
            self._unlisten(endpoint)
        for endpoint, (listener, settings) in wanted.items():
            if endpoint in self._factories:
                self._factories[endpoint].settings = settings
                self._factories[endpoint].backend = self._backend(settings)
            else:
                self._listen(listener, settings).addErrback(self._notListening, endpoint)
        _log.info("configuration reloaded")

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


def describe(address: Any) -> str:
    """
    An address as one writes it: C{127.0.0.1:2525}, C{[::1]:2525}, a path.
    """
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return str(getattr(address, "name", address))
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def checkConfig(config: Config, reactor: Any) -> Mapping[str, Any]:
    """
    Build everything that a configuration says, and start nothing.

    @return: the deliveries, by name.
    @raise ConfigError: a stage does not want its settings, or an endpoint is
        none.
    """
    services = Services(reactor, config.hostname, config.stateDir, config.baseDir)
    problems = []
    for place, listener in enumerate(config.listen):
        try:
            serverEndpoint(reactor, listener.endpoint)
        except Exception as error:
            problems.append((f"listen[{place}].endpoint", f"expected a server endpoint: {error}"))
    if problems:
        raise ConfigError(config.path, problems)
    listenerSettings(config, Keyring(config.baseDir, reactor))
    return StageSet(config, services).deliveries
