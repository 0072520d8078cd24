"""
The line ends of mail: CRLF and nothing else (RFC 5321 §2.3.8).
"""

from __future__ import annotations

import re

#: CRs in front of one LF that are one line end with it.  Programs that put a CR in
#: front of each LF, whatever stands there already, make two of them.
_MAX_CRS = 9

_LINE_END = re.compile(rb"\r{0,%d}\n|\r" % _MAX_CRS)

#: The same; and after a bare LF, the first of two dots is stuffing.
_STUFFED_LINE_END = re.compile(rb"(?<!\r)\n\.(?=\.)|\r{0,%d}\n|\r" % _MAX_CRS)

_BARE_CR = re.compile(rb"\r(?!\n)")
_BARE_LF = re.compile(rb"\n(?<!\r\n)")

#: What may be one thing with what comes next.
_OPEN = re.compile(rb"(?:(?<!\r)\n\.?|\r{1,%d})\Z" % _MAX_CRS)
_OPEN_OCTETS = _MAX_CRS + 2


def hasBare(data: bytes) -> bool:
    """
    Whether there is a CR or an LF that is not part of a CRLF.
    """
    # A search that begins with one octet is a fast one, and takes half of the time that
    # counting pairs does.
    return _BARE_CR.search(data) is not None or _BARE_LF.search(data) is not None


def normalised(data: bytes) -> bytes:
    """
    Every bare CR and bare LF of a complete message made a CRLF; CRs in front of
    an LF are one line end with it.
    """
    return _LINE_END.sub(b"\r\n", data)


class LineEnds:
    """
    L{normalised}, piece by piece: the result is the same for pieces of any size.

    @param isStuffed: whether dots are stuffed (RFC 5321 §4.5.2).  Those behind a
        CRLF have been dealt with; programs that end lines with LF stuff the ones
        behind it, and a dot that stands alone there was not stuffed.
    """

    def __init__(self, isStuffed: bool) -> None:
        self._pattern = _STUFFED_LINE_END if isStuffed else _LINE_END
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """
        @return: the next octets; what may belong together with octets that are
            still to come is held back.
        """
        data = self._held + data
        if data.endswith(b"\r\n"):  # as nearly all do
            self._held = b""
            return self._normal(data)
        found = _OPEN.search(data, max(0, len(data) - _OPEN_OCTETS))
        self._held = b"" if found is None else found[0]
        return self._normal(data[: len(data) - len(self._held)])

    def end(self) -> bytes:
        """
        @return: the last octets.
        """
        held, self._held = self._held, b""
        return self._normal(held)

    def _normal(self, data: bytes) -> bytes:
        return self._pattern.sub(b"\r\n", data) if hasBare(data) else data
