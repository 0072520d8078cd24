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
    @ivar error: why what comes now is no reply; C{None} while all is well.
    """

    def __init__(self) -> None:
        self.maxLines = MAX_REPLY_LINES
        self._lines: list[str] = []
        self._buffer = b""
        self.error: PeerError | None = None

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
            reply ends them: then there is an L{error}, and nothing is read any
            longer.
        """
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        found = []
        for line in lines:
            complete = self._line(line) if self.error is None else []
            if complete:
                found.append((Reply.ofLines(complete), complete))
        if self.error is None and len(self._buffer) > MAX_REPLY_LINE_OCTETS:
            self.error = PeerError("a reply line without end")
        return found

    def _line(self, line: bytes) -> list[str]:
        """
        @return: all lines of a reply whose last one this is; otherwise none.
        """
        text = line.removesuffix(b"\r").decode("utf-8", "replace")
        match = _REPLY_LINE.fullmatch(text)
        if match is None or (self._lines and not text.startswith(self._lines[0][:3])):
            self.error = PeerError(f"not a reply line: {text[:100]!r}")
            return []
        self._lines.append(text)
        if len(self._lines) > self.maxLines:
            self.error = PeerError("a reply with too many lines")
            return []
        if match[2] == "-":
            return []
        complete, self._lines = self._lines, []
        return complete
