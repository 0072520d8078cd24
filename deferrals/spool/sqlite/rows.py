"""
Values into rows, and rows into values.

What is read here may have been damaged: whatever is wrong with a row is a
C{ValueError}, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

from deferrals.interfaces import Work
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import (
    Envelope,
    Recipient,
    envelopeFromJSON,
    envelopeToJSON,
    recipientFromJSON,
    recipientToJSON,
)
from deferrals.model.reply import Reply
from deferrals.model.verdict import Marks
from deferrals.spool.message import Message
from deferrals.spool.sqlite.batch import Insert, Value
from deferrals.spool.sqlite.schema import LEASED

_encode = json.JSONEncoder(separators=(",", ":")).encode

#: A row as SQLite gives it: the columns' types are in the schema, and what is
#: damaged may have another.
Row: TypeAlias = tuple[Any, ...]

#: The columns that L{addressee} reads.
ADDRESSEE = "seq, attempts, delivery, recipient, marks, refusal, action, reply, host"

#: The columns that L{envelope} reads.
ENVELOPE = "id, received, envelope"


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
        _encode(envelopeToJSON(envelope)),
        message.size,
        message.digest,
        now,
    )
    recipients = [_recipient(envelope.transaction, one, lease) for one in addressees]
    work = Work(envelope, message, tuple(addressees), True)
    return Insert(row, message.body, recipients, work)


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
        _encode(recipientToJSON(to)),
        None if marks is None else _encode(marks),
        replyText(addressee.refusal),
    )


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
        if not isinstance(attempts, int):
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
