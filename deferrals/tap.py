"""
C{twistd deferrals}: options, and the service made from them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import attrs
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.strcred import AuthOptionMixin
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.failure import Failure

from deferrals.app.listeners import raiseFileLimit
from deferrals.app.log import JSONObserver, PlainObserver
from deferrals.app.output import Output
from deferrals.app.permissions import User, problems
from deferrals.app.process import Signals, endAtOnce, forgetStale, notify, startWatchdog
from deferrals.app.service import MailService, checkConfig
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
from deferrals.server.mailserver import MailServer

_log = Logger(namespace="deferrals")

#: twistd's default.
_PID_FILE = "twistd.pid"

#: For how long the reactor may turn at once before it is looked whether it started.
_TURN_SECONDS = 0.1


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

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        See C{usage.Options}.  Under twistd a mistake ends the process with its lines on
        standard error: twistd itself would print all its options before them.
        """
        parse: Callable[[Sequence[str] | None], None] = super().parseOptions
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
            self.config = self.load()
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
                rotateOctets=self.rotateOctets,
            )
            twistd["logger"] = "deferrals.tap.logObserver"

    def load(self) -> Config:
        """
        @raise ConfigError: what is wrong with the configuration.
        """
        from twisted.internet import reactor

        config = load(self.path, stagePlugins())
        if not checkConfig(config, reactor):
            raise ConfigError(config.path, [("recipients", "expected a rule with a delivery")])
        if not self.checkers:
            _checkAuth(config)
        self._checkPermissions(config)
        return config

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
    output: Output | None = None

    def update(self, isJSON: bool, path: str | None, rotateOctets: int | None) -> None:
        """The command line says so."""
        self.isJSON, self.path, self.rotateOctets = isJSON, path, rotateOctets

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
        raise SystemExit(f"{_logging.path}: no log can be written: {error.strerror}") from None
    _logging.output = output
    kind = JSONObserver if _logging.isJSON else PlainObserver
    observer = kind(output, lambda flush: reactor.callLater(0, flush))

    def stopped() -> None:
        observer.last()
        output.finish()

    # twistd ends by the signal that has stopped it: nothing is called at the exit.
    reactor.addSystemEventTrigger("after", "shutdown", stopped)
    return observer


class StartError(Exception):
    """
    The server cannot start.
    """


class _Server(MailService):
    """
    The service with what only a process of its own has: signals, the process's
    limits, its start and its end, and the lines that tell a newcomer what to do.
    """

    def __init__(self, options: Options, reactor: IReactor) -> None:
        super().__init__(options.config, reactor, options.load, options.checkers)
        self._options = options
        self._settled = False
        self._failure: Failure | None = None
        self._watchdog: LoopingCall | None = None

    def privilegedStartService(self) -> None:
        """
        Listen, or end the process.
        """
        raiseFileLimit(self.config.limits)
        try:
            super().privilegedStartService()
        except (CannotListenError, DeferralsError) as error:
            self._cannotStart(str(error))

    def startService(self) -> None:
        """
        Start whole, or end the process; then say what runs.  The reactor does not
        run yet: what the start waits for is waited for here, so that twistd's
        parent process and the service manager learn how it went.
        """
        ends = self._ends = Signals(signal.SIGTERM)  # until it is the reactor's
        super().startService()
        while not (self._settled or ends.asked):
            self.reactor.iterate(_TURN_SECONDS)
        ends.answer(signal.SIGTERM, lambda: self.reactor.callWhenRunning(self._stopReactor))
        if not self._settled:
            return
        if self._failure is not None:
            self._cannotStart(self._failure.getErrorMessage())
        self._introduce()
        self._options.signals.answer(signal.SIGHUP, self._hangup)
        self._options.signals.answer(signal.SIGUSR1, self._reopenLog)
        self.reactor.addSystemEventTrigger("before", "shutdown", endAtOnce)
        self._watchdog = startWatchdog(self.reactor)
        # Where the process has several services, when all have started.
        self.reactor.callWhenRunning(lambda: notify("READY=1", f"MAINPID={os.getpid()}"))

    def _stopReactor(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # another service has
            self.reactor.stop()

    def stopService(self) -> Deferred[None]:
        notify("STOPPING=1")
        return super().stopService()

    def started(self, server: MailServer) -> None:
        """See the class it comes from."""
        super().started(server)
        self._settled = True

    def failed(self, failure: Failure) -> None:
        """
        Remember why, for the end of the process.
        """
        super().failed(failure)
        self._failure, self._settled = failure, True

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
        self.reactor.callFromThread(_logging.reopen)
        self.reactor.callFromThread(self._reloadLogged)

    def _reloadLogged(self) -> None:
        self.reload().addErrback(self._notReloaded)

    def _notReloaded(self, failure: Failure) -> None:
        if not failure.check(DeferralsError, ValueError):  # these are in the log
            _log.failure("configuration not reloaded, the old one stays", failure)

    def _reopenLog(self) -> None:
        self.reactor.callFromThread(_logging.reopen)

    def _introduce(self) -> None:
        for key, remark in remarks(self.config):
            _log.warn("{key}: {remark}", key=key, remark=remark)
        for rule in self.config.recipients:
            _log.info(
                "mail for {match}: policy {policy}, {where}",
                match=rule.match,
                policy=rule.policy,
                where=self._where(rule),
            )
        if self.config.path is None:
            address = self.server.addresses[0]
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
        return f"{name} {os.path.join(self.config.baseDir, path)}" if path else name


def makeService(options: Options) -> MailService:
    """
    What twistd runs.
    """
    from twisted.internet import reactor

    return _Server(options, useMonotonicClock(reactor))
