"""
What a sender is told of deliveries that have been tried while it waited (S-6):
a reply for each recipient (LMTP), or the lines of one reply (SMTP).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from deferrals.model.dsn import isWanted
from deferrals.model.reply import Reply
from deferrals.model.verdict import Delivered, Failed, Outcome, Retry

#: More lines than this no client is asked to read.
MAX_LINES = 200

R250_DELIVERED = Reply(250, "2.1.5", "delivered")
R250_QUEUED = Reply(250, "2.1.5", "queued, not delivered yet")


def resultReply(outcome: Outcome | None) -> Reply:
    """
    One recipient's reply (RFC 2033 §4.2): a recipient that is refused here is the
    sender's.

    @param outcome: C{None} where it is not known in time: then it is ours.
    """
    if outcome is None:
        return R250_QUEUED
    return R250_DELIVERED if isinstance(outcome, Delivered) else outcome.reply


def resultLine(
    address: str, outcome: Outcome | None, notify: Collection[str] | None, tells: bool
) -> str:
    """
    One recipient's line.

    @param notify: the recipient's NOTIFY=.
    @param tells: whether there is a sender that notices can go to.
    """
    said = "" if outcome is None or outcome.reply is None else _flat(outcome.reply)
    if isinstance(outcome, Delivered):
        return f"<{address}> delivered"
    if isinstance(outcome, Failed):
        notice = ", a notice is on its way" if tells and isWanted(notify, "failed") else ""
        return f"<{address}> refused{notice}: {said}"
    if isinstance(outcome, Retry):
        return f"<{address}> queued for retry: {said}"
    return f"<{address}> queued"


def _flat(reply: Reply) -> str:
    return " ".join(str(reply).split())[:300]


def shortened(lines: Sequence[str]) -> list[str]:
    """
    So many lines that a client can read them.
    """
    if len(lines) <= MAX_LINES:
        return list(lines)
    return [*lines[: MAX_LINES - 1], f"and {len(lines) - MAX_LINES + 1} more recipients"]
