"""
The server that a configuration describes: what C{twistd deferrals} runs.

L{MailService} is a user of L{MailServer<deferrals.server.MailServer>}, where
everything is wired.  Here the configuration is made into what that wants; a
reload sets other stages, and changes ports and certificates.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application import service
from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.process import reapProcessHandlers
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

import deferrals
from deferrals import durable
from deferrals.app.listeners import Keyring, listenerSettings
from deferrals.app.rates import Rates
from deferrals.app.stages import StageSet
from deferrals.app.web import WebPort, checkWeb
from deferrals.config.places import described
from deferrals.config.tables import Config
from deferrals.errors import ConfigError, DeferralsError, SpoolError
from deferrals.interfaces import IDeliveryStage, IReactor
from deferrals.logger import Logger
from deferrals.model.networks import dnsServers
from deferrals.operator.control import ControlPort, Operator, listen
from deferrals.server.listeners import serverEndpoint
from deferrals.server.mailserver import MailServer
from deferrals.server.replacement import Replacement
from deferrals.server.services import Services
from deferrals.stages.delivery.processgroup import Orphans

_log = Logger(namespace="deferrals")

#: How often process 1 of a container looks for orphans that have ended.
REAP_SECONDS = 5.0

#: What a reload does not change.
_AT_START = ("state_dir", "hostname", "max_judging", "dns")


class MailService(service.Service):
    """
    The server of a configuration.

    @param config: what to begin with.
    @param reload: reads the configuration again, or raises L{ConfigError}.
    @param checkers: check passwords.
    @ivar config: the one that is in force.
    @ivar server: the server itself.
    """

    def __init__(
        self,
        config: Config,
        reactor: IReactor,
        reload: Callable[[], Config],
        checkers: Sequence[ICredentialsChecker] = (),
    ) -> None:
        self.config = config
        self.reactor = reactor
        self._reload = reload
        self._reloads = DeferredLock()
        self._services = _services(config, reactor)
        self._stages = StageSet(config, self._services)
        self.server = MailServer(
            reactor,
            hostname=config.hostname,
            envelope=self._stages.envelope,
            content=self._stages.policies,
            delivery=self._stages.deliveries,
            schedule=self._stages.schedules,
            notices=self._stages.routeBack,
            quarantines=self._stages.quarantines,
            spool=config.spoolDirectory,
            checkers=checkers,
            maxJudging=config.max_judging,
            maxDelivering=config.max_delivering,
            returnOctets=config.bounce_size,
            submission=config.submission,
            services=self._services,
            reverseDNS=config.reverse_dns,
        )
        self.server.limitConnections(config.limits)
        self._web = WebPort(reactor, self.server)
        self._rates = Rates(self.server.status, reactor)
        self._began = reactor.seconds()
        self._control: ControlPort | None = None
        self._reaping = LoopingCall(Orphans(reapProcessHandlers).look)
        self._reaping.clock = reactor

    def privilegedStartService(self) -> None:
        """
        Listen, while the process may still bind low ports.

        @raise CannotListenError: a port cannot be had.
        @raise DeferralsError: that of the web cannot, or a file that it needs.
        """
        service.Service.privilegedStartService(self)
        for settings in listenerSettings(self.config, Keyring(self.config.baseDir, self.reactor)):
            self.server.listenOn(settings.name, settings)
        self.server.privilegedStartService()
        self._web.openNow(self.config)

    def startService(self) -> None:
        """
        Open the spool, deliver, and be there for operators.
        """
        service.Service.startService(self)
        try:
            keepStatePrivate(self.config)
        except (OSError, SpoolError):
            return self.failed(Failure())
        if os.getpid() == 1:
            d = self._reaping.start(REAP_SECONDS)
            d.addErrback(lambda failure: _log.failure("orphans are not reaped", failure))
        self.server.start().addCallbacks(self.started, self.failed)

    def started(self, server: MailServer) -> None:
        """
        Mail can be taken.
        """
        if self.running and server.queue is not None:
            operator = Operator(server.queue, self._services.inThread, self.describe, self.reload)
            self._rates.start()
            self._control = listen(self.reactor, self.config.controlPath, operator)

    def describe(self) -> dict[str, Any]:
        """
        What the server says of itself, as JSON can carry it.
        """
        reasons = self.server.reasons
        return {
            "version": deferrals.__version__,
            "uptime_seconds": round(self.reactor.seconds() - self._began),
            "ready": not reasons,
            "reasons": reasons,
            "rates": self._rates.perMinute(),
            **self.server.status.snapshot(),
        }

    def failed(self, failure: Failure) -> None:
        """
        There is no spool, and so no mail: called once, instead of running.
        """
        _log.critical("cannot run without a spool: {error}", error=failure.getErrorMessage())

    def stopService(self) -> Deferred[None]:
        service.Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._reloads.acquire()  # one that is under way ends first; no other begins
        if self._reaping.running:
            self._reaping.stop()
        if self._control is not None:
            await maybeDeferred(self._control.stopListening)
        self._rates.stop()
        await self.server.stop(self.config.grace)
        await self._web.close()

    def reload(self) -> Deferred[list[str]]:
        """
        Read the configuration again, and do what it says: whole, or not at all.

        @return: a Deferred of what changes only at the next start; it fails with
            L{DeferralsError} where the old configuration stays, and the log says
            so.
        """
        return self._reloads.run(lambda: Deferred.fromCoroutine(self._reloadWhole()))

    async def _reloadWhole(self) -> list[str]:
        try:
            config = self._reload()
            stages = StageSet(config, self._services, self._stages)
            keyring = Keyring(config.baseDir, self.reactor)
            settings = listenerSettings(config, keyring)
            replacement = Replacement(self.server.listeners, {one.name: one for one in settings})
            await replacement.prepare()
            try:
                await self._web.prepare(config)
                self._replace(config, stages)
            except BaseException:
                await self._web.undo()
                await replacement.undo()
                raise
        except (DeferralsError, ValueError) as error:
            why = described(error) if isinstance(error, ConfigError) else str(error)
            _log.error("configuration not reloaded, the old one stays: {error}", error=why)
            raise
        later = [
            f"{name} changes at the next start"
            for name in _AT_START
            if getattr(config, name) != getattr(self.config, name)
        ]
        self.config, self._stages = config, stages
        self.server.limitConnections(config.limits)
        await replacement.commit(config.grace)
        await self._web.commit()
        for remark in later:
            _log.warn("{remark}", remark=remark)
        _log.info("configuration reloaded")
        return later

    def _replace(self, config: Config, stages: StageSet) -> None:
        """
        @raise ValueError: the server does not want it; nothing has changed.
        """
        self.server.replace(
            envelope=stages.envelope,
            content=stages.policies,
            delivery=stages.deliveries,
            schedule=stages.schedules,
            notices=stages.routeBack,
            quarantines=stages.quarantines,
            maxDelivering=config.max_delivering,
            returnOctets=config.bounce_size,
            submission=config.submission,
            reverseDNS=config.reverse_dns,
        )


def keepStatePrivate(config: Config) -> None:
    """
    Take an existing C{state_dir} away from other users, with a line in the log.

    @raise SpoolError: it could be something else than a directory of ours.
    @raise OSError: it is not this process's to change.
    """
    path = config.stateDir
    if not os.path.isdir(path) or not os.stat(path).st_mode & 0o077:
        return
    found = os.stat(path)
    isEmpty = set(os.listdir(path)) <= {"lost+found"}
    isKnown = isEmpty or os.path.isdir(os.path.join(config.spoolDirectory, "bodies"))
    if found.st_uid != os.geteuid() or found.st_mode & stat.S_ISVTX or not isKnown:
        mode = stat.S_IMODE(found.st_mode)
        raise SpoolError(
            f"state_dir {path} has mode {mode:04o}: expected a directory of its own, with mode 0700"
        )
    mode = durable.keepPrivate(path) or 0
    _log.warn("{path} had mode {mode}, and has 0700 now", path=path, mode=f"{mode:04o}")


def _services(config: Config, reactor: IReactor) -> Services:
    return Services(
        reactor,
        hostname=config.hostname,
        stateDir=config.stateDir,
        baseDir=config.baseDir,
        dns=dnsServers(config.dns),
    )


def checkConfig(config: Config, reactor: Any) -> Mapping[str, IDeliveryStage]:
    """
    Build everything that a configuration says, and start nothing.

    @param reactor: the global one, whose type Twisted says in part only.
    @return: the deliveries, by name.
    @raise ConfigError: a stage does not want its settings, or an endpoint is
        none.
    """
    problems = []
    for index, listener in enumerate(config.listen):
        try:
            serverEndpoint(reactor, listener.endpoint)
        except Exception as error:
            problems.append((f"listen[{index}].endpoint", f"expected {error}"))
    if os.path.lexists(config.stateDir) and not os.path.isdir(config.stateDir):
        problems.append(("state_dir", f"expected a directory: {config.stateDir} is none"))
    if problems:
        raise ConfigError(config.path, problems)
    listenerSettings(config, Keyring(config.baseDir, reactor))
    checkWeb(config, reactor)
    return StageSet(config, _services(config, reactor)).deliveries
