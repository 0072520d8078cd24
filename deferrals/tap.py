"""
C{twistd deferrals}: options, and the service made from them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn, Protocol

import attrs
from twisted.application import service
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.strcred import AuthOptionMixin
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import IAddress
from twisted.internet.process import reapAllProcesses
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.failure import Failure

from deferrals.app.listeners import raiseFileLimit
from deferrals.app.log import JSONObserver, PlainObserver
from deferrals.app.output import Output
from deferrals.app.permissions import User, mailboxRemarks, problems
from deferrals.app.process import (
    Signals,
    endAtOnce,
    forgetStale,
    keepWhatBegan,
    notify,
    startReaping,
    startWatchdog,
)
from deferrals.app.service import MailService, checkConfig
from deferrals.app.signing import keyRemarks
from deferrals.app.web import webRemarks
from deferrals.auth.authenticator import CREDENTIALS
from deferrals.auth.checker import PasswordFile
from deferrals.config.crosscheck import remarks
from deferrals.config.places import described
from deferrals.config.tables import Config, RecipientRule, load
from deferrals.deferreds import useMonotonicClock
from deferrals.errors import ConfigError, DeferralsError
from deferrals.interfaces import IReactor
from deferrals.logger import Logger
from deferrals.model.settings import parseOctets
from deferrals.model.text import cleaned
from deferrals.plugins.finding import stagePlugins
from deferrals.server.listeners import describe
from deferrals.workers.launching import Command, workerNumber
from deferrals.workers.orphans import OrphanedWorkers
from deferrals.workers.parent import Parent
from deferrals.workers.worker import Worker

_log = Logger(namespace="deferrals")

#: twistd's default.
_PID_FILE = "twistd.pid"

#: For how long the reactor may turn at once before it is looked whether it started.
_TURN_SECONDS = 0.1

#: How often it is looked how long a log is that several processes write to.
_ROTATE_SECONDS = 5.0


class Options(usage.Options, AuthOptionMixin):
    """
    The command line behind C{twistd deferrals}.
    """

    supportedInterfaces = CREDENTIALS

    synopsis = "[options]"
    longdesc = "A mail server that gives every recipient their own answer."
    optParameters = [
        ["config", "c", None, "Configuration file (TOML). Without it a built-in default runs."],
        ["log-format", None, "plain", "How the log is written: plain or json."],
        [
            "log-rotate",
            None,
            None,
            "Begin a new log file when it is so large (10M). Without it, others rotate: SIGUSR1 or"
            " SIGHUP opens the file anew.",
        ],
    ]

    def __init__(self) -> None:
        usage.Options.__init__(self)
        self.signals = Signals(signal.SIGHUP, signal.SIGUSR1)
        self.inBackground = False
        self.worker = workerNumber()
        self._words: Sequence[str] = ()
        self._logger: object = None
        self._directory = os.getcwd()

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        See C{usage.Options}.  Under twistd a mistake ends the process with its lines on
        standard error: twistd itself would print all its options before them.
        """
        parse: Callable[[Sequence[str] | None], None] = super().parseOptions
        self._words = list(options or ())
        try:
            parse(options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            lines = str(error).split("\n")
            raise SystemExit("\n".join(f"twistd: cannot start: {line}" for line in lines)) from None

    def postOptions(self) -> None:
        """
        Read the configuration: mistakes in it are reported before anything
        starts.
        """
        if self["log-format"] not in ("plain", "json"):
            raise usage.UsageError("--log-format: expected plain or json")
        self.rotateOctets = _rotation(self["log-rotate"])
        self.path = None if self["config"] is None else os.path.abspath(self["config"])
        self.checkers: list[ICredentialsChecker] = self.get("credCheckers") or []
        if self.parent is not None:
            self._adapt(self.parent)
        try:
            self.config = self.load(None if self.worker is None else sys.stdin.read())
        except ConfigError as error:
            if _logging.path is not None:  # the file is not begun yet
                log = Logger("deferrals", observer=logObserver())
                for line in described(error).split("\n"):
                    log.critical("cannot start: {error}", error=line)
            raise usage.UsageError(described(error)) from None

    def _adapt(self, twistd: usage.Options) -> None:
        """
        What twistd does by itself that no service wants: a log of its own, and a
        pid file that the next process of a container takes for its own.
        """
        if twistd.get("chroot"):
            raise usage.UsageError(
                "--chroot: configuration, certificates and passwords are read again later, and"
                " would be elsewhere: use a container, or RootDirectory= of systemd"
            )
        self._logger = twistd.get("logger")
        self.inBackground = not (twistd.get("nodaemon") or twistd.get("debug"))
        if not self.inBackground and twistd.get("pidfile") == _PID_FILE:
            twistd["pidfile"] = ""
        if twistd.get("pidfile"):
            forgetStale(twistd["pidfile"])
        if not (twistd.get("logger") or twistd.get("syslog")):
            path = twistd.get("logfile") or ("twistd.log" if self.inBackground else "-")
            if path == "-" and self.inBackground:
                raise usage.UsageError("--logfile=-: a server in the background needs a file")
            _logging.update(
                isJSON=self["log-format"] == "json",
                path=None if path == "-" else os.path.abspath(path),
                rotateOctets=self.rotateOctets if self.worker is None else None,
                worker=self.worker,
            )
            twistd["logger"] = "deferrals.tap.logObserver"

    def load(self, text: str | None = None) -> Config:
        """
        @param text: what the file says, where that is known.
        @raise ConfigError: what is wrong with the configuration.
        """
        from twisted.internet import reactor

        config = load(self.path, stagePlugins(), text)
        if not checkConfig(config, reactor):
            raise ConfigError(config.path, [("recipients", "expected a rule with a delivery")])
        if not self.checkers:
            _checkAuth(config)
        self._checkPermissions(config)
        return config

    @property
    def command(self) -> Command:
        """
        What begins a worker: the same as here, in the foreground.
        """
        twistd: Mapping[str, object] = self.parent or {}
        words = ["--nodaemon", "--pidfile="]
        told = {"reactor": twistd.get("reactor"), "logger": self._logger}
        words += [f"--{name}={one}" for name, one in told.items() if one]
        words += ["--syslog", f"--prefix={twistd['prefix']}"] if twistd.get("syslog") else []
        words.append(f"--logfile={_logging.path or '-'}")
        program = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
        return Command([*program, *words, "deferrals", *self._words], self._directory)

    def _checkPermissions(self, config: Config) -> None:
        """
        @raise ConfigError: the user that the server becomes could not open a file that
            it has to, now or when it is read again.
        """
        parent = self.parent
        uid = None if parent is None else parent.get("uid")
        user = User.current() if parent is None or uid is None else User.of(uid, parent.get("gid"))
        files = tuple(one.path for one in self.checkers if isinstance(one, PasswordFile))
        found = problems(config, user, files)
        if found:
            raise ConfigError(config.path, found)


def _checkAuth(config: Config) -> None:
    """
    @raise ConfigError: clients have to log in, and there is nothing that knows
        them.
    """
    missing = [
        (
            f"listen[{index}].auth",
            "required, but the command line does not say against what: e.g. --auth passwd:FILE"
            " (see --help-auth)",
        )
        for index, listener in enumerate(config.listen)
        if listener.authentication == "required"
    ]
    if missing:
        raise ConfigError(config.path, missing)


def _rotation(text: str | None) -> int | None:
    """
    @raise usage.UsageError: it is no size.
    """
    if text is None:
        return None
    try:
        return int(parseOctets(text))
    except ValueError as error:
        raise usage.UsageError(f"--log-rotate: expected {error}") from None


@attrs.define
class _Logging:
    """
    What L{logObserver} is to make, since twistd calls it without arguments; and
    what it has made.
    """

    isJSON: bool = False
    path: str | None = None
    rotateOctets: int | None = None
    worker: int | None = None
    output: Output | None = None

    def update(
        self, isJSON: bool, path: str | None, rotateOctets: int | None, worker: int | None
    ) -> None:
        """The command line says so."""
        self.isJSON, self.path, self.rotateOctets, self.worker = isJSON, path, rotateOctets, worker

    def reopen(self) -> None:
        """The log's file may have been moved away."""
        if self.output is not None:
            self.output.reopen()


_logging = _Logging()


def logObserver() -> ILogObserver:
    """
    The log, unless twistd was told of another one.
    """
    from twisted.internet import reactor

    try:
        output = Output(useMonotonicClock(reactor), _logging.path, _logging.rotateOctets)
    except OSError as error:
        why = f"{_logging.path}: no log can be written: {error.strerror}"
        raise SystemExit(f"twistd: cannot start: {why}") from None
    _logging.output = output

    def later(flush: Callable[[], None]) -> None:
        reactor.callLater(0, flush)

    kind = JSONObserver if _logging.isJSON else PlainObserver
    observer = kind(output, later, _logging.worker)

    def stopped() -> None:
        observer.last()
        output.finish()

    # twistd ends by the signal that has stopped it: nothing is called at the exit.
    reactor.addSystemEventTrigger("after", "shutdown", stopped)
    return observer


def _exitFailed() -> None:
    """
    End with 1: as the last of what is done at the exit, but for what began before.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


class StartError(Exception):
    """
    The server cannot start.
    """


class _Running(Protocol):
    """
    What a process runs: a server, or the parent of several.

    @ivar config: the configuration that is in force.
    @ivar settled: is told when it has started, or waits for what it needs; and why it has
        not: that, too, if it has waited.
    @ivar reloaded: is called when a reload has given it another configuration.
    """

    config: Config
    settled: Callable[[Failure | None], object]
    reloaded: Callable[[], object]

    @property
    def addresses(self) -> Sequence[IAddress]:
        """Where it listens."""

    def privilegedStartService(self) -> object:
        """Listen."""

    def startService(self) -> object:
        """Begin to start."""

    def stopService(self) -> Deferred[None]:
        """Stop."""

    def reload(self) -> Deferred[list[str]]:
        """Read the configuration again."""

    @property
    def processes(self) -> Iterable[int]:
        """The processes that end with it."""

    def logReopened(self) -> None:
        """The log's file was opened anew."""


class _Process(service.Service):
    """
    What only a process of its own has: signals, the process's limits, its start and
    its end, and the lines that tell a newcomer what to do.

    @param whole: what it runs.
    """

    def __init__(self, options: Options, reactor: IReactor, whole: _Running) -> None:
        self.whole = whole
        self.reactor = reactor
        self._options = options
        self._settled = self._isUp = False
        self._failure: Failure | None = None
        self._watchdog: LoopingCall | None = None
        self._reaping: LoopingCall | None = None
        self._rotating: LoopingCall | None = None
        self._remarked: frozenset[tuple[str, str]] = frozenset()
        whole.settled = self._settle
        whole.reloaded = self._remark

    def _settle(self, failure: Failure | None) -> None:
        self._failure, self._settled = failure, True
        if self._isUp and failure is not None:
            self._fall()

    def _fall(self) -> None:
        """
        It has waited, and in vain.  twistd ends with 0 in every other case in which its
        reactor was stopped.
        """
        atexit.register(_exitFailed)
        self._stopReactor()

    def privilegedStartService(self) -> None:
        """
        Listen, or end the process.
        """
        service.Service.privilegedStartService(self)
        raiseFileLimit(self.whole.config.limits)
        if self.whole.config.workers == 1:
            OrphanedWorkers(self.whole.config).waitForAll()
        try:
            self.whole.privilegedStartService()
        except (CannotListenError, DeferralsError) as error:
            self._cannotStart(str(error))

    def startService(self) -> None:
        """
        Start whole, or end the process; then say what runs.  The reactor does not
        run yet: what the start waits for is waited for here, so that twistd's
        parent process and the service manager learn how it went.
        """
        service.Service.startService(self)
        ends = self._ends = Signals(signal.SIGTERM)  # until it is the reactor's
        self._reaping = startReaping(self.reactor)
        self.whole.startService()
        while not (self._settled or ends.asked):
            self.reactor.iterate(_TURN_SECONDS)
            reapAllProcesses()  # as the reactor does once it runs
        ends.answer(signal.SIGTERM, lambda: self.reactor.callWhenRunning(self._stopReactor))
        if not self._settled:
            return
        if self._failure is not None:
            self._cannotStart(self._failure.getErrorMessage())
        self._isUp = True
        self._introduce()
        self._options.signals.answer(signal.SIGHUP, self._hangup)
        self._options.signals.answer(signal.SIGUSR1, self._reopenLog)
        self.reactor.addSystemEventTrigger("before", "shutdown", self._stopping)
        self._watchdog = startWatchdog(self.reactor)
        self._watchLog()
        # Where the process has several services, when all have started.
        self.reactor.callWhenRunning(keepWhatBegan)
        self.reactor.callWhenRunning(lambda: notify("READY=1", f"MAINPID={os.getpid()}"))

    def _watchLog(self) -> None:
        """
        With several processes, one of them begins a new file, and tells the others.
        """
        output = _logging.output
        if output is not None and self.whole.processes:
            output.rotated = self.whole.logReopened
            self._rotating = LoopingCall(output.look)
            self._rotating.clock = self.reactor
            d = self._rotating.start(_ROTATE_SECONDS)
            d.addErrback(lambda failure: _log.failure("the log is not rotated", failure))

    def _stopping(self) -> None:
        endAtOnce((lambda: self.whole.processes) if self.whole.processes else None)

    def _stopReactor(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # another service has
            self.reactor.stop()

    def stopService(self) -> Deferred[None]:
        notify("STOPPING=1")
        service.Service.stopService(self)
        for loop in (self._reaping, self._rotating):
            if loop is not None:
                loop.stop()
        return self.whole.stopService()

    def _cannotStart(self, why: str) -> NoReturn:
        """
        twistd's own ways: in the background its parent process waits for an
        exception, in the foreground one would be a traceback.
        """
        if self._options.inBackground:
            sys.excepthook = lambda *_: None  # the log says why in one line
            raise StartError(why) from None
        line = f"twistd: cannot start: {cleaned(why)}"
        print(line, file=sys.__stderr__, flush=True)
        raise SystemExit(1)

    def _hangup(self) -> None:
        self._reopenLog()
        self.reactor.callFromThread(self._reloadLogged)

    def _reloadLogged(self) -> None:
        self.whole.reload().addErrback(self._notReloaded)

    def _notReloaded(self, failure: Failure) -> None:
        if not failure.check(DeferralsError, ValueError):  # these are in the log
            _log.failure("configuration not reloaded, the old one stays", failure)

    def _reopenLog(self) -> None:
        self.reactor.callFromThread(self._reopened)

    def _reopened(self) -> None:
        _logging.reopen()
        self.whole.logReopened()

    def _remark(self) -> None:
        """
        Say what the configuration has that is hardly meant, as far as that is new.
        """
        config = self.whole.config
        found = (
            *remarks(config),
            *keyRemarks(config),
            *webRemarks(config),
            *mailboxRemarks(config, User.current()),
        )
        for key, remark in found:
            if (key, remark) not in self._remarked:
                _log.warn("{key}: {remark}", key=key, remark=remark)
        self._remarked = frozenset(found)

    def _introduce(self) -> None:
        self._remark()
        for rule in self.whole.config.recipients:
            _log.info(
                "mail for {match}: policy {policy}, {where}",
                match=rule.match,
                policy=rule.policy,
                where=self._where(rule),
            )
        if self.whole.config.path is None:
            address = self.whole.addresses[0]
            program = os.path.join(os.path.dirname(sys.argv[0]), "deferrals")
            _log.info(
                "try it: {program} send --to {address} --from you@example.org"
                " --rcpt postmaster@localhost --rcpt you@localhost --sample gtube --verbose",
                program=program,
                address=describe(address),
            )

    def _where(self, rule: RecipientRule) -> str:
        """
        Where a rule's mail goes, in a few words.
        """
        if rule.deliver is None:
            return "refused"
        if isinstance(rule.deliver, str):
            return f"delivery {rule.deliver}"
        path = getattr(rule.deliver.settings, "path", None)
        name = str(rule.deliver.plugin.name)
        return f"{name} {os.path.join(self.whole.config.baseDir, path)}" if path else name


def makeService(options: Options) -> service.IService:
    """
    What twistd runs.
    """
    from twisted.internet import reactor

    clock = useMonotonicClock(reactor)
    if options.worker is not None:
        return _worker(options, clock, options.worker)
    whole: _Running = MailService(options.config, clock, options.load, options.checkers)
    if options.config.workers > 1:
        whole = Parent(options.config, clock, options.load, options.command)
    return _Process(options, clock, whole)


def _worker(options: Options, reactor: IReactor, number: int) -> service.IService:
    """
    One process of several.  What its parent is sent, it passes on.
    """
    raiseFileLimit(options.config.limits)
    reopen = _logging.reopen
    options.signals.answer(signal.SIGUSR1, lambda: reactor.callFromThread(reopen))
    reactor.addSystemEventTrigger("before", "shutdown", endAtOnce)
    reactor.callWhenRunning(keepWhatBegan)
    return Worker(number, options.config, reactor, options.load, options.checkers, reopen)
