"""
A service that others run, and that a stage asks: a scanner, a look-up.

It is asked within a deadline, by so many at once, and not at all while it is
dead: after some failures in a row a circuit breaker opens, each caller is told
at once that the service is left alone, and after a pause one request goes
through as a probe.  What opens and closes it is logged; its state is part of
the status.

A failure is whatever the asking function fails with, nonsense in an answer
included, but for an answer that is about one message.  What fails together counts
once.  A request that is cancelled counts as one only if it had been under
way for half of its time: senders often leave before the deadline of a dead
scanner, but they leave for other reasons, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import Semaphore, asDeferred, withDeadline
from deferrals.errors import StageError
from deferrals.interfaces import IServices
from deferrals.logger import Logger
from deferrals.model.backoff import Backoff
from deferrals.model.shortage import isOurs

_T = TypeVar("_T")
_P = ParamSpec("_P")

_log = Logger(namespace="deferrals.remote")

#: So many failures in a row open the breaker.
FAILURES = 5

#: How long it stays open at first, and at most: each probe that fails doubles it.
PAUSE_SECONDS = 10.0
MAX_PAUSE_SECONDS = 60.0


#: What fails within this time, and had begun before the first of it failed, is one
#: failure: a service that is restarted loses all that is under way.  A request that
#: has had no answer in its time counts for itself.
TOGETHER_SECONDS = 5.0


class AboutMessage(StageError):
    """
    The service works: what it says is about this one message.
    """


class TooLarge(AboutMessage):
    """
    The message is larger than the service takes.
    """


class CircuitOpen(Exception):
    """
    Not asked: it has failed too often just now.
    """


class Breaker:
    """
    Whether to ask at all.

    @param clock: tells the time.
    @ivar lastError: the newest failure, for people.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._backoff = Backoff(FAILURES, PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        self._probing = False
        self._begun = 0
        self._countedAt, self._countedBegun = 0.0, 0
        self.lastError = ""

    @property
    def failures(self) -> int:
        """
        Failures in a row.
        """
        return self._backoff.failures

    @property
    def state(self) -> str:
        """
        C{"working"}, C{"resting"} or C{"probing"}.
        """
        if not self._backoff.isTroubled:
            return "working"
        return "probing" if self._probing else "resting"

    @property
    def remaining(self) -> float:
        """
        Seconds until the next probe may go.
        """
        return 0.0 if self._probing else self._backoff.remaining(self._clock.seconds())

    def check(self) -> None:
        """
        Ask before a request.

        @raise CircuitOpen: do not make it.
        """
        if self._probing or self.remaining > 0:
            raise CircuitOpen(
                f"left alone after {self.failures} failures in a row: {self.lastError}"
            )

    def begin(self) -> int:
        """
        A request is made; where the breaker is open it is the probe.

        @return: its number.
        @raise CircuitOpen: do not make it.
        """
        self.check()
        self._probing = self._backoff.isTroubled
        self._begun += 1
        return self._begun

    def succeeded(self) -> bool:
        """
        @return: whether that closes the breaker.
        """
        self._probing = False
        return self._backoff.succeeded()

    def failed(self, error: str, number: int | None = None) -> bool:
        """
        @param number: what L{begin} has said of the request; C{None} where it fails
            on its own, and not together with others: nothing was said in its time.
        @return: whether that opens the breaker.
        """
        before = self.state
        self.lastError = error
        if number is not None and self._isCounted(number):
            return False
        self._countedAt, self._countedBegun = self._clock.seconds(), self._begun
        if before == "resting":
            # It had begun before the breaker opened, and is no probe.
            self._backoff.failures += 1
            return False
        self._probing = False
        return self._backoff.failed(self._clock.seconds()) is not None and before == "working"

    def _isCounted(self, number: int) -> bool:
        """
        Whether a request has failed together with one that counts already.
        """
        isLate = self._clock.seconds() - self._countedAt >= TOGETHER_SECONDS
        return self.failures > 0 and number <= self._countedBegun and not isLate

    def abandoned(self) -> None:
        """
        A request ended without telling anything: the next one may be a probe.
        """
        self._probing = False


class RemoteService:
    """
    See the module.

    @param name: for the log and the status, e.g.
        C{"rspamd http://127.0.0.1:11333"}.
    @param services: L{IServices<deferrals.interfaces.IServices>}.
    @param concurrency: requests at once; the others wait within their deadline.
    """

    def __init__(self, name: str, services: IServices, concurrency: int) -> None:
        self._name = name
        self._clock: IReactorTime = services.reactor
        self._status = services.status
        self._limit = concurrency
        self._slots = Semaphore(concurrency)
        self._breaker = Breaker(self._clock)
        self._status.show(name, self._describe)

    def _describe(self) -> dict[str, object]:
        return {
            "state": self._breaker.state,
            "failures": self._breaker.failures,
            "last_error": self._breaker.lastError,
            "next_probe_in": round(self._breaker.remaining, 1),
            "under_way": self._limit - self._slots.free,
            "waiting": self._slots.waiting,
        }

    def ask(
        self,
        seconds: float,
        function: Callable[_P, Deferred[_T] | Awaitable[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Deferred[_T]:
        """
        @param seconds: for the whole of it, waiting for others included.
        @param function: asks; what it returns may be cancelled.
        @return: a Deferred of what C{function} gives; fails with L{CircuitOpen},
            with C{TimeoutError}, or as
            C{function} did.  May be cancelled.
        """

        def begin() -> Deferred[_T]:
            return asDeferred(function, *args, **kwargs)

        async def inTime() -> _T:
            try:
                self._breaker.check()
            except CircuitOpen:
                self._status.count(self._name, "left alone")
                raise
            found: _T = await withDeadline(self._clock, seconds, self._ask, seconds, begin)
            return found

        return Deferred.fromCoroutine(inTime())

    async def _ask(self, seconds: float, begin: Callable[[], Deferred[_T]]) -> _T:
        await self._slots.acquire()
        try:
            number = self._breaker.begin()
            self._status.count(self._name, "asked")
            began = self._clock.seconds()
            result = await begin().addErrback(self._failed, number, began, seconds)
        finally:
            self._slots.release()
        self._answered(began)
        return result

    def _answered(self, began: float) -> None:
        self._status.count(self._name, "answered")
        self._status.measure("services", self._name, self._clock.seconds() - began)
        if self._breaker.succeeded():
            _log.info("{name} works again", name=self._name)

    def _failed(self, failure: Failure, number: int, began: float, seconds: float) -> Failure:
        if failure.check(AboutMessage):
            self._answered(began)
            return failure
        if wasCancelled(failure):
            failure = Failure(CancelledError())
            waited = self._clock.seconds() - began
            if waited < seconds / 2:
                self._breaker.abandoned()
                return failure
            opened = self._breaker.failed(f"no answer within {waited:.1f} s")
        elif isOurs(failure.value):
            self._breaker.abandoned()
            return failure
        else:
            error = f"{type(failure.value).__name__}: {failure.getErrorMessage()}"
            opened = self._breaker.failed(error, number)
        self._status.count(self._name, "failed")
        if opened:
            _log.error(
                "{name} is left alone for {pause} s after {failures} failures in a row: {error}",
                name=self._name,
                failures=self._breaker.failures,
                pause=round(self._breaker.remaining),
                error=self._breaker.lastError,
            )
        return failure


def wasCancelled(failure: Failure) -> bool:
    """
    Whether it fails because it was cancelled, in the words of whatever layer
    said so.
    """
    if failure.check(CancelledError, ConnectingCancelledError):
        return True
    return any(wasCancelled(reason) for reason in getattr(failure.value, "reasons", ()))
