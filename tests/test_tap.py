"""
C{twistd deferrals}: its options, and what only a process of its own has.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import fail
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals import tap
from deferrals.app.log import JSONObserver, PlainObserver
from deferrals.app.process import keepWhatBegan
from deferrals.app.service import MailService
from deferrals.config.tables import DEFAULT
from deferrals.errors import ConfigError, SpoolError
from deferrals.workers import parent
from deferrals.workers.worker import Worker
from tests.configs import LISTEN

GOOD = f"""{LISTEN}
[[recipients]]
match = "*@x.example"
policy = "open"
deliver = {{ use = "maildir", path = "boxes" }}
[policies.open]
"""

PRIVATE = GOOD.replace(LISTEN, f'{LISTEN}auth = "required"\nauth_without_tls = true\n')


class OptionsCase(SynchronousTestCase):
    """
    Reads options.
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

    def within(self, *words: str, **told: Any) -> tuple[tap.Options, Parent]:
        """
        The options as twistd reads them, with what it was told itself.
        """
        options = tap.Options()
        options.parent = parent = Parent(nodaemon=1, pidfile="twistd.pid", logfile=None)
        parent.update(told)
        self.patch(tap, "_logging", tap._Logging())
        options.parseOptions(list(words))
        return options, parent


class OptionsTests(OptionsCase):
    """
    L{tap.Options}.
    """

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
        nothing = '[[listen]]\nendpoint = "tcp:2525"\n'
        self.assertIn("recipients: expected a rule with a delivery", self.refused(nothing))

    def test_permissions(self) -> None:
        """A key that the server's user cannot read is said at the start, with its line."""
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory, 0o700)
        text = f'state_dir = "{directory}/state"\n{GOOD}'
        self.write(text)
        options, twistd = tap.Options(), usage.Options()
        twistd.update({"uid": 4242, "gid": None, "nodaemon": True, "logger": "x"})
        options.parent = twistd
        with self.assertRaises(SystemExit) as caught:
            options.parseOptions(["--config", self.path])
        self.assertIn("state_dir: expected a directory that 4242 can write", str(caught.exception))
        self.assertIn("(line 1)", str(caught.exception))

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
        for told, words, ours in (
            ({}, (), PlainObserver),
            ({}, ("--log-format", "json"), JSONObserver),
            ({"logger": "x.y"}, (), None),
            ({"syslog": 1}, (), None),
        ):
            _, parent = self.within(*words, **told)
            logger = parent.get("logger")
            self.assertEqual(logger, "deferrals.tap.logObserver" if ours else told.get("logger"))
            if ours is not None:
                self.assertIs(type(tap.logObserver()), ours)

    def test_logFile(self) -> None:
        """The log is in the file that twistd was told of, and opened anew when it is moved away."""
        path = os.path.abspath(self.mktemp())
        self.within(logfile=path)
        observer = tap.logObserver()
        assert isinstance(observer, PlainObserver)
        for text in ("one", "two"):
            observer({"log_time": 0.0, "log_level": LogLevel.info, "log_format": text})
            observer.flush()
            os.rename(path, path + text)
            tap._logging.reopen()
            with open(path + text) as file:
                self.assertIn(text, file.read())

    def test_logToTheEnd(self) -> None:
        """When the reactor has stopped, lines are written at once: no turn ends any longer."""
        path, stopped = os.path.abspath(self.mktemp()), []
        self.within(logfile=path)
        self.patch(reactor, "addSystemEventTrigger", lambda *event: stopped.append(event))
        observer = tap.logObserver()
        for text in ("one", "two"):
            observer({"log_time": 0.0, "log_level": LogLevel.info, "log_format": text})
            for phase, kind, function in stopped:
                self.assertEqual((phase, kind), ("after", "shutdown"))
                function()
            with open(path) as file:
                self.assertIn(text, file.read())
            stopped.clear()

    def test_background(self) -> None:
        """There the log is a file, as twistd has it."""
        self.within(nodaemon=0)
        self.assertEqual(tap._logging.path, os.path.abspath("twistd.log"))
        self.within(nodaemon=0, debug=1)
        self.assertIsNone(tap._logging.path)
        with self.assertRaisesRegex(SystemExit, "start: --logfile=-: a server in the background"):
            self.within(nodaemon=0, logfile="-")

    def test_chroot(self) -> None:
        """A directory in which no path of the configuration is right is refused in one line."""
        with self.assertRaisesRegex(SystemExit, "start: --chroot: configuration, certificates"):
            self.within(chroot="/srv")

    def test_noLog(self) -> None:
        """A log that cannot be written is one line, before anything starts."""
        path = os.path.abspath(self.mktemp())
        os.mkdir(path)
        self.within(logfile=path)
        with self.assertRaisesRegex(
            SystemExit, f"cannot start: {path}: no log can be written: Is a directory"
        ):
            tap.logObserver()

    def test_rotation(self) -> None:
        """The log begins a new file by itself only where that is asked for."""
        self.within("--log-rotate", "10M")
        self.assertEqual(tap._logging.rotateOctets, 10 << 20)
        self.within()
        self.assertIsNone(tap._logging.rotateOctets)
        with self.assertRaisesRegex(SystemExit, "start: --log-rotate: expected a size"):
            self.within("--log-rotate", "daily")

    def test_pidFile(self) -> None:
        """In the foreground there is none, unless it is asked for; a stale one is in no way."""
        self.assertEqual(self.within()[1]["pidfile"], "")
        for told in ({"pidfile": "my.pid"}, {"nodaemon": 0}):
            with open("my.pid", "w") as file:
                file.write(str(os.getpid()))
            self.assertTrue(self.within(**told)[1]["pidfile"])
        self.within(nodaemon=0, pidfile="my.pid")
        self.assertFalse(os.path.exists("my.pid"))


class WorkersTests(OptionsCase):
    """
    What begins several processes, and one of them.
    """

    TWO = f"workers = 2\n{GOOD}"

    def test_command(self) -> None:
        """A worker is begun as its parent was: in the foreground, with the same log."""
        self.write(self.TWO)
        path = os.path.abspath(self.mktemp())
        given = ["--config", self.path, "--log-format", "json"]
        for told, words in (
            ({"nodaemon": 0, "logfile": path}, [f"--logfile={path}"]),
            ({}, ["--logfile=-"]),
            (
                {"reactor": "poll", "logger": "x.y"},
                ["--reactor=poll", "--logger=x.y", "--logfile=-"],
            ),
            ({"syslog": 1, "prefix": "mx"}, ["--syslog", "--prefix=mx", "--logfile=-"]),
        ):
            options, _ = self.within(*given, **told)
            command = options.command
            self.assertEqual(command.words[0], sys.executable)
            self.assertEqual(
                list(command.words[3:]), ["--nodaemon", "--pidfile=", *words, "deferrals", *given]
            )
            self.assertEqual(command.directory, os.getcwd())

    def test_kinds(self) -> None:
        """One process is a server; of several the first is the parent, the others are servers."""
        self.patch(tap, "raiseFileLimit", lambda limits: None)
        self.patch(reactor, "addSystemEventTrigger", lambda *event: None)
        kinds = []
        for text, worker in ((GOOD, None), (self.TWO, None), (self.TWO, "1")):
            self.write(text)
            if worker is not None:
                self.patch(os, "environ", {**os.environ, "DEFERRALS_WORKER": worker})
                self.patch(sys, "stdin", io.StringIO(text))
            options, _ = self.within("--config", self.path)
            service: Any = tap.makeService(options)
            kinds.append(type(getattr(service, "whole", service)))
        self.assertEqual(kinds, [MailService, parent.Parent, Worker])
        self.assertNotIn("DEFERRALS_WORKER", os.environ)

    def test_worker(self) -> None:
        """A worker goes by the text that it is given, and by no other; it rotates no log."""
        self.write("nonsense")
        self.patch(os, "environ", {**os.environ, "DEFERRALS_WORKER": "1"})
        self.patch(sys, "stdin", io.StringIO(self.TWO))
        options, _ = self.within("--config", self.path, "--log-rotate", "10M", "--log-format=json")
        self.assertEqual((options.config.text, options.config.path), (self.TWO, self.path))
        self.assertEqual((options.worker, tap._logging.rotateOctets), (1, None))
        observer = tap.logObserver()
        assert isinstance(observer, JSONObserver)
        event = {"log_time": 0.0, "log_level": LogLevel.info, "log_format": "x"}
        self.assertIn('"worker":1', observer.line(event))


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

    def iterate(self, seconds: float) -> None:
        self.advance(seconds)

    def callWhenRunning(self, function: Any) -> None:
        self.did.append(("when running", function))

    def stop(self) -> None:
        self.did.append("stopped")


class ServerTests(SynchronousTestCase):
    """
    The service with what only a process of its own has.
    """

    def setUp(self) -> None:
        self.reactor = Reactor()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.addCleanup(setattr, sys, "excepthook", sys.excepthook)
        self.patch(tap, "raiseFileLimit", lambda limits: None)
        self.options = tap.Options()
        self.options.parseOptions([])
        self.options.config = self.options.load()
        reactor: Any = self.reactor
        whole = MailService(self.options.config, reactor, self.options.load)
        self.server: Any = tap._Process(self.options, reactor, whole)
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        self.errors = io.StringIO()
        self.patch(sys, "__stderr__", self.errors)

    def observe(self, event: Any) -> None:
        if str(event.get("log_namespace")).startswith("deferrals"):
            self.said.append(event["log_format"].format(**event))

    def start(self, *, failing: str = "") -> None:
        """
        Start; the spool is open, or cannot be opened, a second later.
        """

        def begin(service: MailService) -> None:
            answer = service.failed if failing else service.settled
            given: Any = Failure(SpoolError(failing)) if failing else None
            self.reactor.callLater(1, answer, given)

        self.patch(MailService, "startService", begin)
        address = IPv4Address("TCP", "127.0.0.1", 2525)
        self.patch(type(self.server.whole.server), "addresses", [address])
        self.server.startService()

    def test_signals(self) -> None:
        """SIGHUP opens the log anew and reloads, SIGUSR1 opens the log, in the reactor's thread."""
        os.kill(os.getpid(), signal.SIGHUP)
        self.start()
        reopen, reload = (
            ("from thread", self.server._reopened),
            ("from thread", self.server._reloadLogged),
        )
        self.assertEqual(self.reactor.did[:2], [reopen, reload])
        del self.reactor.did[:]
        os.kill(os.getpid(), signal.SIGUSR1)
        self.assertEqual(self.reactor.did, [reopen])

    def test_reload(self) -> None:
        """What a reload refuses is in the log once; an error of ours has its traceback."""
        for error, count in ((ConfigError("mx", []), 0), (ZeroDivisionError(), 1)):
            self.patch(MailService, "reload", lambda service, error=error: fail(error))
            self.server._reloadLogged()
            self.assertEqual(len(self.flushLoggedErrors()), count)

    def test_secondTerm(self) -> None:
        """Once the server stops, a signal ends it at once."""
        self.start()
        self.assertIn(("before", "shutdown", self.server._stopping), self.reactor.did)
        self.server._stopping()
        self.assertNotEqual(signal.getsignal(signal.SIGTERM), signal.SIG_IGN)

    def test_earlyTerm(self) -> None:
        """A server that is told to stop while it starts stops as any other does, once it runs."""
        for seconds in (0, 0.5):
            del self.reactor.did[:]
            self.server._settled = False
            self.reactor.callLater(seconds, os.kill, os.getpid(), signal.SIGTERM)
            self.start()
            self.assertEqual(self.reactor.did, [("when running", self.server._stopReactor)])

    def test_inVain(self) -> None:
        """One that has waited, and cannot run after all, ends with 1."""
        registered: list[Any] = []
        self.patch(tap.atexit, "register", registered.append)
        self.start()
        self.assertNotIn("stopped", self.reactor.did)
        self.server._settle(Failure(SpoolError("no space left")))
        self.assertEqual(self.reactor.did[-1], "stopped")
        self.assertEqual(registered, [tap._exitFailed])
        ended: list[int] = []
        self.patch(tap.os, "_exit", ended.append)
        tap._exitFailed()
        self.assertEqual(ended, [1])

    def taken(self) -> None:
        def taken(service: Any) -> None:
            raise CannotListenError("127.0.0.1", 25, OSError(98, "in use"))

        self.patch(MailService, "privilegedStartService", taken)
        self.server.privilegedStartService()

    def test_foreground(self) -> None:
        """What cannot start says so in one line on stderr, with exit status 1."""
        for failing, fails in (
            ("Couldn't listen on 127.0.0.1:25", self.taken),
            ("no space left", lambda: self.start(failing="no space left")),
        ):
            with self.assertRaises(SystemExit) as ended:
                fails()
            self.assertEqual(ended.exception.code, 1)
            (line,) = self.errors.getvalue().splitlines()
            self.assertTrue(line.startswith(f"twistd: cannot start: {failing}"), line)
            self.errors.truncate(0)
            self.errors.seek(0)
        self.assertEqual(self.said, ["cannot run without a spool: no space left"])

    def test_background(self) -> None:
        """There the parent process waits for the exception that says so."""
        self.options.inBackground = True
        for failing, fails in (
            ("Couldn't listen on 127.0.0.1:25", self.taken),
            ("no space left", lambda: self.start(failing="no space left")),
        ):
            with self.assertRaisesRegex(tap.StartError, failing):
                fails()
        self.assertEqual(self.errors.getvalue(), "")

    def test_rotation(self) -> None:
        """With several processes one begins the log's new files, and tells the others."""

        class Output:
            rotated: Any = None
            looked = 0

            def look(self) -> None:
                self.looked += 1

        output: Any = Output()
        self.patch(tap._logging, "output", output)
        self.start()
        self.assertIsNone(output.rotated)
        self.patch(MailService, "processes", (7, 8))
        self.patch(MailService, "stopService", lambda service: None)
        self.server._settled = False
        self.start()
        self.assertEqual(output.rotated, self.server.whole.logReopened)
        looked = output.looked
        self.reactor.advance(tap._ROTATE_SECONDS)
        self.assertEqual(output.looked, looked + 1)
        self.server.stopService()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_introduction(self) -> None:
        """The log says where each rule's mail goes, and how to try the built-in configuration."""
        self.start()
        self.assertTrue(self.said[0].startswith("mail for "))
        self.assertIn("maildir", self.said[0])
        self.assertIn(" send --to 127.0.0.1:2525 ", self.said[-1])

    def test_remarks(self) -> None:
        """What is hardly meant is said at the start, and by a reload as far as it is new."""
        self.start()
        self.assertEqual(self.warned("policies."), [])
        whole = self.server.whole
        config = whole.config
        for names, said in (
            (["one"], ["one"]),
            (["one", "two"], ["two"]),
            ([], []),
            (["one"],) * 2,
        ):
            del self.said[:]
            more = dict.fromkeys(names, config.policies["open"])
            whole.config = attrs.evolve(config, policies={**config.policies, **more})
            whole.reloaded()
            found = [f"policies.{name}: no rule has it" for name in said]
            self.assertEqual(self.warned("policies."), found)

    def warned(self, key: str) -> list[str]:
        return [line for line in self.said if line.startswith(key)]

    def test_manager(self) -> None:
        """The service manager hears of the start when mail can be taken, and of the stop."""
        told: list[tuple[str, ...]] = []
        self.patch(tap, "notify", lambda *states: told.append(states))
        with self.assertRaises(SystemExit):
            self.start(failing="no space left")
        self.assertEqual(told, [])
        self.server._settled, self.server._failure = False, None
        self.start()
        self.assertEqual(told, [])  # others in this process may not have started
        (phase, keep), (_, tell) = self.reactor.did[-2:]
        self.assertIs(keep, keepWhatBegan)
        tell()
        self.assertEqual(phase, "when running")
        self.assertEqual(told, [("READY=1", f"MAINPID={os.getpid()}")])
        self.patch(MailService, "stopService", lambda service: None)
        self.server.stopService()
        self.assertEqual(told[1:], [("STOPPING=1",)])
