"""
Values into rows, and rows into values.

What is read here may have been damaged: whatever is wrong with a row is a
C{ValueError}, and nothing else.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

from deferrals.interfaces import MailKind, Work
from deferrals.model.address import Mailbox
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import (
    Client,
    Envelope,
    Parameters,
    Recipient,
    envelopeFromJSON,
    envelopeToJSON,
    recipientFromJSON,
    recipientToJSON,
)
from deferrals.model.reply import Reply
from deferrals.model.verdict import Marks
from deferrals.spool.batch import Insert, Value
from deferrals.spool.message import Message

_encode = json.JSONEncoder(separators=(",", ":")).encode

#: So many envelopes and recipients are remembered as text: the same ones come again and
#: again.
MAX_REMEMBERED = 1024

#: States of a message; the last one is that its recipients are not known.
STAGED, RELEASED, ASIDE = 0, 1, 2

#: States of a recipient: waits until it is due; is being delivered, or a notice
#: about it is being made; waits for the operator; the sender is to be told of
#: it; the sender cannot be told; its message cannot be read.
QUEUED, LEASED, HELD, ENDED, STUCK, DAMAGED = range(6)

STATUS_NAMES = ("queued", "active", "held", "ended", "stuck", "damaged")

#: Stands in C{action} of a recipient that is leased, and is to be held if that does not
#: deliver it.
HOLD = "hold"

#: A row as a database gives it: the columns' types are in the schema, and what is
#: damaged may have another.
Row: TypeAlias = tuple[Any, ...]

#: The columns that L{addressee} reads.
ADDRESSEE = "seq, attempts, delivery, recipient, marks, refusal, action, reply, host"

#: The columns that L{envelope} reads.
ENVELOPE = "id, received, envelope"


@attrs.frozen
class QueueRow:
    """
    A recipient as a store keeps it.

    @ivar due: when it may be delivered, or its lease ends, or its sender is to be told.
    @ivar owner: what it is leased to.
    @ivar expires: when it is given up, once that is known.
    @ivar notice: when its sender is to be told that it is late, or given up.
    @ivar warned: whether the sender knows that it is late.
    @ivar action: what the sender is to be told; or L{HOLD}.
    @ivar reply: what was said last, as text; so is C{refusal}, what the sender is told
        instead of a delivery.
    @ivar recipient: who it is, as text; so are C{marks}.
    """

    message: int
    seq: int
    status: int
    due: float
    owner: str | None = None
    destination: str = ""
    attempts: int = 0
    expires: float | None = None
    notice: float | None = None
    warned: int = 0
    action: str | None = None
    reply: str | None = None
    host: str | None = None
    delivery: str = ""
    recipient: str = ""
    marks: str | None = None
    refusal: str | None = None

    @property
    def addressee(self) -> tuple[Value, ...]:
        """What L{addressee} reads."""
        to = (self.seq, self.attempts, self.delivery, self.recipient, self.marks, self.refusal)
        return (*to, self.action, self.reply, self.host)


#: The columns of a row, in their order.
COLUMNS = tuple(column.name for column in attrs.fields(QueueRow))

#: Those that rules change.
CHANGING = COLUMNS[2:13]


def queueRow(columns: Row) -> QueueRow:
    """
    @param columns: what a store has in L{COLUMNS}; what is damaged is nothing.
    """
    number, seq, status, due, owner, destination, attempts, expires, notice, *rest = columns
    return QueueRow(
        *(number, seq, status, _number(due) or 0.0, owner, destination),
        attempts if isinstance(attempts, int) else -1,
        *(_number(expires), _number(notice), *rest),
    )


def _number(value: Value) -> float | None:
    return value if isinstance(value, int | float) else None


@attrs.frozen
class Lease:
    """
    @ivar owner: what has the recipients.
    @ivar until: when the lease ends, in the spool's time.
    """

    owner: str
    until: float


def insertion(
    envelope: Envelope,
    message: Message,
    addressees: Sequence[Addressee],
    *,
    state: int,
    now: float,
    lease: Lease,
) -> Insert:
    """
    The rows of a new message, whose recipients are leased.

    @param now: when it became a part of the spool, in the spool's time.
    """
    row = (
        envelope.transaction,
        state,
        envelope.received,
        _envelopeText(envelope),
        message.size,
        message.digest,
        now,
    )
    recipients = [_recipient(envelope.transaction, one, lease) for one in addressees]
    work = Work(envelope, message, tuple(addressees), True)
    return Insert(row, message.body, recipients, work)


def _envelopeText(envelope: Envelope) -> str:
    client, sender = envelope.client, envelope.sender
    return _sessionText(
        *(client, client.hostname, sender, "" if sender is None else sender.shownDomain),
        *(envelope.parameters, envelope.listener, envelope.spool),
    )


@functools.lru_cache(MAX_REMEMBERED)
def _sessionText(
    client: Client,
    hostname: str,
    sender: Mailbox | None,
    shownDomain: str,
    parameters: Parameters,
    listener: str,
    spool: str,
) -> str:
    """
    What is kept of an envelope: a session's are nearly all the same.

    @param hostname: the client's, in which equal ones may differ.
    @param shownDomain: the sender's, likewise.
    """
    envelope = Envelope(0, 0.0, client, sender, parameters, listener, spool)
    return _encode(envelopeToJSON(envelope))


@functools.lru_cache(MAX_REMEMBERED)
def _recipientText(recipient: Recipient, shownDomain: str, aliasDomain: str) -> str:
    """
    What is kept of a recipient.

    @param shownDomain: its address's, in which equal ones may differ.
    @param aliasDomain: its alias', likewise.
    """
    return _encode(recipientToJSON(recipient))


def _recipient(number: int, addressee: Addressee, lease: Lease) -> tuple[Value, ...]:
    to = addressee.recipient
    marks = addressee.marks.toJSON()
    return (
        number,
        addressee.seq,
        LEASED,
        lease.until,
        lease.owner,
        "" if to.route is None else to.route.delivery,
        _recipientText(to, to.address.shownDomain, to.aliases[0].shownDomain if to.aliases else ""),
        None if marks is None else _encode(marks),
        replyText(addressee.refusal),
    )


def freshRow(columns: tuple[Value, ...]) -> QueueRow:
    """
    @param columns: of a new message's recipient, as L{insertion} has them.
    """
    number, seq, status, due, owner, delivery, recipient, marks, refusal = columns
    waits = ("", 0, None, None, 0, None, None, None)
    return queueRow((number, seq, status, due, owner, *waits, delivery, recipient, marks, refusal))


def replyText(reply: Reply | None) -> str | None:
    """
    A reply as a column keeps it.
    """
    return None if reply is None else _encode([reply.code, reply.enhanced, reply.text])


def reply(text: str | None) -> Reply | None:
    """
    The inverse of L{replyText}.
    """
    if text is None:
        return None
    if not text.startswith("["):
        return Reply.parse(text)  # as format 1 kept it
    code, enhanced, words = json.loads(text)
    for value, kind in ((code, int), (enhanced, str | None), (words, str)):
        if not isinstance(value, kind):
            raise ValueError(f"a reply of {value!r}")
    return Reply.mended(code, enhanced, words)


def envelope(row: Row) -> Envelope:
    """
    @param row: the columns of L{ENVELOPE}.
    @raise ValueError: it is damaged.
    """
    number, received, text = row
    try:
        found = envelopeFromJSON(json.loads(text), number, received)
        found.senderText.encode()
    except Exception as error:
        raise ValueError(f"its envelope cannot be read: {_what(error)}") from None
    return found


@functools.lru_cache(MAX_REMEMBERED)
def kind(delivery: str, text: str) -> MailKind:
    """
    @param text: an envelope's column; where that is damaged, it is found out when the
        message is claimed.
    """
    try:
        data = json.loads(text)
        return MailKind(delivery, data["sender"] is None, data["client"].get("user"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return MailKind(delivery)


def recipient(text: str, delivery: str) -> Recipient:
    """
    A recipient's column.
    """
    return recipientFromJSON(json.loads(text), delivery)


def addressee(row: Row, action: str = "") -> Addressee:
    """
    @param row: the columns of L{ADDRESSEE}.
    @param action: what the sender is to be told, if that is not what the row says.
    @raise ValueError: it is damaged.
    """
    seq, attempts, delivery, to, marks, refusal, ended, text, host = row
    try:
        if not isinstance(attempts, int) or attempts < 0:
            raise ValueError(f"{attempts!r} attempts")
        found = Addressee(
            recipient(to, delivery),
            Marks.fromJSON(None if marks is None else json.loads(marks)),
            seq,
            attempts,
            reply(refusal),
            action or ended or "",
            reply(text),
            host or "",
        )
        str(found).encode()
    except Exception as error:
        raise ValueError(f"recipient {seq} cannot be read: {_what(error)}") from None
    return found


def _what(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
