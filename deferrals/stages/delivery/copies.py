"""
Recipients that are delivered to apart: each has an outcome of its own, whatever
becomes of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from deferrals.deferreds import asDeferred, errorText, letGo, together
from deferrals.interfaces import IMessage, MaybeAwaitable
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.verdict import Details, Outcome, Retry

_log = Logger(namespace="deferrals.delivery")

#: Takes an outcome as soon as it is known
#: (L{IReportingDelivery<deferrals.interfaces.IReportingDelivery>}).
Report: TypeAlias = Callable[[Addressee, Outcome], None]

#: Delivers to recipients that share a copy, and may report some outcomes before all of
#: them are known.
_DeliverGroup: TypeAlias = Callable[
    [Sequence[Addressee], Report], MaybeAwaitable[Mapping[Addressee, Outcome]]
]


def unreported(addressee: Addressee, outcome: Outcome) -> None:
    """
    A L{Report} to nothing.
    """


class ReportingDelivery:
    """
    A delivery that reports outcomes, for callers that wait for all of them.
    """

    def deliver(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Addressee]
    ) -> Deferred[dict[Addressee, Outcome]]:
        """
        See L{IDeliveryStage<deferrals.interfaces.IDeliveryStage>}.
        """
        return self.deliverReporting(message, envelope, recipients, unreported)

    def deliverReporting(
        self,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Report,
    ) -> Deferred[dict[Addressee, Outcome]]:
        """
        See L{IReportingDelivery<deferrals.interfaces.IReportingDelivery>}.
        """
        raise NotImplementedError


class _Apart:
    """
    Deliveries to groups of recipients, side by side.

    @ivar known: all outcomes so far.
    @ivar left: whether they are not waited for any longer.
    """

    def __init__(self, transaction: str, report: Report) -> None:
        self._transaction = transaction
        self._report = report
        self.known: dict[Addressee, Outcome] = {}
        self.left = False

    def heard(self, addressee: Addressee, outcome: Outcome) -> None:
        """
        The first outcome of a recipient counts.
        """
        if addressee not in self.known:
            self.known[addressee] = outcome
            self._report(addressee, outcome)

    def ended(self, outcomes: Mapping[Addressee, Outcome]) -> None:
        """
        All is known of a group.
        """
        for addressee, outcome in outcomes.items():
            self.heard(addressee, outcome)

    def failed(self, failure: Failure, group: Sequence[Addressee]) -> None:
        """
        What fails is this group's alone, as far as it has no outcomes.
        """
        if self.left and failure.check(CancelledError):
            return
        _log.raised(
            failure,
            "{transaction}: {stage} to {recipients} failed: {error}",
            stage="delivering",
            transaction=self._transaction,
            recipients=", ".join(map(str, group)),
        )
        for addressee in group:
            details = Details(errorText(failure))
            self.heard(addressee, Retry(R451_LOCAL_ERROR, details=details))


def deliverApart(
    envelope: Envelope,
    groups: Sequence[Sequence[Addressee]],
    deliver: _DeliverGroup,
    report: Report,
) -> Deferred[dict[Addressee, Outcome]]:
    """
    @param deliver: is called for each of the groups; whatever it raises, its
        recipients are to be tried again that have no outcome yet.
    @param report: is told each outcome as soon as it is known.
    @return: a Deferred of all outcomes, which fails only when it is cancelled.
    """
    apart = _Apart(envelope.id, report)
    running = [
        asDeferred(deliver, group, apart.heard)
        .addCallback(apart.ended)
        .addErrback(apart.failed, group)
        for group in groups
    ]

    def cancelled(_: Deferred[dict[Addressee, Outcome]]) -> None:
        apart.left = True
        for one in running:
            letGo(one)

    def over(_: list[None]) -> None:
        if not apart.left:
            result.callback({one: apart.known[one] for group in groups for one in group})

    result: Deferred[dict[Addressee, Outcome]] = Deferred(cancelled)
    together(running).addCallbacks(over, result.errback)
    return result
