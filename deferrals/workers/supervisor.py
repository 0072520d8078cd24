"""
The life of one worker: it is begun, looked after, and replaced when it dies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from deferrals.logger import Logger
from deferrals.model.json import JSON
from deferrals.workers.line import WorkerLine

_log = Logger(namespace="deferrals.workers")

#: How long a worker is waited for that has died so often, one time after the other.
WAIT_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)

#: One that has lived for so long has not died at its start.
STEADY_SECONDS = 60.0

#: One that has died so often, one time after the other, may have died of one message.
CAREFUL_DEATHS = 2

#: One that says nothing for so long is killed; while it starts, it has longer.
HUNG_SECONDS = 30.0
STARTING_SECONDS = 300.0

#: It is away when it is not there, or says nothing, for so long.
AWAY_SECONDS = 1.0
QUIET_SECONDS = 5.0


class WorkerProcess(Protocol):
    """
    A process that was begun.

    @ivar line: the way to it.
    """

    line: WorkerLine

    @property
    def pid(self) -> int:
        """Its number."""

    def kill(self) -> None:
        """End it at once."""


class Supervisor:
    """
    @param number: the worker's.
    @param begin: begins its process.
    @param away: is told whether it is away.
    @ivar state: C{starting}, C{running}, C{draining} or C{waiting}.
    @ivar restarts: how often it was begun again.
    @ivar process: C{None} while there is none.
    """

    def __init__(
        self,
        number: int,
        clock: IReactorTime,
        begin: Callable[[Supervisor], WorkerProcess],
        away: Callable[[int, bool], object] = lambda number, isAway: None,
    ) -> None:
        self.number = number
        self.state = "waiting"
        self.restarts = 0
        self.process: WorkerProcess | None = None
        self._clock = clock
        self._begin = begin
        self._away = away
        self._isAway = False
        self._since = clock.seconds()
        self._began = self._goneSince = clock.seconds()
        self._deaths = 0
        self._again: IDelayedCall | None = None
        self._why = ""
        self._stopped: Deferred[None] | None = None

    @property
    def mayBeDeadly(self) -> bool:
        """Whether it has died again and again: perhaps of one message."""
        return self._deaths >= CAREFUL_DEATHS

    @property
    def isUp(self) -> bool:
        """Whether it has started, and does not end."""
        return self.state == "running"

    @property
    def line(self) -> WorkerLine | None:
        """
        The way to it, where it can be asked.
        """
        return self.process.line if self.process is not None and self.isUp else None

    @property
    def takesMail(self) -> bool:
        """Whether it takes mail: nothing else answers for it."""
        return self.isUp and not self._isAway

    def describe(self) -> dict[str, JSON]:
        """
        What an operator sees.
        """
        return {
            "worker": self.number,
            "pid": None if self.process is None else self.process.pid,
            "state": self.state,
            "seconds": round(self._clock.seconds() - self._since),
            "restarts": self.restarts,
        }

    def start(self) -> None:
        """
        Begin its process.
        """
        self._again = None
        self._began = self._clock.seconds()
        try:
            self.process = self._begin(self)
        except OSError as error:
            self._why = f"it cannot be begun: {error}"
            self._died()
            return
        self._is("starting")

    def ready(self) -> None:
        """
        It takes mail.
        """
        if self.state == "starting":
            self._is("running")
            self.look()

    def draining(self) -> None:
        """
        It takes no more mail, and ends.
        """
        if self.process is not None:
            self._is("draining")

    def failed(self, why: str) -> None:
        """
        It is of no use: let another one take its place.
        """
        if self.process is not None:
            self._why = why
            self.process.kill()

    def ended(self, process: WorkerProcess, how: str) -> None:
        """
        A process of it has ended.
        """
        if process is not self.process:
            return
        self.process = None
        self._why = self._why or how
        if self._stopped is None:
            self._died()
        else:
            self.state = "waiting"
            self._stopped.callback(None)

    def _died(self) -> None:
        lived = self._clock.seconds() - self._began
        self._deaths = 0 if lived >= STEADY_SECONDS else self._deaths
        wait = WAIT_SECONDS[min(self._deaths, len(WAIT_SECONDS) - 1)]
        self._deaths += 1
        self.restarts += 1
        self._is("waiting")
        self._again = self._clock.callLater(wait, self.start)

    def _is(self, state: str) -> None:
        now = self._clock.seconds()
        if self.isUp:
            self._goneSince = now
        self.state, self._since = state, now
        reason, self._why = self._why, ""
        level = _log.warn if reason else _log.info
        level(
            "worker {worker} is {state}: {reason}" if reason else "worker {worker} is {state}",
            event="worker",
            worker=self.number,
            pid=None if self.process is None else self.process.pid,
            state=state,
            reason=reason,
        )

    def look(self) -> None:
        """
        See how it is; called once a second.
        """
        silent = 0.0 if self.process is None else self.process.line.silentSeconds
        most = STARTING_SECONDS if self.state == "starting" else HUNG_SECONDS
        if silent >= most:
            self.failed(f"it has not answered for {round(silent)} seconds, and was killed")
        if self._stopped is None:
            self._letIn(silent)

    def _letIn(self, silent: float) -> None:
        absent = 0.0 if self.isUp else self._clock.seconds() - self._goneSince
        isAway = absent >= AWAY_SECONDS or silent >= QUIET_SECONDS
        if isAway != self._isAway:
            self._isAway = isAway
            self._away(self.number, isAway)

    def stop(self) -> Deferred[None]:
        """
        It is to end, and none takes its place.

        @return: a Deferred that fires when it has.
        """
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self.process is None:
            return succeed(None)
        if self._stopped is None:
            self._stopped = Deferred()
            self.process.line.tell("stop")
        return self._stopped
