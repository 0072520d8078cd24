"""
The names of what is in an archive: zip, tar, and tar or a single file
compressed with gzip, bzip2 or xz; archives in archives, too.

Made for hostile archives.  A zip's directory is read, and nothing unpacked
but archives inside it; a tar is read header by header by ourselves, because
the standard library's reader takes its headers through regular expressions and
keeps them all.  What is unpacked and listed of one message, and how deep, is
bounded; what is beyond that, broken or encrypted is L{Unreadable}.  Blocks:
for a thread.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any, Protocol

from deferrals.stages.content.match import zipentries
from deferrals.stages.content.match.names import savedNames

#: Of one message.
MAX_MEMBERS = 10_000
MAX_UNPACKED_OCTETS = 64 << 20
MAX_DEPTH = 3
MAX_NAME = 1000

#: A larger directory of a zip is not read: some 20,000 members would fit.
MAX_DIRECTORY_OCTETS = 1 << 20

#: How much of the beginning L{isArchive} wants to see.
HEAD_OCTETS = 512

_PIECE_OCTETS = 64 * 1024
_MEMORY_OCTETS = 1 << 20
_MAX_NAME_OCTETS = 64 * 1024
#: Ways to compress a zip's member that zipfile undoes piece by piece; with the
#: others, half a kilobyte may become a gigabyte at once.
_BOUNDED_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_MAGIC_OCTETS = 6
_COMPRESSED = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
#: A name that every system leaves as it is.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_/ .-]*+(?<=[A-Za-z0-9_])")
_ZIP_NAMES = (".zip", ".jar", ".docm", ".xlsm", ".pptm", ".apk")
_NAMES = (*_ZIP_NAMES, ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz")


class Unreadable(Exception):
    """
    An archive that is broken, encrypted, or beyond the bounds.
    """


class Budget:
    """
    What may still be done for one message.
    """

    def __init__(self) -> None:
        self.members = MAX_MEMBERS
        self.octets = MAX_UNPACKED_OCTETS

    def member(self, name: str = "") -> None:
        """
        One more name, or one more compressed stream.

        @raise Unreadable: too many, or longer than any that is meant.
        """
        if len(name) > MAX_NAME:
            raise Unreadable("a name too long")
        self.members -= 1
        if self.members < 0:
            raise Unreadable("too many members")

    def unpacked(self, octets: int) -> None:
        """
        So much more has been unpacked.

        @raise Unreadable: too much.
        """
        self.octets -= octets
        if self.octets < 0:
            raise Unreadable("too large when unpacked")


class _OctetSource(Protocol):
    def read(self, octets: int, /) -> bytes: ...


class _Unpacker(Protocol):
    """
    What zlib's, bz2's and lzma's decompressors have in common.
    """

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def isArchive(head: bytes, names: Sequence[str]) -> bool:
    """
    @param head: the first L{HEAD_OCTETS} of a file.
    @param names: the file's.
    """
    return (
        head.startswith((b"PK\3\4", b"PK\5\6", b"PK\1\2", b"PK00PK\3\4", *_COMPRESSED))
        or _isTar(head)
        or _endsWith(names, _ZIP_NAMES)
    )


def _endsWith(names: Sequence[str], suffixes: tuple[str, ...]) -> bool:
    return any(
        saved.endswith(suffixes)
        for name in names
        for saved in ((name.lower(),) if _PLAIN_NAME.fullmatch(name) else savedNames(name))
    )


def newFile() -> IO[bytes]:
    """
    Where something is unpacked to: memory, as long as it is little.
    """
    return tempfile.SpooledTemporaryFile(_MEMORY_OCTETS)


def members(file: IO[bytes], names: Sequence[str], budget: Budget, depth: int = 0) -> Iterator[str]:
    """
    The names of an archive's members, and of those of archives in it.  Where
    readers differ in how a member is called, each of the names.

    @param file: can be read and sought; from its beginning.
    @param names: its own, as far as it has some.
    @raise Unreadable: this is not all.
    """
    if depth > MAX_DEPTH:
        raise Unreadable("archives in archives in archives")
    file.seek(0)
    head = file.read(HEAD_OCTETS)
    kind = next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)
    try:
        if kind is not None:
            yield from _compressed(file, kind, names, budget, depth)
        elif _isTar(head):
            yield from _tar(file, budget, depth)
        else:
            yield from _zip(file, budget, depth)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError) as error:
        raise Unreadable(str(error)) from None
    except (NotImplementedError, RuntimeError, ValueError, struct.error) as error:
        raise Unreadable(str(error)) from None


def _inner(file: IO[bytes], names: Sequence[str], budget: Budget, depth: int) -> Iterator[str]:
    """
    What is in a member, if it is an archive.
    """
    file.seek(0)
    if isArchive(file.read(HEAD_OCTETS), names):
        yield from members(file, names, budget, depth + 1)


def _copied(pieces: Iterator[bytes], budget: Budget) -> IO[bytes]:
    """
    A file with what is unpacked, for the caller to close.
    """
    file = newFile()
    try:
        for piece in pieces:
            budget.unpacked(len(piece))
            file.write(piece)
    except BaseException:
        file.close()
        raise
    return file


def _pieces(source: _OctetSource) -> Iterator[bytes]:
    while piece := source.read(_PIECE_OCTETS):
        yield piece


def _zip(file: IO[bytes], budget: Budget, depth: int) -> Iterator[str]:
    """
    By the directory, as most programs read; and by all headers that there are,
    for those that take another directory, or none.
    """
    if budget.members <= 0:
        raise Unreadable("too many members")
    seen: set[str] = set()
    found = ""
    try:
        yield from _byDirectory(file, budget, depth, seen)
    except zipfile.BadZipFile as error:
        found = str(error)
    yield from _byHeaders(file, budget, depth, seen)
    if found:
        raise Unreadable(found)


def _byDirectory(file: IO[bytes], budget: Budget, depth: int, seen: set[str]) -> Iterator[str]:
    with zipfile.ZipFile(_Bounded(file)) as archive:
        for info in archive.infolist():
            budget.member(info.filename)
            seen.add(info.filename)
            yield info.filename
            if _endsWith([info.filename], _NAMES):
                if info.compress_type not in _BOUNDED_METHODS:
                    raise Unreadable("an archive in it, compressed in an unusual way")
                with archive.open(info) as member, _copied(_pieces(member), budget) as inner:
                    yield from _inner(inner, [info.filename], budget, depth)
            elif info.flag_bits & 1:
                raise Unreadable("encrypted")


def _byHeaders(file: IO[bytes], budget: Budget, depth: int, seen: set[str]) -> Iterator[str]:
    for number, entry in enumerate(zipentries.entries(file, MAX_NAME)):
        if number > 2 * MAX_MEMBERS:
            raise Unreadable("too many members")
        fresh = [name for name in entry.names if name not in seen]
        for name in fresh:
            budget.member(name)
            seen.add(name)
            yield name
        if fresh and entry.isLocal and _endsWith(fresh, _NAMES):
            pieces = zipentries.content(file, entry, _PIECE_OCTETS)
            with _copied(pieces, budget) as inner:
                yield from _inner(inner, fresh, budget, depth)


class _Bounded:
    """
    A file of which no large piece is read at once.  zipfile reads a directory
    whole; how large it is may stand in two fields, and which of them counts
    depends on the version.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, octets: int = -1) -> bytes:
        if octets > MAX_DIRECTORY_OCTETS:
            raise Unreadable("too large a zip directory")
        return self._file.read(octets)


def _compressed(
    file: IO[bytes], kind: str, names: Sequence[str], budget: Budget, depth: int
) -> Iterator[str]:
    inside = list(dict.fromkeys([*map(_insideName, names), *_gzipName(file)]))
    file.seek(0)
    with _copied(_unpacked(file, kind, budget), budget) as inner:
        yield from inside
        yield from _inner(inner, inside, budget, depth)


def _insideName(name: str) -> str:
    """
    What the file in a compressed one is called.
    """
    stem, dot, suffix = name.rstrip(". ").rpartition(".")
    if suffix.lower() in ("tgz", "tbz2", "txz"):
        return f"{stem}.tar"
    return stem if dot else name


def _gzipName(file: IO[bytes]) -> list[str]:
    """
    What a file was called when gzip compressed it (RFC 1952 §2.3.1).
    """
    file.seek(0)
    head = file.read(_MAX_NAME_OCTETS)
    if not head.startswith(b"\x1f\x8b") or len(head) < 12 or not head[3] & 8:
        return []
    start = 12 + int.from_bytes(head[10:12], "little") if head[3] & 4 else 10
    name = head[start : start + MAX_NAME].partition(b"\0")[0]
    return [name.decode("utf-8", "surrogateescape")] if name else []


def _unpacked(file: IO[bytes], kind: str, budget: Budget) -> Iterator[bytes]:
    """
    One compressed stream; what is behind its end is read only in so far
    as it is another one.
    """
    unpacker, waiting = _unpacker(kind), b""
    budget.member()
    while waiting or (waiting := file.read(_PIECE_OCTETS)):
        piece = unpacker.decompress(waiting, _PIECE_OCTETS)
        yield piece
        waiting = getattr(unpacker, "unconsumed_tail", b"")
        while not unpacker.eof and (waiting or not getattr(unpacker, "needs_input", True)):
            piece = unpacker.decompress(waiting, _PIECE_OCTETS)
            yield piece
            waiting = getattr(unpacker, "unconsumed_tail", b"")
        if unpacker.eof:
            waiting = unpacker.unused_data
            if len(waiting) < _MAGIC_OCTETS:
                waiting += file.read(_PIECE_OCTETS)
            if not waiting.startswith(tuple(_COMPRESSED)):
                return
            unpacker = _unpacker(kind)
            budget.member()
    if not unpacker.eof:
        raise Unreadable("cut off")


def _unpacker(kind: str) -> _Unpacker:
    if kind == "gzip":
        return zlib.decompressobj(31)
    if kind == "bzip2":
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(memlimit=MAX_UNPACKED_OCTETS)


def _isTar(header: bytes) -> bool:
    """
    By its mark; before POSIX there was none but the sum of the octets.
    """
    if header[257:262] == b"ustar":
        return True
    return len(header) >= 512 and header[0] != 0 and _addsUp(header)


def _addsUp(header: bytes) -> bool:
    digits = header[148:156].strip(b"\0 ")
    octets = header[:148] + b" " * 8 + header[156:512]
    return digits.isdigit() and digits == f"{sum(octets):o}".rjust(len(digits), "0").encode()


def _tar(file: IO[bytes], budget: Budget, depth: int) -> Iterator[str]:
    """
    POSIX and GNU headers, the long names of both included.  Some programs go on
    behind the blocks of zeros that end it.
    """
    end = file.seek(0, 2)
    position, ended = 0, False
    longNames: list[str] = []
    isSure = True  # whether all readers take these
    while True:
        if position > end:
            raise Unreadable("cut off")
        file.seek(position)
        header = file.read(512)
        if len(header) < 512:
            return
        if not header.strip(b"\0"):
            position, ended = position + 512, True
            continue
        if not _isTar(header):
            if ended:
                return
            raise Unreadable("a broken tar header")
        size, kind = _size(header[124:136]), header[156:157]
        if kind in (b"x", b"L", b"g"):
            longNames += _longNames(file, size, kind)
            isSure = isSure and _addsUp(header)
        elif kind != b"K":
            names = _tarNames(header, longNames, isSure)
            longNames, isSure = [], True
            for name in names:
                budget.member(name)
                yield name
            if _endsWith(names, _NAMES) and kind in (b"0", b"\0", b"7"):
                with _copied(_pieces(_Slice(file, size)), budget) as inner:
                    yield from _inner(inner, names, budget, depth)
        position += 512 + (size + 511) // 512 * 512


def _longNames(file: IO[bytes], size: int, kind: bytes) -> list[str]:
    if size > _MAX_NAME_OCTETS:
        raise Unreadable("a tar header too long")
    data = file.read(size)
    return [_cString(data)] if kind == b"L" else _paxPaths(data)


def _tarNames(header: bytes, longNames: list[str], isSure: bool) -> list[str]:
    """
    What a member is called.  A name in its own header that is the beginning of
    the long one is that one, cut off; unless a reader may leave the long one out.
    """
    own = _ustarName(header)
    names = [name for name in dict.fromkeys(longNames) if name]
    short = own.rstrip("/")
    cut = any(name.startswith(short) or _ascii(name).startswith(short) for name in names)
    return names if names and cut and isSure else [*names, own]


def _ascii(name: str) -> str:
    return name.encode("ascii", "replace").decode()


class _Slice:
    """
    The next so many octets of a file.
    """

    def __init__(self, file: IO[bytes], octets: int) -> None:
        self._file = file
        self._left = octets

    def read(self, octets: int) -> bytes:
        piece = self._file.read(min(octets, self._left))
        self._left -= len(piece)
        return piece


def _size(field: bytes) -> int:
    """
    A size in octal digits, or in GNU's binary form.

    @raise Unreadable: it is none that could be.
    """
    if field[0] & 0x80:
        size = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        size = int(field.partition(b"\0")[0].strip() or b"0", 8)
    if not 0 <= size < 1 << 40:
        raise Unreadable("a broken tar header")
    return size


def _cString(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _ustarName(header: bytes) -> str:
    prefix, name = _cString(header[345:500]), _cString(header[:100])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _paxPaths(data: bytes) -> list[str]:
    """
    The paths in the records of a pax header: C{LENGTH KEY=VALUE} and a line
    feed.
    """
    position = 0
    found = []
    while position < len(data):
        blank = data.find(b" ", position, position + 20)
        length = int(data[position:blank]) if blank >= 0 else 0
        if length <= 0:
            raise Unreadable("a broken pax header")
        key, _, value = data[blank + 1 : position + length - 1].partition(b"=")
        if key in (b"path", b"GNU.sparse.name"):
            found.append(value.decode("utf-8", "replace"))
        position += length
    return found
