"""
What a server says: octets into replies (RFC 5321 §4.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from deferrals.errors import PeerError
from deferrals.model.reply import Reply

MAX_REPLY_LINE_OCTETS = 4096
MAX_REPLY_LINES = 500

#: So many lines more for each recipient that a 558 may have a reply for.
MAX_OWN_REPLY_LINES = 10

_REPLY_LINE = re.compile(r"([2-5][0-9][0-9])(?:([ -])(.*))?", re.S)


class ReplyParser:
    """
    Reply lines into replies.

    @ivar maxLines: of one reply.
    """

    def __init__(self) -> None:
        self.maxLines = MAX_REPLY_LINES
        self._lines: list[str] = []
        self._buffer = b""

    @property
    def partial(self) -> bool:
        """
        Whether there is the beginning of a reply.
        """
        return bool(self._buffer or self._lines)

    @property
    def unfinished(self) -> Sequence[str]:
        """
        The lines of a reply that has not come to its end.
        """
        return self._lines

    def feed(self, data: bytes) -> list[tuple[Reply, list[str]]]:
        """
        @return: complete replies, each with its lines as they came.
        @raise PeerError: this is no reply.
        """
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_REPLY_LINE_OCTETS:
            raise PeerError("a reply line without end")
        found = []
        for line in lines:
            text = line.removesuffix(b"\r").decode("utf-8", "replace")
            match = _REPLY_LINE.fullmatch(text)
            if match is None or (self._lines and not text.startswith(self._lines[0][:3])):
                raise PeerError(f"not a reply line: {text[:100]!r}")
            self._lines.append(text)
            if len(self._lines) > self.maxLines:
                raise PeerError("a reply with too many lines")
            if match[2] != "-":
                complete, self._lines = self._lines, []
                found.append((Reply.ofLines(complete), complete))
        return found
