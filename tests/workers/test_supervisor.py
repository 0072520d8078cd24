"""
The life of one worker: begun, looked after, replaced.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.workers.supervisor import (
    AWAY_SECONDS,
    HUNG_SECONDS,
    QUIET_SECONDS,
    STARTING_SECONDS,
    STEADY_SECONDS,
    WAIT_SECONDS,
    Supervisor,
)


class Line:
    """
    A line on which nothing is said.
    """

    silentSeconds = 0.0

    def __init__(self) -> None:
        self.told: list[str] = []

    def tell(self, word: str) -> None:
        self.told.append(word)


class Process:
    """
    A process that there is not.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.line: Any = Line()
        self.isKilled = False

    def kill(self) -> None:
        self.isKilled = True


class SupervisorTests(SynchronousTestCase):
    """
    L{Supervisor}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.begun: list[Process] = []
        self.away: list[tuple[int, bool]] = []
        self.lacking: OSError | None = None
        self.worker = Supervisor(
            3, self.clock, self.begin, lambda number, isAway: self.away.append((number, isAway))
        )
        self.said: list[Any] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)

    def observe(self, event: Any) -> None:
        if event.get("event") == "worker":
            self.said.append((event["state"], event["pid"], event["reason"]))

    def begin(self, worker: Supervisor) -> Process:
        if self.lacking is not None:
            raise self.lacking
        self.begun.append(Process(100 + len(self.begun)))
        return self.begun[-1]

    def die(self, how: str = "it was ended by signal 9") -> None:
        self.worker.ended(self.begun[-1], how)

    def test_states(self) -> None:
        """A worker starts, runs, drains and is waited for, and the log says each."""
        self.assertEqual(self.worker.state, "waiting")
        self.worker.start()
        self.worker.ready()
        self.assertTrue(self.worker.isUp)
        self.clock.advance(7)
        wanted = {"worker": 3, "pid": 100, "state": "running", "seconds": 7, "restarts": 0}
        self.assertEqual(self.worker.describe(), wanted)
        self.worker.draining()
        self.die("it has ended")
        self.assertEqual(
            self.said,
            [
                ("starting", 100, ""),
                ("running", 100, ""),
                ("draining", 100, ""),
                ("waiting", None, "it has ended"),
            ],
        )
        self.assertEqual(self.worker.describe()["restarts"], 1)

    def test_backoff(self) -> None:
        """It is back at once, and later each time that it dies again; a steady one at once."""
        self.worker.start()
        for wait in (*WAIT_SECONDS, WAIT_SECONDS[-1]):
            count = len(self.begun)
            self.die()
            if wait:
                self.clock.advance(wait - 0.1)
                self.assertEqual(len(self.begun), count)
            self.clock.advance(0.1)
            self.assertEqual(len(self.begun), count + 1, wait)
        self.clock.advance(STEADY_SECONDS)
        self.die()
        self.clock.advance(0)
        self.assertEqual(self.worker.state, "starting")

    def test_noProcess(self) -> None:
        """Where the system has no process for it, it is tried again."""
        self.lacking = OSError(11, "no process")
        self.worker.start()
        self.lacking = None
        self.clock.advance(0)
        self.assertEqual([state for state, _, _ in self.said], ["waiting", "starting"])
        self.assertIn("cannot be begun", self.said[0][2])

    def look(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.worker.look()

    def test_away(self) -> None:
        """After a second without it, its clients are answered; from when it runs, by itself."""
        self.worker.start()
        self.look(AWAY_SECONDS / 2)
        self.assertEqual(self.away, [])
        self.look(AWAY_SECONDS / 2)
        self.assertEqual(self.away, [(3, True)])
        self.worker.ready()
        self.assertEqual(self.away[1:], [(3, False)])
        self.die()
        self.clock.advance(0)
        self.worker.ready()  # sooner than a second
        self.assertEqual(self.away[2:], [])

    def test_quiet(self) -> None:
        """One that says nothing is answered for, and killed when that lasts."""
        self.worker.start()
        self.worker.ready()
        process = self.begun[0]
        for silent, isAway in ((QUIET_SECONDS, True), (0.1, False), (HUNG_SECONDS, True)):
            process.line.silentSeconds = silent
            self.worker.look()
            self.assertEqual(self.away[-1], (3, isAway))
            self.assertEqual(self.worker.takesMail, not isAway)
        self.assertTrue(process.isKilled)
        self.die()
        self.assertEqual(
            self.said[-1], ("waiting", None, "it has not answered for 30 seconds, and was killed")
        )

    def test_slowStart(self) -> None:
        """One that starts has longer: its spool may have to be mended."""
        self.worker.start()
        self.begun[0].line.silentSeconds = STARTING_SECONDS - 1
        self.worker.look()
        self.assertFalse(self.begun[0].isKilled)
        self.begun[0].line.silentSeconds = STARTING_SECONDS
        self.worker.look()
        self.assertTrue(self.begun[0].isKilled)

    def test_failed(self) -> None:
        """One that is of no use is ended, and the log says why."""
        self.worker.start()
        self.worker.failed("no space left")
        self.die()
        self.assertEqual(self.said[-1], ("waiting", None, "no space left"))

    def test_formerProcess(self) -> None:
        """The late word of a former process is nothing of this one's."""
        self.worker.start()
        self.die()
        self.clock.advance(0)
        self.worker.ready()
        self.worker.ended(self.begun[0], "late")
        self.assertTrue(self.worker.isUp)

    def test_stop(self) -> None:
        """It is told, waited for, and not replaced."""
        self.worker.start()
        self.worker.ready()
        done = self.worker.stop()
        self.assertIs(self.worker.stop(), done)
        self.assertEqual(self.begun[0].line.told, ["stop"])
        self.assertNoResult(done)
        self.look(100)
        self.assertEqual(self.away, [])
        self.die()
        self.successResultOf(done)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopWaiting(self) -> None:
        """One that is waited for is not begun any more."""
        self.worker.start()
        self.die()
        self.successResultOf(self.worker.stop())
        self.clock.advance(100)
        self.assertEqual(len(self.begun), 1)
