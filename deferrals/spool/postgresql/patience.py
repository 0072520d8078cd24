"""
A thread for files that may be far away: where a network's file system does not answer,
what waits for it is told so, and nothing else waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from deferrals.errors import SpoolError
from deferrals.threads import InThread

_T = TypeVar("_T")
_P = ParamSpec("_P")


@attrs.frozen(eq=False)
class _FileJob:
    """
    @ivar seconds: how long it may take.
    @ivar begin: begins it; the Deferred fires when the thread is free again.
    @ivar fail: tells that it is not waited for.
    """

    seconds: float
    begin: Callable[[], Deferred[None]]
    fail: Callable[[Failure], None]


class PatientThread:
    """
    Functions that run one after the other.  While one takes longer than it may, what
    waits behind it, and what comes, fails at once; when it has ended, all is well again.

    @param inThread: a thread of its own (L{OwnThread<deferrals.threads.OwnThread>}).
    @param clock: timers.
    @param what: what does not answer then, for people.
    """

    def __init__(self, inThread: InThread, clock: IReactorTime, what: str) -> None:
        self._inThread = inThread
        self._clock = clock
        self._silent = f"{what} does not answer"
        self._waiting: deque[_FileJob] = deque()
        self._timer: IDelayedCall | None = None
        self._isBusy = self._isStuck = self._isClosed = False

    def run(
        self, seconds: float, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]:
        """
        @param seconds: how long it may take, once it has begun.
        @return: a Deferred of the function's result; fails with L{SpoolError} where it is
            not waited for any longer: it may come to its end then, later.
        """
        if self._isStuck:
            return fail(SpoolError(self._silent))
        done: Deferred[_T] = Deferred()

        def begin() -> Deferred[None]:
            d: Deferred[_T] = self._inThread(function, *args, **kwargs)
            return d.addCallbacks(told, failed)

        def told(result: _T) -> None:
            if not done.called:
                done.callback(result)

        def failed(failure: Failure) -> None:
            if not done.called:
                done.errback(failure)

        self._waiting.append(_FileJob(seconds, begin, failed))
        self._next()
        return done

    def _next(self) -> None:
        if not self._isBusy and self._waiting:
            job = self._waiting.popleft()
            self._isBusy = True
            self._timer = self._clock.callLater(job.seconds, self._stuck, job)
            job.begin().addCallback(self._ended)

    def _stuck(self, job: _FileJob) -> None:
        self._isStuck = True
        self._giveUp(job)

    def _giveUp(self, *jobs: _FileJob) -> None:
        waiting, self._waiting = self._waiting, deque()
        for one in (*jobs, *waiting):
            one.fail(Failure(SpoolError(self._silent)))

    def _ended(self, _: None) -> None:
        self._isBusy, self._isStuck = False, self._isClosed
        self._stopTimer()
        self._next()

    def _stopTimer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def close(self) -> None:
        """
        What has not begun is not done.
        """
        self._isClosed = self._isStuck = True
        self._stopTimer()
        self._giveUp()
