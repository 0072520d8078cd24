"""
What is in a C{winmail.dat}: the files that Outlook has put into Microsoft's
TNEF ([MS-OXTNEF]), with the names that it gives them.

Names stand in the attachment's title and in MAPI properties, contents in the
attachment's data or in a property; each of them is given, since readers differ
in which they take.
"""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Iterator

MAGIC = b"\x78\x9f\x3e\x22"

_TITLE, _DATA, _RENDERING, _PROPERTIES = 0x8010, 0x800F, 0x9002, 0x9005
_NAMES = (0x3001, 0x3704, 0x3707, 0x3703)
_OBJECT = 0x3701

#: A file goes by the last ones of its names; an attachment has two or three.
MAX_NAMES = 10

#: Octets of a value of fixed length, by its type; all are padded to four.
_FIXED = {2: 4, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 10: 4, 11: 4, 20: 8, 64: 8, 72: 16}
_TEXT, _UNICODE, _BINARY, _EMBEDDED = 0x1E, 0x1F, 0x102, 0x0D


class BrokenTNEF(ValueError):
    """
    It does not go on as it should.
    """


def files(data: bytes) -> Iterator[tuple[list[str], bytes]]:
    """
    @param data: what begins with L{MAGIC}.
    @return: the names and the octets of each file; of one with several names,
        each comes alone, without octets, too.
    @raise BrokenTNEF: this is not all.
    """
    names: deque[str] = deque(maxlen=MAX_NAMES)
    for attribute, start, end in _attributes(data):
        found: list[str] = []
        contents: list[bytes] = []
        if attribute == _RENDERING:
            names.clear()
        elif attribute == _TITLE:
            found = _texts(data[start:end])
        elif attribute == _DATA:
            contents = [data[start:end]]
        elif attribute == _PROPERTIES:
            found, contents = _attachmentProperties(data[start:end])
        names.extend(found)
        yield from (([name], b"") for name in found)
        yield from ((list(names), one) for one in contents)


def _attributes(data: bytes) -> Iterator[tuple[int, int, int]]:
    position = len(MAGIC) + 2
    while position + 9 <= len(data):
        identity, length = struct.unpack("<II", data[position + 1 : position + 9])
        start = position + 9
        if start + length > len(data):
            yield identity & 0xFFFF, start, len(data)
            raise BrokenTNEF("cut off")
        yield identity & 0xFFFF, start, start + length
        position = start + length + 2


def _texts(octets: bytes) -> list[str]:
    octets = octets.rstrip(b"\0")
    return [octets.decode("utf-8", "surrogateescape")] if octets else []


def _attachmentProperties(data: bytes) -> tuple[list[str], list[bytes]]:
    """
    The names and the contents among an attachment's MAPI properties, up to one that
    cannot be read: programs go on with the next attribute.
    """
    names: list[str] = []
    contents: list[bytes] = []
    with contextlib.suppress(BrokenTNEF):
        for kind, identity, value in _properties(data):
            if identity in _NAMES and kind == _UNICODE:
                names.append(value.decode("utf-16-le", "replace").rstrip("\0"))
            elif identity in _NAMES and kind == _TEXT:
                names.extend(_texts(value))
            elif identity == _OBJECT:
                contents.append(value[16:] if kind == _EMBEDDED else value)
    return names, contents


def _properties(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    reader = _Reader(data)
    for _ in range(reader.number()):
        kind, identity = struct.unpack("<HH", reader.take(4))
        if identity >= 0x8000:
            _skipName(reader)
        several, kind = kind & 0x1000, kind & 0xEFFF
        variable = kind in (_TEXT, _UNICODE, _BINARY, _EMBEDDED)
        count = reader.number() if several or variable else 1
        for _ in range(count):
            length = reader.number() if variable else _FIXED.get(kind, 0)
            if length == 0 and not variable:
                raise BrokenTNEF("an unknown type")
            yield kind, identity, reader.take(length)


def _skipName(reader: _Reader) -> None:
    reader.take(16)
    isText = reader.number()
    reader.take(reader.number() if isText else 4)


class _Reader:
    """
    Reads values one after another, each padded to four octets.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def number(self) -> int:
        (number,) = struct.unpack("<I", self.take(4))
        return int(number)

    def take(self, octets: int) -> bytes:
        start = self._position
        if start + octets > len(self._data):
            raise BrokenTNEF("cut off")
        self._position = start + (octets + 3) // 4 * 4
        return self._data[start : start + octets]
