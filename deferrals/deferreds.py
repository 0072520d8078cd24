"""
What Deferreds need to be waited for by several, and for a limited time; and
what time it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    FirstError,
    TimeoutError,
    fail,
    gatherResults,
    maybeDeferred,
    succeed,
)
from twisted.internet.error import ConnectingCancelledError
from twisted.python.failure import Failure

_T = TypeVar("_T")
_P = ParamSpec("_P")


def useMonotonicClock(reactor: Any) -> Any:
    """
    Let a reactor's timers go by a clock that nobody sets.

    Twisted's go by the time of day: where that is put back by an hour, nothing
    that waits happens for an hour, and where it is put forward, all that waits
    happens at once, deadlines and expiries, too.

    @return: the same reactor; L{timeOfDay} knows of it.
    """
    waiting = [(call, call.getTime() - reactor.seconds()) for call in reactor.getDelayedCalls()]
    reactor.seconds = time.monotonic
    reactor.timeOfDay = time.time
    for call, seconds in waiting:
        call.seconds = reactor.seconds
        call.reset(max(0.0, seconds))
    return reactor


def timeOfDay(clock: Any) -> float:
    """
    @param clock: a reactor, or the clock of a test, whose time is both.
    @return: seconds since the epoch; only timers go by C{clock.seconds()}.
    """
    found: float = getattr(clock, "timeOfDay", clock.seconds)()
    return found


def errorText(failure: Failure) -> str:
    """
    A failure in one line, for the log: its kind, and what it says.
    """
    return f"{type(failure.value).__name__}: {failure.getErrorMessage()}"


def together(deferreds: Iterable[Deferred[Any]]) -> Deferred[list[Any]]:
    """
    All results, in their order; cancelled together.

    @return: a Deferred that fails with the first failure, as it is.
    """
    d = gatherResults(list(deferreds), consumeErrors=True)
    return d.addErrback(lambda failure: failure.trap(FirstError) and failure.value.subFailure)


class SharedResult:
    """
    One result for everybody who asks.

    Each asker gets a Deferred of its own, so that nobody's callbacks change
    what the others see.  When every asker has cancelled, and only then, what
    is waited for is cancelled, too.

    @ivar abandoned: whether that has happened: who comes later should begin
        anew.
    @param source: a Deferred; it belongs to this object from now on.
    """

    def __init__(self, source: Deferred[Any]) -> None:
        self.abandoned = False
        self._waiting: list[Deferred[Any]] | None = []
        self._result: Any = None
        self._source = source
        source.addBoth(self._arrived)

    def wait(self) -> Deferred[Any]:
        """
        @return: a Deferred of the result or its failure; may be cancelled.
        """
        if self._waiting is None:
            return (
                fail(self._result) if isinstance(self._result, Failure) else succeed(self._result)
            )
        waiter: Deferred[Any] = Deferred(self._left)
        self._waiting.append(waiter)
        return waiter

    def _left(self, waiter: Deferred[Any]) -> None:
        assert self._waiting is not None
        self._waiting.remove(waiter)
        if not self._waiting:
            self.abandoned = True
            self._source.cancel()

    def _arrived(self, result: Any) -> None:
        waiting, self._waiting, self._result = self._waiting or [], None, result
        for waiter in waiting:
            waiter.callback(result)


def withDeadline(
    clock: Any, seconds: float, function: Callable[..., Any], *args: Any
) -> Deferred[Any]:
    """
    Call C{function}, and wait for the Deferred that it returns for so many
    seconds, no longer: when time is up that is cancelled, and what it says
    later is not heard.

    No timer is made for what is there at once.

    @return: a Deferred of its result; fails with L{TimeoutError
        <twisted.internet.defer.TimeoutError>} when time is up.
    """
    source = maybeDeferred(function, *args)
    if source.called and not source.paused:
        return source
    result: Deferred[Any] = Deferred(lambda _: source.cancel())

    isLate = False

    def late() -> None:
        nonlocal isLate
        isLate = True
        source.cancel()
        if not result.called:
            result.errback(TimeoutError(seconds, "Deferred"))

    timer = clock.callLater(seconds, late)

    def arrived(value: Any) -> None:
        if isinstance(value, Failure) and value.check(CancelledError, ConnectingCancelledError):
            # Endpoints have a word of their own for it.
            value = Failure(TimeoutError(seconds, "Deferred") if isLate else CancelledError())
        if not result.called:
            result.callback(value)

    def left(value: Any) -> Any:
        if timer.active():
            timer.cancel()
        return value

    source.addBoth(arrived)
    return result.addBoth(left)


class Semaphore:
    """
    At most so many at once; the others wait in the order in which they came.

    @param limit: how many.
    """

    def __init__(self, limit: int) -> None:
        self.free = limit
        self._queue: dict[Deferred[None], None] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def acquire(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when a slot is yours; cancelling it
            gives up the place in the queue.
        """
        if self.free > 0:
            self.free -= 1
            return succeed(None)
        place: Deferred[None] = Deferred(lambda d: self._queue.pop(d))
        self._queue[place] = None
        return place

    def release(self) -> None:
        """
        Give the slot to the next one.
        """
        if self._queue:
            place = next(iter(self._queue))
            del self._queue[place]
            place.callback(None)
        else:
            self.free += 1


class Threads:
    """
    Functions that run in threads, so many at once.  Whoever waits for one may
    give up; its slot is taken until the thread has ended.

    @param inThread: runs a function outside the reactor thread and returns a
        Deferred of its result.
    @param limit: how many run at once.
    """

    def __init__(self, inThread: Callable[..., Deferred[Any]], limit: int) -> None:
        self._inThread = inThread
        self._slots = Semaphore(limit)

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return self._slots.waiting

    def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """
        @return: a Deferred of the function's result; cancelling it gives up the
            place in the queue, or the result.
        """

        def begin(_: None) -> Deferred[_T]:
            result: Deferred[_T] = Deferred()
            self._inThread(function, *args, **kwargs).addBoth(ended, result)
            return result

        def ended(value: Any, result: Deferred[_T]) -> None:
            self._slots.release()
            result.callback(value)

        return self._slots.acquire().addCallback(begin)


__all__ = ["CancelledError", "Semaphore", "SharedResult", "Threads", "TimeoutError", "withDeadline"]
