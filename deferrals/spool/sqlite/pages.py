"""
The pages of a SQLite database, read without SQLite: also where it is damaged.

The format is U{https://www.sqlite.org/fileformat2.html}.  Whatever a file holds,
nothing here raises for it, loops on it, or takes more memory than a page and a
number for each frame of the log.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import attrs

MAGIC = b"SQLite format 3\0"

#: Of the page at the beginning of a file, and of a write-ahead log.
_HEADER, LOG_HEADER, _FRAME_HEADER = 100, 32, 24

_LOG_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}

_SIZES = [1 << power for power in range(9, 17)]

#: The size of our pages; and how many frames of a log without a header are looked at.
_OURS, _GUESSED = 4096, 1000

#: The kinds of a page in a tree, by its first octet.
INDEX_INNER, TABLE_INNER, INDEX_LEAF, TABLE_LEAF = 2, 5, 10, 13
TREE = (INDEX_INNER, TABLE_INNER, INDEX_LEAF, TABLE_LEAF)


@attrs.frozen
class Frame:
    """
    A page in a write-ahead log.

    @ivar page: its number.
    @ivar ends: whether a transaction ends with it.
    @ivar offset: of the page's octets in the log.
    """

    page: int
    ends: bool
    offset: int


@attrs.frozen
class Log:
    """
    A write-ahead log.

    @ivar salt: the first number by which its frames are known; it grows by one
        whenever the log begins anew.
    @ivar size: of a page.
    @ivar frames: those that belong to it, whether they are whole or not.
    @ivar whole: how many of them, from the beginning, SQLite takes.
    @ivar hasHeader: whether its header is whole: otherwise SQLite takes nothing,
        and writes over all of it.
    """

    salt: int
    size: int
    frames: list[Frame]
    whole: int
    hasHeader: bool = True

    @property
    def behind(self) -> int:
        """How many transactions end behind what SQLite takes."""
        return sum(frame.ends for frame in self.frames[self.whole :])


def logSalt(path: str) -> int | None:
    """
    @return: the salt of a write-ahead log; C{None} where there is none.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(LOG_HEADER)
    except OSError:
        return None
    if len(header) < LOG_HEADER or struct.unpack(">I", header[:4])[0] not in _LOG_MAGIC:
        return None
    salt: int = struct.unpack(">I", header[16:20])[0]
    return salt


def readLog(path: str) -> Log | None:
    """
    @return: C{None} where there is no log, or nothing that looks like one.
    """
    try:
        with open(path, "rb") as file:
            return readLogFrom(file)
    except OSError:
        return None


def readLogFrom(file: BinaryIO) -> Log | None:
    """
    The same from a file that is open.
    """
    header = file.read(LOG_HEADER)
    if len(header) < LOG_HEADER:
        return None
    magic, _, size, _, _, _, one, two = struct.unpack(">8I", header)
    if magic in _LOG_MAGIC and size in _SIZES:
        order = _LOG_MAGIC[magic]
        sums = _sums(struct.unpack(f"{order}6I", header[:24]), (0, 0))
        if sums == (one, two):
            return _framesOf(file, header[16:24], size, order, sums)
    found = _guess(file)
    if found is None:
        return None
    salts, size = found
    log = _framesOf(file, salts, size, "<", None)
    return attrs.evolve(log, hasHeader=False)


def _framesOf(
    file: BinaryIO, salts: bytes, size: int, order: str, sums: tuple[int, int] | None
) -> Log:
    """
    @param salts: what frames are known by.
    @param order: of the octets in sums.
    @param sums: those of the header; C{None} where it is damaged.
    """
    words, heads = struct.Struct(f"{order}{size // 4}I"), struct.Struct(f"{order}2I")
    whole, frames = 0, list[Frame]()
    file.seek(LOG_HEADER)
    while len(head := file.read(_FRAME_HEADER)) == _FRAME_HEADER:
        page, length, *_ = struct.unpack(">6I", head)
        offset, octets = file.tell(), file.read(size)
        if head[8:16] != salts or len(octets) < size or not page:
            sums = None  # left over from before the log began anew, or never written
            continue
        frames.append(Frame(page, length > 0, offset))
        if sums is not None:
            sums = _sums(words.unpack(octets), _sums(heads.unpack(head[:8]), sums))
            sums = sums if sums == struct.unpack(">2I", head[16:24]) else None
        if sums is not None and length:
            whole = len(frames)
    return Log(int.from_bytes(salts[:4], "big"), size, frames, whole)


def _guess(file: BinaryIO) -> tuple[bytes, int] | None:
    """
    Without a header: frames that follow one another are known by the same numbers.

    @return: these, and the size of a page.
    """
    octets = file.seek(0, os.SEEK_END) - LOG_HEADER
    for size in sorted(_SIZES, key=lambda size: size != _OURS):
        length = _FRAME_HEADER + size
        before = None
        for number in range(min(octets // length, _GUESSED)):
            file.seek(LOG_HEADER + number * length)
            head = file.read(_FRAME_HEADER)
            isOne = 0 < int.from_bytes(head[:4], "big") < 1 << 30 and any(head[8:16])
            if isOne and (head[8:16] == before or octets == length):
                return head[8:16], size
            before = head[8:16] if isOne else None
    return None


def _sums(words: tuple[int, ...], sums: tuple[int, int]) -> tuple[int, int]:
    one, two = sums
    for place in range(0, len(words), 2):
        one = (one + words[place] + two) & 0xFFFFFFFF
        two = (two + words[place + 1] + one) & 0xFFFFFFFF
    return one, two


class Pages:
    """
    All pages of a database, as SQLite would see them.

    @param path: its file; it may be missing.
    @param log: its write-ahead log; it may be missing.
    @ivar size: of a page.
    @ivar usable: how much of it.
    @ivar count: how many there are.
    """

    def __init__(self, path: str, log: str) -> None:
        self._file = _opened(path)
        self._log = _opened(log)
        self.log = readLog(log)
        self._octets = 0 if self._file is None else os.fstat(self._file.fileno()).st_size
        first = self._octetsAt(0, _HEADER)
        self.size = self._pageSize(first)
        whole = first[:16] == MAGIC and len(first) == _HEADER
        self.usable = self.size - (first[20] if whole and first[20] <= 64 else 0)
        frames = self._frames()
        self._overlay = {frame.page: frame.offset for frame in frames}
        self.count = max([self._octets // self.size, *self._overlay])

    def close(self) -> None:
        """
        Close the files.
        """
        for file in (self._file, self._log):
            if file is not None:
                file.close()

    def _frames(self) -> list[Frame]:
        """
        Those that SQLite takes; all, where there is nothing but the log.
        """
        if self.log is None or self.log.size != self.size:
            return []
        limit = len(self.log.frames) if self._file is None else self.log.whole
        # A page number from a damaged frame must not make the database endless.
        most = self._octets // self.size + len(self.log.frames) + (1 << 20)
        return [frame for frame in self.log.frames[:limit] if frame.page <= most]

    def _octetsAt(self, offset: int, length: int) -> bytes:
        if self._file is None:
            return b""
        try:
            return os.pread(self._file.fileno(), length, offset)
        except OSError:
            return b""

    def _pageSize(self, first: bytes) -> int:
        if first[:16] == MAGIC:
            size = int.from_bytes(first[16:18], "big")
            size = 65536 if size == 1 else size
            if size in _SIZES:
                return size
        if self.log is not None:
            return self.log.size
        # Where every page of 4096 octets begins so, every one of 8192 does: the
        # smallest size that is about as likely as any.
        likely = [self._likeness(size) for size in _SIZES]
        return next(
            (s for s, one in zip(_SIZES, likely, strict=True) if one and one > 0.7 * max(likely)),
            4096,
        )

    def _likeness(self, size: int) -> int:
        """
        How much of the file are pages that begin as those of trees do, if they
        have that size.
        """
        count = min(self._octets // size, 4096)
        found = 0
        for number in range(1, count):
            head = self._octetsAt(number * size, 8)
            cells, start = head[3:5], head[5:7]
            found += (
                head[:1] in (b"\2", b"\5", b"\n", b"\r")
                and int.from_bytes(cells, "big") * 2 + 8 <= int.from_bytes(start, "big") <= size
            )
        return found * size

    def get(self, number: int) -> bytes:
        """
        @return: the page; empty where it is not there as a whole.
        """
        if not 0 < number <= self.count:
            return b""
        if number in self._overlay and self._log is not None:
            try:
                page = os.pread(self._log.fileno(), self.size, self._overlay[number])
            except OSError:
                page = b""
        else:
            page = self._octetsAt((number - 1) * self.size, self.size)
        return page if len(page) == self.size else b""

    def numbers(self) -> Iterator[int]:
        """
        Of all pages that there may be.
        """
        if self._file is None:
            return iter(sorted(self._overlay))
        return iter(range(1, self.count + 1))


def _opened(path: str) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except OSError:
        return None
