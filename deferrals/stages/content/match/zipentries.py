"""
The entries of a zip by their headers alone, wherever in the file they are: of
its directory, of another directory that some program may take, and in front of
each member.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import attrs

from deferrals.stages.content.match.compressed import inflated

_LOCAL, _CENTRAL = b"PK\3\4", b"PK\1\2"
_HEADER = re.compile(rb"PK(?:\x03\x04|\x01\x02)")
_LOCAL_OCTETS, _CENTRAL_OCTETS = 30, 46
_SCAN_OCTETS = 1 << 20

_UTF8, _UNICODE_PATH = 0x800, 0x7075


@attrs.frozen
class ZipEntry:
    """
    A header.

    @ivar names: what it calls the member, in each of the ways to read that.
    @ivar isLocal: whether the member is behind it.
    @ivar position: where it is itself.
    @ivar start: then where the member is.
    @ivar size: its size, compressed, as far as it is said.
    @ivar method: how it is compressed.
    """

    names: tuple[str, ...]
    isLocal: bool
    position: int
    start: int
    size: int
    method: int


def entries(file: IO[bytes], maxName: int, read: Callable[[int], None]) -> Iterator[ZipEntry]:
    """
    @param maxName: longer names are no names.
    @param read: called for each header, with how many octets of it have been read.
    """
    position = 0
    while piece := _at(file, position, _SCAN_OCTETS):
        for found in _HEADER.finditer(piece):
            entry = _entry(file, position + found.start(), found[0] == _LOCAL, maxName)
            read(file.tell() - position - found.start())
            if entry is not None:
                yield entry
        if len(piece) < _SCAN_OCTETS:
            return
        position += len(piece) - 3


def _at(file: IO[bytes], position: int, octets: int) -> bytes:
    file.seek(position)
    return file.read(octets)


def _entry(file: IO[bytes], position: int, isLocal: bool, maxName: int) -> ZipEntry | None:
    octets = _LOCAL_OCTETS if isLocal else _CENTRAL_OCTETS
    header = _at(file, position, octets)
    if len(header) < octets:
        return None
    flags, method = struct.unpack_from("<HH", header, 6 if isLocal else 8)
    size, _, nameOctets, extraOctets = struct.unpack_from("<IIHH", header, 18 if isLocal else 20)
    if not nameOctets:
        return None
    name = file.read(min(nameOctets, 4 * maxName + 1))  # there may be less than it says
    if len(name) > 4 * maxName:
        return None
    names = dict.fromkeys([*_names(name, flags), *_unicodePath(file.read(extraOctets))])
    start = position + octets + nameOctets + extraOctets
    return ZipEntry(tuple(names), isLocal, position, start, size, method)


def _names(name: bytes, flags: int) -> list[str]:
    if name.isascii() or flags & _UTF8:
        return [name.decode("utf-8", "replace")]
    return [name.decode(codec, "replace") for codec in ("cp437", "utf-8", "cp1252")]


def _unicodePath(extra: bytes) -> list[str]:
    """
    The name in Info-ZIP's field for it.
    """
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == _UNICODE_PATH and length > 5:
            return [extra[position + 9 : position + 4 + length].decode("utf-8", "replace")]
        position += 4 + length
    return []


def content(file: IO[bytes], entry: ZipEntry, octets: int) -> Iterator[bytes]:
    """
    What is behind a header, unpacked, in pieces of so many octets at most; a method
    that is none of the usual two gives nothing.
    """
    position = entry.start
    if entry.method == zlib.DEFLATED:
        yield from inflated(file, position)
    elif entry.method == 0:
        end = position + entry.size if entry.size else None
        while piece := _at(file, position, min(octets, end - position) if end else octets):
            yield piece
            position += len(piece)
