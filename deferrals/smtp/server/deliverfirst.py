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

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import withDeadline
from deferrals.interfaces import Work
from deferrals.logger import Logger
from deferrals.model.deliveryreport import resultLine, resultReply, shortened
from deferrals.model.listener import ListenerSettings
from deferrals.model.reply import Reply
from deferrals.model.transaction import Transaction
from deferrals.model.verdict import Outcome
from deferrals.smtp.server import maillog
from deferrals.smtp.server.settings import Backend

_log = Logger(namespace="deferrals.transaction")


class Immediate:
    """
    One message whose delivery is waited for.

    @param settings: the listener's; they say how long the reply waits.
    @param work: staged; L{start} releases it.
    @param seqs: the C{seq} of the addressee by the index of the recipient: for
        each recipient that takes the message.
    """

    def __init__(
        self,
        transaction: Transaction,
        backend: Backend,
        settings: ListenerSettings,
        clock: IReactorTime,
        work: Work,
        seqs: Mapping[int, int],
    ) -> None:
        self._transaction = transaction
        self._backend = backend
        self._seconds = settings.delivery_deadline
        self._clock = clock
        self._work = work
        self._seqs = seqs
        self._outcomes: Mapping[int, Outcome] = {}
        self._waiting: Deferred[None] | None = None
        self._began = clock.seconds()
        self._isLate = False

    def start(self, done: Callable[[], None]) -> None:
        """
        Let it be delivered.

        @param done: called once, when there is nothing more to wait for;
            perhaps at once.
        """
        attempt = self._backend.attempt
        assert attempt is not None
        handsBack = self._transaction.form.takesEach
        outcomes = withDeadline(self._clock, self._seconds, attempt, self._work, handsBack)
        self._waiting = outcomes.addErrback(self._unknown).addCallback(self._over, done)

    def _unknown(self, failure: Failure) -> Mapping[int, Outcome]:
        _log.failure("{transaction}: delivery", failure, transaction=self._work.envelope.id)
        return {}

    def late(self) -> None:
        """
        The client has waited for as long as it may.
        """
        self._tellLate()
        self.end()

    def _tellLate(self) -> None:
        if not self._isLate:
            self._isLate = True
            maillog.late(self._backend.status, self._work.envelope, "delivery", "all")

    def end(self) -> None:
        """
        Do not wait any longer: what is not known is in the queue.
        """
        assert self._waiting is not None
        self._waiting.cancel()

    def _over(self, outcomes: Mapping[int, Outcome], done: Callable[[], None]) -> None:
        if self._clock.seconds() - self._began >= self._seconds:
            self._tellLate()
        self._outcomes = outcomes
        done()

    def replies(self) -> dict[int, Reply]:
        """
        The recipients' own replies, by their index.
        """
        return {index: resultReply(self._outcomes.get(seq)) for index, seq in self._seqs.items()}

    def lines(self) -> list[str]:
        """
        The same as lines of one reply; none where each recipient has its own
        one, and the client keeps the recipients that are refused.
        """
        if self._transaction.form.takesEach:
            return []
        candidates = self._transaction.candidates
        sender = self._transaction.envelope.sender
        tells = sender is not None and self._backend.mixed.reachable(sender)
        lines = []
        for index, seq in self._seqs.items():
            recipient, outcome = candidates[index].recipient, self._outcomes.get(seq)
            lines.append(resultLine(str(recipient), outcome, recipient.notify, tells))
        return shortened(lines)
