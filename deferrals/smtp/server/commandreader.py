"""
Octets into command lines, and into what is no command: without I/O, and without a
word about what the lines mean.
"""

from __future__ import annotations

import enum

import attrs

#: The longest command line, CRLF included, unless the configuration says otherwise.
MAX_COMMAND_OCTETS = 4096

#: So much of a line that is too long is kept: who it was about, mostly.
MAX_KEPT_OCTETS = 300

#: No line of text begins with these; those of TLS, SSH and RDP in binary do.
_BINARY = frozenset(range(0x20)) - frozenset(b"\t\n\r") | {0x80}


_CR = 0x0D


class Fault(enum.Enum):
    """
    Why something is no line.
    """

    BARE_LF = "it ends with LF alone"
    TOO_LONG = "it is longer than a line may be, and has been dropped"
    BINARY = "it begins as no text does, and may have no end"


@attrs.frozen
class LineForm:
    """
    @ivar most: the longest line, CRLF included, in octets.
    @ivar isText: whether a line that begins with a control character is none.
    """

    most: int = MAX_COMMAND_OCTETS
    isText: bool = True


class CommandReader:
    """
    What has come from a client and is still to be taken: line by line, or as raw
    octets.

    @ivar form: what a line looks like now.
    @ivar dropped: the beginning of the last line that was too long.
    """

    __slots__ = ("_buffer", "_offset", "_skips", "dropped", "form")

    def __init__(self, form: LineForm) -> None:
        self.form = form
        self._buffer = b""
        self._offset = 0
        self._skips = False
        self.dropped = b""

    @property
    def waiting(self) -> int:
        """
        How many octets are still to be taken.
        """
        return len(self._buffer) - self._offset

    def feed(self, octets: bytes) -> None:
        """
        These have come.
        """
        rest = self._buffer[self._offset :]
        self._buffer, self._offset = rest + octets if rest else octets, 0

    def clear(self) -> None:
        """
        Nothing more is to be taken.
        """
        self._buffer, self._offset = b"", 0

    def octets(self, most: int | None = None) -> bytes:
        """
        Take what there is.

        @param most: not more than so many octets.  Where it is known how many are
            wanted, many small pieces in one segment are not copied again and again.
        """
        end = len(self._buffer) if most is None else self._offset + most
        octets = self._buffer[self._offset : end]
        self._offset += len(octets)
        return octets

    def giveBack(self, octets: bytes) -> None:
        """
        These were taken last, and are still to be taken.
        """
        self._buffer, self._offset = octets + self._buffer[self._offset :], 0

    def isNext(self, verb: bytes) -> bool:
        """
        Whether the next line is whole, and begins with this verb.
        """
        start = self._offset
        end = self._buffer.find(b"\n", start)
        isWhole = end > start and self._buffer[end - 1] == _CR
        return isWhole and self._buffer[start : start + len(verb)].upper() == verb

    def line(self) -> bytes | Fault | None:
        """
        Take one line.

        @return: the line without its CRLF; why it is none; or C{None} where its end
            has not come.
        """
        buffer, start = self._buffer, self._offset
        if start >= len(buffer):
            return None
        if self.form.isText and buffer[start] in _BINARY and not self._skips:
            return Fault.BINARY
        end = buffer.find(b"\n", start)
        if end < 0:
            self._skipLong()
            return None
        self._offset = end + 1
        skipped, self._skips = self._skips, False
        if not (end > start and buffer[end - 1] == _CR):
            # What follows belongs to this line, although some clients think
            # otherwise: it is no command, and the client waits for an answer.
            return Fault.BARE_LF
        if end + 1 - start > self.form.most and not skipped:
            self.dropped = buffer[start : start + MAX_KEPT_OCTETS]
            skipped = True
        if skipped:
            return Fault.TOO_LONG
        return buffer[start : end - 1]

    def _skipLong(self) -> None:
        """
        Drop what has come of a line without an end, once it is too long.
        """
        if self.waiting > self.form.most:
            if not self._skips:
                self.dropped = self._buffer[self._offset :][:MAX_KEPT_OCTETS]
            self._skips = True
            self._offset = len(self._buffer) - self._buffer.endswith(b"\r")
