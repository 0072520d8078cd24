"""
The files of a message, without their transfer encoding: its parts, the parts of
messages that are encoded in it, what is uuencoded in its text, and what is in a
C{winmail.dat}.

Readers differ in which transfer encoding they undo.  Where a header leaves any
doubt, and where a content looks encoded although nothing says so, a content is
there in each form.  What is unpacked of a message, and how deep, is bounded.
"""

from __future__ import annotations

import binascii
import contextlib
import re
import string
from collections.abc import Callable, Iterator

import attrs

from deferrals.stages.content.match import tnef, uuencode
from deferrals.stages.content.match.fields import base64, decoded
from deferrals.stages.content.match.headers import PartHeader
from deferrals.stages.content.match.mime import Buffer, Part, TooComplex, parts

#: Messages in messages, encoded.
MAX_DEPTH = 5

#: The contents that a message has, each form of each one: what is uuencoded in a text,
#: and what is in a C{winmail.dat}, has no part of its own, and costs as much as one.
MAX_FILES = 50_000

#: Of all that is decoded to be looked into again.
MAX_DECODED_OCTETS = 64 << 20

#: Of a text, so much is searched for what is uuencoded in it.
TEXT_OCTETS = 16 << 20

#: So much of a file is its head.
HEAD_OCTETS = 4096

#: What is no longer than that is small: it is decoded once and kept while it is
#: looked into.
SMALL_OCTETS = 16 * 1024

_PIECE_OCTETS = 256 * 1024
_GUESS_OCTETS = 512
_LETTERS = string.ascii_letters.encode() + b"0123456789+/"
_NOT_BASE64 = bytes(sorted(set(range(256)) - set(_LETTERS)))
_NOT_BASE64_OR_PADDING = bytes(sorted(set(_NOT_BASE64) - set(b"=")))
_PLAIN_BASE64 = _LETTERS + b"=\r\n"
_WHITESPACE = b" \t\f\v"
_BLANKS_INSIDE = re.compile(rb"[ \t](?<=[A-Za-z0-9+/][ \t])[ \t]*+[A-Za-z0-9+/]")
_LETTER = re.compile(rb"[A-Za-z0-9+/]")
_PADDING_AND_ONE = re.compile(rb"=[^A-Za-z0-9+/]")
_NO_PADDING = re.compile(rb"(?<![A-Za-z0-9+/])=")
_BASE64_LINE = re.compile(rb"[A-Za-z0-9+/]{2,}+={0,2}+[ \t]*+(?:\Z|[\r\n])")
_QUOTED = re.compile(rb"=[0-9A-Fa-f]{2}")
_QUOTED_FEW = 3
#: What is no quoted-printable in it, and what is.
_ODD_QUOTED = re.compile(rb"=(?![0-9A-Fa-f]{2}|\r?\n)|[ \t]\r?\n")
_QUOTED_OCTET = re.compile(rb"=(?:([0-9A-Fa-f]{2})|[ \t]*+(?:\r\n|\n|\r(?!\n))|(=))")
_BLANKS = re.compile(rb"(?<![ \t])[ \t]++(?=\r?\n)")
_UUENCODED = re.compile(rb"begin(?:-base64)?\s++[0-7]")

#: Gives a content's octets, with the size of the pieces it is read in.
Pieces = Callable[[int], Iterator[bytes]]

_FILE = "application/octet-stream"


@attrs.define(eq=False)
class File:
    """
    A content in one of its forms.

    @ivar header: of its part; of what is in another file, one that says how it
        is called.
    @ivar pieces: gives its octets, while the message is open.
    @ivar isDecoded: whether a transfer encoding was undone.
    @ivar isEarly: whether it begins in front of where its header says that it is a
        message, or how it is encoded: no reader looks for a message in it.
    """

    header: PartHeader
    pieces: Pieces
    isDecoded: bool = False
    isEarly: bool = False
    _first: bytes | None = attrs.field(default=None, init=False)

    @property
    def head(self) -> bytes:
        """
        Its beginning.
        """
        return self._beginning()[:HEAD_OCTETS]

    def content(self, limit: int) -> bytes:
        """
        Its first so many octets, however much there is before them that means
        nothing.
        """
        first = self._beginning()
        isKnown = len(first) <= SMALL_OCTETS or limit <= SMALL_OCTETS
        return first[:limit] if isKnown else self._read(limit)

    def _beginning(self) -> bytes:
        """
        All of a small content, or a little more than that of another: it is decoded
        once, however many look into it.
        """
        if self._first is None:
            self._first = self._read(SMALL_OCTETS + 1)
        return self._first

    def _read(self, limit: int) -> bytes:
        found: list[bytes] = []
        left = limit
        for piece in self.pieces(min(_PIECE_OCTETS, 2 * limit + _GUESS_OCTETS)):
            found.append(piece[:left])
            left -= len(found[-1])
            if left <= 0:
                break
        return b"".join(found)

    def texts(self, limit: int) -> list[str]:
        """
        The content as text, in each character set that its header says.
        """
        content = self.content(limit)
        return [decoded(content, charset) for charset in self.header.charsets or ("",)]


def files(data: Buffer) -> Iterator[File]:
    """
    All contents of a message, each in each of its forms; those of containers
    included.

    @raise TooComplex: a structure beyond the bounds; see also L{parts}.
    """
    return _Walk().message(data, 0)


class _Walk:
    def __init__(self) -> None:
        self._left = MAX_DECODED_OCTETS
        self._files = 0

    def message(self, data: Buffer, depth: int) -> Iterator[File]:
        if depth > MAX_DEPTH:
            raise TooComplex
        for part in parts(data):
            for file in formsOf(data, part):
                yield from self._file(file, depth)

    def _file(self, file: File, depth: int) -> Iterator[File]:
        """
        A file, and what is in it where it is a container.
        """
        self._files += 1
        if self._files > MAX_FILES:
            raise TooComplex
        yield file
        kinds = file.header.mainTypes
        if file.head.startswith(tnef.MAGIC):
            yield from self._tnef(self._whole(file), depth + 1)
        elif file.isDecoded and file.header.isMessage and not file.isEarly:
            yield from self.message(self._whole(file), depth + 1)
        elif kinds & {"text", "message", "multipart"}:
            for name, content in uuencode.files(file.content(TEXT_OCTETS)):
                yield from self._file(_made([name], content), depth)

    def _whole(self, file: File) -> bytes:
        content = file.content(self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise TooComplex
        return content

    def _tnef(self, content: bytes, depth: int) -> Iterator[File]:
        if depth > MAX_DEPTH:
            raise TooComplex
        with contextlib.suppress(tnef.BrokenTNEF):
            for names, octets in tnef.files(content):
                yield from self._file(_made(names, octets), depth)


def _made(names: list[str], content: bytes) -> File:
    """
    A file that is in another one.
    """
    header = PartHeader((_FILE,), tuple(names), isEmpty=False)
    return File(header, _constant(content))


def _constant(content: bytes) -> Pieces:
    return lambda size: iter((content,))


def formsOf(data: Buffer, part: Part) -> Iterator[File]:
    """
    A part's content, from each beginning to each end, in each of its forms.
    """
    for start, end in part.ranges:
        if start < end or not part.header.isEmpty:
            head = data[start : min(end, start + _GUESS_OCTETS)]
            isSure = not part.others and not _isDoubtful(data, part, start, end)
            for encoding in _encodings(part.header, head, isSure):
                for file in _decodings(data, part.header, start, end, encoding):
                    yield attrs.evolve(file, isEarly=True) if start in part.early else file


def _isDoubtful(data: Buffer, part: Part, start: int, end: int) -> bool:
    """
    Whether readers may leave as it is what says that it is base 64.
    """
    if "base64" not in part.header.encodings:
        return False
    isCut = end - start < _GUESS_OCTETS and len(data[start:end].translate(None, _NOT_BASE64)) % 4
    return isCut == 1 or _isOdd(_raw(data, start, end, _PIECE_OCTETS))


def _isOdd(pieces: Iterator[bytes]) -> bool:
    """
    Whether there is anything but letters of base 64, padding and white space, or blanks
    between two letters.  In pieces, since others wait for the interpreter meanwhile.
    """
    held = b""
    for piece in pieces:
        rest = piece.translate(None, _PLAIN_BASE64)
        if rest.strip(_WHITESPACE):
            return True
        text = held + piece
        if (rest or held[1:]) and _BLANKS_INSIDE.search(text) is not None:
            return True
        last = text.rstrip(b" \t")[-1:]
        isInside = _LETTER.match(last) is not None
        held = last + b" " * (text[-1:] != last) if isInside else b""
    return False


def _isPaddedInside(data: Buffer, start: int, end: int) -> bool:
    """
    Whether there are letters behind padding.
    """
    padding = data.find(b"=", start, end)
    return padding >= 0 and _LETTER.search(data, padding, end) is not None


def _encodings(header: PartHeader, head: bytes, isSure: bool) -> list[str]:
    """
    The transfer encodings that a reader may undo: the one, where there is one
    and it makes sense; otherwise all that are named, and what the content looks
    like.
    """
    if isSure and header.isPlain and header.encodings != ("binary",):
        return list(header.encodings)
    return list(dict.fromkeys(("binary", *header.encodings, *_looksLike(head.strip()))))


def _looksLike(head: bytes) -> Iterator[str]:
    if _BASE64_LINE.match(head):
        yield "base64"
    if len(_QUOTED.findall(head)) >= _QUOTED_FEW:
        yield "quoted-printable"
    if _UUENCODED.match(head):
        yield "uuencode"


def _decodings(
    data: Buffer, header: PartHeader, start: int, end: int, encoding: str
) -> Iterator[File]:
    if encoding == "binary":
        yield File(header, lambda size: _raw(data, start, end, size))
    elif encoding == "quoted-printable":
        yield File(header, _quoted(data, start, end, binascii.a2b_qp), True)
        if _ODD_QUOTED.search(data, start, end):
            yield File(header, _quoted(data, start, end, _literally), True)
            yield File(header, _quoted(data, start, end, _withoutBlanks), True)
    elif encoding == "uuencode":
        for name, content in uuencode.files(data[start : min(end, start + TEXT_OCTETS)], True):
            named = attrs.evolve(header, names=(*header.names, name))
            yield File(named, _constant(content), True)
    else:
        yield File(header, lambda size: _base64(_raw(data, start, end, size)), True)
        if _isPaddedInside(data, start, end):
            yield File(header, lambda size: _restarted(_raw(data, start, end, size)), True)
            yield File(header, lambda size: _untilPadding(_raw(data, start, end, size)), True)
            yield File(header, lambda size: _byGroups(_raw(data, start, end, size)), True)


def _raw(data: Buffer, start: int, end: int, size: int) -> Iterator[bytes]:
    return (data[at : min(end, at + size)] for at in range(start, end, size))


def _quoted(data: Buffer, start: int, end: int, undo: Callable[[bytes], bytes]) -> Pieces:
    return lambda size: _unquoted(_raw(data, start, end, size), size, undo)


def _unquoted(
    pieces: Iterator[bytes], size: int, undo: Callable[[bytes], bytes]
) -> Iterator[bytes]:
    """
    Line by line, because a line that is continued has its end encoded.
    """
    held = b""
    for piece in pieces:
        raw = held + piece
        cut = raw.rfind(b"\n") + 1
        held = raw[cut:] if len(raw) - cut < size else b""
        yield undo(raw[: len(raw) - len(held)])
    yield undo(held)


def _literally(octets: bytes) -> bytes:
    """
    Quoted-printable for readers that leave as it is what is none.
    """
    return _QUOTED_OCTET.sub(
        lambda found: b"==" if found[2] else bytes.fromhex((found[1] or b"").decode()), octets
    )


def _withoutBlanks(octets: bytes) -> bytes:
    """
    Likewise, but for blanks at the end of a line.
    """
    return _literally(_BLANKS.sub(b"", octets))


def _base64(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """
    What is no base 64 is left out, padding inside it, too.
    """
    held = b""
    for piece in pieces:
        raw = held + piece.translate(None, _NOT_BASE64)
        cut = len(raw) // 4 * 4
        held = raw[cut:]
        yield binascii.a2b_base64(raw[:cut])
    yield base64(held)


def _untilPadding(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """
    What is behind padding is not read.
    """

    def before() -> Iterator[bytes]:
        for piece in pieces:
            first, padding, _ = piece.partition(b"=")
            yield first
            if padding:
                return

    return _base64(before())


def _restarted(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """
    What is behind padding is read as base 64 of its own.
    """
    held = b""
    for piece in pieces:
        *whole, rest = (held + piece.translate(None, _NOT_BASE64_OR_PADDING)).split(b"=")
        yield b"".join(map(base64, whole))
        cut = len(rest) // 4 * 4
        held = rest[cut:]
        yield binascii.a2b_base64(rest[:cut])
    yield base64(held)


def _byGroups(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """
    Padding right behind the second letter of a group of four ends the group, and
    takes the octet behind it along; any other is left out.  [rspamd]
    """
    before, held, begun = b" ", b"", b""
    for piece in pieces:
        raw = held + piece
        padded = _PADDING_AND_ONE.sub(b"==", _NO_PADDING.sub(b" ", before + raw))[1:]
        held = b"=" if padded[-1:] == b"=" != padded[-2:-1] else b""  # behind it is the next
        before = raw.removesuffix(held)[-1:] or before
        groups = _groups(begun, padded.removesuffix(held))
        begun = groups[-1][len(groups[-1]) // 4 * 4 :]
        groups[-1] = groups[-1].removesuffix(begun)
        yield b"".join(map(base64, groups))
    yield base64(begun)


def _groups(begun: bytes, padded: bytes) -> list[bytes]:
    """
    @param begun: what is there of a group that is not yet whole.
    @param padded: what follows, with two signs for padding and what it takes along,
        or one, and that behind it.
    @return: groups, each of those that end with padding at the end of one element.
    """
    texts = iter(padded.translate(None, _NOT_BASE64_OR_PADDING).split(b"="))
    runs = [[begun, next(texts)]]
    letters = len(begun) + len(runs[0][1])
    for text in texts:
        if letters % 4 == 2:
            runs.append([])
            letters, text = 0, text[1:] if text else next(texts, b"")
        runs[-1].append(text)
        letters += len(text)
    return [b"".join(run) for run in runs]
