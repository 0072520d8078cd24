"""
EXDATA, the extension of Courier: one reply with the code 558 whose lines are
replies of their own, one for each recipient::

    558-250 2.1.5 <lover@example.net> accepts the content
    558-550-5.7.1 <fighter@example.net> spam
    558 550 5.7.1 is not wanted

Rules without I/O: how such a reply is written, and what one that was read says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from deferrals.model.reply import WRAPPING_OCTETS, Reply, kept

#: The code that is kept for this.
EXTENDED = 558

#: A line of a recipient's own reply, behind C{558-} or C{558}.
_LINE = re.compile(r"([245][0-9][0-9])(?:([ -]).*)?", re.S)


def extendedReply(replies: Sequence[Reply]) -> Reply:
    """
    One 558 that says each recipient's own reply, whole, in their order (X-4,
    X-5, X-6).

    @param replies: one for each recipient whose RCPT TO was answered 2xx.
    """
    lines = [line for reply in replies for line in reply.coded(WRAPPING_OCTETS)]
    return Reply(EXTENDED, None, "\n".join(lines))


def ownReplies(lines: Sequence[str]) -> list[Reply]:
    """
    The recipients' replies in a 558, as far as they are whole (X-8).

    @param lines: the reply's, without C{558-} and C{558} before each; perhaps
        not all of them.
    @return: those before the first line that is none of a reply, and before
        one that has not come to its end.
    """
    found: list[Reply] = []
    begun: list[str] = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or (begun and line[:3] != begun[0][:3]):
            break
        begun.append(line)
        if match[2] != "-":
            found.append(kept(Reply.ofLines(begun)))
            begun = []
    return found
