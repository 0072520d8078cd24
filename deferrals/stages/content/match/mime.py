"""
The MIME structure of a message, in one pass over its octets.

The standard library's parser takes time proportional to the depth of nesting
times the size, so that a small message can keep it busy for seconds.  Here only
the boundaries are found by ourselves, each with one search whatever the depth.
Headers of parts are read by C{email}, and what is kept of one is what a rule may
ask for, however many fields it has.
"""

from __future__ import annotations

import binascii
import email.parser
import email.policy
import mmap
import string
from collections.abc import Iterator

import attrs

from deferrals.stages.content.match.fields import base64, decoded, parameters, words

#: A message with more parts, or nested deeper, or with a longer header section
#: (its own or a part's), is not read any further.
MAX_PARTS = 20000
MAX_DEPTH = 100
MAX_HEADER_OCTETS = 256 * 1024

#: The headers of all parts together.
MAX_HEADERS_OCTETS = 8 * 1024 * 1024
MAX_HEADER_LINES = 100_000

_MAX_BOUNDARY_OCTETS = 200
_PIECE_OCTETS = 256 * 1024
_NOT_BASE64 = bytes(sorted(set(range(256)) - set(string.ascii_letters.encode() + b"0123456789+/")))

#: What is kept of a part's header.
_KEPT = ("Content-Type", "Content-Disposition", "Content-Transfer-Encoding")
_PARSER = email.parser.BytesHeaderParser(policy=email.policy.compat32)

#: What L{parts} reads: octets with C{find} and slices.
Buffer = bytes | mmap.mmap


class TooComplex(Exception):
    """
    More parts, levels or header fields than any honest message has.
    """


@attrs.frozen
class PartHeader:
    """
    What is kept of a part's header: three fields.

    @ivar mimeType: in lower case; C{text/plain} where there is none that makes
        sense.
    @ivar type: Content-Type; empty where there is none.
    @ivar disposition: Content-Disposition, likewise.
    @ivar encoding: Content-Transfer-Encoding, likewise, in lower case.
    """

    mimeType: str = "text/plain"
    type: str = ""
    disposition: str = ""
    encoding: str = ""

    @classmethod
    def read(cls, octets: bytes) -> PartHeader:
        """
        @param octets: a header section.
        """
        found = _PARSER.parsebytes(octets)
        type_, disposition, encoding = (str(found.get(name, "")) for name in _KEPT)
        return cls(found.get_content_type(), type_, disposition, encoding.strip().lower())

    @property
    def mainType(self) -> str:
        """
        The part of the MIME type before the slash.
        """
        return self.mimeType.partition("/")[0]


_NO_HEADER = PartHeader()


@attrs.frozen
class Part:
    """
    One part that is no multipart, or the header of one that is.

    @ivar header: what its header says.
    @ivar start: where its content begins in the message.
    @ivar end: where its content ends.
    """

    header: PartHeader
    start: int
    end: int

    @property
    def mimeType(self) -> str:
        """
        See L{PartHeader}.
        """
        return self.header.mimeType

    @property
    def fileName(self) -> str:
        """
        The name that a mail program would show, from Content-Disposition or
        Content-Type, RFC 2231 and RFC 2047 decoded; empty where there is none.
        """
        for value, name in ((self.header.disposition, "filename"), (self.header.type, "name")):
            found = words(parameters(value).get(name, ""))
            if found:
                return found
        return ""

    def content(self, data: Buffer, limit: int) -> bytes:
        """
        The content without its transfer encoding.

        @param limit: read no more than so many encoded octets.
        """
        raw = data[self.start : min(self.end, self.start + limit)]
        if self.header.encoding == "base64":
            return base64(raw)
        if self.header.encoding == "quoted-printable":
            return binascii.a2b_qp(raw)
        return raw

    def head(self, data: Buffer, octets: int) -> bytes:
        """
        The first so many octets of the content without its transfer encoding,
        however much there is before them that means nothing.
        """
        head = b""
        for piece in self.pieces(data):
            head += piece[: octets - len(head)]
            if len(head) == octets:
                break
        return head

    def pieces(self, data: Buffer) -> Iterator[bytes]:
        """
        The whole content without its transfer encoding, piece by piece.
        """
        encoding = self.header.encoding
        held = b""
        for start in range(self.start, self.end, _PIECE_OCTETS):
            raw = held + data[start : min(self.end, start + _PIECE_OCTETS)]
            if encoding == "base64":
                raw = raw.translate(None, _NOT_BASE64)
                cut = len(raw) // 4 * 4
                held = raw[cut:]
                yield binascii.a2b_base64(raw[:cut])
            elif encoding == "quoted-printable":
                cut = raw.rfind(b"\n") + 1
                held = raw[cut:] if len(raw) - cut < _PIECE_OCTETS else b""
                yield binascii.a2b_qp(raw[: len(raw) - len(held)])
            else:
                yield raw
        if encoding != "base64":
            yield binascii.a2b_qp(held)
        elif len(held) > 1:
            yield binascii.a2b_base64(held + b"=" * (4 - len(held)))

    def text(self, data: Buffer, limit: int) -> str:
        """
        The content as text.
        """
        return decoded(self.content(data, limit), parameters(self.header.type).get("charset", ""))


def parts(data: Buffer) -> Iterator[Part]:
    """
    The parts of a message in their order, containers included.

    @raise TooComplex: there are more than L{MAX_PARTS}, or deeper than
        L{MAX_DEPTH}, or one has a header longer than L{MAX_HEADER_OCTETS}, or
        all headers together more than L{MAX_HEADERS_OCTETS} or
        L{MAX_HEADER_LINES}.
    """
    return _BoundaryScanner(data).scan()


class _BoundaryScanner:
    def __init__(self, data: Buffer) -> None:
        self._data = data
        self._boundaries: dict[bytes, int] = {}
        self._open: list[bytes] = []
        self._count = 0
        self._headerOctets = self._headerLines = 0
        self._soughtFrom, self._nextMark = 0, -1

    def scan(self) -> Iterator[Part]:
        position: int | None = 0
        while position is not None:
            self._count += 1
            if self._count > MAX_PARTS or len(self._open) > MAX_DEPTH:
                raise TooComplex
            header, start = self._header(position)
            boundary = self._boundaryOf(header)
            if boundary is not None:
                self._boundaries.setdefault(boundary, len(self._open))
                self._open.append(boundary)
            elif header.mimeType == "message/rfc822":
                yield Part(header, start, start)
                position = start
                continue
            end, position = self._next(start)
            yield Part(header, start, end)

    def _header(self, position: int) -> tuple[PartHeader, int]:
        """
        The header section at C{position}, and where its content begins.
        """
        if self._data[position : position + 2] == b"\r\n":
            return _NO_HEADER, position + 2
        end, start = self._headerEnd(position)
        if end - position > MAX_HEADER_OCTETS:
            raise TooComplex
        octets = self._data[position:end]
        self._headerOctets += len(octets)
        self._headerLines += octets.count(b"\n")
        if self._headerOctets > MAX_HEADERS_OCTETS or self._headerLines > MAX_HEADER_LINES:
            raise TooComplex
        return PartHeader.read(octets), start

    def _headerEnd(self, position: int) -> tuple[int, int]:
        """
        An empty line ends a header section, and so does a boundary.
        """
        at = position
        while True:
            boundary = self._find(at)
            limit = boundary + 2 if boundary >= 0 else len(self._data)
            empty = self._data.find(b"\r\n\r\n", at, limit)
            if empty >= 0:
                return empty, empty + 4
            if boundary < 0:
                return len(self._data), len(self._data)
            if self._match(boundary) is not None:
                return boundary - 2, boundary - 2
            at = boundary

    def _boundaryOf(self, header: PartHeader) -> bytes | None:
        if header.mainType != "multipart":
            return None
        boundary = parameters(header.type).get("boundary")
        if not boundary:
            return None
        return boundary.encode("utf-8", "surrogateescape")[:_MAX_BOUNDARY_OCTETS].rstrip()

    def _line(self, position: int) -> bytes:
        """
        The line at C{position}, as far as a boundary could reach.
        """
        line = self._data[position : position + _MAX_BOUNDARY_OCTETS + 8]
        return line.partition(b"\n")[0].rstrip()

    def _match(self, position: int) -> tuple[int, bool] | None:
        """
        Whether a boundary of an open level stands here.

        @return: its level, and whether it is the last one of that level.
        """
        line = self._line(position)[2:]
        if line in self._boundaries:
            return self._boundaries[line], False
        if line.endswith(b"--") and line[:-2] in self._boundaries:
            return self._boundaries[line[:-2]], True
        return None

    def _next(self, position: int) -> tuple[int, int | None]:
        """
        Where the content that begins at C{position} ends, and where the next
        part begins; C{None} where there is none.
        """
        if not self._boundaries:
            return len(self._data), None
        at = position if self._data[position : position + 2] == b"--" else self._find(position)
        end = None
        while at >= 0:
            match = self._match(at)
            if match is not None:
                end = max(position, at - 2) if end is None else end
                level, last = match
                self._close(level + (0 if last else 1))
                if not last:
                    line = self._data.find(b"\n", at)
                    return end, (line + 1 if line >= 0 else None)
            at = self._find(at)
        return (len(self._data) if end is None else end), None

    def _find(self, position: int) -> int:
        """
        The next line that begins as a boundary does; -1 where there is none.
        Parts ask for the same one again and again: it is sought once.
        """
        if not self._soughtFrom <= position <= self._nextMark:
            found = self._data.find(b"\r\n--", position)
            self._soughtFrom = position
            self._nextMark = len(self._data) if found < 0 else found
        return self._nextMark + 2 if self._nextMark < len(self._data) else -1

    def _close(self, level: int) -> None:
        """
        Forget the boundaries of this level and of those inside it.
        """
        for boundary in self._open[level:]:
            if self._boundaries.get(boundary, -1) >= level:
                del self._boundaries[boundary]
        del self._open[level:]
