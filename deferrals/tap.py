"""
C{twistd deferrals}: options, and the service made from them.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.strcred import AuthOptionMixin
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from deferrals.app.listeners import raiseFileLimit
from deferrals.app.log import JSONObserver, PlainObserver
from deferrals.app.service import MailService, checkConfig
from deferrals.auth.authenticator import CREDENTIALS
from deferrals.config.tables import Config, RecipientRule, load
from deferrals.deferreds import useMonotonicClock
from deferrals.errors import ConfigError
from deferrals.logger import Logger
from deferrals.plugins.finding import stagePlugins
from deferrals.server.listeners import describe

_log = Logger(namespace="deferrals")


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
    ]

    def postOptions(self) -> None:
        """
        Read the configuration: mistakes in it are reported before anything
        starts.
        """
        if self["log-format"] not in ("plain", "json"):
            raise usage.UsageError("--log-format: expected plain or json")
        self.path = None if self["config"] is None else os.path.abspath(self["config"])
        self.checkers: list[ICredentialsChecker] = self.get("credCheckers") or []
        try:
            self.config = self.load()
        except ConfigError as error:
            raise usage.UsageError(str(error)) from None
        if self.parent is not None and not (self.parent.get("logger") or self.parent.get("syslog")):
            _logging.update(format=self["log-format"], path=self.parent.get("logfile"))
            self.parent["logger"] = "deferrals.tap.logObserver"

    def load(self) -> Config:
        """
        @raise ConfigError: what is wrong with the configuration.
        """
        from twisted.internet import reactor

        config = load(self.path, stagePlugins())
        checkConfig(config, reactor)
        if not self.checkers:
            _checkAuth(config)
        return config


def _checkAuth(config: Config) -> None:
    """
    @raise ConfigError: clients have to log in, and there is nothing that knows
        them.
    """
    problems = [
        (
            f"listen[{index}].auth",
            "required, but the command line does not say against what: e.g. --auth passwd:FILE"
            " (see --help-auth)",
        )
        for index, listener in enumerate(config.listen)
        if listener.authentication == "required"
    ]
    if problems:
        raise ConfigError(config.path, problems)


#: What L{logObserver} is to make: twistd calls it without arguments.
_logging: dict[str, str | None] = {"format": "plain", "path": None}


def logObserver() -> ILogObserver:
    """
    The log, unless twistd was told of another one.
    """
    from twisted.internet import reactor

    path = _logging["path"]
    file = sys.stdout if path in (None, "-") else LogFile.fromFullPath(path)
    kind = JSONObserver if _logging["format"] == "json" else PlainObserver
    return kind(file, lambda flush: reactor.callLater(0, flush))


class _Server(MailService):
    """
    The service with what only a process of its own has: SIGHUP, the process's
    limits and its end, and the lines that tell a newcomer what to do.
    """

    def privilegedStartService(self) -> None:
        """
        Listen, or end the process with exit status 1.  SIGHUP reloads from
        before the ports are open: an operator who sees the server can send it.
        """
        signal.signal(signal.SIGHUP, self._hangup)
        raiseFileLimit(self.config.limits)
        try:
            super().privilegedStartService()
        except CannotListenError:
            raise SystemExit(1) from None  # the log says where

    def failed(self, failure: Failure) -> None:
        """
        End the process, with exit status 1.
        """
        super().failed(failure)
        self.reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self.reactor.callLater(0, self.reactor.stop)  # behind the writing of the log

    def startService(self) -> None:
        """
        Say what runs.
        """
        super().startService()
        self._introduce()

    def _hangup(self, number: int, frame: FrameType | None) -> None:
        self.reactor.callFromThread(self.reload)

    def _introduce(self) -> None:
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

    return _Server(options.config, useMonotonicClock(reactor), options.load, options.checkers)
