"""
The server that a configuration describes: what C{twistd deferrals} runs.

L{MailService} is a user of L{MailServer<deferrals.server.MailServer>}, where
everything is wired.  Here the configuration is made into what that wants; a
reload sets other stages, and changes ports and certificates.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import attrs
from twisted.application import service
from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.interfaces import IAddress, IStreamServerEndpoint
from twisted.python.failure import Failure

import deferrals
from deferrals import durable
from deferrals.app.listeners import Keyring, listenerSettings
from deferrals.app.rates import Rates
from deferrals.app.refusals import RefusalKeeping, templatesOf
from deferrals.app.signing import sealWith, signingKeys, signWith
from deferrals.app.stages import StageSet
from deferrals.app.web import Seen, WebPort, checkWeb, sourcesOf
from deferrals.config.places import described
from deferrals.config.tables import Config
from deferrals.deferreds import timeOfDay
from deferrals.errors import ConfigError, DeferralsError, SpoolError
from deferrals.interfaces import IDeliveryStage, IReactor, ISpool
from deferrals.logger import Logger
from deferrals.model.digest import Templates
from deferrals.model.json import JSON
from deferrals.model.networks import dnsServers
from deferrals.model.recent import RecentEvents
from deferrals.model.web import WebSettings
from deferrals.operator.control import Called, Operator, Result, listen
from deferrals.operator.several import SeveralOperators
from deferrals.operatorfiles import readSecret
from deferrals.server.limits import SharedLimits
from deferrals.server.listeners import serverEndpoint
from deferrals.server.mailserver import MailServer
from deferrals.server.notes import Notes
from deferrals.server.replacement import Replacement
from deferrals.server.services import Services
from deferrals.server.sharedstore import SharedStore, identityOf, spoolFor
from deferrals.server.signing import SigningKey
from deferrals.web.metrics import Metrics

_log = Logger(namespace="deferrals")

#: What a reload does not change.
_AT_START = ("state_dir", "hostname", "max_judging", "dns", "workers", "spool")


class OperatorPort(Protocol):
    """
    Where operators are answered.
    """

    def stopListening(self) -> Deferred[None] | None:
        """
        No more.
        """


#: Who can be called, by the worker whose spool it is; first this process's own.
Operators: TypeAlias = Callable[[], Mapping[int, Called | None]]


class OwnOperators(SeveralOperators):
    """
    What operators call where one process has its own queue, and perhaps what others
    have left.
    """

    def __init__(self, operators: Operators) -> None:
        super().__init__(operators)
        self._operators = operators

    def call(self, name: str, *args: JSON) -> Deferred[Result]:
        """
        See L{Called.call}.
        """
        own, *left = self._operators().values()
        if own is not None and (name in ("status", "reload") or not left):
            return own.call(name, *args).addCallback(_result)
        return super().call(name, *args)


def _result(found: JSON) -> Result:
    return found


#: What this machine knows, and what it counts.
Own: TypeAlias = tuple[Notes, SharedLimits]


@attrs.frozen(kw_only=True)
class Parts:
    """
    What one of several processes has of the whole, where a server that is one process
    has its own.

    @ivar worker: which one it is.
    @ivar endpoint: finds what was opened for it, by the description of an endpoint.
    @ivar notes: what all know.
    @ivar limits: how much all may have together.
    @ivar operators: lets an operator be asked; by default at the control socket.
    @ivar pages: what is said of the pages on which it is seen, if there are any; by default
        what its own configuration says.
    """

    worker: int | None = None
    endpoint: Callable[[str], IStreamServerEndpoint] | None = None
    notes: Notes | None = None
    limits: SharedLimits | None = None
    operators: Callable[[Operators], OperatorPort] | None = None
    pages: Callable[[], WebSettings | None] | None = None


@attrs.frozen
class Change:
    """
    What a reload is going to change: all is there that it needs.

    @ivar later: what changes only at the next start.
    """

    config: Config
    stages: StageSet
    keys: list[SigningKey]
    listeners: Replacement
    later: list[str]
    templates: Templates


class MailService(service.Service):
    """
    The server of a configuration.

    @param config: what to begin with.
    @param reload: reads the configuration again, or raises L{ConfigError}.
    @param checkers: check passwords.
    @param parts: what it does not have of its own.
    @ivar config: the one that is in force.
    @ivar server: the server itself.
    @ivar settled: is told when it has started, or waits for its database; and why it has
        not: that, too, if it has waited.
    @ivar reloaded: is called when a reload has given it another configuration.
    @ivar reloads: for one at a time.
    @ivar rates: how much happens in a minute.
    """

    _control: OperatorPort | None = None

    def __init__(
        self,
        config: Config,
        reactor: IReactor,
        reload: Callable[[], Config],
        checkers: Sequence[ICredentialsChecker] = (),
        parts: Parts = Parts(),
    ) -> None:
        self.config = config
        self.reactor = reactor
        self._isSettled = self._isEnding = False
        self.settled: Callable[[Failure | None], object] = lambda failure: None
        self.reloaded: Callable[[], object] = lambda: None
        self._parts, self._reload = parts, reload
        self.reloads = DeferredLock()
        own = parts.notes or Notes(reactor), parts.limits or SharedLimits(reactor)
        self._shared = _sharedStore(config, reactor, parts.worker or 0, own)
        self._services = _services(config, reactor, own, self._shared)
        self._signWith(config, signingKeys(config))
        self._stages = StageSet(config, self._services)
        self.server = self._built(checkers)
        if self._shared is not None:
            self._shared.company.watchers.append(self._divide)
        self._stages.show()
        self.server.listeners.endpoint = parts.endpoint or self.server.listeners.endpoint
        self.server.limitConnections(config.limits)
        seen = self._services, self._pages, parts.worker, self._shared
        self._refusals = RefusalKeeping(config, self.server, *seen)
        self._recent = RecentEvents(partial(timeOfDay, reactor))
        self._own: Operator | None = None
        key = None if self._shared is None else self._shared.key
        self._web = WebPort(reactor, self._seen(), key)
        self._watch()
        self.rates = Rates(self.server.status, reactor)
        self._began = reactor.seconds()

    def _built(self, checkers: Sequence[ICredentialsChecker]) -> MailServer:
        config = self.config
        return MailServer(
            self.reactor,
            hostname=config.hostname,
            envelope=self._stages.envelope,
            content=self._stages.policies,
            delivery=self._stages.deliveries,
            schedule=self._stages.schedules,
            notices=self._stages.routeBack,
            quarantines=self._stages.quarantines,
            reversePath=self._stages.reversePath,
            spool=self._spool(self._parts.worker or 0),
            checkers=checkers,
            maxJudging=config.max_judging,
            maxDelivering=config.max_delivering,
            returnOctets=config.bounce_size,
            submission=config.submission,
            services=self._services,
            reverseDNS=config.reverse_dns,
            worker=self._parts.worker,
        )

    def _divide(self) -> None:
        """
        Others have come, or have gone, who share the database.
        """
        if self._shared is not None:
            self.server.shareWith(self._shared.company.portion)

    def _seen(self) -> Seen:
        status = self.server.status
        return Seen(
            metrics=Metrics(sourcesOf(self.server), self.reactor).get,
            reasons=lambda: self.server.reasons,
            ask=self._ask,
            status=lambda: status,
            counted=status,
        )

    def _ask(self, name: str, *args: JSON) -> Deferred[Result]:
        """
        What pages ask.

        @raise DeferralsError: it starts, or stops.
        """
        if self._own is None or self._control is None:
            raise DeferralsError("the server is not there for operators: it starts, or stops")
        return OwnOperators(partial(self._operators, self._own)).call(name, *args)

    def _pages(self) -> WebSettings | None:
        return self.config.web if self._parts.pages is None else self._parts.pages()

    def _watch(self) -> None:
        """
        Where there are pages, what happens is kept for them.
        """
        if self._pages() is not None:
            self.server.status.watch = self._recent.take
        else:
            self.server.status.watch = None
            self._recent.clear()

    def _spool(self, worker: int) -> str | ISpool:
        config = self.config
        directory = config.spoolOf(worker)
        own = config.spool, config.baseDir, directory, self._services, worker
        return spoolFor(*own, self._shared, self._waits)

    @property
    def addresses(self) -> Sequence[IAddress]:
        """
        Where it listens.
        """
        return self.server.addresses

    @property
    def processes(self) -> Sequence[int]:
        """
        It has none beside its own.
        """
        return ()

    def logReopened(self) -> None:
        """
        That is for no one else.
        """

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
        Deferred.fromCoroutine(self._begin()).addCallbacks(self.started, self.failed)

    async def _begin(self) -> MailServer:
        shared = self._shared
        if shared is not None and self.config.spool.use == "sqlite":
            await shared.open()  # otherwise the queue opens it
        server = await self.server.start()
        if shared is not None and self.config.web is not None:
            shared.key.start()
        return server

    def _waits(self) -> None:
        """
        The database is away: the process is there all the same, and for operators.
        """
        _log.warn("no mail is taken until the database is there", event="start", state="waiting")
        self.server.waits()
        self._appear()
        self._settle(None)

    def _settle(self, failure: Failure | None) -> None:
        self._isSettled = True
        self.settled(failure)

    def started(self, server: MailServer) -> None:
        """
        Mail can be taken.
        """
        if self._isSettled:
            _log.info("mail is taken", event="start", state="started")
        for number in leftBy(self.config, self._parts.worker or 0):
            server.drain(number, self.config.spoolOf(number))
        if self.running and server.queue is not None:
            self._refusals.start()
        self._appear()
        if not self._isSettled:
            self._settle(None)

    def _appear(self) -> None:
        """
        Be there for operators.
        """
        queue = self.server.queue
        if self._own is not None or not self.running or queue is None:
            return
        inThread = self._services.inThread
        seen = self._recent, self._refusals.desk
        own = self._own = Operator(queue, inThread, self.describe, self.reload, *seen)
        self.rates.start()
        self._control = (self._parts.operators or self._listen)(partial(self._operators, own))

    def _operators(self, own: Operator) -> dict[int, Called | None]:
        found: dict[int, Called | None] = {self._parts.worker or 0: own}
        for worker, queue in self.server.leftQueues.items():
            inThread = self._services.inThread
            found[worker] = None if queue is None else Operator(queue, inThread, dict)
        return found

    def _listen(self, operators: Operators) -> OperatorPort:
        return listen(self.reactor, self.config.controlPath, OwnOperators(operators))

    def describe(self) -> dict[str, Any]:
        """
        What the server says of itself, as JSON can carry it.
        """
        reasons = self.server.reasons
        return {
            "version": deferrals.__version__,
            "config": self.config.path,
            "uptime_seconds": round(self.reactor.seconds() - self._began),
            "ready": not reasons,
            "reasons": reasons,
            "rates": self.rates.perMinute(),
            **self.server.status.snapshot(),
        }

    def failed(self, failure: Failure) -> None:
        """
        There is no spool, and so no mail: called once, instead of running.
        """
        if not self._isEnding:  # the service manager waits for it no longer
            _log.critical("cannot run without a spool: {error}", error=failure.getErrorMessage())
            self._settle(failure)

    def stopService(self) -> Deferred[None]:
        service.Service.stopService(self)
        self._isEnding = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self.reloads.acquire()  # one that is under way ends first; no other begins
        control, self._control = self._control, None
        if control is not None:
            await maybeDeferred(control.stopListening)
        self.rates.stop()
        await self._refusals.quiet()
        await self.server.stop(self.config.grace)
        await self._refusals.stop()
        if self._shared is not None:
            await self._shared.close()
        await self._web.close()

    def reload(self) -> Deferred[list[str]]:
        """
        Read the configuration again, and do what it says: whole, or not at all.

        @return: a Deferred of what changes only at the next start; it fails with
            L{DeferralsError} where the old configuration stays, and the log says
            so.
        """
        return self.reloads.run(lambda: Deferred.fromCoroutine(self._reloadWhole()))

    async def _reloadWhole(self) -> list[str]:
        later = await self.commit(await self.prepare())
        self.reloaded()
        return later

    async def prepare(self) -> Change:
        """
        Read the configuration again, and make what it says, beside what is in force.

        @raise DeferralsError: that cannot be; nothing has changed, and the log says so.
        """
        try:
            config = self._reload()
            stages = StageSet(config, self._services, self._stages)
            keys = signingKeys(config)
            keyring = Keyring(config.baseDir, self.reactor)
            settings = listenerSettings(config, keyring)
            listeners = Replacement(self.server.listeners, {one.name: one for one in settings})
            await listeners.prepare()
            remarks, templates = later(self.config, config), templatesOf(config)
            change = Change(config, stages, keys, listeners, remarks, templates)
            try:
                await self._web.prepare(config)
            except BaseException:
                await self.undo(change)
                raise
        except (DeferralsError, ValueError) as error:
            raise notReloaded(error) from None
        return change

    async def undo(self, change: Change) -> None:
        """
        All stays as it was.
        """
        await self._web.undo()
        await change.listeners.undo()

    async def commit(self, change: Change) -> list[str]:
        """
        Go by what was made.

        @return: what changes only at the next start.
        @raise ValueError: the server does not want it; nothing has changed.
        """
        config = change.config
        try:
            self._replace(config, change.stages)
        except BaseException as error:
            await self.undo(change)
            raise notReloaded(error) from None
        self.config, self._stages = config, change.stages
        self._signWith(config, change.keys)
        change.stages.show()
        self._refusals.configure(config, change.templates)
        self.server.limitConnections(config.limits)
        await change.listeners.commit(config.grace)
        self._watch()
        await self._web.commit()
        for remark in change.later:
            _log.warn("{remark}", remark=remark)
        _log.info("configuration reloaded")
        return change.later

    def _signWith(self, config: Config, keys: Sequence[SigningKey]) -> None:
        signWith(self._services.signer, config, keys)
        sealWith(self._services.sealer, config, keys)

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
            reversePath=stages.reversePath,
            maxDelivering=config.max_delivering,
            returnOctets=config.bounce_size,
            submission=config.submission,
            reverseDNS=config.reverse_dns,
        )


def leftBy(config: Config, worker: int) -> list[int]:
    """
    @return: the workers that there are no longer, and whose mail this one delivers.
    """
    try:
        names = os.listdir(config.workersDirectory)
    except OSError:
        return []
    numbers = sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]{0,2}", name))
    return [one for one in numbers if one >= config.workers and one % config.workers == worker]


def later(config: Config, following: Config) -> list[str]:
    """
    @return: what of another configuration counts only from the next start on.
    """
    return [
        f"{name} changes at the next start"
        for name in _AT_START
        if getattr(config, name) != getattr(following, name)
    ]


def notReloaded(error: BaseException) -> BaseException:
    """
    @return: the error; the log says what was wrong with the configuration.
    """
    if isinstance(error, DeferralsError | ValueError):
        why = described(error) if isinstance(error, ConfigError) else str(error)
        _log.error("configuration not reloaded, the old one stays: {error}", error=why)
    return error


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
    ours = os.path.join(config.spoolDirectory, "bodies"), os.path.join(path, "contents")
    isKnown = isEmpty or any(map(os.path.isdir, ours))
    if found.st_uid != os.geteuid() or found.st_mode & stat.S_ISVTX or not isKnown:
        mode = stat.S_IMODE(found.st_mode)
        raise SpoolError(
            f"state_dir {path} has mode {mode:04o}: expected a directory of its own, with mode 0700"
        )
    mode = durable.keepPrivate(path) or 0
    _log.warn("{path} had mode {mode}, and has 0700 now", path=path, mode=f"{mode:04o}")


def _services(config: Config, reactor: IReactor, own: Own, shared: SharedStore | None) -> Services:
    notes, limits = own
    services = Services(
        reactor,
        hostname=config.hostname,
        stateDir=config.stateDir,
        baseDir=config.baseDir,
        dns=dnsServers(config.dns),
        ownNotes=notes,
        notes=notes if shared is None else shared.notes,
        ownLimits=limits,
        limits=limits if shared is None else shared.limits,
    )
    if shared is not None:
        shared.show(services.status)
    return services


def _sharedStore(config: Config, reactor: IReactor, worker: int, own: Own) -> SharedStore | None:
    """
    @return: C{None} where nothing is shared.
    """
    if not config.spool.isShared:
        return None
    me = None
    if config.spool.use == "sqlite":
        me = identityOf(config.spool, config.hostname, worker)
    return SharedStore(config.spool, config.baseDir, reactor, *own, me, config.sharers)


def checkConfig(config: Config, reactor: Any) -> Mapping[str, IDeliveryStage]:
    """
    Build everything that a configuration says, and start nothing.

    @param reactor: the global one, whose type Twisted says in part only.
    @return: the deliveries, by name.
    @raise ConfigError: with the first problem of each kind: a stage does not want its
        settings, a certificate is none; and all endpoints that are none.
    """
    problems = [*_problems(config, reactor)]
    services = _services(config, reactor, (Notes(reactor), SharedLimits(reactor)), None)
    stages: list[StageSet] = []
    for step in (
        lambda: listenerSettings(config, Keyring(config.baseDir, reactor)),
        lambda: checkWeb(config, reactor),
        lambda: signingKeys(config),
        lambda: templatesOf(config),
        lambda: stages.append(StageSet(config, services)),
    ):
        try:
            step()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(config.path, problems)
    return stages[0].deliveries


def _problems(config: Config, reactor: IReactor) -> Iterable[tuple[str, str]]:
    """
    What is wrong with what no other module builds.
    """
    for index, listener in enumerate(config.listen):
        try:
            serverEndpoint(reactor, listener.endpoint)
        except Exception as error:
            yield f"listen[{index}].endpoint", f"expected {error}"
    if os.path.lexists(config.stateDir) and not os.path.isdir(config.stateDir):
        yield "state_dir", f"expected a directory: {config.stateDir} is none"
    if config.spool.password_file is not None:
        try:
            readSecret(os.path.join(config.baseDir, config.spool.password_file))
        except (OSError, ValueError) as error:
            yield "spool.password_file", f"expected a readable file: {error}"
