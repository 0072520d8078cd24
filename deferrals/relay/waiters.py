"""
Sessions that wait for the outcomes of a message (S-6).

Such a session has taken responsibility for its message, and tells its client what
became of it.  Where the client keeps every recipient that it is told to be refused
(LMTP), those recipients leave the queue.  Once the session no longer waits, everything
goes its usual way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from twisted.internet.defer import Deferred

from deferrals.interfaces import Work
from deferrals.model.delivery import Addressee
from deferrals.model.disposition import handedBack
from deferrals.model.verdict import Outcome


class _Waiter:
    """
    A session that waits for the outcomes of one message.

    @ivar handsBack: whether its client keeps every recipient that it is told
        to be refused.
    @ivar done: fires with the outcomes that are known, by C{seq}, when all
        attempts have ended or it has been cancelled.
    """

    def __init__(self, work: Work, handsBack: bool, ended: Callable[[], object]) -> None:
        self.handsBack = handsBack
        self.done: Deferred[dict[int, Outcome]] = Deferred(lambda _: self._end())
        self._open = {addressee.seq for addressee in work.addressees}
        self._outcomes: dict[int, Outcome] = {}
        self._ended = ended

    def heard(self, outcomes: Mapping[Addressee, Outcome]) -> None:
        """
        What is known of an attempt's recipients; the others stay in the queue.
        """
        self._outcomes.update({one.seq: outcome for one, outcome in outcomes.items()})

    def attempted(self, addressees: Iterable[Addressee]) -> None:
        """
        An attempt is over, and the queue has no recipient any longer that its client
        keeps: one that is told to be refused before that would be the client's and
        ours, if we died now.

        @param addressees: its recipients.
        """
        self._open -= {one.seq for one in addressees}
        if not self._open:
            self._end()

    def _end(self) -> None:
        self._ended()
        self.done.callback(self._outcomes)


class Waiters:
    """
    The sessions that wait, by the number of their message.
    """

    def __init__(self) -> None:
        self._waiters: dict[int, _Waiter] = {}

    def __contains__(self, number: object) -> bool:
        return number in self._waiters

    def add(self, work: Work, handsBack: bool) -> Deferred[dict[int, Outcome]]:
        """
        @param handsBack: whether its client keeps every recipient that it is told to
            be refused, for good or for now.
        @return: see L{Scheduler.releaseAndWait
            <deferrals.relay.scheduler.Scheduler.releaseAndWait>}.
        """
        number = work.envelope.transaction
        waiter = _Waiter(work, handsBack, lambda: self._waiters.pop(number))
        self._waiters[number] = waiter
        return waiter.done

    def answer(
        self, number: int, outcomes: Mapping[Addressee, Outcome]
    ) -> Mapping[Addressee, Outcome]:
        """
        What the session that waits for a message will be told, if there is one.

        @return: the outcomes for the queue.
        """
        waiter = self._waiters.get(number)
        if waiter is None:
            return outcomes
        waiter.heard(outcomes)
        if not waiter.handsBack:
            return outcomes
        return {addressee: handedBack(outcome) for addressee, outcome in outcomes.items()}

    def tell(self, part: Work) -> None:
        """
        The queue has what became of these recipients.
        """
        waiter = self._waiters.get(part.envelope.transaction)
        if waiter is not None:
            waiter.attempted(part.addressees)
