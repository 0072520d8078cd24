"""
C{twistd deferrals}: its options, and what only a process of its own has.
"""

from __future__ import annotations

import atexit
import os
import signal
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals import tap
from deferrals.app.log import JSONObserver, PlainObserver
from deferrals.app.service import MailService
from deferrals.config.tables import DEFAULT
from deferrals.errors import ConfigError, SpoolError
from tests.configs import LISTEN

GOOD = f"""{LISTEN}
[[recipients]]
match = "*@x.example"
policy = "open"
deliver = {{ use = "maildir", path = "boxes" }}
[policies.open]
"""

PRIVATE = GOOD.replace(LISTEN, f'{LISTEN}auth = "required"\nauth_without_tls = true\n')


class OptionsTests(SynchronousTestCase):
    """
    L{tap.Options}.
    """

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        self.patch(atexit, "register", lambda function: None)  # the observers' last words

    def options(self, text: str | None, *arguments: str) -> tap.Options:
        options = tap.Options()
        if text is not None:
            self.write(text)
            arguments = ("--config", self.path, *arguments)
        options.parseOptions(list(arguments))
        return options

    def write(self, text: str) -> None:
        with open(self.path, "w") as file:
            file.write(text)

    def refused(self, text: str | None, *arguments: str) -> str:
        with self.assertRaises(usage.UsageError) as caught:
            self.options(text, *arguments)
        return str(caught.exception)

    def test_default(self) -> None:
        """Without a configuration the built-in one runs."""
        options = self.options(None)
        self.assertIsNone(options.path)
        self.assertIsNone(options.config.path)
        self.assertEqual(options.checkers, [])
        self.assertIn("[[listen]]", DEFAULT)

    def test_broken(self) -> None:
        """Mistakes in a configuration are reported before anything starts."""
        self.assertIn(f"{self.path}: listen", self.refused("listen = 7\n"))
        nonsense = GOOD.replace("tcp:2525", "nonsense:25")
        self.assertIn("listen[0].endpoint: expected a server endpoint", self.refused(nonsense))
        self.assertIn("--log-format: expected plain or json", self.refused(GOOD, "--log-format=x"))

    def test_auth(self) -> None:
        """Clients that have to log in need something that knows them."""
        self.assertIn("listen[0].auth: required, but", self.refused(PRIVATE))
        options = self.options(PRIVATE, "--auth", "memory:user:secret")
        self.assertEqual(len(options.checkers), 1)

    def test_reload(self) -> None:
        """A reload finds the mistakes that a start finds."""
        options = self.options(GOOD)
        self.write(PRIVATE)
        with self.assertRaisesRegex(ConfigError, r"listen\[0\].auth: required"):
            options.load()
        self.write("listen = 7\n")
        with self.assertRaises(ConfigError):
            options.load()
        self.write(GOOD.replace("x.example", "y.example"))
        self.assertEqual(options.load().recipients[0].match, "*@y.example")

    def test_log(self) -> None:
        """Unless twistd was told of another log, it is ours: plain or JSON."""
        for parent, words, ours in (
            ({}, (), tap.PlainObserver),
            ({}, ("--log-format", "json"), JSONObserver),
            ({"logger": "x.y"}, (), None),
            ({"syslog": 1}, (), None),
        ):
            options = tap.Options()
            options.parent = Parent(logfile=None, **parent)
            options.parseOptions(list(words))
            told = options.parent.get("logger")
            self.assertEqual(told, "deferrals.tap.logObserver" if ours else parent.get("logger"))
            if ours is not None:
                self.assertIs(type(tap.logObserver()), ours)
        tap._logging.update(format="plain", path=None)

    def test_logFile(self) -> None:
        """The log is in the file that twistd was told of."""
        path = os.path.abspath(self.mktemp())
        self.patch(tap, "_logging", {"format": "plain", "path": path})
        observer = tap.logObserver()
        assert isinstance(observer, PlainObserver)
        self.addCleanup(observer._file.close)
        observer({"log_time": 0.0, "log_level": LogLevel.info, "log_format": "hello"})
        observer.flush()
        with open(path) as file:
            self.assertIn("hello", file.read())


class Parent(dict[str, Any]):
    """
    The options of twistd.
    """

    subCommand = "deferrals"


class Reactor(Clock):
    """
    A reactor that remembers what it is told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.did: list[Any] = []

    def callFromThread(self, function: Any, *args: Any) -> None:
        self.did.append(("from thread", function))

    def addSystemEventTrigger(self, *what: Any) -> None:
        self.did.append(what)

    def stop(self) -> None:
        self.did.append("stop")


class ServerTests(SynchronousTestCase):
    """
    The service with what only a process of its own has.
    """

    def setUp(self) -> None:
        self.reactor = Reactor()
        self.options = tap.Options()
        self.options.parseOptions([])
        self.options.config = self.options.load()
        self.server: Any = tap._Server(self.options.config, self.reactor, self.options.load)  # type: ignore[arg-type]
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event: Any) -> None:
        if str(event.get("log_namespace")).startswith("deferrals"):
            self.said.append(event["log_format"].format(**event))

    def test_hangup(self) -> None:
        """SIGHUP reloads, in the reactor's thread; also before the ports are open."""
        before = signal.getsignal(signal.SIGHUP)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        self.patch(tap, "raiseFileLimit", lambda limits: None)
        self.patch(MailService, "privilegedStartService", lambda service: None)
        self.server.privilegedStartService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(self.reactor.did, [("from thread", self.server.reload)])

    def test_noPort(self) -> None:
        """Without its ports the process ends, with exit status 1."""
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        self.patch(tap, "raiseFileLimit", lambda limits: None)

        def taken(service: Any) -> None:
            raise CannotListenError("127.0.0.1", 25, OSError(98, "in use"))

        self.patch(MailService, "privilegedStartService", taken)
        with self.assertRaises(SystemExit) as ended:
            self.server.privilegedStartService()
        self.assertEqual(ended.exception.code, 1)

    def test_noSpool(self) -> None:
        """Without its spool the reactor stops, and the exit status is 1."""
        self.server.failed(Failure(SpoolError("no space left")))
        self.assertEqual(self.reactor.did, [("after", "shutdown", os._exit, 1)])
        self.reactor.advance(0)
        self.assertEqual(self.reactor.did[-1], "stop")
        self.assertEqual(self.said, ["cannot run without a spool: no space left"])

    def test_introduction(self) -> None:
        """The log says where each rule's mail goes, and how to try the built-in configuration."""
        self.patch(MailService, "startService", lambda service: None)
        address = IPv4Address("TCP", "127.0.0.1", 2525)
        self.patch(type(self.server.server), "addresses", [address])
        self.server.startService()
        self.assertTrue(self.said[0].startswith("mail for "))
        self.assertIn("maildir", self.said[0])
        self.assertIn(" send --to 127.0.0.1:2525 ", self.said[-1])
