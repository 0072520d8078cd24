"""
A message on its way out, and where its recipients stand.
"""

from __future__ import annotations

import attrs

from deferrals.model.envelope import Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import NO_MARKS, Marks


@attrs.frozen
class Addressee:
    """
    A recipient that will be delivered.

    @ivar recipient: with its route.
    @ivar marks: how its copy is marked.
    @ivar seq: its number in the message.
    @ivar attempts: how often its delivery has been tried.
    @ivar refusal: for one who refuses a message that was accepted for all: it is
        not delivered, its sender is told of this reply.
    @ivar action: what its sender is to be told of it, an L{Ended.action} or
        C{"delayed"}; empty while it is to be delivered.
    @ivar reply: what was last said about it.
    @ivar host: who said that.
    """

    recipient: Recipient
    marks: Marks = NO_MARKS
    seq: int = 0
    attempts: int = 0
    refusal: Reply | None = None
    action: str = attrs.field(default="", eq=False)
    reply: Reply | None = attrs.field(default=None, eq=False)
    host: str = attrs.field(default="", eq=False)

    def __str__(self) -> str:
        return str(self.recipient)


@attrs.frozen
class Gone:
    """
    The recipient leaves the queue, and nobody needs to be told.

    @ivar event: why, in a word, for the message's history.
    """

    event: str = "delivered"
    reply: Reply | None = None
    host: str = ""


@attrs.frozen
class Waits:
    """
    The recipient is due again.

    @ivar destination: the next hop that it waits for; its fellow sufferers
        have the same.
    @ivar seconds: until then.
    @ivar expireSeconds: the age of the message at which it is given up.
    @ivar warnSeconds: the age at which its sender is told that it is late; 0
        for never.
    @ivar attempted: whether there has been an attempt; otherwise it has merely
        been put back.
    """

    destination: str
    seconds: float
    expireSeconds: float
    warnSeconds: float
    reply: Reply | None = None
    host: str = ""
    attempted: bool = True


@attrs.frozen
class Ended:
    """
    The outcome stands; the recipient leaves the queue when its sender has been
    told.

    @ivar action: C{"failed"}, C{"expired"}, C{"delivered"} or C{"relayed"}.
    """

    action: str
    reply: Reply | None = None
    host: str = ""


@attrs.frozen
class Warned:
    """
    The sender has been told that the recipient's copy is late.
    """


@attrs.frozen
class Stuck:
    """
    The sender should be told, and cannot be: kept for the operator.

    @ivar keepSeconds: for how long.
    """

    keepSeconds: float


#: Where a recipient stands after an attempt, or after its sender was told.
Standing = Gone | Waits | Ended | Warned | Stuck
