"""
The parent of several processes: it opens what they listen on, begins them, looks after
them, and passes on what it is told.  It takes no mail, and keeps nothing that would be
lost with it.

A reload has two steps: each worker makes what the configuration says; only when all
have, all change to it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from twisted.application import service
from twisted.internet.defer import Deferred, DeferredList, DeferredLock, TimeoutError
from twisted.internet.interfaces import IAddress
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from deferrals.app.service import keepStatePrivate, later, notReloaded
from deferrals.app.web import Seen, WebPort, buildOf
from deferrals.config.tables import Config
from deferrals.errors import DeferralsError, SpoolError
from deferrals.interfaces import IReactor
from deferrals.logger import Logger
from deferrals.model.json import JSON
from deferrals.operator.control import ControlPort, listen
from deferrals.server.sharedstore import keyFor
from deferrals.web.metrics import Metrics, Sources
from deferrals.workers.doors import Doors
from deferrals.workers.launching import Command, Launched, launch
from deferrals.workers.limits import LimitsRegister
from deferrals.workers.line import WorkerLine
from deferrals.workers.notes import NotesRegister
from deferrals.workers.operating import ANSWER_SECONDS, WorkersOperator
from deferrals.workers.orphans import OrphanedWorkers
from deferrals.workers.reports import Reports
from deferrals.workers.supervisor import Supervisor, WorkerProcess

_log = Logger(namespace="deferrals.workers")

#: How often it is looked how the workers are.
LOOK_SECONDS = 1.0

#: How long a worker may take to make what a configuration says.
RELOAD_SECONDS = 60.0

#: How long it may take to start: its spool may have to be mended.
START_SECONDS = 86400.0

_CHANGED = "the configuration was changed while it started"


class Parent(service.Service):
    """
    @param config: what to begin with.
    @param reload: reads the configuration again, or raises L{ConfigError}.
    @param command: begins a worker.
    @ivar settled: is told when all have started, and why they have not.
    @ivar reloaded: is called when a reload has given them another configuration.
    """

    def __init__(
        self,
        config: Config,
        reactor: IReactor,
        reload: Callable[[], Config],
        command: Command,
    ) -> None:
        self.config = config
        self.settled: Callable[[Failure | None], object] = lambda failure: None
        self.reloaded: Callable[[], object] = lambda: None
        self._reactor = reactor
        self._reload = reload
        self._command = command
        self._reloads = DeferredLock()
        self._isUp = self._isStopping = False
        self._doors = Doors(reactor, config.workers)
        self._workers = [
            Supervisor(number, reactor, self._begin, self._doors.isAway)
            for number in range(config.workers)
        ]
        self._reports = Reports()
        self._registers = (NotesRegister(reactor), LimitsRegister(reactor), self._reports)
        self._operator = WorkersOperator(
            *(reactor, self._ways, self.describe, self._takers, self._reports, self.reload),
            isOneQueue=config.spool.use == "postgresql",
        )
        self._key = keyFor(config.spool, config.baseDir, reactor)
        self._web = WebPort(reactor, self._seen(), self._key)
        self._control: ControlPort | None = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor

    @property
    def addresses(self) -> Sequence[IAddress]:
        """
        Where the workers listen.
        """
        return self._doors.addresses

    @property
    def processes(self) -> list[int]:
        """
        The workers' numbers.
        """
        return [one.process.pid for one in self._workers if one.process is not None]

    # Its start.

    def privilegedStartService(self) -> None:
        """
        Listen, while the process may still bind low ports.

        @raise DeferralsError: a port cannot be had.
        """
        service.Service.privilegedStartService(self)
        self._doors.openAtStart(_clear(self.config), OrphanedWorkers(self.config))
        self._web.openNow(self.config)

    def startService(self) -> None:
        """
        Begin the workers.
        """
        service.Service.startService(self)
        try:
            keepStatePrivate(self.config)
        except (OSError, SpoolError):
            return self._cannotStart(Failure())
        for worker in self._workers:
            worker.start()
        self._looking.start(LOOK_SECONDS).addErrback(_notLooked)
        if self._key is not None and self.config.web is not None:
            self._key.start()

    def _begin(self, worker: Supervisor) -> WorkerProcess:
        """
        @raise OSError: the system has no process for it.
        """
        config = self.config
        line = WorkerLine(self._reactor, {"draining": worker.draining})
        process = Launched(line, lambda process, how: self._ended(worker, process, how))
        for register in self._registers:
            register.attach(worker.number, line)
        environment = self._command.environment(worker.number, sys.path)
        try:
            launch(self._reactor, self._command, environment, config.text, process)
        except OSError as error:
            self._notStarted(worker, f"it cannot be begun: {error}")
            raise
        names, descriptors = _given(self._doors, worker.number)
        asked = ("start", names, worker.mayBeDeadly)
        d = line.ask(*asked, seconds=START_SECONDS, descriptors=descriptors)
        d.addCallback(lambda _: self._ready(worker, process, config))
        d.addErrback(lambda failure: self._notReady(worker, process, failure))
        return process

    def _ready(self, worker: Supervisor, process: Launched, config: Config) -> None:
        if worker.process is not process:
            return
        if config.text != self.config.text:
            worker.failed(_CHANGED)
            return
        worker.ready()
        if not self._isUp and all(one.isUp for one in self._workers):
            self._isUp = True
            self._control = listen(self._reactor, self.config.controlPath, self._operator)
            self.settled(None)

    def _notReady(self, worker: Supervisor, process: Launched, failure: Failure) -> None:
        if worker.process is not process or not process.line.connected:
            return  # what became of its process says more
        worker.failed(failure.getErrorMessage())
        self._notStarted(worker, failure.getErrorMessage())

    def _ended(self, worker: Supervisor, process: Launched, how: str) -> None:
        for register in self._registers:
            register.detach(worker.number)
        worker.ended(process, how)
        self._notStarted(worker, how)

    def _notStarted(self, worker: Supervisor, why: str) -> None:
        """
        All start, or the server does not.
        """
        if not (self._isUp or self._isStopping):
            error = DeferralsError(f"worker {worker.number} cannot start: {why}")
            self._cannotStart(Failure(error))

    def _cannotStart(self, failure: Failure) -> None:
        self._isStopping = True
        _log.critical("{error}", error=failure.getErrorMessage())
        self.settled(failure)

    def _look(self) -> None:
        for worker in self._workers:
            worker.look()

    # Its end.

    def stopService(self) -> Deferred[None]:
        service.Service.stopService(self)
        self._isStopping = True
        self._doors.close()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._reloads.acquire()  # one that is under way ends first; no other begins
        if self._control is not None:
            await self._control.stopListening()
        await DeferredList([one.stop() for one in self._workers])
        await self._web.close()
        if self._key is not None:
            self._key.stop()
        if self._looking.running:
            self._looking.stop()

    # What operators ask.

    def describe(self) -> dict[str, JSON]:
        """
        What only the parent knows: how the workers are.
        """
        workers: list[JSON] = [one.describe() for one in self._workers]
        return {"config": self.config.path, "workers": workers}

    def _takers(self) -> list[int]:
        """
        Those that take mail.
        """
        return [one.number for one in self._workers if one.takesMail]

    def _ways(self) -> dict[int, WorkerLine | None]:
        """
        The lines to those that can be asked, by worker.
        """
        return {one.number: one.line for one in self._workers}

    def _seen(self) -> Seen:
        return Seen(
            metrics=self._metrics().get,
            reasons=self._operator.reasons,
            ask=self._operator.call,
            status=self._reports.status,
            counted=self._reports.own,
        )

    def _metrics(self) -> Metrics:
        sources = Sources(
            status=self._reports.status,
            build=buildOf(),
            sessions=self._reports.sessions,
            backedOff=self._reports.backedOff,
            queue=lambda: Deferred.fromCoroutine(self._operator.figures()),
            workers=lambda: [{**one.describe(), "up": one.takesMail} for one in self._workers],
        )
        return Metrics(sources, self._reactor)

    def logReopened(self) -> None:
        """
        The log's file was opened anew: that is for all.
        """
        for one in self._workers:
            if one.process is not None:  # also one that starts: it has opened it already
                one.process.line.tell("reopen")

    @property
    def _lines(self) -> dict[Supervisor, WorkerLine]:
        return {one: one.line for one in self._workers if one.line is not None}

    # A reload.

    def reload(self) -> Deferred[list[str]]:
        """
        Read the configuration again, and do what it says: all workers, or none.

        @return: a Deferred of what changes only at the next start; it fails with
            L{DeferralsError} where the old configuration stays, and the log says
            so.
        """
        return self._reloads.run(lambda: Deferred.fromCoroutine(self._reloadWhole()))

    async def _reloadWhole(self) -> list[str]:
        try:
            config = self._reload()
            opened = self._doors.open(_clear(config))
            lines = self._lines
            try:
                await self._web.prepare(config)
                await self._prepared(lines, config, opened)
            except BaseException:
                await self._web.undo()
                for worker, why in (await self._all(lines, "undo")).items():
                    # It is asked again before the next reload, and killed where it hangs.
                    _log.warn(
                        "worker {worker} has not undone the reload: {error}",
                        worker=worker.number,
                        error=why,
                    )
                self._doors.close(opened)
                raise
        except (DeferralsError, ValueError) as error:
            raise notReloaded(error) from None
        remarks = later(self.config, config)
        self.config = config
        for worker, why in (await self._all(lines, "commit")).items():
            worker.failed(f"it did not change to the new configuration: {why}")
        for worker in self._lines.keys() - lines.keys():
            worker.failed(_CHANGED)
        self._doors.close(self._doors.missing(_clear(config)))
        await self._web.commit()
        for remark in remarks:
            _log.warn("{remark}", remark=remark)
        _log.info("configuration reloaded")
        self.reloaded()
        return remarks

    async def _prepared(
        self, lines: dict[Supervisor, WorkerLine], config: Config, opened: Iterable[str]
    ) -> None:
        """
        @raise DeferralsError: a worker cannot do what the configuration says.
        """
        asked = {}
        for worker, line in lines.items():
            names, descriptors = _given(self._doors, worker.number, opened)
            asked[worker] = _asked(line, "prepare", config.text, names, descriptors=descriptors)
        wrong = await _failures(asked)
        if wrong:
            texts = {worker: f"worker {worker.number}: {why}" for worker, why in wrong.items()}
            raise DeferralsError("; ".join(texts.values()))

    async def _all(self, lines: dict[Supervisor, WorkerLine], name: str) -> dict[Supervisor, str]:
        """
        @return: what was wrong, by worker.
        """
        return await _failures({worker: _asked(line, name) for worker, line in lines.items()})


def _asked(
    line: WorkerLine, name: str, *args: JSON, descriptors: Sequence[int] = ()
) -> Deferred[JSON]:
    """
    Ask for a part of a reload: one that works at it may take long, one that is stopped
    is not waited for.
    """
    return line.ask(
        name, *args, seconds=RELOAD_SECONDS, silent=ANSWER_SECONDS, descriptors=descriptors
    )


async def _failures(asked: dict[Supervisor, Deferred[JSON]]) -> dict[Supervisor, str]:
    """
    @return: what was wrong, by worker.
    """
    wrong = {}
    for worker, d in asked.items():
        try:
            await d
        except TimeoutError:
            wrong[worker] = "it does not answer"
        except Exception as error:
            wrong[worker] = str(error) or type(error).__name__
    return wrong


def _clear(config: Config) -> dict[str, bool]:
    """
    The endpoints, and whether clients can read there before TLS.
    """
    return {one.endpoint: one.tls != "implicit" for one in config.listen}


def _given(
    doors: Doors, worker: int, names: Iterable[str] | None = None
) -> tuple[list[JSON], list[int]]:
    """
    What a worker is told of its sockets, and the sockets.
    """
    found = doors.of(worker, names)
    return [[name, backlog] for name, backlog, _ in found], [one for _, _, one in found]


def _notLooked(failure: Failure) -> None:
    _log.failure("the workers are not looked after", failure)
