"""
Everything is built and wired here, and nowhere else.

L{MailService} is what twistd runs: listeners in front, stages behind them, the
spool, and the scheduler of deliveries.  A reload builds new stages from the new
configuration and hands them to the listeners; sessions that are under way end
with what they began with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from twisted.application import service
from twisted.internet import endpoints
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.config import Config, DeliveryStage, Listener, Policy, RecipientRule, Stage
from deferrals.errors import ConfigError
from deferrals.interfaces import IEnvelopeStage, IServices
from deferrals.listeners import Keyring, limitGuard, listenerSettings, serverEndpoint
from deferrals.model.address import Mailbox
from deferrals.model.ids import TransactionIds
from deferrals.model.networks import dnsServers
from deferrals.model.reply import R550_UNKNOWN_RECIPIENT, Reply
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse, Route
from deferrals.network import makeResolver, reachable
from deferrals.queue import Queue
from deferrals.rungs import Rungs
from deferrals.smtp.guard import Guard
from deferrals.smtp.nexthops import NextHops
from deferrals.smtp.server import SessionFactory
from deferrals.smtp.settings import Intake, ListenerSettings
from deferrals.stages.chain import ContentJudge
from deferrals.stages.envelope.rules import Allowed, Pattern, Rule, RuleTable
from deferrals.status import Status

_log = Logger(namespace="deferrals")


@implementer(IServices)
@attrs.frozen(eq=False)
class Services:
    """
    See L{IServices}.
    """

    reactor: Any
    hostname: str
    stateDir: str
    baseDir: str
    status: Status = attrs.field(factory=Status)
    dns: tuple[tuple[str, int], ...] = ()
    listening: Callable[[], Iterable[tuple[str, int]]] = tuple
    nextHops: NextHops = attrs.field(init=False)
    _resolvers: dict[Any, Any] = attrs.field(init=False, factory=dict)
    _common: dict[Any, Any] = attrs.field(factory=dict, init=False)

    @nextHops.default
    def _makeNextHops(self) -> NextHops:
        return NextHops(self.reactor, self.hostname, self.connect, self.inThread)

    def common(self, key: Any, build: Callable[[], Any]) -> Any:
        """
        See L{IServices.common}.
        """
        if key not in self._common:
            self._common[key] = build()
        return self._common[key]

    def inThread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """
        See L{IServices.inThread}.
        """
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), function, *args)

    def connect(self, endpoint: str) -> Any:
        """
        See L{IServices.connect}.
        """
        return endpoints.clientFromString(self.reactor, endpoint)

    def resolver(self, servers: tuple[tuple[str, int], ...] = ()) -> Any:
        """
        See L{IServices.resolver}.
        """
        servers = servers or self.dns
        if servers not in self._resolvers:
            self._resolvers[servers] = makeResolver(self.reactor, servers)
        return self._resolvers[servers]

    def listensOn(self, address: str, port: int) -> bool:
        """
        See L{IServices.listensOn}.
        """
        return reachable(self.listening(), address, port)


def deliveryNames(rules: tuple[RecipientRule, ...]) -> list[str]:
    """
    The names under which the spool remembers the deliveries of rules: the
    delivery's own, where it has one; otherwise what the rule matches, numbered
    where several match the same.  So queued mail follows its rule when the
    configuration changes.
    """
    seen: dict[str, int] = {}
    names = []
    for rule in rules:
        if isinstance(rule.deliver, str):
            names.append(rule.deliver)
            continue
        count = seen[rule.match] = seen.get(rule.match, 0) + 1
        names.append(rule.match if count == 1 else f"{rule.match}#{count}")
    return names


class House:
    """
    What one configuration makes of the stages.

    @ivar envelope: the first envelope stage.
    @ivar content: the judge over all policies.
    @ivar deliveries: delivery stages by name.
    @ivar schedules: when what they could not deliver is tried again, by name.
    @param former: the house before a reload: stages with equal settings are
        taken over, with their connections.
    """

    def __init__(self, config: Config, services: Services, former: House | None = None) -> None:
        self._services = services
        self._former = former.built if former is not None else {}
        self.built: dict[tuple[Any, Any], Any] = {}
        policies = {
            name: [
                self._build(stage, config, f"policies.{name}.content[{place}]")
                for place, stage in enumerate(policy.content)
            ]
            for name, policy in config.policies.items()
        }
        self.content = ContentJudge(policies, config.max_judging)
        self.deliveries = {
            name: self._build(stage, config, f"deliveries.{name}")
            for name, stage in config.deliveries.items()
        }
        self.schedules = {name: stage.schedule for name, stage in config.deliveries.items()}
        self.bounces = config.bounces
        self._quarantines = {
            name: self._named(policy.quarantine, f"policies.{name}.quarantine", config)
            for name, policy in config.policies.items()
            if policy.quarantine is not None
        }
        rules = []
        names = deliveryNames(config.recipients)
        for place, (rule, name) in enumerate(zip(config.recipients, names, strict=True)):
            key = f"recipients[{place}]"
            if isinstance(rule.deliver, Stage):
                self.deliveries[name] = self._build(rule.deliver, config, f"{key}.deliver")
                self.schedules[name] = rule.deliver.schedule
            verdict = _verdict(config.policies[rule.policy], Route(rule.policy, name))
            checks = [
                self._build(stage, config, f"{key}.check[{number}]")
                for number, stage in enumerate(rule.check)
            ]
            delivery = self.deliveries.get(name)
            if IEnvelopeStage.providedBy(delivery):
                checks.append(delivery)
            allow = None if rule.allow is None else Allowed.parse(rule.allow)
            rules.append(Rule(Pattern.parse(rule.match), verdict, checks, allow))
        verdicts = {
            name: _verdict(policy, Route(name, "")) for name, policy in config.policies.items()
        }
        self.envelope = RuleTable(rules, services.hostname, verdicts, self.deliveries)
        #: Whether BODY=BINARYMIME can go everywhere as it is.
        self.takesBinary = all(
            getattr(stage, "takesBinary", False) for stage in self.deliveries.values()
        )

    def quarantine(self, policy: str) -> str | None:
        """
        The name of the delivery that gets what a policy refuses of a message
        that had to be accepted; L{None} for none.
        """
        return self._quarantines.get(policy)

    def _named(self, delivery: DeliveryStage | str, key: str, config: Config) -> str:
        """
        A delivery's own name; that of its place, where it has none.
        """
        if isinstance(delivery, str):
            return delivery
        self.deliveries[key] = self._build(delivery, config, key)
        self.schedules[key] = delivery.schedule
        return key

    def routeBack(self, sender: Mailbox) -> Route | None:
        """
        Where notices for a sender go: as the rules say for one of our own, and
        for all others to the delivery C{bounces}.
        """
        if self.envelope.isOurs(sender):
            return self.envelope.route(sender)
        return None if self.bounces is None else Route("", self.bounces)

    def _build(self, stage: Stage, config: Config, key: str) -> Any:
        """
        A stage's object; one for all tables that say the same.
        """
        same = (stage.plugin, stage.settings)
        if same not in self.built:
            try:
                self.built[same] = self._former.get(same) or stage.plugin.build(
                    stage.settings, self._services
                )
            except ValueError as error:
                raise ConfigError(config.path, [(key, f"expected {error}")]) from None
        return self.built[same]


def _verdict(policy: Policy, route: Route) -> EnvelopeVerdict:
    if policy.envelope == "refuse":
        return Refuse(Reply.parseRefusal(policy.reply) if policy.reply else R550_UNKNOWN_RECIPIENT)
    return Accept(route=route) if policy.envelope == "accept" else Defer(route)


class MailService(service.Service):
    """
    The server.

    @param config: what to begin with.
    @param reload: reads the configuration again, or raises L{ConfigError}.
    @param gate: L{Gate<deferrals.auth.gate.Gate>}, or L{None} where nobody can
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
        self._guard = Guard()
        limitGuard(self._guard, config.limits)
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
        self._house = House(config, services)
        self._queue = Queue(config, services, self._ids, lambda: self._house)
        self._rungs = Rungs(config, services, self._queue.spool)
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
        factory = SessionFactory(settings, self._intake(settings), self._reactor)
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

    def _intake(self, settings: ListenerSettings) -> Intake:
        return Intake(
            self._ids,
            self._house.envelope,
            self._house.content,
            self._queue.spool,
            self._queue.release,
            self._services.status,
            self._rungs.rung(
                settings,
                self._house.quarantine,
                lambda sender: self._house.routeBack(sender) is not None,
            ),
            self._guard,
            self._gate,
            self._house.takesBinary,
            self._queue.attempt if settings.enumerates == "delivery" else None,
            settings.deliverySeconds,
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
            house = House(config, self._services, self._house)
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
        limitGuard(self._guard, config.limits)
        self._keyring.reload(settings.certificates for _, settings in wanted.values())
        self._queue.reloaded(config)
        for endpoint in set(self._factories) - set(wanted):
            self._unlisten(endpoint)
        for endpoint, (listener, settings) in wanted.items():
            if endpoint in self._factories:
                self._factories[endpoint].settings = settings
                self._factories[endpoint].intake = self._intake(settings)
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
    return House(config, services).deliveries
