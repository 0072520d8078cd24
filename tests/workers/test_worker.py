"""
A worker: what it does when its parent says so, or is gone.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from deferrals.config.tables import Config, load
from deferrals.errors import ConfigError, DeferralsError, ListenError, SpoolError
from deferrals.model.status import Status
from deferrals.plugins.finding import stagePlugins
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock
from deferrals.workers import worker as module
from deferrals.workers.line import WorkerLine
from deferrals.workers.orphans import LONGER_SECONDS
from deferrals.workers.reports import REPORT_SECONDS
from deferrals.workers.worker import Worker
from tests.configs import LISTEN, ConfigCase
from tests.workers.wires import Wire, settle


class Mail:
    """
    A server that is none.
    """

    def __init__(self, config: Config, reactor: Any, reload: Any, checkers: Any, parts: Any):
        self.config = config
        self.reload = reload
        self.parts = parts
        self.settled: Any = None
        self.did: list[str] = []
        self.reloads = DeferredLock()
        self.server = self.listeners = self
        self.named: dict[str, object] = {}
        self.refuses: Exception | None = None
        self.preparing: Deferred[None] = succeed(None)
        self.status = Status()
        self.sessionsOpen = {"tcp:25": 3}
        self.backedOff = 2
        self.leftQueues = {3: None}

    def describe(self) -> dict[str, Any]:
        return {"parts": {"a": 1}, "reasons": [], "rates": {"accepted": 1.5}, "more": 1}

    def privilegedStartService(self) -> None:
        self.did.append("listen")

    def beCareful(self) -> None:
        self.did.append("careful")

    def startService(self) -> None:
        self.did.append("start")

    def stopService(self) -> Any:
        self.did.append("stop")
        return self.reloads.acquire()

    async def prepare(self) -> str:
        await self.preparing
        following = self.reload()
        for listener in following.listen:
            if listener.endpoint not in self.named:
                self.parts.endpoint(listener.endpoint)
        return f"judges {following.max_judging}"

    async def commit(self, change: str) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.did.append(change)

    async def undo(self, change: str) -> None:
        self.did.append(f"undo {change}")


class Reactor(Clock):
    """
    One that stops when it is told.
    """

    stopped = 0

    def stop(self) -> None:
        self.stopped += 1


class WorkerTests(ConfigCase):
    """
    L{Worker}.
    """

    def setUp(self) -> None:
        self.clock: Any = Reactor()
        self.patch(module, "MailService", Mail)
        self.patch(module, "adopt", lambda reactor, descriptor, line: None)
        self.reopened: list[None] = []
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        self.state = os.path.abspath(self.mktemp())
        self.worker = Worker(
            1, self.config(), self.clock, self.read, [], lambda: self.reopened.append(None)
        )
        self.mail: Any = self.worker.mail
        self.parent = WorkerLine(self.clock, {"draining": lambda: self.said.append("draining")})
        self.wire = Wire(self.clock, self.parent, self.worker.line)
        self.worker.startService()
        self.addCleanup(self.close)

    def close(self) -> None:
        for one in self.worker._sockets.values():
            one.close()

    def observe(self, event: Any) -> None:
        if str(event.get("log_namespace")).startswith("deferrals"):
            self.said.append(event["log_format"].format(**event))

    def text(self, more: str = "") -> str:
        return f'workers = 2\nstate_dir = "{self.state}"\n{more}\n{LISTEN}'

    def config(self) -> Config:
        return self.load(self.text())

    def read(self, text: str) -> Config:
        return load(self.path, stagePlugins(), text)

    def ask(self, name: str, *args: Any, **more: Any) -> Any:
        d = self.parent.ask(name, *args, **more)
        settle(self.clock, self.wire)
        return d

    def descriptor(self) -> int:
        """
        @return: what is the worker's to close: as it is when it comes by the line.
        """
        own = socket.create_server(("127.0.0.1", 0))
        return own.detach()

    def start(self, deadly: bool = False) -> Any:
        return self.ask(
            "start", [["tcp:2525", 7]], deadly, descriptors=[self.descriptor()], seconds=99
        )

    def run_(self) -> None:
        d = self.start()
        self.mail.named = {"tcp:2525": None}
        self.mail.settled(None)
        settle(self.clock, self.wire)
        self.successResultOf(d)

    def test_whole(self) -> None:
        """It is a whole server: its own spool and number, its part of what all may do."""
        self.assertEqual(self.mail.parts.worker, 1)
        self.assertEqual(self.mail.config.sharers, 2)
        self.assertIsNone(self.mail.config.web)

    def test_start(self) -> None:
        """It starts when the parent has sent its sockets, and says when it runs."""
        self.assertEqual(self.mail.did, [])
        d = self.start()
        self.assertNoResult(d)
        self.assertEqual(self.mail.did, ["listen", "start"])
        self.mail.parts.endpoint("tcp:2525")
        self.assertRaises(ListenError, self.mail.parts.endpoint, "tcp:26")
        self.mail.settled(None)
        settle(self.clock, self.wire)
        self.successResultOf(d)

    def test_moreSockets(self) -> None:
        """A socket that its configuration does not name is not kept: none would answer there."""
        names, descriptors = [["tcp:2525", 50], ["tcp:26", 50]], [self.descriptor() for _ in "ab"]
        self.ask("start", names, False, descriptors=descriptors)
        self.mail.named = {"tcp:2525": None}
        self.mail.settled(None)
        settle(self.clock, self.wire)
        self.mail.parts.endpoint("tcp:2525")
        self.assertRaises(ListenError, self.mail.parts.endpoint, "tcp:26")

    def test_deadly(self) -> None:
        """After it has died again and again, it looks what it dies of."""
        self.start(deadly=True)
        self.assertEqual(self.mail.did, ["careful", "listen", "start"])

    def test_cannotStart(self) -> None:
        """It says why it cannot."""
        d = self.start()
        self.mail.settled(Failure(SpoolError("no space left")))
        settle(self.clock, self.wire)
        self.assertEqual(self.failureResultOf(d, DeferralsError).getErrorMessage(), "no space left")

    def test_inVain(self) -> None:
        """One that has waited for its database, and cannot run after all, ends."""
        self.run_()
        self.assertEqual(self.clock.stopped, 0)
        self.mail.settled(Failure(SpoolError("no space left")))
        self.assertEqual(self.clock.stopped, 1)

    def test_locked(self) -> None:
        """It waits for a process that still has its spool, before it listens; not for ever."""
        files = SpoolFiles(os.path.join(self.state, "workers", "1", "spool"))
        files.make()
        lock = SpoolLock(files)
        lock.take()
        self.start()
        self.clock.advance(1)
        self.assertEqual(self.mail.did, [])
        lock.release()
        self.clock.advance(1)
        self.assertEqual(self.mail.did, ["listen", "start"])

    def test_keptLocked(self) -> None:
        """After a while it tries, and fails as any server does."""
        files = SpoolFiles(os.path.join(self.state, "workers", "1", "spool"))
        files.make()
        lock = SpoolLock(files)
        lock.take()
        self.addCleanup(lock.release)
        self.start()
        self.clock.pump([1] * int(self.mail.config.grace + LONGER_SECONDS))
        self.assertEqual(self.mail.did, ["listen", "start"])

    def test_stoppedEarly(self) -> None:
        """One that is stopped while it waits does not begin."""
        files = SpoolFiles(os.path.join(self.state, "workers", "1", "spool"))
        files.make()
        lock = SpoolLock(files)
        lock.take()
        d = self.start()
        self.worker.stopService()
        lock.release()
        self.clock.advance(1)
        self.assertEqual(self.mail.did, ["stop"])
        settle(self.clock, self.wire)
        self.failureResultOf(d)

    def prepare(self, more: str = "max_judging = 8", names: Any = (), **with_: Any) -> Any:
        return self.ask("prepare", self.text(more), [*names], **with_)

    def test_reload(self) -> None:
        """It makes what the parent's text says, and changes to it when all have."""
        self.run_()
        self.successResultOf(self.prepare())
        self.assertTrue(self.mail.reloads.locked)
        self.successResultOf(self.ask("commit"))
        self.assertEqual(self.mail.did[2:], ["judges 4"])
        self.assertFalse(self.mail.reloads.locked)
        self.failureResultOf(self.ask("commit"), DeferralsError)

    def test_undo(self) -> None:
        """Where another one cannot, all stays as it was; also a second time."""
        self.run_()
        for _ in range(2):
            self.successResultOf(self.prepare())
        self.successResultOf(self.ask("undo"))
        self.successResultOf(self.ask("undo"))
        self.assertEqual(self.mail.did[2:], ["undo judges 4"] * 2)
        self.assertFalse(self.mail.reloads.locked)

    def test_refused(self) -> None:
        """What it cannot do, it says, and the next reload can be."""
        self.run_()
        self.failureResultOf(self.prepare("nonsense = 1"), DeferralsError)
        self.assertFalse(self.mail.reloads.locked)
        self.mail.refuses = ValueError("it cannot be")
        self.successResultOf(self.prepare())
        self.failureResultOf(self.ask("commit"), DeferralsError)
        self.assertFalse(self.mail.reloads.locked)

    def test_sockets(self) -> None:
        """Sockets of a configuration that does not come into force are closed."""
        self.run_()
        more = '[[listen]]\nendpoint = "tcp:2526"'
        text = self.text() + more
        with_ = {"descriptors": [self.descriptor()]}
        self.successResultOf(self.ask("prepare", text, [["tcp:2526", 7]], **with_))
        self.mail.parts.endpoint("tcp:2526")
        self.successResultOf(self.ask("undo"))
        self.assertRaises(ListenError, self.mail.parts.endpoint, "tcp:2526")
        self.mail.parts.endpoint("tcp:2525")

    def test_stop(self) -> None:
        """It is told to end, says that it does, and what was prepared is let go."""
        reports: list[Any] = []
        self.parent.handle("reported", reports.append)
        self.run_()
        self.successResultOf(self.prepare())
        self.parent.tell("stop")
        settle(self.clock, self.wire)
        self.assertEqual(self.clock.stopped, 1)
        done: Any = self.worker.stopService()
        settle(self.clock, self.wire)
        self.successResultOf(done)
        self.assertEqual(self.mail.did[2:], ["undo judges 4", "stop"])
        self.assertEqual(len(reports), 2)  # the first; the last, before the line is closed
        listening = self.mail.parts.endpoint("tcp:2525").listen(ServerFactory())
        self.failureResultOf(listening, CannotListenError)
        self.assertIn("draining", self.said)

    def test_report(self) -> None:
        """It tells what it has counted, at once, every few seconds and where it is asked."""
        reports: list[Any] = []
        self.parent.handle("reported", reports.append)
        self.mail.status.count("transactions", "single")
        self.run_()
        self.clock.advance(REPORT_SECONDS)
        settle(self.clock, self.wire)
        self.successResultOf(self.ask("report"))
        report = reports.pop()
        self.assertEqual(reports, 2 * [report])
        counts = report.pop("counts")
        self.assertEqual(counts["counters"], {"transactions": [["single", 1]]})
        wanted = {"sessions": {"tcp:25": 3}, "backed_off": 2, "left": [3]}
        wanted |= self.mail.describe()
        self.assertEqual({**report, "more": 1}, wanted)

    def test_orphan(self) -> None:
        """Without its parent it ends."""
        self.run_()
        self.wire.lose()
        self.assertEqual(self.clock.stopped, 1)
        self.assertIn("the parent is gone: this worker ends", self.said)

    def test_ends(self) -> None:
        """When it has ended, the end of the line is no surprise."""
        self.run_()
        self.worker.stopService()
        self.wire.lose()
        self.assertEqual(self.clock.stopped, 0)

    def test_log(self) -> None:
        """It opens its log anew when the parent says so."""
        self.parent.tell("reopen")
        settle(self.clock, self.wire)
        self.assertEqual(self.reopened, [None])

    def test_operators(self) -> None:
        """What operators ask, it answers as one process would, while it is there for them."""

        class Operator:
            def call(self, name: str, *args: Any) -> Any:
                return succeed([name, *args])

        self.failureResultOf(self.ask("call", 1, "numbers"), DeferralsError)
        own, left = Operator(), Operator()
        port = self.mail.parts.operators(lambda: {1: own, 3: left})
        for spool in (1, 3):
            found = self.successResultOf(self.ask("call", spool, "show", "X"))
            self.assertEqual(found, ["show", "X"])
        self.failureResultOf(self.ask("call", 5, "numbers"), DeferralsError)
        port.stopListening()
        self.failureResultOf(self.ask("call", 1, "numbers"), DeferralsError)

    def test_broken(self) -> None:
        """A text that is none is refused with its places."""
        self.run_()
        error = self.failureResultOf(self.prepare("listen = 7"), DeferralsError)
        self.assertIsInstance(error.value, DeferralsError)
        self.assertNotIsInstance(error.value, ConfigError)
