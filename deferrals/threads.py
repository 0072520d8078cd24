"""
Functions that run in threads: so many at once, or several that are short in one; and
what becomes of those whose callers have gone, or that do not end.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import Semaphore
from deferrals.logger import Logger

_log = Logger(namespace="deferrals")

_T = TypeVar("_T")
_P = ParamSpec("_P")


class InThread(Protocol):
    """
    Runs a function outside the reactor thread, and returns a Deferred of its
    result: L{IServices.inThread<deferrals.interfaces.IServices.inThread>} is
    one.
    """

    def __call__(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]:
        """
        @return: a Deferred of the function's result.
        """


class Threads:
    """
    Functions that run in threads, so many at once.  A caller that waits for one may
    give up; its slot is taken until the thread has ended.

    @param inThread: runs a function outside the reactor thread and returns a
        Deferred of its result.
    @param limit: how many run at once.
    @param within: threads whose limit holds for these, too.
    """

    def __init__(self, inThread: InThread, limit: int, within: Threads | None = None) -> None:
        self._inThread = inThread
        self._slots = Semaphore(limit)
        self._all: tuple[Semaphore, ...] = (
            self._slots,
            *(() if within is None else within._all),
        )

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return self._slots.waiting

    def alone(self) -> Threads:
        """
        @return: the same threads for what only one of them may touch at a time:
            who waits for that has no slot of the others' yet.
        """
        return Threads(self._inThread, 1, self)

    def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """
        @return: a Deferred of the function's result; cancelling it gives up the
            place in the queue, or the result.
        """
        return Deferred.fromCoroutine(self._run(function, *args, **kwargs))

    async def _run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        held: list[Semaphore] = []
        try:
            for slots in self._all:
                await slots.acquire()
                held.append(slots)
        except BaseException:
            _release(held)
            raise
        result: Deferred[_T] = Deferred()

        def ended(value: _T | Failure) -> None:
            _release(held)
            result.callback(value)

        self._inThread(function, *args, **kwargs).addBoth(ended)
        return await result


def _release(held: list[Semaphore]) -> None:
    for slots in held:
        slots.release()


class _AnyJob(Protocol):
    """
    A job, whatever its result is.
    """

    def run(self) -> None: ...
    def tell(self) -> None: ...
    def fail(self, failure: Failure) -> None: ...
    def isOver(self) -> bool: ...


class _Job(Generic[_T]):
    """
    @ivar done: fires with its result.
    """

    __slots__ = ("_function", "_result", "done")
    _result: _T | Failure

    def __init__(self, function: Callable[[], _T]) -> None:
        self._function = function
        self.done: Deferred[_T] = Deferred()

    def run(self) -> None:
        """
        Do it, in the thread: whatever it raises does not reach the others.
        """
        try:
            self._result = self._function()
        except BaseException:
            self._result = Failure()

    def tell(self) -> None:
        """
        Tell its result.
        """
        self.done.callback(self._result)

    def fail(self, failure: Failure) -> None:
        """
        Tell that it could not be done.
        """
        self.done.errback(failure)

    def isOver(self) -> bool:
        """
        Whether its result is not waited for any longer.
        """
        return self.done.called


class _HandOver:
    """
    Jobs that one thread takes, one after the other.

    @ivar waiting: those that have not begun.
    @ivar ended: those that have a result.
    """

    def __init__(self, jobs: Iterable[_AnyJob]) -> None:
        self.waiting = deque(jobs)
        self.ended: deque[_AnyJob] = deque()

    def work(self) -> None:
        """
        In the thread.
        """
        while (job := _taken(self.waiting)) is not None:
            job.run()
            self.ended.append(job)

    def rest(self) -> list[_AnyJob]:
        """
        Take away what has not begun.
        """
        return list(iter(functools.partial(_taken, self.waiting), None))

    def tell(self) -> None:
        """
        Tell the results that are there.
        """
        while (job := _taken(self.ended)) is not None:
            job.tell()


def _taken(queue: deque[_T]) -> _T | None:
    """
    The first of what both threads take from.
    """
    try:
        return queue.popleft()
    except IndexError:
        return None


#: What is handed to a thread at one go, and has not come back by then, is stuck: what
#: has not begun goes to another thread.
STUCK_SECONDS = 5.0

#: So many threads may be stuck.  Then functions wait: others need threads, too.
MAX_STUCK = 3


class TogetherInThread:
    """
    Functions that run in one thread, for what takes hardly longer than to change
    threads does.  Those of one turn of the reactor, and those that wait while it is
    busy, run together: one after the other, at one go, and their results come in one
    turn.  One that does not end keeps its thread, and no other function.

    The thread begins when the turn is over: beside the reactor it would take the
    interpreter from it for each, and give it back for each.

    @param inThread: runs a function outside the reactor thread and returns a
        Deferred of its result.
    @param most: how many run at one go.
    @param clock: timers; without one nothing is known to be stuck, and no turn ends.
    """

    def __init__(self, inThread: InThread, most: int, clock: IReactorTime | None = None) -> None:
        self._inThread = inThread
        self._most = most
        self._clock = clock
        self._waiting: list[_AnyJob] = []
        self._busy: _HandOver | None = None
        self._timer: IDelayedCall | None = None
        self._stuckThreads = 0
        self._isSoon = False

    def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """
        @return: a Deferred of the function's result; what is cancelled before its
            turn does not run.
        """
        job = _Job(functools.partial(function, *args, **kwargs))
        self._waiting.append(job)
        if self._busy is None:
            self._beginSoon()
        return job.done

    def _beginSoon(self) -> None:
        if self._clock is None:
            self._next()
        elif not self._isSoon:
            self._isSoon = True
            self._clock.callLater(0, self._begin)

    def _begin(self) -> None:
        self._isSoon = False
        if self._busy is None:
            self._next()

    def _next(self) -> None:
        jobs = [job for job in self._waiting if not job.isOver()]
        jobs, self._waiting = jobs[: self._most], jobs[self._most :]
        self._watch(bool(jobs))
        self._busy = busy = _HandOver(jobs) if jobs else None
        if busy is not None:
            d = self._inThread(busy.work)
            d.addCallbacks(self._done, self._notDone, callbackArgs=(busy,), errbackArgs=(busy,))

    def _watch(self, isBusy: bool) -> None:
        """
        One timer for all that is handed over in a row.
        """
        if self._timer is not None and not isBusy:
            self._timer.cancel()
            self._timer = None
        elif self._timer is not None:
            self._timer.reset(STUCK_SECONDS)
        elif isBusy and self._clock is not None:
            self._timer = self._clock.callLater(STUCK_SECONDS, self._stuck)

    def _stuck(self) -> None:
        self._timer = None
        stuck = self._busy
        if self._stuckThreads == MAX_STUCK:
            self._watch(True)  # until one comes back
        elif stuck is not None:
            self._stuckThreads += 1
            self._waiting[:0] = stuck.rest()
            self._next()
            stuck.tell()

    def _done(self, _: None, ended: _HandOver) -> None:
        self._isBack(ended)  # the thread need not wait until all are told
        ended.tell()

    def _notDone(self, failure: Failure, failed: _HandOver) -> None:
        jobs = failed.rest()
        self._isBack(failed)
        failed.tell()
        for job in jobs:
            job.fail(failure)

    def _isBack(self, handOver: _HandOver) -> None:
        if handOver is self._busy:
            self._next()
        else:
            self._stuckThreads -= 1


class OwnThread:
    """
    One thread that does nothing else than what it is called with, one after the other.
    What does not end keeps nothing waiting but what is called after it.

    @param reactor: where Deferreds fire.
    @param name: the thread's name.
    """

    def __init__(self, reactor: IReactorFromThreads, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._jobs: queue.SimpleQueue[_AnyJob | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]:
        """
        See L{InThread}.
        """
        job = _Job(functools.partial(function, *args, **kwargs))
        self._jobs.put(job)
        if self._thread is None:  # not before: a process may fork until it starts
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return job.done

    def end(self) -> None:
        """
        It ends when what it was called with before has ended.
        """
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            self._reactor.callFromThread(job.tell)
