"""
Deliveries: fresh ones right after release, the others when they are due.

What is delivered at once is already leased to us (L{ISpool.release} with
C{keep}); when too much is under way it is left to the queue, so that memory
stays bounded.  An outcome is recorded right after it is known: a crash in
between repeats that one delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.model.delivery import Addressee, Work
from deferrals.model.reply import R451_LOCAL_ERROR, Reply
from deferrals.model.verdict import Delivered, Failed, Outcome, Retry
from deferrals.waiting import withDeadline

_log = Logger(namespace="deferrals.delivery")

#: How long one attempt may take, in seconds.
DELIVERY_SECONDS = 240.0

_NO_SUCH_DELIVERY = Reply(451, "4.3.5", "the configuration has no such delivery any longer")


class Scheduler:
    """
    @param spool: L{ISpool<deferrals.interfaces.ISpool>}.
    @param delivery: finds the
        L{IDeliveryStage<deferrals.interfaces.IDeliveryStage>} by the name that
        a recipient's route gives; L{None} where there is none.
    @param clock: timers, and the time of day.
    @param retrySeconds: how long a recipient waits for the next attempt.
    @param concurrency: messages that are delivered at once.
    """

    def __init__(
        self,
        spool: Any,
        delivery: Callable[[str], Any],
        clock: Any,
        retrySeconds: float = 300.0,
        concurrency: int = 100,
    ) -> None:
        self._spool = spool
        self._delivery = delivery
        self._clock = clock
        self._retrySeconds = retrySeconds
        self._concurrency = concurrency
        self._running: dict[Work, int] = {}
        self._idle: Deferred[None] | None = None
        self._stopping = False
        self._claiming: Deferred[Any] | None = None
        self._loop = LoopingCall(self._claim)
        self._loop.clock = clock

    def start(self, everySeconds: float = 5.0) -> None:
        """
        Look for due work now, and every so many seconds.
        """
        self._loop.start(everySeconds)

    def stop(self) -> Deferred[Any]:
        """
        Begin nothing more.

        @return: a Deferred that fires when what was begun has ended.
        """
        self._stopping = True
        if self._loop.running:
            self._loop.stop()
        if not self._running:
            return succeed(None)
        self._idle = Deferred()
        return self._idle

    def release(self, work: Work) -> None:
        """
        A message has become ours: deliver it now, or as soon as there is room.
        """
        room = not self._stopping and len(self._running) < self._concurrency
        self._spool.release(work, room)
        if room:
            self._begin(work)

    def _claim(self) -> None:
        room = self._concurrency - len(self._running)
        if self._stopping or room <= 0 or self._claiming is not None:
            return
        self._claiming = d = self._spool.claim(room)
        d.addCallbacks(self._claimed, self._claimFailed)

    def _claimFailed(self, failure: Failure) -> None:
        self._claiming = None
        _log.error("cannot read the queue: {error}", error=failure.getErrorMessage())

    def _claimed(self, works: Sequence[Work]) -> None:
        self._claiming = None
        for work in works:
            if self._stopping:
                self._spool.release(work, False)
            else:
                self._begin(work)

    def _begin(self, work: Work) -> None:
        """
        One message to all who are to have it now, one delivery stage beside
        the other.
        """
        groups: dict[str, list[Addressee]] = {}
        for addressee in work.addressees:
            route = addressee.recipient.route
            groups.setdefault("" if route is None else route.delivery, []).append(addressee)
        self._running[work] = len(groups)
        for name, group in groups.items():
            d = self._deliver(work, name, group)
            d.addErrback(self._failed, work, name)
            d.addCallback(self._record, work, group, name)
            d.addErrback(self._notRecorded, work)
            d.addCallback(self._ended, work)

    def _ended(self, _: Any, work: Work) -> None:
        self._running[work] -= 1
        if not self._running[work]:
            del self._running[work]
            if not self._running and self._idle is not None:
                idle, self._idle = self._idle, None
                idle.callback(None)

    def _deliver(self, work: Work, name: str, group: list[Addressee]) -> Deferred[Any]:
        stage = self._delivery(name)
        if stage is None:
            return succeed({one: Retry(_NO_SUCH_DELIVERY) for one in group})
        return withDeadline(
            self._clock, DELIVERY_SECONDS, stage.deliver, work.message, work.envelope, group
        )

    def _failed(self, failure: Failure, work: Work, name: str) -> dict[Addressee, Outcome]:
        _log.error(
            "{transaction}: delivery {delivery} failed: {error}",
            transaction=work.envelope.id,
            delivery=name,
            error=f"{failure.type.__name__}: {failure.getErrorMessage()}",
        )
        return {}

    def _record(
        self, outcomes: Mapping[Addressee, Outcome], work: Work, group: list[Addressee], name: str
    ) -> Deferred[None]:
        complete: dict[Addressee, Outcome] = {}
        for addressee in group:
            outcome = outcomes.get(addressee)
            if not isinstance(outcome, Delivered | Failed | Retry):
                outcome = Retry(R451_LOCAL_ERROR)
            complete[addressee] = outcome
            self._logOutcome(work, addressee, outcome, name)
        return self._spool.record(work, complete, self._clock.seconds() + self._retrySeconds)

    def _logOutcome(self, work: Work, addressee: Addressee, outcome: Outcome, name: str) -> None:
        word = type(outcome).__name__.lower()
        _log.info(
            "{transaction} to=<{recipient}> {outcome} by {delivery} {reply}",
            event="delivery",
            transaction=work.envelope.id,
            recipient=str(addressee),
            outcome=word,
            delivery=name,
            attempt=addressee.attempts + 1,
            reply="" if outcome.reply is None else str(outcome.reply),
            host=outcome.host,
        )

    def _notRecorded(self, failure: Failure, work: Work) -> None:
        _log.error(
            "{transaction}: an outcome could not be recorded, and its delivery will be repeated:"
            " {error}",
            transaction=work.envelope.id,
            error=failure.getErrorMessage(),
        )
