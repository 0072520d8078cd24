"""
What deliveries know of a message beforehand: asked when its data is complete, before
its content is judged (L{IForeseeingMessageDelivery
<deferrals.interfaces.IForeseeingMessageDelivery>}).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import CancelledError, TimeoutError, withDeadline
from deferrals.interfaces import IMessage
from deferrals.logger import Logger
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.transaction import Transaction
from deferrals.model.verdict import NOWHERE

_log = Logger(namespace="deferrals.transaction")

#: So long, in seconds, it is waited for: then the content is judged.
SECONDS = 10.0

Foresee = Callable[[IMessage, Envelope, Sequence[Recipient]], Awaitable[Mapping[int, Reply]]]


def foreseen(
    foresee: Foresee,
    message: IMessage,
    transaction: Transaction,
    clock: IReactorTime,
    patience: float,
) -> Deferred[Mapping[int, Reply]]:
    """
    @param patience: how long the client waits for a reply, in seconds; half of it is
        left for the rest.
    @return: a Deferred of the replies of the candidates that can never be delivered, by
        their index, and behind them those of all members of aliases.  It never fails:
        what is not known is nothing that refuses.
    """
    recipients = [candidate.recipient for candidate in transaction.candidates]
    recipients += [member.recipient for _, _, member in transaction.members()]
    seconds = min(SECONDS, patience / 2)
    d = withDeadline(clock, seconds, foresee, message, transaction.envelope, recipients)
    return d.addErrback(_unknown, transaction).addCallback(_ofCopies, transaction)


def _ofCopies(replies: Mapping[int, Reply], transaction: Transaction) -> Mapping[int, Reply]:
    """
    Without those who throw the message away: there is no copy that could be delivered.
    """
    thrown = [candidate.nowhere for candidate in transaction.candidates]
    thrown += [member.known is NOWHERE for _, _, member in transaction.members()]
    return {index: reply for index, reply in replies.items() if not thrown[index]}


def _unknown(failure: Failure, transaction: Transaction) -> Mapping[int, Reply]:
    if failure.check(CancelledError):
        return {}  # the client is gone
    if failure.check(TimeoutError):
        _log.warn("{transaction}: foreseen too late", transaction=transaction.envelope.id)
    else:
        _log.failure("{transaction}: foreseen", failure, transaction=transaction.envelope.id)
    return {}
