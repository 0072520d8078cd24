"""
Something that somebody else runs, and that a stage asks: a scanner, a look-up.

It is asked within a deadline, by so many at once, and not at all while it is
dead: after some failures in a row a circuit breaker opens, whoever asks is told
at once that it is left alone, and after a pause one request goes through as a
probe.  What opens and closes it is logged; its state is part of the status.

A failure is whatever the asking function fails with, nonsense in an answer
included.  A request that is cancelled counts as one only if it had been under
way for half of its time: who waits for a dead scanner often leaves before the
deadline, but senders leave for other reasons, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, maybeDeferred
from twisted.internet.error import ConnectingCancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.deferreds import Semaphore, withDeadline

_log = Logger(namespace="deferrals.remote")

#: So many failures in a row open the breaker.
FAILURES = 5

#: How long it stays open at first, and at most: each probe that fails doubles it.
PAUSE_SECONDS = 10.0
MAX_PAUSE_SECONDS = 60.0


class CircuitOpen(Exception):
    """
    Not asked: it has failed too often just now.
    """


class Breaker:
    """
    Whether to ask at all.

    @param clock: tells the time.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._until = 0.0
        self._pause = PAUSE_SECONDS
        self._probing = False
        self.failures = 0
        self.lastError = ""

    @property
    def state(self) -> str:
        """
        C{"working"}, C{"resting"} or C{"probing"}.
        """
        if self.failures < FAILURES:
            return "working"
        return "probing" if self._probing else "resting"

    @property
    def remaining(self) -> float:
        """
        Seconds until the next probe may go.
        """
        return max(0.0, self._until - self._clock.seconds()) if self.state == "resting" else 0.0

    def check(self) -> None:
        """
        Ask before a request.

        @raise CircuitOpen: do not make it.
        """
        if self.state == "working":
            return
        if self._probing or self.remaining > 0:
            raise CircuitOpen(
                f"left alone after {self.failures} failures in a row: {self.lastError}"
            )

    def begin(self) -> None:
        """
        A request is made; where the breaker is open it is the probe.

        @raise CircuitOpen: do not make it.
        """
        self.check()
        self._probing = self.state != "working"

    def succeeded(self) -> bool:
        """
        @return: whether that closes the breaker.
        """
        closed = self.state != "working"
        self.failures, self._probing, self._pause = 0, False, PAUSE_SECONDS
        return closed

    def failed(self, error: str) -> bool:
        """
        @return: whether that opens the breaker.
        """
        before = self.state
        self.lastError = error
        self.failures += 1
        if self.state == "working" or before == "resting":
            return False
        self._pause = min(self._pause * 2, MAX_PAUSE_SECONDS) if self._probing else PAUSE_SECONDS
        self._probing = False
        self._until = self._clock.seconds() + self._pause
        return before == "working"

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

    def __init__(self, name: str, services: Any, concurrency: int) -> None:
        self._name = name
        self._clock = services.reactor
        self._status = services.status
        self._limit = concurrency
        self._slots = Semaphore(concurrency)
        self._breaker = Breaker(self._clock)
        self._status.show(name, self._describe)

    def _describe(self) -> dict[str, Any]:
        return {
            "state": self._breaker.state,
            "failures": self._breaker.failures,
            "last_error": self._breaker.lastError,
            "next_probe_in": round(self._breaker.remaining, 1),
            "under_way": self._limit - self._slots.free,
            "waiting": self._slots.waiting,
        }

    @inlineCallbacks
    def ask(self, seconds: float, function: Callable[..., Any], *args: Any) -> Any:
        """
        @param seconds: for the whole of it, waiting for others included.
        @param function: asks; returns a Deferred, which may be cancelled.
        @return: a Deferred of what C{function} gives; fails with L{CircuitOpen},
            with L{TimeoutError<twisted.internet.defer.TimeoutError>}, or as
            C{function} did.  May be cancelled.
        """
        try:
            self._breaker.check()
        except CircuitOpen:
            self._status.count(self._name, "left alone")
            raise
        return (yield withDeadline(self._clock, seconds, self._ask, seconds, function, args))

    @inlineCallbacks
    def _ask(self, seconds: float, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        yield self._slots.acquire()
        try:
            self._breaker.begin()
            self._status.count(self._name, "asked")
            began = self._clock.seconds()
            answer: Deferred[Any] = maybeDeferred(function, *args)
            result = yield answer.addErrback(self._failed, began, seconds)
        finally:
            self._slots.release()
        if self._breaker.succeeded():
            _log.info("{name} works again", name=self._name)
        return result

    def _failed(self, failure: Failure, began: float, seconds: float) -> Failure:
        if wasCancelled(failure):
            failure = Failure(CancelledError())
            waited = self._clock.seconds() - began
            if waited < seconds / 2:
                self._breaker.abandoned()
                return failure
            error = f"no answer within {waited:.1f} s"
        else:
            error = f"{failure.type.__name__}: {failure.getErrorMessage()}"
        self._status.count(self._name, "failed")
        if self._breaker.failed(error):
            _log.error(
                "{name} is left alone for {pause} s after {failures} failures in a row: {error}",
                name=self._name,
                failures=self._breaker.failures,
                pause=round(self._breaker.remaining),
                error=error,
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
