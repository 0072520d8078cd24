"""
The content of a message as it comes in over DATA, chunk by chunk.

One search for the terminator per chunk and no Python call per line.  Only
CRLF.CRLF ends a message (RFC 5321 §4.1.1.4): what could be the beginning of
that, at the end of a chunk, is held back until the next one.  A bare CR or a
bare LF ends nothing and is noted, since the next hop might think otherwise
(SMTP smuggling).
"""

from __future__ import annotations

_END = b"\r\n.\r\n"
_HELD = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")


class DataDecoder:
    """
    Takes DATA apart into the message and what follows it.

    @ivar bare: whether a bare CR or a bare LF has been seen.
    """

    def __init__(self) -> None:
        self.bare = False
        self._held = b"\r\n"  # the CRLF of the DATA line: a dot may follow at once
        self._first = True

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """
        @param data: the next octets from the wire.
        @return: the next octets of the message, unstuffed (RFC 5321 §4.5.2);
            and L{None} while it goes on, or what stands behind its end.
        """
        data = self._held + data
        end = data.find(_END)
        rest = None
        if end >= 0:
            rest = data[end + len(_END) :]
            data, self._held = data[: end + 2], b""
        else:
            self._held = next((held for held in _HELD if data.endswith(held)), b"")
            data = data[: len(data) - len(self._held)]
        pairs = data.count(b"\r\n")
        if data.count(b"\r") != pairs or data.count(b"\n") != pairs:
            self.bare = True
        data = data.replace(b"\r\n.", b"\r\n")
        if self._first and data:
            self._first = False
            data = data[2:]
        return data, rest


def normalised(data: bytes) -> bytes:
    """
    Every bare CR and bare LF of a complete message made a CRLF.
    """
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
