"""
Deliveries written for twisted.mail's own server, behind this one.

An C{twisted.mail.interfaces.IMessageDelivery} decides about a sender, about each
recipient, and takes the message line by line.  Stock C{twisted.mail.smtp.ESMTP}
answers 550 for all recipients as soon as one recipient's message fails.
L{MessageDelivery} gives the same delivery, unchanged, an answer for each
recipient.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from weakref import WeakKeyDictionary

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.mail.interfaces import (
    IMessageDelivery,
    IMessageDeliveryFactory,
    IMessageSMTP,
)
from twisted.mail.smtp import Address, SMTPServerError, User
from zope.interface import implementer

from deferrals.interfaces import (
    IContentStage,
    IDeliveryStage,
    IEnvelopeStage,
    IMessage,
    ISenderStage,
    ITransactionObserver,
)
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import (
    ACCEPT,
    ContentVerdict,
    Defer,
    Delivered,
    EnvelopeVerdict,
    Outcome,
    Refuse,
)

__all__ = ["MessageDelivery"]

#: So many lines are fed to a delivery before other work has its turn.
LINES_AT_ONCE = 1000

_Opener = Callable[[], IMessageSMTP]


@attrs.define(eq=False)
class _AdaptedTransaction:
    """
    What a delivery has said in one transaction.

    @ivar delivery: the one that was asked about the sender.
    @ivar helo: what twisted.mail calls so: the client's name and its address.
    @ivar origin: the sender, as the delivery wants to have it.
    @ivar openers: for each recipient's address, the functions that begin its
        copies, one for each RCPT TO that named it.
    """

    delivery: IMessageDelivery
    helo: tuple[bytes, bytes]
    origin: Address
    openers: dict[str, list[tuple[User, _Opener]]] = attrs.field(factory=dict)


@implementer(ISenderStage, IEnvelopeStage, IContentStage, IDeliveryStage, ITransactionObserver)
class MessageDelivery:
    """
    All three stages at once, around a delivery for twisted.mail.

    C{validateFrom} answers MAIL FROM and C{validateTo} answers RCPT TO.  After
    the data each recipient's message is fed with the lines, and C{eomReceived}
    decides for that recipient alone: where it fails with an
    C{twisted.mail.smtp.SMTPServerError} of 4xx or 5xx, that is
    the recipient's reply; any other failure refuses for now.

    Its price: C{eomReceived} stores before the final reply (against S-4 and
    D-20), as it does in twisted.mail.  So a client that is lost in between and
    sends again makes a duplicate.  Use it with C{spool=None}: there is nothing
    left to deliver that a spool would have to keep.

    @param delivery: shared by all transactions, or a factory that is asked for
        one at each MAIL FROM.
    @param reactor: with it a large message is fed in pieces, other work between
        them; without it a message is fed all at once.
    """

    def __init__(
        self,
        delivery: IMessageDelivery | IMessageDeliveryFactory,
        reactor: IReactorTime | None = None,
    ) -> None:
        if not (
            IMessageDelivery.providedBy(delivery) or IMessageDeliveryFactory.providedBy(delivery)
        ):
            raise TypeError(
                f"expected an IMessageDelivery or an IMessageDeliveryFactory, not {delivery!r}"
            )
        self._delivery = delivery
        self._clock = reactor
        self._transactions: WeakKeyDictionary[Envelope, _AdaptedTransaction] = WeakKeyDictionary()

    async def judgeSender(self, envelope: Envelope) -> Refuse | None:
        """
        Ask C{validateFrom}.
        """
        client = envelope.client
        transaction = _AdaptedTransaction(
            self._find(),
            (client.helo.encode("utf-8"), client.address.encode("ascii", "replace")),
            Address(envelope.senderText.encode("utf-8")),
        )
        try:
            transaction.origin = await maybeDeferred(
                transaction.delivery.validateFrom, transaction.helo, transaction.origin
            )
        except SMTPServerError as error:
            return _refusal(error)
        self._transactions[envelope] = transaction
        return None

    def _find(self) -> IMessageDelivery:
        if IMessageDelivery.providedBy(self._delivery):
            return self._delivery
        delivery: IMessageDelivery = self._delivery.getMessageDelivery()
        return delivery

    async def judgeRecipient(self, envelope: Envelope, recipient: Recipient) -> EnvelopeVerdict:
        """
        Ask C{validateTo}.
        """
        transaction = self._transactions[envelope]
        address = str(recipient.address)
        user = User(address.encode("utf-8"), transaction.helo, None, transaction.origin)
        try:
            opener = await maybeDeferred(transaction.delivery.validateTo, user)
        except SMTPServerError as error:
            return _refusal(error)
        transaction.openers.setdefault(address, []).append((user, opener))
        return Defer()

    def cohort(self, recipient: Recipient) -> Hashable:
        """
        Each recipient has a message of its own.
        """
        return str(recipient.address)

    async def judge(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Recipient]
    ) -> ContentVerdict:
        """
        Feed the recipient's message, and wait for C{eomReceived}.
        """
        transaction = self._transactions[envelope]
        try:
            for user, opener in transaction.openers[str(recipients[0].address)]:
                await _feed(message, opener(), _traceField(transaction, user), self._clock)
        except SMTPServerError as error:
            return _refusal(error)
        return ACCEPT

    def destination(self, recipient: Recipient) -> str:
        """
        One for all: nothing is sent.
        """
        return "twisted.mail"

    def deliver(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Addressee]
    ) -> Mapping[Addressee, Outcome]:
        """
        Nothing is left to do: C{eomReceived} has stored it.
        """
        return {addressee: Delivered() for addressee in recipients}

    def ended(
        self,
        envelope: Envelope,
        answers: Sequence[tuple[Recipient, Reply]],
        final: Reply | None,
    ) -> None:
        """
        Forget the transaction.
        """
        self._transactions.pop(envelope, None)


def _traceField(transaction: _AdaptedTransaction, user: User) -> bytes:
    """
    What the delivery wants in front of a recipient's copy.
    """
    field: bytes = transaction.delivery.receivedHeader(transaction.helo, transaction.origin, [user])
    return field


def _refusal(error: SMTPServerError) -> Refuse:
    """
    The reply that a delivery has raised, with its text made harmless.  A code
    that is no refusal becomes 451.
    """
    text = error.resp.decode("utf-8", "replace") if isinstance(error.resp, bytes) else error.resp
    code = error.code if 400 <= error.code < 600 else 451
    return Refuse(Reply(code, f"{code // 100}.0.0", str(text)))


async def _feed(
    message: IMessage, target: IMessageSMTP, traceField: bytes, clock: IReactorTime | None
) -> None:
    """
    Give C{target} the lines of a message.  It is told that the connection was
    lost when it does not come to its end, whatever the reason is.

    @raise SMTPServerError: it refuses.
    """
    isComplete = False
    try:
        if traceField:
            target.lineReceived(traceField)
        with message.open() as file:
            for number, line in enumerate(file, 1):
                target.lineReceived(line.removesuffix(b"\n").removesuffix(b"\r"))
                if clock is not None and number % LINES_AT_ONCE == 0:
                    await deferLater(clock, 0)
        isComplete = True
        await maybeDeferred(target.eomReceived)
    finally:
        if not isComplete:
            target.connectionLost()
