"""
What the replies of a server mean for each recipient: the sending side's view
of a transaction.  Pure rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from deferrals.model.envelope import Form
from deferrals.model.reply import Reply

#: What a recipient's answer is when the server never gave one.
R451_NO_ANSWER = Reply(451, "4.4.2", "the connection was lost before the final reply")


@attrs.frozen
class Answer:
    """
    What one recipient was answered, all things considered.

    @ivar recipient: its address as text.
    @ivar reply: the reply that counts for it.
    @ivar stage: which one that was: C{"envelope"} (MAIL, RCPT, or no message
        at all), the recipient's own reply after the data (C{"recipient"}),
        C{"final"}, or C{"none"}: the server was given the message, and it is
        unknown what it made of it.
    @ivar final: the reply to the whole message, where it is not L{reply}: it has
        the server's id.
    """

    recipient: str
    reply: Reply
    stage: str
    final: Reply | None = None

    @property
    def accepted(self) -> bool:
        """
        Whether the server has taken responsibility for this recipient.
        """
        return self.reply.isPositive

    @property
    def temporary(self) -> bool:
        """
        Whether this recipient, and it is to be tried again.
        """
        return self.reply.isTemporary


@attrs.frozen
class Result:
    """
    What became of one message at one server.

    @ivar answers: one per recipient, in the order in which they were named.
    @ivar final: the last reply to the data; C{None} where there was none.
    @ivar form: what was asked for in MAIL FROM.
    @ivar enumerated: whether the server answered each recipient after the data.
    @ivar sender: the reply to MAIL FROM; C{None} where there was none.
    @ivar handedOver: whether the server was given the message (or part of it),
        so that without a final reply it is unknown whether it has taken it.
    @ivar lost: why the connection was given up; empty where it was not.
    @ivar chunked: whether the message went in a chunk (RFC 3030).
    """

    answers: tuple[Answer, ...]
    final: Reply | None
    form: Form
    enumerated: bool = False
    sender: Reply | None = None
    handedOver: bool = False
    lost: str = ""
    chunked: bool = False

    @property
    def accepted(self) -> list[Answer]:
        """
        The recipients that are the server's now.
        """
        return [answer for answer in self.answers if answer.accepted]

    @property
    def refused(self) -> list[Answer]:
        """
        The recipients that are still ours.
        """
        return [answer for answer in self.answers if not answer.accepted]


def weigh(
    recipients: Sequence[str],
    envelope: Sequence[Reply],
    form: Form,
    block: Mapping[int, Reply],
    final: Reply | None,
    missing: Reply = R451_NO_ANSWER,
    isExtended: bool = False,
) -> Result:
    """
    Put the replies together.

    A refusal in the envelope stands.  For the others the final reply has
    priority: where there is none, the message is still ours as a whole (D-21);
    where it is negative, it is the answer for all (P-11); where it is
    positive, each recipient's own reply counts, as if it had answered RCPT TO
    (D-6, D-11), or that to its RCPT TO where the block has none.

    Where each of them refuses in the block, a negative final reply only sums
    that up: a recipient that refuses as it does, for good or for now, keeps its
    own reply (P-9, P-11).

    Under LMTP, and in a 558, there is no final reply: each recipient's own one
    counts by itself (X-7, X-8).

    @param envelope: the replies to RCPT TO.
    @param block: the replies between 353 and the final one (or, under LMTP,
        all replies after the data; or those in a 558), by recipient.
    @param final: the final reply; under LMTP, and with a 558, C{None}.
    @param missing: stands for a reply that never came.
    @param isExtended: whether there was a 558.
    """
    answers = []
    sumsUp = final is not None and _sumsUp(final, envelope, block)
    for index, (recipient, reply) in enumerate(zip(recipients, envelope, strict=True)):
        if not (reply.isPositive or reply.isIntermediate):
            answers.append(Answer(recipient, reply, "envelope"))
        elif form is Form.LMTP or isExtended:
            own = block.get(index)
            answers.append(Answer(recipient, own or missing, "recipient" if own else "none"))
        elif final is None:  # D-21, P-10
            answers.append(Answer(recipient, missing, "none"))
        else:
            own = block.get(index)
            if own is not None and not final.isPositive and not (sumsUp and _isAlike(own, final)):
                own = None
            answers.append(_weighed(recipient, reply, own, final, bool(block), missing))
    return Result(tuple(answers), final, form, bool(block))


def _weighed(
    recipient: str,
    reply: Reply,
    own: Reply | None,
    final: Reply,
    hasBlock: bool,
    missing: Reply,
) -> Answer:
    """
    The answer for a recipient that was in, when there is a final reply.

    @param reply: to its RCPT TO.
    @param own: its own one after the data, where that counts.
    """
    if own is not None:  # D-6, D-11, P-11
        return Answer(recipient, own, "recipient", final)
    if final.isPositive and hasBlock and reply.isPositive:
        return Answer(recipient, reply, "envelope", final)
    if final.isPositive and hasBlock:  # D-11: a 352 that the block has left open
        return Answer(recipient, missing, "none")
    return Answer(recipient, final, "final")  # P-11


def _isAlike(reply: Reply, final: Reply) -> bool:
    return reply.code // 100 == final.code // 100


def _sumsUp(final: Reply, envelope: Sequence[Reply], block: Mapping[int, Reply]) -> bool:
    """
    Whether a final reply says no more than that all refuse who were in.
    """
    if final.isPositive:
        return False
    waiting = [index for index, reply in enumerate(envelope) if reply.code < 400]
    return all(index in block and block[index].code >= 400 for index in waiting)
