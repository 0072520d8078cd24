"""
What the log says of a transaction: one event per recipient's verdict and one
per transaction, and one per session.  Never any content.

The keys of an event are public: C{--log-format json} writes them as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from twisted.logger import LogLevel

from deferrals.logger import Logger
from deferrals.model.envelope import Client, Envelope, Recipient
from deferrals.model.reply import Reply
from deferrals.model.status import Status
from deferrals.model.text import word
from deferrals.model.verdict import Accept, ContentVerdict

log = Logger(namespace="deferrals.transaction")
_sessionLog = Logger(namespace="deferrals.session")

#: Of what a client says of itself and of its message, so many characters are logged.
MAX_WORD = 250


def recipientVerdict(
    status: Status,
    envelope: Envelope,
    recipient: str,
    stage: str,
    cohort: str,
    reply: Reply,
    seconds: float,
    why: str = "",
    alias: str = "",
    marked: bool = False,
) -> None:
    """
    One recipient has its answer.

    @param status: where it is counted.
    @param stage: C{"envelope"} or C{"content"}.
    @param cohort: e.g. C{"strict/2"}: its policy, and a number that is equal
        for the members of one cohort of this transaction; empty if refused in
        the envelope.
    @param seconds: how long it took: since RCPT TO, or since the data's end.
    @param why: the rule, or the score and its limit, that decided.
    @param alias: of a member: the alias that the client has named.
    @param marked: whether its copy is filed as junk, or says so in its Subject.
    """
    format = _verdictFormat(bool(cohort), bool(why), bool(alias))
    values = _verdictOf(envelope, stage, cohort, reply, seconds, why, marked)
    values["recipient"], values["alias"] = recipient, alias or None
    log.tellOf(status, format, "recipient", values)


def recipientVerdicts(
    status: Status,
    envelope: Envelope,
    recipients: Iterable[str],
    stage: str,
    cohort: str,
    reply: Reply,
    seconds: float,
    why: str,
    marked: bool = False,
) -> None:
    """
    The same of several of one cohort, who have the same answer.
    """
    log.tellEach(
        status,
        _verdictFormat(bool(cohort), bool(why), False),
        [{"recipient": recipient} for recipient in recipients],
        event="recipient",
        **_verdictOf(envelope, stage, cohort, reply, seconds, why, marked),
    )


def _verdictOf(
    envelope: Envelope,
    stage: str,
    cohort: str,
    reply: Reply,
    seconds: float,
    why: str,
    marked: bool,
) -> dict[str, object]:
    return {
        "transaction": envelope.id,
        "client": envelope.client.address,
        "sender": envelope.senderText,
        "recipient": "",
        "alias": None,
        "stage": stage,
        "cohort": cohort,
        "reply": str(reply),
        "why": why or None,
        "marked": marked or None,
        "milliseconds": round(seconds * 1000, 1),
    }


def isMarked(verdict: ContentVerdict) -> bool:
    """
    Whether a copy is filed as junk, or says in its Subject what it is.
    """
    if not isinstance(verdict, Accept):
        return False
    return verdict.marks.junk or bool(verdict.marks.subjectPrefix)


@functools.cache
def _verdictFormat(hasCohort: bool, hasWhy: bool, hasAlias: bool) -> str:
    cohort, why = " {cohort}" if hasCohort else "", " [{why}]" if hasWhy else ""
    member = " alias=<{alias}>" if hasAlias else ""
    start = f"{{transaction}} to=<{{recipient}}>{member} {{stage}}"
    return f"{start}{cohort}: {{reply}}{why} ({{milliseconds}} ms)"


def discarded(status: Status, envelope: Envelope, recipient: Recipient, why: str) -> None:
    """
    A recipient takes the message, and throws it away: there is no copy, and no delivery.

    @param status: where it is counted, as a delivery.
    @param why: what decided.
    """
    alias = "" if recipient.alias is None else str(recipient.alias)
    member = " alias=<{alias}>" if alias else ""
    log.tell(
        status,
        f"{{transaction}} to=<{{recipient}}>{member} {{outcome}} [{{cause}}]",
        event="delivery",
        transaction=envelope.id,
        recipient=str(recipient),
        alias=alias,
        outcome="discarded",
        use="none",
        cause=why or "nothing more is known",
    )


def senderRefused(status: Status, client: Client, listener: str, sender: str, reply: Reply) -> None:
    """
    A MAIL FROM is refused before there is a transaction, and so an id.

    @param status: where it is counted.
    @param sender: what stood there, perhaps no address.
    """
    user = None if client.user is None else word(client.user, MAX_WORD)
    names = _who(user is not None, client.tls is not None)
    log.tell(
        status,
        "{client} helo={helo}" + "".join(names) + " from=<{sender}> refused: {reply}",
        event="sender",
        client=client.address,
        helo=client.helo,
        user=user,
        tls=client.tls,
        listener=listener,
        sender=word(sender, MAX_WORD),
        reply=str(reply),
    )


def late(status: Status, envelope: Envelope, stage: str, about: str) -> None:
    """
    What a client waits for has not come in time: it is told to come again; or, of a
    delivery, that the message is in the queue.

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


@functools.cache
def _endFormat(hasUser: bool, hasTLS: bool, hasMessageId: bool) -> str:
    """
    The line of a transaction, with what is known of it.
    """
    user, tls = _who(hasUser, hasTLS)
    messageId = " message-id=<{messageId}>" if hasMessageId else ""
    return (
        f"{{transaction}} {{client}} helo={{helo}}{user}{tls} from=<{{sender}}>{messageId}"
        " size={size} {rung}, {accepted} of {recipients} accepted: {reply} ({milliseconds} ms)"
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
    messageId: str = "",
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
    @param messageId: the message's own, as its author says.
    """
    client = envelope.client
    user = None if client.user is None else word(client.user, MAX_WORD)
    values: dict[str, object] = {
        "transaction": envelope.id,
        "client": client.address,
        "helo": client.helo,
        "user": user,
        "tls": client.tls,
        "listener": envelope.listener,
        "sender": envelope.senderText,
        "messageId": word(messageId, MAX_WORD) if messageId else None,
        "size": size,
        "rung": rung,
        "recipients": recipients,
        "accepted": accepted,
        "sentAway": sentAway,
        "reply": reply,
        "milliseconds": round(seconds * 1000, 1),
        "answered": None if answered is None else round(answered * 1000, 1),
    }
    format = _endFormat(user is not None, client.tls is not None, bool(messageId))
    log.tellOf(status, format, "transaction", values)


def sessionEnd(
    status: Status,
    client: Client,
    listener: str,
    outcome: str,
    commands: int,
    refusal: Reply | None,
    isShown: bool,
) -> None:
    """
    A client has gone.

    @param status: where it is counted.
    @param outcome: what came of its session.
    @param commands: how many it has given.
    @param refusal: the last reply that refused anything.
    @param isShown: whether it has a line, and is not for those who debug only.
    """
    user = None if client.user is None else word(client.user, MAX_WORD)
    _sessionLog.tell(
        status,
        _sessionFormat(user is not None, client.tls is not None, refusal is not None),
        event="session",
        level=LogLevel.info if isShown else LogLevel.debug,
        client=client.address,
        listener=listener,
        outcome=outcome,
        helo=client.helo,
        user=user,
        tls=client.tls,
        commands=commands,
        reply=None if refusal is None else str(refusal),
    )


@functools.cache
def _sessionFormat(hasUser: bool, hasTLS: bool, hasReply: bool) -> str:
    user, tls = _who(hasUser, hasTLS)
    reply = ", the last refusal: {reply}" if hasReply else ""
    return (
        f"{{client}} helo={{helo}}{user}{tls} has gone from {{listener}} without mail:"
        f" {{commands}} commands{reply}"
    )


def _who(hasUser: bool, hasTLS: bool) -> tuple[str, str]:
    return (" user={user}" if hasUser else "", " tls=({tls})" if hasTLS else "")
