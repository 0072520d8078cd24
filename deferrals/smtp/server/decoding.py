"""
The content of a message as it comes in, piece by piece: over DATA, or in chunks
over BDAT.

No Python call per line.  Over DATA, one search for the terminator per piece:
only CRLF.CRLF ends a message (RFC 5321 §4.1.1.4); what could be the beginning
of that, at the end of a piece, is held back until the next one.  A bare CR or a
bare LF ends no message, and the next hop might think otherwise (SMTP smuggling):
either it is noted, or it becomes a CRLF, once the end has been looked for.
"""

from __future__ import annotations

from deferrals.model.lines import LineEnds, hasBare

_END = b"\r\n.\r\n"
_HELD = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")


class DataDecoder:
    """
    Takes DATA apart into the message and what follows it.

    @param normalises: whether every bare CR and LF is made a CRLF.
    @ivar bare: whether a bare CR or a bare LF has been seen, and left.
    """

    def __init__(self, normalises: bool = False) -> None:
        self.bare = False
        self._lineEnds = LineEnds(isStuffed=True) if normalises else None
        self._held = b"\r\n"  # the CRLF of the DATA line: a dot may follow at once
        self._first = True

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """
        @param data: the next octets from the wire.
        @return: the next octets of the message, unstuffed (RFC 5321 §4.5.2);
            and C{None} while it goes on, or what stands behind its end.
        """
        data = self._held + data
        # Without a dot at a line's beginning there is neither an end nor stuffing.
        # Only the search for a single octet is really fast, and large mail is
        # base 64, without any dot.
        dot = data.find(b"\r\n.") if b"." in data else -1
        end = data.find(_END, dot) if dot >= 0 else -1
        isStuffed = 0 <= dot != end  # as hardly any message is
        rest = None
        if end >= 0:
            rest = data[end + len(_END) :]
            data, self._held = data[: end + 2], b""
        else:
            self._held = next((held for held in _HELD if data.endswith(held)), b"")
            data = data[: len(data) - len(self._held)]
        self.bare = self.bare or (self._lineEnds is None and hasBare(data))
        if isStuffed:
            data = data.replace(b"\r\n.", b"\r\n")
        if self._first and data:
            self._first = False
            data = data[2:]
        return self._mended(data, rest is not None), rest

    def _mended(self, data: bytes, isLast: bool) -> bytes:
        if self._lineEnds is None:
            return data
        data = self._lineEnds.feed(data)
        return data + self._lineEnds.end() if isLast else data


class ChunkDecoder:
    """
    Puts BDAT's chunks together.  A line may go from one to the next, so a CR at
    the end of a piece waits for what follows it.

    @param normalises: whether every bare CR and LF is made a CRLF.
    @ivar bare: whether a bare CR or a bare LF has been seen, and left.
    """

    def __init__(self, normalises: bool = False) -> None:
        self.bare = False
        self._lineEnds = LineEnds(isStuffed=False) if normalises else None
        self._held = b""
        self._atLineStart = True

    def feed(self, data: bytes) -> bytes:
        """
        @param data: the next octets of a chunk.
        @return: the next octets of the message.
        """
        if self._lineEnds is not None:
            return self._noted(self._lineEnds.feed(data))
        data = self._held + data
        self._held = b"\r" if data.endswith(b"\r") else b""
        if self._held:
            data = data[:-1]
        self.bare = self.bare or hasBare(data)
        return self._noted(data)

    def _noted(self, data: bytes) -> bytes:
        if data:
            self._atLineStart = data.endswith(b"\r\n")
        return data

    def end(self) -> bytes:
        """
        The last chunk has come.

        @return: what is missing of the message: its last line's end, too, which
            the next hop would get with DATA.
        """
        if self._held:
            self.bare = True
        last = b"" if self._lineEnds is None else self._noted(self._lineEnds.end())
        return last if self._atLineStart and not self._held else last + b"\r\n"


class BinaryDecoder:
    """
    Chunks of BODY=BINARYMIME (RFC 3030 §3): octets, no lines.
    """

    bare = False

    def feed(self, data: bytes) -> bytes:
        """
        As it is.
        """
        return data

    def end(self) -> bytes:
        """
        Nothing is missing.
        """
        return b""
