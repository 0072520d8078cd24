"""
The queue of a process that there is no longer.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.server.leftqueue import LOOK_SECONDS, LeftQueue


class Queue:
    """
    A queue that is none.
    """

    view = "a view"

    def __init__(self, cannot: str = "") -> None:
        self.cannot = cannot
        self.did: list[Any] = []
        self.hasMail = True
        self.opening: Deferred[None] = succeed(None)

    async def start(self) -> None:
        if self.cannot:
            raise SpoolError(self.cannot)
        await self.opening
        self.did.append("start")

    async def stop(self) -> None:
        self.did.append("stop")

    async def isEmpty(self) -> bool:
        return not self.hasMail

    def replaced(self, *limits: Any) -> None:
        self.did.append(limits)


class LeftQueueTests(SynchronousTestCase):
    """
    L{LeftQueue}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = os.path.join(os.path.abspath(self.mktemp()), "3", "spool")
        os.makedirs(os.path.join(self.directory, "bodies"))
        with contextlib.closing(sqlite3.connect(self.database)) as db:
            db.execute("CREATE TABLE messages (id INTEGER)")
        self.queues = [Queue()]
        self.made = 0
        self.left = LeftQueue(self.directory, self.make, self.clock, self.inThread)
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    @property
    def database(self) -> str:
        return os.path.join(self.directory, "spool.sqlite")

    def observe(self, event: Any) -> None:
        if event.get("log_namespace") == "deferrals":
            self.said.append(event["log_format"].format(**event))

    def make(self) -> Any:
        self.made += 1
        return self.queues[min(self.made, len(self.queues)) - 1]

    def inThread(self, function: Any) -> Any:

        return maybeDeferred(function)

    def stop(self) -> None:

        self.successResultOf(Deferred.fromCoroutine(self.left.stop()))

    def test_drained(self) -> None:
        """Its mail is delivered; when it is empty, its directory is removed."""
        self.assertIsNone(self.left.view)
        self.left.start()
        (queue,) = self.queues
        self.assertEqual((queue.did, self.left.view), (["start"], "a view"))
        self.clock.advance(LOOK_SECONDS)
        queue.hasMail = False
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual((queue.did, self.left.view), (["start", "stop"], None))
        self.assertFalse(os.path.exists(os.path.dirname(self.directory)))
        self.assertEqual((self.made, self.clock.getDelayedCalls()), (1, []))

    def test_strange(self) -> None:
        """What is not ours stays."""
        strange = os.path.join(os.path.dirname(self.directory), "notes.txt")
        with open(strange, "w"):
            pass
        self.queues[0].hasMail = False
        self.left.start()
        self.assertFalse(os.path.exists(self.directory))
        self.assertTrue(os.path.exists(strange))

    def test_taken(self) -> None:
        """What has come in while it was closed stays; it is opened again, and tried no more."""
        self.queues = [Queue(), Queue()]
        self.queues[0].hasMail = self.queues[1].hasMail = False
        with contextlib.closing(sqlite3.connect(self.database)) as db:
            db.execute("INSERT INTO messages VALUES (1)")
            db.commit()
        self.left.start()
        self.assertIsNone(self.left.view)
        self.clock.pump([LOOK_SECONDS] * 3)
        self.assertEqual([one.did for one in self.queues], [["start", "stop"], ["start"]])
        self.assertTrue(os.path.exists(self.database))
        self.assertEqual(self.left.view, "a view")
        self.assertIn("stays", self.said[1])
        self.stop()

    def test_locked(self) -> None:
        """While another process has it, it is waited for, and that is said once."""
        self.queues = [Queue("in use"), Queue("in use"), Queue()]
        self.left.start()
        self.assertTrue(self.left.isAway)
        self.clock.pump([LOOK_SECONDS] * 2)
        self.assertEqual((self.queues[2].did, self.left.isAway), (["start"], False))
        self.assertEqual(
            self.said,
            ["left mail waits: in use", f"delivering what was left in {self.directory}"],
        )

    def test_stopWhileOpening(self) -> None:
        """One that the server's end finds opening is closed; until then it has not ended."""
        self.queues[0].opening = Deferred()
        self.left.start()
        stopped = Deferred.fromCoroutine(self.left.stop())
        self.assertNoResult(stopped)
        self.queues[0].opening.callback(None)
        self.successResultOf(stopped)
        self.assertEqual((self.queues[0].did, self.left.view), (["start", "stop"], None))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopWhileClosing(self) -> None:
        """The end waits for one that is just being closed, and for its directory's removal."""
        self.queues[0].hasMail = False
        closing: list[Deferred[None]] = [Deferred(), Deferred()]

        async def close() -> None:
            await closing[0]

        def inThread(function: Any) -> Any:
            return closing[1].addCallback(lambda _: function())

        self.patch(self.queues[0], "stop", close)
        self.patch(self.left, "_inThread", inThread)
        self.left.start()
        self.assertIsNone(self.left.view)
        stopped = Deferred.fromCoroutine(self.left.stop())
        for one in closing:
            self.assertNoResult(stopped)
            self.assertTrue(os.path.exists(self.directory))
            one.callback(None)
        self.successResultOf(stopped)
        self.assertFalse(os.path.exists(self.directory))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """It ends with the server; also where it is not open."""
        self.left.start()
        self.left.replaced(7, None)
        self.stop()
        self.stop()
        self.left.replaced(8, None)
        self.assertEqual(self.queues[0].did, ["start", (7, None), "stop"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
