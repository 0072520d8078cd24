"""
The parent of workers that are none: what it tells them, and what it makes of their words.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from deferrals.config.tables import Config
from deferrals.errors import ConfigError, DeferralsError, ListenError, SpoolError
from deferrals.workers import parent as module
from deferrals.workers.launching import Command
from deferrals.workers.line import BEAT_SECONDS, WorkerLine
from deferrals.workers.operating import ANSWER_SECONDS
from deferrals.workers.parent import Parent
from tests.configs import LISTEN, RULES, ConfigCase
from tests.workers.wires import Wire, settle


class Doors:
    """
    Nothing is opened.
    """

    def __init__(self, reactor: Any, count: int) -> None:
        self.names: list[str] = []
        self.cannot: ListenError | None = None
        self.away: list[tuple[int, bool]] = []

    def open(self, clear: dict[str, bool]) -> list[str]:
        if self.cannot is not None:
            raise self.cannot
        new = [name for name in clear if name not in self.names]
        self.names += new
        return new

    def openAtStart(self, clear: dict[str, bool], orphans: object) -> None:
        self.open(clear)

    def missing(self, names: Any) -> list[str]:
        return [name for name in self.names if name not in names]

    def close(self, names: Any = None) -> None:
        for name in list(self.names if names is None else names):
            self.names.remove(name)

    def of(self, worker: int, names: Any = None) -> list[tuple[str, int, int]]:
        return [(name, 50, 0) for name in (self.names if names is None else names)]

    def isAway(self, worker: int, isAway: bool) -> None:
        self.away.append((worker, isAway))


class Port:
    """
    An operator's socket that is none.
    """

    def stopListening(self) -> Deferred[None]:
        return succeed(None)


class Worker:
    """
    The other end of a line.

    @ivar asked: what was asked of it, and with what.
    @ivar refuses: what is wrong with it, by what it is asked.
    """

    def __init__(self, test: ParentTests, process: Any, number: int) -> None:
        self.number = number
        self.asked: list[Any] = []
        self.refuses: dict[str, Exception] = test.refuses.get(number, {})
        self.started: Deferred[None] = Deferred()
        self.line = WorkerLine(test.clock, {})
        for name in ("prepare", "commit", "undo", "stop", "reopen"):
            self.line.handle(name, lambda *args, name=name, **more: self.did(name, *args))
        self.line.handle("start", self.start)
        self.process = process
        process.transport = self
        self.pid = 100 + number
        self.killed = False
        self.wire = Wire(test.clock, process.line, self.line)

    def start(self, names: Any, deadly: bool, descriptors: Any = ()) -> Deferred[None]:
        self.isDeadly = deadly
        self.asked.append(("start", names))
        for one in descriptors:
            os.close(one)
        return self.started

    def did(self, name: str, *args: Any) -> None:
        self.asked.append((name, *args))
        if name in self.refuses:
            raise self.refuses[name]

    def signalProcess(self, name: str) -> None:
        self.killed = True

    @property
    def words(self) -> list[str]:
        return [name for name, *_ in self.asked]


class ParentTests(ConfigCase):
    """
    L{Parent}.
    """

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.refuses: dict[int, dict[str, Exception]] = {}
        self.workers: list[Worker] = []
        self.texts: list[str] = []
        self.settled: list[Failure | None] = []
        self.said: list[Any] = []
        self.patch(module, "Doors", Doors)
        self.patch(module, "launch", self.launch)
        self.patch(module, "listen", lambda reactor, path, operator: Port())
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        self.following: Config | ConfigError = self.config()
        self.parent = Parent(self.config(), self.clock, self.reload, Command((), "/"))
        self.parent.settled = self.settled.append
        self.doors: Any = self.parent._doors

    def observe(self, event: Any) -> None:
        if str(event.get("log_namespace")).startswith("deferrals"):
            self.said.append(event["log_format"].format(**event))

    def config(self, more: str = "") -> Config:
        return self.load(f"workers = 2\n{more}\n{LISTEN}{RULES}")

    def reload(self) -> Config:
        if isinstance(self.following, ConfigError):
            raise self.following
        return self.following

    def launch(self, reactor: Any, command: Any, environment: Any, text: str, process: Any) -> None:
        self.texts.append(text)
        number = int(environment["DEFERRALS_WORKER"])
        self.workers.append(Worker(self, process, number))

    def settle(self) -> None:
        settle(self.clock, *(one.wire for one in self.workers))

    def start(self) -> None:
        self.parent.privilegedStartService()
        self.parent.startService()
        self.settle()

    def run_(self) -> None:
        self.start()
        for worker in self.workers:
            worker.started.callback(None)
        self.settle()

    def end(self, worker: Worker, how: str = "it was ended by signal 9") -> None:
        worker.wire.lose()
        worker.process._ended(worker.process, how)

    def test_start(self) -> None:
        """It has started when all have; each is given what it listens on, and the text."""
        self.start()
        self.assertEqual([one.asked for one in self.workers], [[("start", [["tcp:2525", 50]])]] * 2)
        self.assertEqual(self.texts, [self.parent.config.text] * 2)
        self.workers[0].started.callback(None)
        self.settle()
        self.assertEqual(self.settled, [])
        self.workers[1].started.callback(None)
        self.settle()
        self.assertEqual(self.settled, [None])
        self.assertEqual(self.parent.processes, [100, 101])
        states = [one.describe()["state"] for one in self.parent._workers]
        self.assertEqual(states, ["running", "running"])

    def test_cannotStart(self) -> None:
        """A worker that cannot start, or dies, keeps the whole from starting."""
        self.start()
        self.workers[1].started.errback(SpoolError("no space left"))
        self.settle()
        (failure,) = self.settled
        assert failure is not None
        self.assertEqual(failure.getErrorMessage(), "worker 1 cannot start: no space left")
        self.assertTrue(self.workers[1].killed)
        self.end(self.workers[0])
        self.assertEqual(len(self.settled), 1)

    def test_diesAtStart(self) -> None:
        """So does one that says nothing before."""
        self.start()
        self.end(self.workers[0], "it exited 1")
        (failure,) = self.settled
        assert failure is not None
        self.assertEqual(failure.getErrorMessage(), "worker 0 cannot start: it exited 1")

    def test_cannotBegin(self) -> None:
        """So does one for which the system has no process."""

        def lacking(*args: Any) -> None:
            raise OSError(13, "Permission denied")

        self.patch(module, "launch", lacking)
        self.start()
        failure = self.settled[0]
        assert failure is not None
        why = "worker 0 cannot start: it cannot be begun: [Errno 13] Permission denied"
        self.assertEqual(failure.getErrorMessage(), why)

    def test_surprise(self) -> None:
        """So does one that fails as it should not: its process has not ended."""
        self.start()
        self.workers[0].started.errback(OSError(5, "no disk"))
        self.settle()
        (failure,) = self.settled
        assert failure is not None
        self.assertIn("worker 0 cannot start: [Errno 5] no disk", failure.getErrorMessage())
        self.assertTrue(self.workers[0].killed)

    def test_noState(self) -> None:
        """A state directory that could be another program's keeps it from starting."""

        def strange(config: Config) -> None:
            raise SpoolError("expected a directory of its own")

        self.patch(module, "keepStatePrivate", strange)
        self.start()
        self.assertEqual(self.workers, [])
        self.assertEqual(len(self.settled), 1)

    def test_replaced(self) -> None:
        """A dead worker is begun again, with the configuration that is in force."""
        self.run_()
        with open(self.parent.config.path or "", "w") as file:
            file.write("nonsense")
        self.end(self.workers[0])
        self.clock.advance(0)
        self.settle()
        self.assertEqual([one.number for one in self.workers], [0, 1, 0])
        self.assertEqual(self.texts[2], self.texts[0])
        self.workers[2].started.callback(None)
        self.settle()
        self.assertEqual(self.parent.processes, [100, 101])

    def test_deadly(self) -> None:
        """One that has died twice is told so: there may be a message of which it dies."""
        self.run_()
        for wait in (0, 1, 2):
            self.end([one for one in self.workers if one.number == 0][-1])
            self.clock.advance(wait)
            self.settle()
        found = [one.isDeadly for one in self.workers if one.number == 0]
        self.assertEqual(found, [False, False, True, True])

    def test_failsLater(self) -> None:
        """One that cannot start while others run is tried again."""
        self.run_()
        self.end(self.workers[0])
        self.clock.advance(0)
        self.settle()
        self.workers[2].started.errback(SpoolError("no space left"))
        self.settle()
        self.end(self.workers[2])
        self.assertIn("worker 0 is waiting: no space left", self.said)
        self.assertEqual(self.settled, [None])

    def change(self, text: str = "max_judging = 9") -> Any:
        self.following = self.config(text)
        d = self.parent.reload()
        self.settle()
        return d

    def test_reload(self) -> None:
        """All make it; then all change to it."""
        self.run_()
        more = '[[listen]]\nendpoint = "tcp:2526"'
        self.following = self.load(f"workers = 3\n{LISTEN}{more}{RULES}")
        told: list[Config] = []
        self.parent.reloaded = lambda: told.append(self.parent.config)
        d = self.parent.reload()
        self.settle()
        self.assertEqual(self.successResultOf(d), ["workers changes at the next start"])
        for worker in self.workers:
            self.assertEqual(worker.words, ["start", "prepare", "commit"])
            self.assertEqual(worker.asked[1][1:], (self.following.text, [["tcp:2526", 50]]))
        self.assertIs(self.parent.config, self.following)
        self.assertEqual(told, [self.following])
        self.assertEqual(self.said[-1], "configuration reloaded")
        self.following = self.config()
        d = self.parent.reload()
        self.settle()
        self.successResultOf(d)
        self.assertEqual(self.doors.names, ["tcp:2525"])

    def test_refused(self) -> None:
        """What one worker cannot do, none does."""
        self.refuses = {1: {"prepare": DeferralsError("no such file")}}
        self.run_()
        before = self.parent.config
        more = '[[listen]]\nendpoint = "tcp:2526"'
        self.following = self.load(f"workers = 2\n{LISTEN}{more}{RULES}")
        d = self.parent.reload()
        self.settle()
        error = self.failureResultOf(d, DeferralsError)
        self.assertEqual(error.getErrorMessage(), "worker 1: no such file")
        for worker in self.workers:
            self.assertEqual(worker.words, ["start", "prepare", "undo"])
        self.assertIs(self.parent.config, before)
        self.assertEqual(self.doors.names, ["tcp:2525"])
        self.assertIn("the old one stays: worker 1: no such file", self.said[-1])

    def test_silent(self) -> None:
        """So it is with one that does not answer."""
        self.run_()
        self.workers[1].wire.stopped = True
        d = self.change()
        for _ in range(int(ANSWER_SECONDS / BEAT_SECONDS)):
            self.assertNoResult(d)
            self.clock.advance(BEAT_SECONDS)
            self.settle()
        self.clock.advance(BEAT_SECONDS)
        self.settle()
        error = self.failureResultOf(d, DeferralsError)
        self.assertEqual(error.getErrorMessage(), "worker 1: it does not answer")
        self.assertEqual(self.workers[0].words, ["start", "prepare", "undo"])

    def test_broken(self) -> None:
        """A configuration that is none is not shown to them; nor one with a port of others."""
        self.run_()
        self.following = ConfigError("mx.toml", [("listen", "expected something")])
        d = self.parent.reload()
        self.failureResultOf(d, ConfigError)
        self.following = self.config()
        self.doors.cannot = ListenError("tcp:26", "in use")
        self.failureResultOf(self.parent.reload(), ListenError)
        self.assertEqual([one.words for one in self.workers], [["start"]] * 2)

    def test_notChanged(self) -> None:
        """One that fails to change after all begins anew."""
        self.refuses = {0: {"commit": ValueError("it cannot be")}}
        self.run_()
        self.successResultOf(self.change())
        self.assertEqual([one.killed for one in self.workers], [True, False])
        self.end(self.workers[0])
        self.clock.advance(0)
        self.assertEqual(self.texts[2], self.parent.config.text)

    def test_changedWhileStarting(self) -> None:
        """One that started with the former configuration begins anew."""
        self.run_()
        self.end(self.workers[0])
        self.clock.advance(0)
        self.settle()
        self.successResultOf(self.change())
        self.workers[2].started.callback(None)
        self.settle()
        self.assertTrue(self.workers[2].killed)

    def test_startedMeanwhile(self) -> None:
        """So does one that came to run while the others made the new one."""
        self.run_()
        self.end(self.workers[0])
        self.clock.advance(0)
        self.settle()
        self.following = self.config("max_judging = 9")
        d = self.parent.reload()
        self.workers[2].started.callback(None)
        self.workers[2].wire.carry()
        self.clock.advance(0)
        self.workers[2].wire.carry()
        self.assertTrue(self.parent._workers[0].isUp)
        self.assertNoResult(d)
        self.settle()
        self.successResultOf(d)
        self.assertEqual([one.killed for one in self.workers], [False, False, True])

    def test_log(self) -> None:
        """All open the log anew."""
        self.run_()
        self.parent.logReopened()
        self.settle()
        self.assertEqual([one.words for one in self.workers], [["start", "reopen"]] * 2)

    def test_logOfStarting(self) -> None:
        """One that starts has it open already."""
        self.start()
        self.parent.logReopened()
        self.settle()
        self.assertEqual([one.words for one in self.workers], [["start", "reopen"]] * 2)

    def test_drains(self) -> None:
        """A worker that ends by itself says so."""
        self.run_()
        self.workers[1].line.tell("draining")
        self.settle()
        self.assertIn("worker 1 is draining", self.said)

    def test_stop(self) -> None:
        """All end, side by side, and it waits for them."""
        self.run_()
        done: Any = self.parent.stopService()
        self.settle()
        self.assertEqual(self.doors.names, [])
        self.assertEqual([one.words[-1] for one in self.workers], ["stop", "stop"])
        self.end(self.workers[0], "it has ended")
        self.assertNoResult(done)
        self.end(self.workers[1], "it has ended")
        self.successResultOf(done)
        self.assertEqual(len(self.workers), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_operators(self) -> None:
        """An operator's reload is for all."""
        self.run_()
        d = self.parent._operator.call("reload")
        self.settle()
        self.assertEqual(self.successResultOf(d), [])
