"""
What the log says of a transaction: one event per recipient's verdict and one
per transaction.  Never any content.

The keys of an event are public: C{--log-format json} writes them as they are.
"""

from __future__ import annotations

from twisted.logger import LogLevel

from deferrals.logger import Logger
from deferrals.model.envelope import Envelope
from deferrals.model.reply import Reply
from deferrals.model.status import Status

log = Logger(namespace="deferrals.transaction")


def recipientVerdict(
    status: Status,
    envelope: Envelope,
    recipient: str,
    stage: str,
    cohort: str,
    reply: Reply,
    seconds: float,
) -> None:
    """
    One recipient has its answer.

    @param status: where it is counted.
    @param stage: C{"envelope"} or C{"content"}.
    @param cohort: e.g. C{"strict/2"}: its policy, and a number that is equal
        for the members of one cohort of this transaction; empty if refused in
        the envelope.
    @param seconds: how long it took: since RCPT TO, or since the data's end.
    """
    log.tell(
        status,
        "{transaction} to=<{recipient}> {stage} {cohort}: {reply} ({milliseconds} ms)",
        event="recipient",
        transaction=envelope.id,
        client=envelope.client.address,
        sender=envelope.senderText,
        recipient=recipient,
        stage=stage,
        cohort=cohort,
        reply=str(reply),
        milliseconds=round(seconds * 1000, 1),
    )


def late(status: Status, envelope: Envelope, stage: str, about: str) -> None:
    """
    What a client waits for has not come in time: it is told to come again.

    @param status: where it is counted.
    @param stage: C{"envelope"}, C{"content"} or C{"delivery"}; C{"spool"} and
        C{"mixed"} where it is we who are late.
    @param about: which recipients.
    """
    log.tell(
        status,
        "{transaction}: {stage} is late for {about}",
        event="late",
        level=LogLevel.warn,
        transaction=envelope.id,
        client=envelope.client.address,
        stage=stage,
        about=about,
    )


def transactionEnd(
    status: Status,
    envelope: Envelope,
    rung: str,
    recipients: int,
    accepted: int,
    sentAway: int,
    size: int,
    reply: str,
    seconds: float,
    answered: float | None = None,
) -> None:
    """
    One transaction is over.

    @param status: where it is counted.
    @param rung: how it was answered; C{"aborted"} where there was no answer.
    @param sentAway: recipients that got 452 because of another cohort.
    @param size: octets of the message, as far as they came.
    @param reply: the final reply, or why there was none.
    @param seconds: since MAIL FROM.
    @param answered: how long the final reply took, since the data's end.
    """
    log.tell(
        status,
        "{transaction} {client} from=<{sender}> size={size} {rung}, {accepted} of {recipients}"
        " accepted: {reply} ({milliseconds} ms)",
        event="transaction",
        transaction=envelope.id,
        client=envelope.client.address,
        helo=envelope.client.helo,
        user=envelope.client.user,
        tls=envelope.client.tls,
        listener=envelope.listener,
        sender=envelope.senderText,
        size=size,
        rung=rung,
        recipients=recipients,
        accepted=accepted,
        sentAway=sentAway,
        reply=reply,
        milliseconds=round(seconds * 1000, 1),
        answered=None if answered is None else round(answered * 1000, 1),
    )
