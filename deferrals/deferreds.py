"""
What Deferreds need to be waited for by several, and for a limited time; what
comes from stages, made a Deferred; and what time it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar, overload

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    FirstError,
    TimeoutError,
    fail,
    gatherResults,
    succeed,
)
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.errors import StageError
from deferrals.logger import Logger

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_log = Logger(namespace="deferrals")

_T = TypeVar("_T")
_P = ParamSpec("_P")

#: What a function that may wait can return.
_Answer: TypeAlias = _T | Deferred[_T] | Awaitable[_T]

_ASYNCIO = (
    "an asyncio awaitable cannot be waited for here:"
    " use Deferred.fromFuture(asyncio.ensure_future(...))"
)


def useMonotonicClock(reactor: Any) -> Any:
    """
    Let a reactor's timers go by a clock that is never set.

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


def timeOfDay(clock: IReactorTime) -> float:
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


def awaited(answer: _Answer[_T]) -> _T | Deferred[_T]:
    """
    The one place in which a coroutine, or another awaitable, becomes a
    Deferred.  Values and Deferreds stay what they are.

    @param answer: what a function that may wait has returned.
    """
    if not _isAwaitable(answer) or isinstance(answer, Deferred):  # see isDeferred
        return answer
    if asyncio.isfuture(answer):
        answer.cancel()
        return fail(TypeError(_ASYNCIO))
    coroutine = answer if isinstance(answer, Coroutine) else _await(answer)
    return Deferred.fromCoroutine(coroutine).addErrback(_explained)


def _isAwaitable(answer: _T | Awaitable[_T]) -> TypeIs[Awaitable[_T]]:
    return hasattr(type(answer), "__await__")  # as the abstract class does, but fast


def isDeferred(answer: object) -> TypeIs[Deferred[Any]]:
    """
    As C{isinstance}, in a third of the time where it is none: C{Deferred} is an abstract
    class, which asks more.
    """
    return hasattr(type(answer), "__await__") and isinstance(answer, Deferred)


async def _await(awaitable: Awaitable[_T]) -> _T:
    return await awaitable


def _explained(failure: Failure) -> Failure:
    """
    What asyncio says to a coroutine that awaits its futures without its loop
    says little.
    """
    text = failure.getErrorMessage()
    if failure.check(RuntimeError) and ("await wasn't used" in text or "no running event" in text):
        return Failure(TypeError(_ASYNCIO))
    return failure


def asDeferred(
    function: Callable[_P, _Answer[_T]], *args: _P.args, **kwargs: _P.kwargs
) -> Deferred[_T]:
    """
    Call a function that may wait: one that returns a value, a Deferred or a
    coroutine, or raises.

    @return: a Deferred of its result or failure.
    """
    try:
        answer = awaited(function(*args, **kwargs))
    except BaseException:
        return fail()
    return answer if isinstance(answer, Deferred) else succeed(answer)


def atOnce(answer: _T, source: str) -> _T:
    """
    What a function has returned that may not wait.

    @param source: whose answer it is, for the error.
    @return: C{answer}.
    @raise StageError: it is a Deferred or a coroutine.  Neither is left alone.
    """
    if not hasattr(type(answer), "__await__"):
        return answer
    if isinstance(answer, Deferred):
        answer.addErrback(lambda _: None)
        letGo(answer)
    elif isinstance(answer, Coroutine):
        answer.close()
    raise StageError(f"{source} has to answer at once, and answered {type(answer).__name__}")


def knownNow(
    begun: Coroutine[Deferred[Any], object, None], later: Callable[[Failure], object]
) -> None:
    """
    Begin something, for a caller that cannot wait: a failure that is known at once is
    raised.

    @param later: is told of one that comes later.
    """
    failures: list[Failure] = []
    d = Deferred.fromCoroutine(begun).addErrback(failures.append)
    if failures:
        failures[0].raiseException()
    d.addCallback(lambda _: later(failures[0]) if failures else None)


def letGo(d: Deferred[_T]) -> None:
    """
    Cancel a Deferred of a stage, whatever its canceller does.
    """
    try:
        d.cancel()
    except BaseException:  # as with what the stage raises
        _log.failure("a Deferred cannot be cancelled")


def together(deferreds: Iterable[Deferred[_T]]) -> Deferred[list[_T]]:
    """
    All results, in their order; cancelled together.

    @return: a Deferred that fails with the first failure, as it is.
    """
    return gatherResults(list(deferreds), consumeErrors=True).addErrback(_first)


def _first(failure: Failure) -> Failure:
    return failure.value.subFailure if isinstance(failure.value, FirstError) else failure


class SharedResult(Generic[_T]):
    """
    One result for all callers that ask.

    Each caller gets a Deferred of its own, so that no callbacks change what the
    others see.  When every caller has cancelled, and only then, what is waited
    for is cancelled, too.

    @ivar abandoned: whether that has happened: a caller that comes later should
        begin anew.
    @param source: a Deferred, which belongs to this object from now on; or the result
        itself.
    """

    def __init__(self, source: _T | Deferred[_T]) -> None:
        self.abandoned = False
        self._waiting: list[Deferred[_T]] = []
        self._result: list[_T | Failure] = []  # empty until it is there
        self._source: Deferred[_T] | None = None
        if isinstance(source, Deferred):
            self._source = source
            source.addBoth(self._arrived)
        else:
            self._result.append(source)

    def wait(self) -> Deferred[_T]:
        """
        @return: a Deferred of the result or its failure; may be cancelled.
        """
        for result in self._result:
            return fail(result) if isinstance(result, Failure) else succeed(result)
        waiter: Deferred[_T] = Deferred(self._left)
        self._waiting.append(waiter)
        return waiter

    def _left(self, waiter: Deferred[_T]) -> None:
        self._waiting.remove(waiter)
        if not self._waiting:
            self.abandoned = True
            if self._source is not None:
                letGo(self._source)

    def _arrived(self, result: _T | Failure) -> None:
        waiting, self._waiting, self._result = self._waiting, [], [result]
        for waiter in waiting:
            waiter.callback(result)


#: What takes no longer than that, in seconds, is found out anew for each who asks.
QUICK_SECONDS = 0.5


class Kept(Generic[_T]):
    """
    What may take a while to find out, for as many as ask: those who ask at once
    share one answer; one that took long stands for some time.

    @param now: the time, in seconds.
    @param find: finds it out.
    @param seconds: for how long an answer stands that took long.
    """

    def __init__(
        self, now: Callable[[], float], find: Callable[[], Deferred[_T]], seconds: float
    ) -> None:
        self._now = now
        self._find = find
        self._seconds = seconds
        self._shared: SharedResult[_T] | None = None
        self._until = float("inf")  # while it is being found out

    def get(self) -> Deferred[_T]:
        """
        @return: a Deferred of what was found; may be cancelled.
        """
        began = self._now()
        if self._shared is None or began >= self._until:
            self._until = float("inf")
            self._shared = SharedResult(self._find())
            self._shared.wait().addBoth(self._found, began)  # no caller's leaving ends it
        return self._shared.wait()

    def _found(self, result: _T | Failure, began: float) -> None:
        now = self._now()
        isSlow = now - began > QUICK_SECONDS and not isinstance(result, Failure)
        self._until = now + self._seconds if isSlow else now


class SharedResults:
    """
    Shared results by key: what is under way or done for a key is not begun again,
    unless all its callers have left.
    """

    def __init__(self) -> None:
        self._results: dict[Hashable, SharedResult[Any]] = {}  # its type is the key's

    def __len__(self) -> int:
        return len(self._results)

    def wait(
        self,
        key: Hashable,
        function: Callable[_P, _Answer[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Deferred[_T]:
        """
        @param function: is called for the first caller that asks for C{key}.
        @return: see L{SharedResult.wait}.
        """
        found = self._results.get(key)
        if found is None or found.abandoned:
            try:
                answer = awaited(function(*args, **kwargs))
            except BaseException:
                answer = fail()
            found = self._results[key] = SharedResult(answer)
        return found.wait()


class UnderWay(Generic[_T]):
    """
    What is under way, by key: the callers that ask meanwhile share its result.  What has
    ended, or has no caller any longer, is begun anew.
    """

    def __init__(self) -> None:
        self._asking: dict[Hashable, SharedResult[_T]] = {}

    def wait(
        self,
        key: Hashable,
        function: Callable[_P, Deferred[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Deferred[_T]:
        """
        @param function: is called where nothing is under way for C{key}.
        @return: see L{SharedResult.wait}.
        """
        shared = self._asking.get(key)
        if shared is None or shared.abandoned:
            d = function(*args, **kwargs)
            shared = SharedResult(d)
            if not d.called:
                self._asking[key] = shared
                d.addBoth(lambda _: self._end(key, shared))
        return shared.wait()

    def _end(self, key: Hashable, shared: SharedResult[_T] | None) -> None:
        if self._asking.get(key) is shared:
            del self._asking[key]


@overload
def withDeadline(
    clock: IReactorTime,
    seconds: float,
    function: Callable[_P, Awaitable[_T]],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> Deferred[_T]: ...


@overload
def withDeadline(
    clock: IReactorTime,
    seconds: float,
    function: Callable[_P, _Answer[_T]],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> Deferred[_T]: ...


def withDeadline(
    clock: IReactorTime,
    seconds: float,
    function: Callable[_P, _Answer[_T]],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> Deferred[_T]:
    """
    Call a function that may wait, and wait for so many seconds, no longer: when
    time is up, what it does is cancelled, and what it says later is not heard.

    No timer is made for what is there at once.

    @return: a Deferred of its result; fails with C{TimeoutError} when time is up.
    """
    source: Deferred[_T] = asDeferred(function, *args, **kwargs)
    if source.called and not source.paused:
        return source
    result: Deferred[_T] = Deferred(lambda _: letGo(source))

    isLate = False

    def late() -> None:
        nonlocal isLate
        isLate = True
        letGo(source)
        if not result.called:
            result.errback(TimeoutError(seconds, "Deferred"))

    timer = clock.callLater(seconds, late)

    def arrived(value: _T | Failure) -> None:
        if isinstance(value, Failure) and value.check(CancelledError, ConnectingCancelledError):
            # Endpoints have a word of their own for it.
            value = Failure(TimeoutError(seconds, "Deferred") if isLate else CancelledError())
        if not result.called:
            result.callback(value)

    def left(value: _T | Failure) -> _T | Failure:
        if timer.active():
            timer.cancel()
        return value

    source.addBoth(arrived)
    return result.addBoth(left)


def promptly(
    clock: IReactorTime,
    seconds: float,
    function: Callable[_P, _Answer[_T]],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> _T | Deferred[_T]:
    """
    The same; but what is there at once is returned as it is, and what is raised at
    once is raised: for what is called for each message, and hardly ever waits.
    """
    answer = function(*args, **kwargs)
    return withDeadline(clock, seconds, lambda: answer) if _isAwaitable(answer) else answer


class Semaphore:
    """
    At most so many at once; the others wait in the order in which they came.

    @param limit: how many.
    """

    def __init__(self, limit: int) -> None:
        self.free = limit
        self._queue: dict[Deferred[None], None] = {}
        self._isHanding = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def enter(self) -> bool:
        """
        @return: whether a slot is yours: one was free.
        """
        if self.free <= 0 or self._queue:
            return False
        self.free -= 1
        return True

    def acquire(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when a slot is yours; cancelling it
            gives up the place in the queue.
        """
        if self.enter():
            return succeed(None)
        place: Deferred[None] = Deferred(lambda d: self._queue.pop(d))
        self._queue[place] = None
        return place

    def release(self) -> None:
        """
        Give the slot to the next one.  One that gives it back at once is not in the
        way of the others: they get it one after the other, not one within the other.
        """
        self.free += 1
        if self._isHanding:
            return
        self._isHanding = True
        try:
            while self.free > 0 and self._queue:
                self.free -= 1
                place = next(iter(self._queue))
                del self._queue[place]
                place.callback(None)
        finally:
            self._isHanding = False


__all__ = [
    "CancelledError",
    "Kept",
    "Semaphore",
    "SharedResult",
    "TimeoutError",
    "asDeferred",
    "atOnce",
    "awaited",
    "letGo",
    "withDeadline",
]
