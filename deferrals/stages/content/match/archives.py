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

import lzma
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any, Protocol, TypeVar

from deferrals.stages.content.match import compressed, zipentries
from deferrals.stages.content.match.names import savedNames

_T = TypeVar("_T")

#: Of one message.
MAX_MEMBERS = 10_000
MAX_UNPACKED_OCTETS = 64 << 20
MAX_DEPTH = 3
MAX_NAME = 1000

#: A zip's member has a header in front of it, and one in the directory.
MAX_HEADERS = 2 * MAX_MEMBERS

#: Of directories, and of what headers say; each field costs some octets more than it
#: has, so that there are not too many.
MAX_HEADER_OCTETS = 8 << 20
_FIELD_OCTETS = 128

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

_OCTAL = re.compile(rb"[0-7]+")
#: A name that every system leaves as it is.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_/ .-]*+(?<=[A-Za-z0-9_])")
_ZIP_NAMES = (".zip", ".jar", ".docm", ".xlsm", ".pptm", ".apk")
_NAMES = (*_ZIP_NAMES, ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz")


class Unreadable(Exception):
    """
    An archive that is broken, encrypted, or beyond the bounds.
    """


class Beyond(Unreadable):
    """
    There is more in it than is read of one message: nothing else is.
    """


#: What is raised where an archive, or a part of one, cannot be read.
_FAILURES: tuple[type[Exception], ...] = (
    *(Unreadable, zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error),
)


class Budget:
    """
    What may still be done for one message.

    @param outer: where this is about archives in archives alone: they have bounds of
        their own, so that none of them hides the names beside it.
    @ivar why: something could not be read, of the archive that is looked into.
    """

    def __init__(self, outer: Budget | None = None) -> None:
        self._outer = outer
        self._inside: Budget | None = None
        self.members = MAX_MEMBERS
        self.octets = MAX_UNPACKED_OCTETS
        self.headers = MAX_HEADERS
        self.headerOctets = MAX_HEADER_OCTETS
        self.why: str | None = None

    @property
    def inside(self) -> Budget:
        """
        What may still be done for archives in archives.
        """
        if self._outer is not None:
            return self
        if self._inside is None:
            self._inside = Budget(self)
        return self._inside

    def asFarAs(self, found: Iterator[_T]) -> Iterator[_T]:
        """
        What of an archive's part can be read: programs show what is behind it, too.

        @raise Beyond: enough is read.
        """
        try:
            yield from found
        except Beyond:
            raise
        except _FAILURES as error:
            self.trouble(str(error))

    def trouble(self, why: str) -> None:
        """
        Something could not be read.
        """
        budget = self._outer or self
        if budget.why is None:
            budget.why = why

    def member(self, name: str = "") -> None:
        """
        One more name, or one more compressed stream.

        @raise Beyond: too many, or longer than any that is meant.
        """
        if len(name) > MAX_NAME:
            raise Beyond("a name too long")
        self.members -= 1
        if self.members < 0:
            raise Beyond("too many members")

    def unpacked(self, octets: int) -> None:
        """
        So much more has been unpacked.

        @raise Beyond: too much.
        """
        self.octets -= octets
        if self.octets < 0:
            raise Beyond("too large when unpacked")

    def header(self, octets: int) -> None:
        """
        One more header of a zip has been read, whether or not it says anything.

        @raise Beyond: too many.
        """
        self.headers -= 1
        if self.headers < 0:
            raise Beyond("too many headers")
        self.field(octets)

    def field(self, octets: int) -> None:
        """
        One more field has been read, or a piece of a directory.

        @raise Beyond: too much.
        """
        self.headerOctets -= octets + _FIELD_OCTETS
        if self.headerOctets < 0:
            raise Beyond("too much in headers")


class _OctetSource(Protocol):
    def read(self, octets: int, /) -> bytes: ...


def isArchive(head: bytes, names: Sequence[str]) -> bool:
    """
    @param head: the first L{HEAD_OCTETS} of a file.
    @param names: the file's.
    """
    return (
        head.startswith((b"PK\3\4", b"PK\5\6", b"PK\1\2", b"PK00PK\3\4", *compressed.MAGICS))
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


def members(file: IO[bytes], names: Sequence[str], budget: Budget) -> Iterator[str]:
    """
    The names of an archive's members, and of those of archives in it.  Where
    readers differ in how a member is called, each of the names.

    @param file: can be read and sought; from its beginning.
    @param names: its own, as far as it has some.
    @raise Unreadable: this is not all.
    """
    budget.why = None
    yield from _members(file, names, budget, 0)
    if budget.why is not None:
        raise Unreadable(budget.why)


def _members(file: IO[bytes], names: Sequence[str], budget: Budget, depth: int) -> Iterator[str]:
    """
    A zip by its directory, as most programs read; and by all headers that there are,
    for those that take another directory, or none.
    """
    file.seek(0)
    head = file.read(HEAD_OCTETS)
    if compressed.kindOf(head) is not None:
        yield from budget.asFarAs(_compressed(file, names, budget, depth))
    elif _isTar(head):
        yield from budget.asFarAs(_tar(file, budget, depth))
    else:
        yield from _Zip(file, budget, depth).members()


def _inner(
    pieces: Iterator[bytes], names: Sequence[str], budget: Budget, depth: int
) -> Iterator[str]:
    """
    What is in a member, if it is an archive; as far as it can be unpacked.
    """
    inside = budget.inside
    try:
        with newFile() as file:
            for piece in inside.asFarAs(pieces):
                inside.unpacked(len(piece))
                file.write(piece)
            file.seek(0)
            if isArchive(file.read(HEAD_OCTETS), names):
                if depth == MAX_DEPTH:
                    raise Unreadable("archives in archives in archives")
                yield from _members(file, names, inside, depth + 1)
    except Beyond as error:
        if inside is budget:
            raise
        budget.trouble(str(error))


def _pieces(source: _OctetSource) -> Iterator[bytes]:
    while piece := source.read(_PIECE_OCTETS):
        yield piece


class _Zip:
    """
    One zip; see L{_members}.
    """

    def __init__(self, file: IO[bytes], budget: Budget, depth: int) -> None:
        self._file = file
        self._budget = budget
        self._depth = depth
        self._seen: set[str] = set()
        self._lookedInto: set[int] = set()  # where the headers of such members are

    def members(self) -> Iterator[str]:
        yield from self._budget.asFarAs(self._byDirectory())
        yield from self._budget.asFarAs(self._byHeaders())

    def _byDirectory(self) -> Iterator[str]:
        budget = self._budget
        if budget.members <= 0:
            raise Beyond("too many members")
        bounded = _Bounded(self._file, budget)
        with zipfile.ZipFile(bounded) as archive:
            bounded.isOpened = True
            for info in archive.infolist():
                budget.member(info.filename)
                self._seen.add(info.filename)
                yield info.filename
                if _endsWith([info.filename], _NAMES):
                    yield from budget.asFarAs(self._ofMember(archive, info))
                elif info.flag_bits & 1:
                    budget.trouble("encrypted")

    def _ofMember(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[str]:
        """
        What is in a member that is an archive by its name.
        """
        if info.compress_type not in _BOUNDED_METHODS:
            raise Unreadable("an archive in it, compressed in an unusual way")
        with archive.open(info) as member:
            pieces = _whole(_pieces(member), info.header_offset, self._lookedInto)
            yield from _inner(pieces, [info.filename], self._budget, self._depth)

    def _byHeaders(self) -> Iterator[str]:
        budget = self._budget
        for entry in zipentries.entries(self._file, MAX_NAME, budget.header):
            for name in entry.names:
                if name not in self._seen:
                    budget.member(name)
                    self._seen.add(name)
                    yield name
            isNew = entry.isLocal and entry.position not in self._lookedInto
            if isNew and _endsWith(entry.names, _NAMES):
                pieces = zipentries.content(self._file, entry, _PIECE_OCTETS)
                yield from budget.asFarAs(_inner(pieces, entry.names, budget, self._depth))


def _whole(pieces: Iterator[bytes], position: int, done: set[int]) -> Iterator[bytes]:
    """
    @param done: where C{position} is put when there was no failure.
    """
    yield from pieces
    done.add(position)


class _Bounded:
    """
    A file of which no large piece is read at once.  zipfile reads a directory
    whole; how large it is may stand in two fields, and which of them counts
    depends on the version.

    @ivar isOpened: what is read from now on is not the directory.
    """

    def __init__(self, file: IO[bytes], budget: Budget) -> None:
        self._file = file
        self._budget = budget
        self.isOpened = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, octets: int = -1) -> bytes:
        if octets > MAX_DIRECTORY_OCTETS:
            raise Unreadable("too large a zip directory")
        found = self._file.read(octets)
        if not self.isOpened:
            self._budget.field(len(found))
        return found


def _compressed(file: IO[bytes], names: Sequence[str], budget: Budget, depth: int) -> Iterator[str]:
    inside = dict.fromkeys(map(_insideName, names))
    called = compressed.nameInside(file)[:MAX_NAME].decode("utf-8", "surrogateescape")
    if called:
        inside[called] = None
    yield from inside
    pieces = compressed.unpacked(file, budget.member, budget.trouble)
    yield from _inner(pieces, list(inside), budget, depth)


def _insideName(name: str) -> str:
    """
    What the file in a compressed one is called.
    """
    stem, dot, suffix = name.rstrip(". ").rpartition(".")
    if suffix.lower() in ("tgz", "tbz2", "txz"):
        return f"{stem}.tar"
    return stem if dot else name


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
    behind the blocks of zeros that end it, or look for the next header behind a
    broken one.
    """
    end = file.seek(0, 2)
    position, ended = 0, False
    longNames: list[str] = []
    isSure = True  # whether all readers take these
    while position <= end:
        file.seek(position)
        header = file.read(512)
        position += 512
        if len(header) < 512:
            return
        if not header.strip(b"\0"):
            ended = True
            continue
        size, kind = _size(header[124:136]) if _isTar(header) else None, header[156:157]
        if size is None:
            if ended:
                return
            budget.trouble("a broken tar header")
            continue
        if kind in (b"x", b"L", b"g"):
            longNames += budget.asFarAs(_longNames(file, size, kind, budget))
            isSure = isSure and _addsUp(header)
        elif kind != b"K":
            names = _tarNames(header, longNames, isSure)
            longNames, isSure = [], True
            for name in names:
                budget.member(name)
                yield name
            if _endsWith(names, _NAMES) and kind in (b"0", b"\0", b"7"):
                pieces = _pieces(_Slice(file, size))
                yield from budget.asFarAs(_inner(pieces, names, budget, depth))
        position += (size + 511) // 512 * 512
    raise Unreadable("cut off")


def _longNames(file: IO[bytes], size: int, kind: bytes, budget: Budget) -> Iterator[str]:
    if size > _MAX_NAME_OCTETS:
        raise Unreadable("a tar header too long")
    data = file.read(size)
    if kind == b"L":
        yield _cString(data)
    else:
        yield from _paxPaths(data, budget)


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


def _size(field: bytes) -> int | None:
    """
    A size in octal digits, or in GNU's binary form; C{None} where it is none that
    could be.
    """
    if field[0] & 0x80:
        size = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    else:
        digits = field.partition(b"\0")[0].strip() or b"0"
        size = int(digits, 8) if _OCTAL.fullmatch(digits) else -1
    return size if 0 <= size < 1 << 40 else None


def _cString(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def _ustarName(header: bytes) -> str:
    prefix, name = _cString(header[345:500]), _cString(header[:100])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _paxPaths(data: bytes, budget: Budget) -> Iterator[str]:
    """
    The paths in the records of a pax header: C{LENGTH KEY=VALUE} and a line
    feed.
    """
    position = 0
    while position < len(data):
        blank = data.find(b" ", position, position + 20)
        length = int(data[position:blank]) if blank >= 0 else 0
        if length <= 0:
            raise Unreadable("a broken pax header")
        budget.field(length)
        key, _, value = data[blank + 1 : position + length - 1].partition(b"=")
        if key in (b"path", b"GNU.sparse.name"):
            yield value.decode("utf-8", "replace")
        position += length
