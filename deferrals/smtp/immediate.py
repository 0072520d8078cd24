"""
Delivery first, then the answer (S-6): the pure LMTP model.

Responsibility is taken before the reply says so, once the message is durable;
then its delivery is tried at once, and what became of it is the answer.  This
is what C{enumerate = "delivery"} asks for, against D-20 and P-10, which both
want the reply first.  A client that is lost meanwhile, and sends again, makes a
duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deferrals.model.delivery import Work
from deferrals.model.envelope import Form
from deferrals.model.reply import Reply
from deferrals.model.results import resultLine, resultReply, shortened
from deferrals.model.transaction import Transaction
from deferrals.smtp.settings import Intake


class Immediate:
    """
    One message whose delivery is waited for.

    @param work: staged; it is released here.
    @param seqs: the addressee of each recipient that takes the message, by the
        recipient's place.
    @param done: called once, when there is nothing more to wait for.
    """

    def __init__(
        self,
        transaction: Transaction,
        intake: Intake,
        clock: Any,
        work: Work,
        seqs: Mapping[int, int],
        done: Callable[[], None],
    ) -> None:
        self._transaction = transaction
        self._seqs = seqs
        lmtp = transaction.form is Form.LMTP
        self._expectation = intake.attempt(work, lmtp)
        self._timer = clock.callLater(intake.deliverySeconds, self.end)
        self._expectation.done.addCallback(self._over, done)

    def end(self) -> None:
        """
        Do not wait any longer: what is not known is in the queue.
        """
        self._expectation.end()

    def _over(self, _: None, done: Callable[[], None]) -> None:
        if self._timer.active():
            self._timer.cancel()
        done()

    def replies(self) -> dict[int, Reply]:
        """
        The recipients' own replies.
        """
        outcomes = self._expectation.outcomes
        return {place: resultReply(outcomes.get(seq)) for place, seq in self._seqs.items()}

    def lines(self) -> list[str]:
        """
        The same as lines of one reply.
        """
        outcomes, candidates = self._expectation.outcomes, self._transaction.candidates
        tells = self._transaction.envelope.sender is not None
        lines = []
        for place, seq in self._seqs.items():
            recipient = candidates[place].recipient
            lines.append(resultLine(str(recipient), outcomes.get(seq), recipient.notify, tells))
        return shortened(lines)
