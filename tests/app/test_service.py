"""
The server of a configuration: its start, its end, and its reload.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from deferrals.app import service as module
from deferrals.app.service import (
    MailService,
    OwnOperators,
    checkConfig,
    keepStatePrivate,
    leftBy,
)
from deferrals.config.tables import Config
from deferrals.errors import ConfigError, DeferralsError, ListenError, SpoolError
from deferrals.model.ids import formatId
from deferrals.operator.control import Partial
from deferrals.server.mailserver import MailServer
from tests.configs import LISTEN, RULES, ConfigCase


class Port:
    """
    An operator's socket that is none.
    """

    isOpen = True

    def stopListening(self) -> None:
        self.isOpen = False


class MailServiceTests(ConfigCase):
    """
    L{MailService}, with a server that neither listens nor has a spool.
    """

    def setUp(self) -> None:
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        self.started: Deferred[Any] = Deferred()
        self.stopped: Deferred[None] = succeed(None)
        self.grace: list[float] = []
        self.ports: list[Port] = []
        self.patch(MailServer, "start", lambda server: self.started)
        self.patch(MailServer, "stop", self.stop)
        self.patch(module, "listen", self.listen)
        self.following: Config | ConfigError = self.config()
        self.cannotListen: Exception | None = None
        self.refuses = False
        self.service = MailService(self.config(), Clock(), self.reload)  # type: ignore[arg-type]

    def observe(self, event: Any) -> None:
        if event.get("log_namespace") == "deferrals":
            self.said.append(event["log_format"].format(**event))

    def config(self, **changes: str) -> Config:
        text = "".join(f"{key} = {value}\n" for key, value in changes.items())
        return self.load(f"{text}\n{LISTEN}{RULES}")

    def reload(self) -> Config:
        if isinstance(self.following, ConfigError):
            raise self.following
        return self.following

    def stop(self, graceSeconds: float) -> Deferred[None]:
        self.grace.append(graceSeconds)
        return self.stopped

    def listen(self, reactor: Any, path: str, operator: Any) -> Port:
        self.path = path
        self.ports.append(Port())
        return self.ports[-1]

    def test_operators(self) -> None:
        """Operators are served from when the spool is open, until the end."""
        self.service.startService()
        self.assertEqual(self.ports, [])
        self.started.callback(self.service.server)
        (port,) = self.ports
        self.assertEqual(self.path, self.service.config.controlPath)
        self.successResultOf(self.service.stopService())
        self.assertFalse(port.isOpen)

    def test_grace(self) -> None:
        """Transactions have the time that the configuration gives them."""
        self.stopped = Deferred()
        self.service.startService()
        done = self.service.stopService()
        self.assertEqual(self.grace, [self.service.config.grace])
        self.assertNoResult(done)
        self.stopped.callback(None)
        self.successResultOf(done)

    def test_stoppedEarly(self) -> None:
        """A server that is stopped before its spool was open serves no operators any longer."""
        self.service.startService()
        self.service.stopService()
        self.started.callback(self.service.server)
        self.assertEqual(self.ports, [])

    def test_noSpool(self) -> None:
        """Without a spool there is no mail, and the log says so."""
        self.started = fail(SpoolError("no space left"))
        self.service.startService()
        self.assertEqual(self.said, ["cannot run without a spool: no space left"])
        self.assertEqual(self.ports, [])

    def test_waits(self) -> None:
        """
        While the database is waited for the server is there for operators, turns away who
        connects, and counts as started.
        """
        settled: list[Any] = []
        self.service.settled = settled.append
        self.service.startService()
        self.service._waits()
        self.assertEqual((settled, len(self.ports)), ([None], 1))
        self.assertTrue(self.service.server._connections.isEarly)
        self.assertEqual(self.said, ["no mail is taken until the database is there"])
        self.started.callback(self.service.server)
        self.assertEqual((settled, len(self.ports)), ([None], 1))
        self.assertEqual(self.said[1:], ["mail is taken"])

    def test_waitsInVain(self) -> None:
        """What goes wrong after all is told; but not where the wait was ended."""
        for isEnded in (False, True):
            settled: list[Any] = []
            self.service.settled = settled.append
            self.service.startService()
            self.service._waits()
            if isEnded:
                self.service.stopService()
            self.service.failed(Failure(SpoolError("no space left")))
            self.assertEqual(len(settled), 1 if isEnded else 2)
        self.assertEqual(self.said.count("cannot run without a spool: no space left"), 1)

    def test_listeners(self) -> None:
        """Each listener of the configuration is the server's, before it listens."""
        names: list[str] = []
        self.patch(
            MailServer, "listenOn", lambda server, endpoint, settings: names.append(settings.name)
        )
        self.patch(MailServer, "privilegedStartService", lambda server: names.append("listening"))
        self.service.privilegedStartService()
        self.assertEqual(names, ["tcp:2525", "listening"])

    def replaced(self, *, succeeds: bool = True) -> list[dict[str, Any]]:
        """
        What the server is given by a reload.
        """
        given: list[dict[str, Any]] = []
        self.replacements: list[list[str]] = []
        self.steps: list[str] = []
        test = self

        class Replacement:
            def __init__(self, listeners: Any, wanted: dict[str, Any]) -> None:
                test.replacements.append([*wanted])

            async def prepare(self) -> None:
                test.steps.append("prepare")
                if test.cannotListen is not None:
                    raise test.cannotListen

            async def undo(self) -> None:
                test.steps.append("undo")

            async def commit(self, graceSeconds: float) -> None:
                test.steps.append("commit")

        self.patch(module, "Replacement", Replacement)
        if not self.refuses:
            self.patch(MailServer, "replace", lambda server, **stages: given.append(stages))
        done = self.service.reload()
        if succeeds:
            self.later = self.successResultOf(done)
        else:
            self.failureResultOf(done, DeferralsError, ValueError)
        return given

    def test_reload(self) -> None:
        """A reload gives the server other stages, limits and listeners."""
        self.following = self.config(max_delivering="7")
        told: list[Config] = []
        self.service.reloaded = lambda: told.append(self.service.config)
        (given,) = self.replaced()
        self.assertEqual(told, [self.following])
        self.assertEqual(given["maxDelivering"], 7)
        self.assertEqual(self.replacements, [["tcp:2525"]])
        self.assertEqual(self.steps, ["prepare", "commit"])
        self.assertIs(self.service.config, self.following)
        self.assertEqual((self.said, self.later), (["configuration reloaded"], []))

    def scanned(self, *ports: int) -> Config:
        """Policies with a scanner each."""
        tables = "".join(
            f'[policies.p{port}]\ncontent = [{{ use = "rspamd", url = "http://[::1]:{port}" }}]\n'
            for port in ports
        )
        return self.load(f"{LISTEN}{RULES}{tables}")

    def scanners(self) -> list[str]:
        """Which of them are seen."""
        parts = self.service.server.status.parts()
        return sorted(part[-1] for part in parts if part.startswith("rspamd "))

    def test_whatIsShown(self) -> None:
        """
        A service that the configuration names no longer rests for nobody: it is seen
        no longer; one that is named again is what it was.  A reload that fails changes
        nothing.
        """
        for ports, wanted in (((1,), ["1"]), ((1, 2), ["1", "2"]), ((2,), ["2"]), ((), [])):
            self.following = self.scanned(*ports)
            self.replaced()
            self.assertEqual(self.scanners(), wanted)
        self.following = self.scanned(1)
        self.cannotListen = ListenError("tcp:2525", "Address already in use")
        self.replaced(succeeds=False)
        self.assertEqual(self.scanners(), [])
        self.cannotListen = None
        self.replaced()
        self.assertEqual(self.scanners(), ["1"])

    def unchanged(self, words: str) -> None:
        """A reload fails, and all is as before."""
        before = self.service.config
        self.assertEqual(self.replaced(succeeds=False), [])
        self.assertIs(self.service.config, before)
        self.assertNotIn("commit", self.steps)
        self.assertEqual(len(self.said), 1)
        self.assertIn(f"the old one stays: {words}", self.said[0])

    def test_broken(self) -> None:
        """A configuration that is broken changes nothing."""
        self.following = ConfigError("file", [("listen", "expected something")])
        self.unchanged("file: listen: expected something")

    def test_noPort(self) -> None:
        """A port that cannot be had changes nothing."""
        self.cannotListen = ListenError("tcp:25", "taken")
        self.unchanged("cannot listen on tcp:25: taken")

    def test_noCertificate(self) -> None:
        """A certificate that cannot be read changes nothing."""
        tls = '[tls]\ncertificate = "none.pem"\nkey = "none.pem"\n'
        self.following = self.load(f"{LISTEN}{RULES}{tls}")
        self.unchanged(f"{self.following.path}: tls.certificate: expected a readable file")

    def test_notWanted(self) -> None:
        """What the server does not want closes the new ports again."""
        self.refuses = True

        def refusing(server: MailServer, **stages: Any) -> None:
            raise ValueError("filing needs a quarantine")

        self.patch(MailServer, "replace", refusing)
        self.unchanged("filing needs a quarantine")
        self.assertEqual(self.steps, ["prepare", "undo"])

    def test_stop(self) -> None:
        """A stop waits for a reload that is under way, and none begins after it."""
        self.service.startService()
        under: Deferred[None] = Deferred()
        self.service.reloads.run(lambda: under)
        done = self.service.stopService()
        self.assertEqual(self.grace, [])
        under.callback(None)
        self.successResultOf(done)
        self.assertNoResult(self.service.reload())

    def test_atStart(self) -> None:
        """What a reload does not change is named."""
        self.following = self.config(hostname="'other.example'", max_judging="3")
        self.replaced()
        self.assertEqual(self.said, [*self.later, "configuration reloaded"])
        self.assertEqual(
            self.later,
            ["hostname changes at the next start", "max_judging changes at the next start"],
        )

    def test_left(self) -> None:
        """What a worker has left that there is no longer is this one's to deliver."""
        drained: list[tuple[int, str]] = []
        self.patch(MailServer, "drain", lambda server, *left: drained.append(left))
        config = self.service.config
        for name in ("1", "3", "x", "0"):
            os.makedirs(os.path.join(config.workersDirectory, name))
        os.chmod(config.stateDir, 0o700)
        self.addCleanup(shutil.rmtree, config.workersDirectory)
        self.service.startService()
        self.started.callback(self.service.server)
        self.assertEqual(drained, [(one, config.spoolOf(one)) for one in (1, 3)])
        two = attrs.evolve(config, workers=2)
        two.cameFrom(config.path, "")
        self.assertEqual([leftBy(two, worker) for worker in (0, 1)], [[], [3]])

    def test_ownOperators(self) -> None:
        """Operators see what is left beside what is its own; the server speaks for itself."""

        class Called:
            def __init__(self, words: Any) -> None:
                self.words = words

            def call(self, name: str, *args: Any) -> Deferred[Any]:
                return succeed(self.words)

        page = [{"id": formatId(7), "seq": 0}], None
        found: dict[int, Any] = {0: Called(([], None)), 3: Called(page)}
        operators = OwnOperators(lambda: found)
        both = self.successResultOf(operators.call("look", {}, 5, None))
        self.assertEqual(both, (page[0], None))
        self.assertEqual(self.successResultOf(operators.call("status")), ([], None))
        found[3] = None
        named = self.successResultOf(operators.call("look", {}, 5, None))
        assert isinstance(named, Partial)
        self.assertEqual(named.missing, {3: "does not answer"})
        del found[3]
        self.assertEqual(self.successResultOf(operators.call("look", {}, 5, None)), ([], None))


class StateTests(ConfigCase):
    """
    L{keepStatePrivate}.
    """

    def keep(self, mode: int, *inside: str) -> int:
        """
        @return: the mode of a state directory afterwards.
        """
        path = os.path.abspath(self.mktemp())
        for name in ("", *inside):
            os.makedirs(os.path.join(path, name))
        os.chmod(path, mode)
        config = self.load(f'state_dir = "{path}"\n{LISTEN}')
        keepStatePrivate(config)
        return stat.S_IMODE(os.stat(path).st_mode)

    def test_mended(self) -> None:
        """One of ours, or an empty one, is taken away from others."""
        self.assertEqual(self.keep(0o755), 0o700)
        self.assertEqual(self.keep(0o777, "spool/bodies", "mail"), 0o700)
        self.assertEqual(self.keep(0o755, "lost+found"), 0o700)
        self.assertEqual(self.keep(0o500, "anything"), 0o500)

    def test_refused(self) -> None:
        """One that could be another program's stays as it is, and the server does not run."""
        for mode, inside in ((0o755, ["spool"]), (0o755, ["home"]), (0o1777, [])):
            with self.assertRaisesRegex(SpoolError, f"mode {mode:04o}: expected .* mode 0700"):
                self.keep(mode, *inside)

    def test_missing(self) -> None:
        """One that is not there yet is made later."""
        keepStatePrivate(self.load(f'state_dir = "{self.mktemp()}"\n{LISTEN}'))


class CheckConfigTests(ConfigCase):
    """
    L{checkConfig}.
    """

    def test_deliveries(self) -> None:
        """All is built, and nothing is there afterwards."""
        config = self.load(LISTEN + RULES)
        before = os.listdir(config.baseDir)
        found = checkConfig(config, Clock())
        self.assertEqual(len(found), 1)
        self.assertEqual(os.listdir(config.baseDir), before)

    def test_endpoints(self) -> None:
        """Each endpoint that is none is named."""
        more = LISTEN.partition("\n")[2]
        text = LISTEN.replace("tcp:2525", "x:1") + more + more.replace("tcp:2525", "y:1") + RULES
        with self.assertRaises(ConfigError) as caught:
            checkConfig(self.load(text), Clock())
        keys = [key for key, _ in caught.exception.problems]
        self.assertEqual(keys, ["listen[0].endpoint", "listen[2].endpoint"])

    def test_stateFile(self) -> None:
        """A state directory that is a file is said."""
        path = os.path.abspath(self.mktemp())
        with open(path, "w"):
            pass
        with self.assertRaises(ConfigError) as caught:
            checkConfig(self.load(f'state_dir = "{path}"\n{LISTEN}{RULES}'), Clock())
        self.assertEqual([key for key, _ in caught.exception.problems], ["state_dir"])

    def test_spoolPassword(self) -> None:
        """A file of the database's password that is none is said, and none is needed."""
        spool = '[spool]\nnotes = "postgresql"\nconninfo = "host=db"\n'
        checkConfig(self.load(f"{LISTEN}{RULES}{spool}"), Clock())
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        for name in (directory, "missing"):
            text = f'{LISTEN}{RULES}{spool}password_file = "{name}"\n'
            with self.assertRaises(ConfigError) as caught:
                checkConfig(self.load(text), Clock())
            ((key, problem),) = caught.exception.problems
            self.assertEqual(key, "spool.password_file")
            self.assertIn(name, problem)

    if importlib.util.find_spec("psycopg") is None:
        test_spoolPassword.skip = "needs the extra postgresql"  # type: ignore[attr-defined]
