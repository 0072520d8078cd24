"""
What the log says of deliveries.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from deferrals.deferreds import TimeoutError, errorText
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import Disposition, Remove, Reschedule
from deferrals.model.status import Status
from deferrals.model.verdict import NO_DETAILS, Outcome, Retry
from deferrals.relay.attempts import Attempt, Deliveries
from deferrals.relay.destinations import HopReport

_log = Logger(namespace="deferrals.delivery")

_LINE = "{transaction} to=<{recipient}> {outcome} by {delivery}{log_said}, {seconds} s"

#: Of a member of an alias.
_MEMBER = _LINE.replace("<{recipient}>", "<{recipient}> alias=<{alias}>")

_ABOUT = "{transaction}: delivery {delivery} ({stage}) of {recipients}"


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

    def outcomes(
        self,
        attempt: Attempt,
        outcomes: Mapping[Addressee, Outcome],
        dispositions: Mapping[Addressee, Disposition],
    ) -> None:
        """
        What became of recipients, with what no sender is told.

        @param dispositions: what it makes of them.
        """

        def what(one: Addressee) -> tuple[int, int, Mailbox | None]:
            return id(outcomes[one]), id(dispositions[one]), one.recipient.alias

        seconds = round(self._clock.seconds() - attempt.began, 3)
        for _, group in itertools.groupby(outcomes, what):
            alike = list(group)
            disposition = dispositions[alike[0]]
            waits = isinstance(disposition, Reschedule)
            self._outcome(attempt, alike, outcomes[alike[0]], waits, seconds)
            if isinstance(disposition, Remove) and disposition.event == "expired":
                for addressee in alike:
                    self._untold(attempt, addressee)

    def _outcome(
        self,
        attempt: Attempt,
        alike: Sequence[Addressee],
        outcome: Outcome,
        waits: bool,
        seconds: float,
    ) -> None:
        """
        @param alike: recipients of which the same is said.
        @param waits: whether they stay in the queue.
        @param seconds: how long it took.
        """
        isExpired = isinstance(outcome, Retry) and not waits
        word = "expired" if isExpired else type(outcome).__name__.lower()
        details, reply = outcome.details, "" if outcome.reply is None else str(outcome.reply)
        more = "" if details is NO_DETAILS else details.line()
        stage = self._deliveries.stage(attempt.delivery)
        alias = alike[0].recipient.alias
        _log.tellEach(
            self._status,
            _LINE if alias is None else _MEMBER,
            [{"recipient": str(one), "attempt": one.attempts + 1} for one in alike],
            event="delivery",
            transaction=attempt.work.envelope.id,
            recipient="",
            alias="" if alias is None else str(alias),
            outcome=word,
            delivery=attempt.delivery,
            use="none" if stage is None else self._status.useOf(stage),
            destination=attempt.destination,
            attempt=0,
            reply=reply,
            host=outcome.host,
            final="" if details.final is None else str(details.final),
            address=details.address,
            port=details.port,
            tls=details.tls,
            verified=details.verified,
            cause=details.cause,
            seconds=seconds,
            log_said=(f" {reply}" if reply else "") + (f" ({more})" if more else ""),
        )

    def _untold(self, attempt: Attempt, addressee: Addressee) -> None:
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
            return self.problem(attempt, f"failed: {errorText(failure)}")
        _log.raised(failure, f"{_ABOUT} failed: {{error}}", **self._about(attempt))

    def problem(self, attempt: Attempt, problem: str) -> None:
        """
        Something is wrong with an attempt or with what its stage says.
        """
        _log.error(f"{_ABOUT} {{problem}}", problem=problem, **self._about(attempt))

    def _about(self, attempt: Attempt) -> dict[str, str]:
        stage = self._deliveries.stage(attempt.delivery)
        return {
            "transaction": attempt.work.envelope.id,
            "delivery": attempt.delivery,
            "stage": "none" if stage is None else type(stage).__name__,
            "recipients": attempt.recipients,
        }

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
