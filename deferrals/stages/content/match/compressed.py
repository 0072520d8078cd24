"""
What is compressed as a whole (gzip, bzip2, xz), as far as it can be unpacked.

Programs show what they have unpacked before they complain: what is in front of
something broken is given, a checksum that is wrong hides nothing, and neither do
zeros between two streams.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import IO, Protocol

#: A stream that needs more memory than this to be unpacked is not.
MAX_MEMORY_OCTETS = 64 << 20

_PIECE_OCTETS = 4096

#: What is unpacked at once: where it ends with a failure, so much of it is lost at
#: most, less than a tar's header and what follows it.
_UNPACKED_OCTETS = 512

_MAGIC = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
MAGICS = tuple(_MAGIC)
_MAGIC_OCTETS = 6
_EXTRA, _NAME, _COMMENT, _HEADER_CHECKSUM = 4, 8, 16, 2


class _Unpacker(Protocol):
    """
    What zlib's, bz2's and lzma's decompressors have in common.
    """

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def kindOf(head: bytes) -> str | None:
    """
    How something is compressed, by its first octets.
    """
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def unpacked(
    file: IO[bytes], begins: Callable[[], None], trouble: Callable[[str], None]
) -> Iterator[bytes]:
    """
    What is in a file, one stream behind the other.

    @param begins: called for each stream.
    @param trouble: called with what is wrong, where that hides nothing.
    @raise EOFError: it is cut off.
    """
    position = 0
    kind = first = kindOf(_at(file, position, _MAGIC_OCTETS))
    while first and kind == first:
        begins()
        if kind == "gzip":
            position = yield from _gzip(file, position, trouble)
        else:
            position = yield from _stream(file, position, _unpacker(kind))
        position = _behindZeros(file, position)
        kind = kindOf(_at(file, position, _MAGIC_OCTETS))


def inflated(file: IO[bytes], position: int) -> Generator[bytes, None, int]:
    """
    A stream of deflate's, without anything around it.

    @return: the position behind it, at the end.
    @raise EOFError: it is cut off.
    """
    return _stream(file, position, zlib.decompressobj(-15))


def nameInside(file: IO[bytes]) -> bytes:
    """
    What a file was called when gzip compressed it, if that stands there (RFC 1952
    section 2.3.1).
    """
    isGzip = kindOf(_at(file, 0, _MAGIC_OCTETS)) == "gzip"
    return _gzipHeader(file, 0)[0] if isGzip else b""


def _gzip(
    file: IO[bytes], position: int, trouble: Callable[[str], None]
) -> Generator[bytes, None, int]:
    checksum = 0
    pieces = inflated(file, _gzipHeader(file, position)[1])
    while True:
        try:
            piece = next(pieces)
        except StopIteration as over:
            end = int(over.value)
            break
        checksum = zlib.crc32(piece, checksum)
        yield piece
    if _at(file, end, 4) != struct.pack("<I", checksum):
        trouble("a wrong checksum")
    return end + 8


def _gzipHeader(file: IO[bytes], position: int) -> tuple[bytes, int]:
    """
    @return: the name in it, and the position behind it.
    """
    head = _at(file, position, 12)
    if len(head) < 12:
        raise EOFError("cut off")
    flags, position, name = head[3], position + 10, b""
    if flags & _EXTRA:
        position += 2 + int.from_bytes(head[10:], "little")
    if flags & _NAME:
        name, position = _text(file, position)
    if flags & _COMMENT:
        _, position = _text(file, position)
    return name, position + (2 if flags & _HEADER_CHECKSUM else 0)


def _text(file: IO[bytes], position: int) -> tuple[bytes, int]:
    """
    @return: its beginning, and the position behind it.
    """
    text = piece = _at(file, position, _PIECE_OCTETS)
    while piece and b"\0" not in piece:
        position += len(piece)
        piece = _at(file, position, _PIECE_OCTETS)
    return text.partition(b"\0")[0], position + piece.find(b"\0") + 1


def _stream(file: IO[bytes], position: int, unpacker: _Unpacker) -> Generator[bytes, None, int]:
    waiting, isOver = b"", False
    while not unpacker.eof:
        if not waiting and getattr(unpacker, "needs_input", True):
            waiting = _at(file, position, _PIECE_OCTETS)
            position += len(waiting)
            isOver = not waiting
        piece = unpacker.decompress(waiting, _UNPACKED_OCTETS)
        if isOver and not piece:
            raise EOFError("cut off")
        yield piece
        waiting = getattr(unpacker, "unconsumed_tail", b"")
    return position - len(unpacker.unused_data)


def _unpacker(kind: str) -> _Unpacker:
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(memlimit=MAX_MEMORY_OCTETS)


def _behindZeros(file: IO[bytes], position: int) -> int:
    while (piece := _at(file, position, _PIECE_OCTETS)) and not piece.strip(b"\0"):
        position += len(piece)
    return position + len(piece) - len(piece.lstrip(b"\0"))


def _at(file: IO[bytes], position: int, octets: int) -> bytes:
    file.seek(position)
    return file.read(octets)
