"""
A recipient whose copy is on its way out.
"""

from __future__ import annotations

import attrs

from deferrals.model.envelope import Recipient
from deferrals.model.reply import Reply
from deferrals.model.verdict import NO_MARKS, Accept, ContentVerdict, Marks

__all__ = ["Addressee"]


@attrs.frozen(cache_hash=True)  # the key of every outcome
class Addressee:
    """
    A recipient that will be delivered.

    @ivar recipient: with its route.
    @ivar marks: how its copy is marked.
    @ivar seq: its number in the message.
    @ivar attempts: how often its delivery has been tried.
    @ivar refusal: the recipient's own refusal of a message that was accepted
        for all: the copy is not delivered, and the sender is told of this
        reply.  One that does not refuse is that to an alias: its members get the
        message.
    @ivar action: what the sender is to be told of the recipient, an
        L{action<deferrals.model.disposition.NotifyThenRemove>},
        C{"delayed"}, C{"stuck"} or C{"damaged"}; empty while the copy is to be
        delivered.
    @ivar reply: what was last said about the recipient.
    @ivar host: the server that said it.
    """

    recipient: Recipient
    marks: Marks = NO_MARKS
    seq: int = 0
    attempts: int = 0
    refusal: Reply | None = None
    action: str = attrs.field(default="", eq=False)
    reply: Reply | None = attrs.field(default=None, eq=False)
    host: str = attrs.field(default="", eq=False)

    @classmethod
    def accepting(
        cls, recipient: Recipient, verdict: ContentVerdict | None, seq: int = 0
    ) -> Addressee:
        """
        A recipient that takes a message.

        @param verdict: what the content stages have said of it.
        """
        if not isinstance(verdict, Accept):
            return cls(recipient, seq=seq)
        if verdict.route is not None:
            recipient = recipient.routed(verdict.route)
        return cls(recipient, verdict.marks, seq)

    def __str__(self) -> str:
        return str(self.recipient)
