"""
The MIME structure of a message, in one pass over its octets.

The standard library's parser takes time proportional to the depth of nesting
times the size, so that a small message can keep it busy for seconds.  Here only
the boundaries are found by ourselves, each with one search whatever the depth.

What is found are all parts that a lenient reader may see.  A line is a boundary
if it begins with one that any header so far has declared, in whatever case and
whether or not it was closed: then one part ends and another one may begin.  For
readers who see no boundary there, a part's content also reaches to the next line
that is one of the part's own level, or of one around it.  Once a header has
declared parts or a message, a line that begins with two hyphens and that fields of
a part follow begins one, too, though no header has declared it.  [rspamd]
"""

from __future__ import annotations

import mmap
import re
from itertools import islice

import attrs

from deferrals.stages.content.match.headers import (
    MAX_STARTS,
    PartHeader,
    isEncodedMessage,
    oddOctets,
    otherStarts,
)

#: A message with more parts, or nested deeper, or with a longer header section
#: (its own or a part's), is not read any further.
MAX_PARTS = 20000
MAX_DEPTH = 100
MAX_HEADER_OCTETS = 256 * 1024

#: The headers of all parts together.
MAX_HEADERS_OCTETS = 8 * 1024 * 1024
MAX_HEADER_LINES = 100_000

#: Of a field with parameters that readers read in many ways; and of all of them
#: together: 16 KiB take some 60 ms.
MAX_FIELD_OCTETS = 64 * 1024
MAX_FIELDS_OCTETS = 256 * 1024

#: The contents of all parts together, as a multiple of the size; they overlap
#: where readers differ, and in honest messages hardly do.
MAX_READINGS = 8
#: Of a small message, so much in any case.
MIN_READINGS_OCTETS = 256 * 1024

#: How often lines that begin as a boundary does are compared with one, by its length.
MAX_COMPARED = 2_000_000

#: So much of a boundary is compared.  [Dovecot compares 80 octets]
_BOUNDARY_OCTETS = 80
_LINE_OCTETS = 1000

#: A line that begins as a boundary does.  The literal comes first: so it is sought fast.
_MARK = re.compile(rb"--(?<![^\r\n]--)")
#: An empty line; also in what has only LF.
_EMPTY = re.compile(rb"\r?\n\r?\n")
_EMPTY_FIRST = re.compile(rb"\r?\n")
#: Fields behind empty lines: a header section for some readers.
_FIELDS_LATE = re.compile(rb"(?:\r?\n)++(?=[\x21-\x39\x3b-\x7e]++[ \t]*+:)")
_MAILBOX_LINE = re.compile(rb"\s*+(?:>?From [^\r\n]*+\s++)?")
#: A line that no header declares, and a field that makes what follows it a part.
_ANY_LINE = re.compile(rb"[^\r\n]++(?:\r\n?|\n)")
_PART_FIELD = re.compile(rb"(?<=[\r\n])content-[!-9;-~]*+[ \t]*+:", re.I)
_EMPTY_CR = re.compile(rb"\r\r|\r\n\r(?!\n)")

#: What L{parts} reads: octets with C{find} and slices.
Buffer = bytes | mmap.mmap


class TooComplex(Exception):
    """
    More parts, levels or header fields than any honest message has.
    """


@attrs.frozen
class Part:
    """
    One part that is no multipart, or the header of one that is.

    @ivar header: what its header says.
    @ivar start: where its content begins in the message.
    @ivar end: where its content ends.
    @ivar others: where else its content begins and ends for some reader.
    @ivar early: of a message, those of these beginnings that are in front of where
        its header says that it is one, or how it is encoded.
    """

    header: PartHeader
    start: int
    end: int
    others: tuple[tuple[int, int], ...] = ()
    early: tuple[int, ...] = ()

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """
        Each beginning and end of its content.
        """
        return ((self.start, self.end), *self.others)


def parts(data: Buffer) -> list[Part]:
    """
    The parts of a message in their order, containers included.

    @raise TooComplex: there are more than L{MAX_PARTS}, or deeper than
        L{MAX_DEPTH}, or one has a header longer than L{MAX_HEADER_OCTETS}, or
        all headers together more than L{MAX_HEADERS_OCTETS} or
        L{MAX_HEADER_LINES}, or a field of one is longer than L{MAX_FIELD_OCTETS},
        all of these together than L{MAX_FIELDS_OCTETS}, or their contents together are more than
        L{MAX_READINGS} times the message.
    """
    return _BoundaryScanner(data).scan()


@attrs.define
class _OpenPart:
    """
    A part whose end is not known for every reader.
    """

    header: PartHeader
    start: int
    end: int
    starts: list[int]
    early: tuple[int, ...]
    closed: bool
    skipped: bool = False
    resume: int = 0
    strictEnd: int | None = None


@attrs.frozen
class _Line:
    """
    A line that begins with a boundary.

    @ivar start: where it begins.
    @ivar next: where the line behind it begins; C{None} where there is none.
    @ivar keys: the boundaries that it begins with.
    @ivar key: the one that it is, nothing else being on the line.
    @ivar closes: whether that is the last of its parts.
    @ivar isDeclared: whether the header of a declared part says that it is one.
    """

    start: int
    next: int | None
    keys: tuple[bytes, ...]
    key: bytes | None
    closes: bool
    isDeclared: bool = True


class _Levels:
    """
    The boundaries that are declared, and which parts wait for one.  A key is a
    boundary in lower case, as far as it is compared.
    """

    def __init__(self) -> None:
        self.digests: dict[bytes, bool] = {}  # whether that is what it separates
        self._lengths: set[int] = set()
        self._compared = 0
        self._whole: dict[bytes, set[bytes]] = {}
        self._open: list[tuple[bytes, ...]] = []
        self._level: dict[bytes, int] = {}
        self._twice: set[bytes] = set()
        self._waiting: dict[bytes | None, list[_OpenPart]] = {}
        self._seen: set[bytes] = set()
        self._quoted: set[bytes] = set()  # only parts that are not declared have it

    def declare(self, header: PartHeader, isDeclared: bool = True) -> None:
        """
        @param isDeclared: whether the part begins with a boundary of others.  What one
            declares that does not closes no part, and is no level.
        """
        boundaries = [one.encode("utf-8", "surrogateescape") for one in header.boundaries]
        wholes = dict.fromkeys(one.rstrip() for one in boundaries)
        keys = dict.fromkeys(one[:_BOUNDARY_OCTETS].lower() for one in wholes)
        fresh = tuple(key for key in keys if key not in self._level)
        self._twice.update(key for key in keys if key in self.digests)
        if isDeclared:
            self._quoted.difference_update(keys)
        else:
            self._quoted.update(keys.keys() - self.digests.keys())
        for key in keys:
            digest = "multipart/digest" in header.mimeTypes
            self.digests[key] = self.digests.get(key, False) or digest
            self._lengths.add(len(key))
        for one in wholes:
            self._whole.setdefault(one[:_BOUNDARY_OCTETS].lower(), set()).add(one)
        if fresh and isDeclared:
            self._level.update(dict.fromkeys(fresh, len(self._open)))
            self._open.append(fresh)
        if len(self._open) > MAX_DEPTH:
            raise TooComplex

    def begin(self, found: _OpenPart, key: bytes | None) -> None:
        """
        A part that a boundary has begun waits for its end; where a boundary was
        declared twice, readers differ in whose it is.
        """
        self._waiting.setdefault(None if key in self._twice else key, []).append(found)

    def line(self, data: Buffer, at: int) -> _Line | None:
        """
        @param at: where two hyphens stand at the beginning of a line.
        """
        self._compared += 1 + len(self._lengths)
        if self._compared > MAX_COMPARED:
            raise TooComplex
        texts = [data[at + 2 : at + 2 + _BOUNDARY_OCTETS].lower()]
        if texts[0].startswith(b'"'):  # some put it in quotes here, too
            texts.append(data[at + 3 : at + 3 + _BOUNDARY_OCTETS].lower())
        begins = (text[:length] for text in texts for length in self._lengths)
        keys = tuple(begin for begin in begins if begin in self.digests)
        if not keys:
            return None
        end = data.find(b"\n", at)
        after = end + 1 if end >= 0 else len(data)
        key, closes = self._exactly(data[at + 2 : min(after, at + _LINE_OCTETS)], keys)
        if key is not None:
            self._seen.add(key)
        isDeclared = not self._quoted.issuperset(keys)
        return _Line(at, after if end >= 0 else None, keys, key, closes, isDeclared)

    def isUnseen(self, header: PartHeader) -> bool:
        """
        Whether it is a multipart of whose boundary there is no line: for strict
        readers its content is one.
        """
        boundaries = [one.encode("utf-8", "surrogateescape") for one in header.boundaries]
        keys = {one.rstrip()[:_BOUNDARY_OCTETS].lower() for one in boundaries}
        return bool(keys) and keys.isdisjoint(self._seen)

    def _exactly(self, line: bytes, keys: tuple[bytes, ...]) -> tuple[bytes | None, bool]:
        """
        @return: the boundary that is alone on a line, and whether it is the last.
        """
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        for end in (b"", b"--"):
            whole = line.removesuffix(end) if line.endswith(end) else None
            for key in keys if whole is not None else ():
                if whole in self._whole[key]:
                    return key, bool(end)
        return None, any(line[len(key) :].startswith(b"--") for key in keys)

    def end(self, line: _Line, at: int) -> None:
        """
        What waits for this line ends at C{at}.
        """
        key = line.key
        if key is None:
            return
        level = self._level.get(key)
        self._finish(key, at)
        if level is not None:
            for inner in self._open[level + 1 :]:
                for one in inner:
                    self._finish(one, at)
                    self._level.pop(one, None)
            del self._open[level + 1 :]
            if line.closes:
                for one in self._open.pop():
                    self._level.pop(one, None)

    def _finish(self, key: bytes, at: int) -> None:
        for found in self._waiting.pop(key, ()):
            found.strictEnd = max(found.start, at)


class _BoundaryScanner:
    def __init__(self, data: Buffer) -> None:
        self._data = data
        self._levels = _Levels()
        self._headerOctets = self._headerLines = self._fieldOctets = self._count = 0
        self._soughtFrom, self._nextMark = 0, -1
        self._left = max(MAX_READINGS * len(data), MIN_READINGS_OCTETS)
        self._carried: PartHeader | None = None
        self._hasParts = False

    def scan(self) -> list[Part]:
        found: list[_OpenPart] = []
        position: int | None = 0
        key: bytes | None = None
        default, closed, line = "text/plain", False, None
        while position is not None:
            one = self._begin(position, key, default, closed, line)
            same = [one]
            while one.header.isMessage and one.start < len(self._data):
                one = self._begin(one.start, key, "text/plain", line=line)
                same.append(one)
            found += same
            line = self._nextLine(one.resume)
            for each in same[:-1]:
                if each.header.isContainer and not one.header.isEmpty:
                    each.skipped = True
            for each in same:
                each.end = self._before(each.start, line.start) if line else len(self._data)
            if line is None:
                break
            position = line.next
            if line.key is None and one.start == line.start and one.header.isShort:
                self._carried = one.header  # for readers to whom that line is in the header
            closed = line.closes
            key = line.key or max(line.keys, key=len, default=None)
            digest = any(self._levels.digests[name] for name in line.keys)
            default = "message/rfc822" if digest else "text/plain"
        return [self._part(one) for one in found if not self._isNothing(one)]

    def _isNothing(self, one: _OpenPart) -> bool:
        """
        Behind the last boundary there is seldom anything.
        """
        start = min(one.start, *one.starts, one.end)
        blank = one.end - start < _BOUNDARY_OCTETS
        return blank and one.closed and not self._data[start : one.end].strip()

    def _begin(
        self,
        position: int,
        key: bytes | None,
        default: str,
        closed: bool = False,
        line: _Line | None = None,
    ) -> _OpenPart:
        self._count += 1
        if self._count > MAX_PARTS:
            raise TooComplex
        isDeclared = line is None or line.isDeclared
        header, starts = self._header(position, default, line is not None and not line.keys)
        if self._carried is not None:
            header = header.joined(self._carried)
            self._carried = None
        if "multipart" in header.mainTypes and not header.isContainer:
            likely = self._likely(starts[0])
            header = attrs.evolve(header, boundaries=(*header.boundaries, *likely))
        self._hasParts = self._hasParts or bool(header.boundaries) or header.isMessage
        self._levels.declare(header, isDeclared)
        if header.isContainer and not header.isMessage and isDeclared:
            header = self._guessed(header, starts[0])
        one = _OpenPart(
            header,
            starts[0],
            starts[0],
            starts[1:],
            self._early(header, position, starts),
            closed and header.isEmpty,
        )
        one.resume = self._ownLine(position, starts[0]) if header.boundaries else starts[0]
        if isDeclared:
            self._levels.begin(one, key)
        else:
            one.strictEnd = one.start
        return one

    def _early(self, header: PartHeader, position: int, starts: list[int]) -> tuple[int, ...]:
        inside = [at for at in starts[1:] if at < starts[0]] if header.isMessage else []
        return tuple(at for at in inside if not isEncodedMessage(self._data[position:at]))

    def _guessed(self, header: PartHeader, start: int) -> PartHeader:
        """
        Where the first line that could be a boundary is none of those that are
        declared, readers may take it for one.
        """
        at = self._find(start)
        if at < 0 or self._levels.line(self._data, at) is not None:
            return header
        likely = self._likely(start)
        header = attrs.evolve(header, boundaries=(*header.boundaries, *likely), isContainer=False)
        self._levels.declare(header)
        return header

    def _ownLine(self, position: int, start: int) -> int:
        """
        Where a header section has a line that is one of its own boundaries, the
        parts begin there; otherwise behind it.
        """
        at = self._find(position)
        while 0 <= at < start:
            if at > position and self._levels.line(self._data, at) is not None:
                return at
            at = self._find(at + 1)
        return start

    def _likely(self, start: int) -> list[str]:
        """
        Where readers may find no boundary in a header: the first line that could
        be one.
        """
        at = self._find(start)
        line = self._data[at + 2 : at + _LINE_OCTETS].partition(b"\n")[0] if at >= 0 else b""
        text = line.decode("utf-8", "surrogateescape").rstrip()
        return [text] if text else []

    def _part(self, one: _OpenPart) -> Part:
        if one.skipped and not one.starts:
            return Part(one.header, one.start, one.start)
        others = [(start, one.end) for start in one.starts if start < one.end]
        strict = len(self._data) if one.strictEnd is None else one.strictEnd
        isLeaf = not one.header.isContainer or self._levels.isUnseen(one.header)
        if strict > one.end and (one.starts or isLeaf):
            others += [(start, strict) for start in (one.start, *one.starts)]
        self._left -= one.end - one.start + sum(end - start for start, end in others)
        if self._left < 0:
            raise TooComplex
        return Part(one.header, one.start, one.end, tuple(others), one.early)

    def _header(
        self, position: int, default: str, toAnyLine: bool = False
    ) -> tuple[PartHeader, list[int]]:
        """
        The header section at C{position}, and where its content begins: behind
        its end, and where else some reader may think so.

        @param toAnyLine: whether any line ends it that could be a boundary.
        """
        empty = _EMPTY_FIRST.match(self._data, position)
        if empty is not None and (position or not self._data[:1000].strip()):
            return self._lateHeader(position, default) or (
                PartHeader.read(b"", default),
                [empty.end()],
            )
        begin = self._firstField(position)
        end, start = self._headerEnd(begin, toAnyLine)
        if end - position > MAX_HEADER_OCTETS:
            raise TooComplex
        octets = self._counted(position, end)
        early = _EMPTY.search(octets, 0, begin - position)
        starts = [found.end() for found in (empty, early) if found]
        skipped = begin - position
        starts += [skipped + at for at in otherStarts(octets[skipped:])]
        starts += [found.end() for found in islice(_EMPTY_CR.finditer(octets), MAX_STARTS)]
        if position and end == start:  # no empty line: for some, no header
            starts.append(0)
        return PartHeader.read(octets, default), [start, *(position + at for at in starts)]

    def _lateHeader(self, position: int, default: str) -> tuple[PartHeader, list[int]] | None:
        """
        What some readers take for a part's header: what stands behind an empty
        line, where others see the content begin.
        """
        late = _FIELDS_LATE.match(self._data, position, position + _LINE_OCTETS)
        if late is None:
            return None
        end, start = self._headerEnd(late.end())
        if end - position > MAX_HEADER_OCTETS:
            return None
        octets = self._counted(late.end(), end)
        header = PartHeader.read(octets, default)
        if header.isEmpty:
            return None
        kinds = (*header.mimeTypes, default)
        header = attrs.evolve(header, mimeTypes=kinds, isPlain=False, isContainer=False)
        return header, [start, late.end(), *(late.end() + at for at in otherStarts(octets))]

    def _counted(self, start: int, end: int) -> bytes:
        """
        The octets of a header section.
        """
        octets = self._data[start:end]
        self._headerOctets += len(octets)
        self._headerLines += octets.count(b"\n")
        if self._headerOctets > MAX_HEADERS_OCTETS or self._headerLines > MAX_HEADER_LINES:
            raise TooComplex
        longest, together = oddOctets(octets)
        self._fieldOctets += together
        if longest > MAX_FIELD_OCTETS or self._fieldOctets > MAX_FIELDS_OCTETS:
            raise TooComplex
        return octets

    def _firstField(self, position: int) -> int:
        """
        Some readers skip empty lines at the beginning of a message, and a mailbox's
        line in front of them.
        """
        found = _MAILBOX_LINE.match(self._data, 0, _LINE_OCTETS) if position == 0 else None
        return found.end() if found is not None else position

    def _headerEnd(self, position: int, toAnyLine: bool = False) -> tuple[int, int]:
        """
        An empty line ends a header section, and so does a boundary.
        """
        at = position
        while True:
            boundary = self._find(at)
            limit = boundary if boundary >= 0 else len(self._data)
            empty = _EMPTY.search(self._data, at, limit)
            if empty is not None:
                return empty.start(), empty.end()
            if boundary < 0:
                return len(self._data), len(self._data)
            if toAnyLine or self._levels.line(self._data, boundary) is not None:
                return boundary, boundary
            at = boundary + 1

    def _before(self, start: int, at: int) -> int:
        """
        Where what stands in front of the line at C{at} ends: the line end
        before a boundary belongs to it.
        """
        for ending in (b"\r\n", b"\n", b"\r"):
            if self._data[at - len(ending) : at] == ending:
                return max(start, at - len(ending))
        return max(start, at)

    def _nextLine(self, position: int) -> _Line | None:
        at = self._find(position)
        while at >= 0:
            line = self._levels.line(self._data, at)
            if line is not None:
                self._levels.end(line, self._before(0, at))
                return line
            line = self._undeclared(at) if self._hasParts else None
            if line is not None:
                return line
            at = self._find(at + 1)
        return None

    def _undeclared(self, at: int) -> _Line | None:
        """
        The line at C{at}, where fields of a part follow it.
        """
        whole = _ANY_LINE.match(self._data, at)
        if whole is None:
            return None
        limit = self._find(whole.end())
        limit = limit if limit >= 0 else len(self._data)
        field = _PART_FIELD.search(self._data, whole.end(), limit)
        if field is None or _EMPTY.search(self._data, whole.end(), field.start()) is not None:
            return None
        return _Line(at, whole.end(), (), None, False, False)

    def _find(self, position: int) -> int:
        """
        The next line that begins as a boundary does; -1 where there is none.
        Parts ask for the same one again and again: it is sought once.
        """
        if not self._soughtFrom <= position <= self._nextMark:
            found = _MARK.search(self._data, position)
            self._soughtFrom = position
            self._nextMark = len(self._data) if found is None else found.start()
        return self._nextMark if self._nextMark < len(self._data) else -1
