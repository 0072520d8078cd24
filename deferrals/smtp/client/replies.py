"""
What a server says: octets into replies (RFC 5321 §4.2).

A server says what it likes, and may mean ill.  So there is a bound for a line,
for the lines and the octets of a reply, and for all that it says while one
message is sent.  A reply that goes beyond is none, and the connection is not
used any longer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from deferrals.errors import PeerError
from deferrals.model.exdata import EXTENDED
from deferrals.model.reply import Reply

MAX_REPLY_LINE_OCTETS = 4096
MAX_REPLY_LINES = 500
MAX_REPLY_OCTETS = 64 * 1024

#: So much more for each recipient that a 558 may have a reply for.
MAX_OWN_REPLY_LINES = 10
MAX_OWN_REPLY_OCTETS = 5 * 1024

#: All that is said while one message is sent: so much, and so much more for
#: each of its recipients.
MAX_DIALOGUE_OCTETS = 256 * 1024
MAX_RECIPIENT_OCTETS = 8 * 1024

#: How all lines of a 558 begin.
_EXTENDED = b"%d" % EXTENDED

_REPLY_LINE = re.compile(r"([2-5][0-9][0-9])(?:([ -])(.*))?", re.S)


class ReplyParser:
    """
    Reply lines into replies.

    @ivar error: why what comes now is no reply, or too much; C{None} while all is
        well.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._octets = 0
        self._buffer = b""
        self.error: PeerError | None = None
        self.extend(0)
        self.renew(0)

    def extend(self, recipients: int) -> None:
        """
        What a 558 may have, from now on: no other reply has more for it.

        @param recipients: whose own replies it may have (X-5).
        """
        self._recipients = recipients

    def renew(self, recipients: int) -> None:
        """
        A message begins: what is said about it is counted from here.

        @param recipients: that it has.
        """
        self._left = MAX_DIALOGUE_OCTETS + MAX_RECIPIENT_OCTETS * recipients

    @property
    def partial(self) -> bool:
        """
        Whether there is the beginning of a reply, or what is none.
        """
        return bool(self._buffer or self._lines or self.error)

    @property
    def unfinished(self) -> Sequence[str]:
        """
        The lines of a reply that has not come to its end.
        """
        return self._lines

    def feed(self, data: bytes) -> list[tuple[Reply, list[str]]]:
        """
        @return: complete replies, each with its lines as they came.  What is no
            reply, or too much, ends them: then there is an L{error}, and nothing
            is read any longer.
        """
        if self.error is not None:
            return []
        found = []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        try:
            for line in lines:
                complete = self._line(line)
                if complete:
                    found.append((Reply.ofLines(complete), complete))
            if len(self._buffer) > MAX_REPLY_LINE_OCTETS:
                raise PeerError("a reply line without end")
        except PeerError as error:
            self.error, self._buffer = error, b""
        return found

    def _line(self, line: bytes) -> list[str]:
        """
        @return: all lines of a reply whose last one this is; otherwise none.
        @raise PeerError: it is none of a reply, or too much.
        """
        own = self._recipients if line.startswith(_EXTENDED) else 0
        self._count(len(line) + 1, MAX_REPLY_OCTETS + MAX_OWN_REPLY_OCTETS * own)
        text = line.removesuffix(b"\r").decode("utf-8", "replace")
        match = _REPLY_LINE.fullmatch(text)
        if match is None or (self._lines and not text.startswith(self._lines[0][:3])):
            raise PeerError(f"not a reply line: {text[:100]!r}")
        self._lines.append(text)
        if len(self._lines) > MAX_REPLY_LINES + MAX_OWN_REPLY_LINES * own:
            raise PeerError("a reply with too many lines")
        if match[2] == "-":
            return []
        complete, self._lines, self._octets = self._lines, [], 0
        return complete

    def _count(self, octets: int, most: int) -> None:
        """
        One more line, of so many octets.

        @param most: that the reply may have.
        """
        self._octets += octets
        self._left -= octets
        if octets > MAX_REPLY_LINE_OCTETS:
            raise PeerError("a reply line too long")
        if self._octets > most:
            raise PeerError("a reply too long")
        if self._left < 0:
            raise PeerError("too much is said about one message")
