"""
What the log says of deliveries.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from deferrals.deferreds import TimeoutError, errorText
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.events import happened
from deferrals.model.status import Status
from deferrals.model.verdict import Outcome, Retry
from deferrals.relay.attempts import Attempt, Deliveries
from deferrals.relay.destinations import HopReport

_log = Logger(namespace="deferrals.delivery")


class DeliveryLog:
    """
    @param status: counts what is logged.
    @param clock: its C{seconds()} is the time.
    @param deliveries: what the configuration says of them.
    """

    def __init__(self, status: Status, clock: IReactorTime, deliveries: Deliveries) -> None:
        self._status = status
        self._clock = clock
        self._deliveries = deliveries

    def outcome(
        self, attempt: Attempt, addressee: Addressee, outcome: Outcome, waits: bool
    ) -> None:
        """
        One recipient's outcome, with what no sender is told.

        @param waits: whether the recipient stays in the queue.
        """
        isExpired = isinstance(outcome, Retry) and not waits
        word = "expired" if isExpired else type(outcome).__name__.lower()
        stage = self._deliveries.stage(attempt.delivery)
        details, reply = outcome.details, "" if outcome.reply is None else str(outcome.reply)
        seconds = self._clock.seconds() - attempt.began
        more = details.line()
        _log.tell(
            self._status,
            "{transaction} to=<{recipient}> {outcome} by {delivery}{log_said}, {seconds} s",
            event="delivery",
            transaction=attempt.work.envelope.id,
            recipient=str(addressee),
            outcome=word,
            delivery=attempt.delivery,
            use="none" if stage is None else self._status.useOf(stage),
            destination=attempt.destination,
            attempt=addressee.attempts + 1,
            reply=reply,
            host=outcome.host,
            final="" if details.final is None else str(details.final),
            address=details.address,
            port=details.port,
            tls=details.tls,
            verified=details.verified,
            cause=details.cause,
            seconds=round(seconds, 3),
            log_said="".join((f" {reply}" if reply else "", f" ({more})" if more else "")),
        )

    def untold(self, attempt: Attempt, addressee: Addressee) -> None:
        """
        A recipient has waited for too long, and the sender is not told.
        """
        _log.tell(
            self._status,
            "{transaction} to=<{recipient}> expired, and the sender is not told",
            event="untold",
            level=LogLevel.error,
            transaction=attempt.work.envelope.id,
            recipient=str(addressee),
        )

    def failed(self, attempt: Attempt, failure: Failure) -> None:
        """
        A delivery has raised, or has taken too long.
        """
        if failure.check(TimeoutError):
            happened(self._status, "late", {"stage": "delivery"})
        self.problem(attempt, f"failed: {errorText(failure)}")

    def problem(self, attempt: Attempt, problem: str) -> None:
        """
        Something is wrong with an attempt or with what its stage says.
        """
        stage = self._deliveries.stage(attempt.delivery)
        _log.error(
            "{transaction}: delivery {delivery} ({stage}) of {recipients} {problem}",
            transaction=attempt.work.envelope.id,
            delivery=attempt.delivery,
            stage="none" if stage is None else type(stage).__name__,
            recipients=attempt.recipients,
            problem=problem,
        )

    def leftAlone(self, destination: str, last: HopReport, seconds: float) -> None:
        """
        @param last: what it met.
        @param seconds: for how long; 0 where it works again.
        """
        if not seconds:
            _log.tell(
                self._status,
                "{destination} works again",
                event="works",
                destination=destination,
            )
            return
        _log.tell(
            self._status,
            "{destination} is left alone for {seconds} s: {host} {reply} {cause}",
            event="backoff",
            level=LogLevel.warn,
            destination=destination,
            seconds=round(seconds),
            host=last.host,
            reply="" if last.reply is None else str(last.reply),
            cause=last.details.cause,
        )
