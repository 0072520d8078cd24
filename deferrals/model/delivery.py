"""
A message on its way out.
"""

from __future__ import annotations

from typing import Any

import attrs

from deferrals.model.envelope import Envelope, Recipient
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
    """

    recipient: Recipient
    marks: Marks = NO_MARKS
    seq: int = 0
    attempts: int = 0
    refusal: Reply | None = None

    def __str__(self) -> str:
        return str(self.recipient)


@attrs.frozen(eq=False)
class Work:
    """
    What is to be delivered of one message.

    @ivar envelope: where it came from.
    @ivar message: L{IMessage<deferrals.interfaces.IMessage>}.
    @ivar addressees: who is to have it now.
    @ivar whole: whether nobody else is left to have it.
    """

    envelope: Envelope
    message: Any
    addressees: tuple[Addressee, ...]
    whole: bool = False
