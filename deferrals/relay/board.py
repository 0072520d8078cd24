"""
Outcomes for a session that waits for them (S-6): it has taken responsibility
for a message, and tells its sender what became of it.

Deliveries of such a message go through L{Board.watch}, and what they come to is
posted here on its way to the scheduler.  Where the session can hand a recipient
back to its sender (LMTP: whoever is refused is the client's), the scheduler is
told so: no notice is written, and nothing is tried again.  Once the session no
longer waits, everything goes its usual way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.interfaces import IDeliveryStage, Work
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.verdict import Failed, Outcome, Retry


class Expectation:
    """
    What one session waits for.

    @ivar outcomes: what is known, by C{seq}.
    @ivar done: fires when everything is known, or it has ended.
    """

    def __init__(self, work: Work, handsBack: bool, ended: Callable[[], object]) -> None:
        self.handsBack = handsBack
        self._open = {addressee.seq for addressee in work.addressees}
        self._ended = ended
        self.outcomes: dict[int, Outcome] = {}
        self.done: Deferred[None] = Deferred()

    def post(self, outcomes: Mapping[Addressee, Outcome], group: Iterable[Addressee]) -> None:
        """
        An attempt to deliver to C{group} is over.
        """
        self.outcomes.update({one.seq: outcome for one, outcome in outcomes.items()})
        self._open -= {one.seq for one in group}
        if not self._open:
            self.end()

    def end(self) -> None:
        """
        Do not wait any longer.
        """
        if not self.done.called:
            self._ended()
            self.done.callback(None)


class Board:
    """
    All that is waited for, by transaction.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Expectation] = {}

    def expect(self, work: Work, handsBack: bool) -> Expectation:
        """
        Call before the work is released.

        @param handsBack: whether the sender keeps whom it is told to be
            refused, for good or for now.
        """
        number = work.envelope.transaction
        self._waiting[number] = expectation = Expectation(
            work, handsBack, lambda: self._waiting.pop(number)
        )
        return expectation

    def watch(self, stage: Any) -> Any:
        """
        @param stage: L{IDeliveryStage}, or L{None}.
        @return: what is to be used instead.
        """
        return stage if stage is None or not self._waiting else _Watched(stage, self)

    def posted(self, transaction: int, group: Sequence[Addressee], outcomes: Any) -> Any:
        """
        @return: the outcomes for the scheduler.
        """
        expectation = self._waiting.get(transaction)
        if expectation is None or not isinstance(outcomes, Mapping):
            return outcomes
        expectation.post(outcomes, group)
        if not expectation.handsBack:
            return outcomes
        return {one: _handedBack(outcome) for one, outcome in outcomes.items()}

    def failed(self, transaction: int, group: Sequence[Addressee]) -> None:
        """
        Nobody knows what became of these: they stay in the queue.
        """
        expectation = self._waiting.get(transaction)
        if expectation is not None:
            expectation.post({}, group)


def _handedBack(outcome: Any) -> Any:
    if isinstance(outcome, Failed):
        return attrs.evolve(outcome, told=True)
    return Failed(outcome.reply, outcome.host, True) if isinstance(outcome, Retry) else outcome


@implementer(IDeliveryStage)
class _Watched:
    """
    A delivery stage that posts its outcomes.
    """

    def __init__(self, stage: Any, board: Board) -> None:
        self._stage = stage
        self._board = board

    def destination(self, recipient: Recipient) -> str:
        return str(self._stage.destination(recipient))

    def deliver(self, message: Any, envelope: Envelope, recipients: Sequence[Addressee]) -> Any:
        number = envelope.transaction
        d = maybeDeferred(self._stage.deliver, message, envelope, recipients)

        def failed(failure: Failure) -> Failure:
            self._board.failed(number, recipients)
            return failure

        return d.addCallbacks(lambda found: self._board.posted(number, recipients, found), failed)
