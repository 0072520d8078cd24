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

from deferrals.interfaces import Work
from deferrals.model.deliveryreport import resultLine, resultReply, shortened
from deferrals.model.envelope import Form
from deferrals.model.reply import Reply
from deferrals.model.transaction import Transaction
from deferrals.smtp.server.settings import Backend


class Immediate:
    """
    One message whose delivery is waited for.

    @param work: staged; L{start} releases it.
    @param seqs: the addressee of each recipient that takes the message, by the
        recipient's place.
    """

    def __init__(
        self,
        transaction: Transaction,
        intake: Backend,
        clock: Any,
        work: Work,
        seqs: Mapping[int, int],
    ) -> None:
        self._transaction = transaction
        self._intake = intake
        self._clock = clock
        self._work = work
        self._seqs = seqs

    def start(self, done: Callable[[], None]) -> None:
        """
        Let it be delivered.

        @param done: called once, when there is nothing more to wait for;
            perhaps at once.
        """
        attempt = self._intake.attempt
        assert attempt is not None
        self._expectation = attempt(self._work, self._transaction.form is Form.LMTP)
        timer = self._clock.callLater(self._intake.deliverySeconds, self.end)
        self._expectation.done.addCallback(self._over, timer, done)

    def end(self) -> None:
        """
        Do not wait any longer: what is not known is in the queue.
        """
        self._expectation.end()

    def _over(self, _: None, timer: Any, done: Callable[[], None]) -> None:
        if timer.active():
            timer.cancel()
        done()

    def replies(self) -> dict[int, Reply]:
        """
        The recipients' own replies.
        """
        outcomes = self._expectation.outcomes
        return {place: resultReply(outcomes.get(seq)) for place, seq in self._seqs.items()}

    def lines(self) -> list[str]:
        """
        The same as lines of one reply; none under LMTP, which has no such
        reply, and whose client keeps whoever is refused.
        """
        if self._transaction.form is Form.LMTP:
            return []
        outcomes, candidates = self._expectation.outcomes, self._transaction.candidates
        tells = self._transaction.envelope.sender is not None
        lines = []
        for place, seq in self._seqs.items():
            recipient = candidates[place].recipient
            lines.append(resultLine(str(recipient), outcomes.get(seq), recipient.notify, tells))
        return shortened(lines)
