"""
What rspamd shows of messages: C{rspamadm mime dump}, many files in one call, in
MessagePack, which leaves octets as they are.
"""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from tests.readers.item import Shown

#: So many files in one call of rspamadm, which takes long to start.
AT_ONCE = 200


def rspamd(messages: Sequence[bytes]) -> list[Shown]:
    """
    What it shows of each.
    """
    found: list[Shown] = []
    for start in range(0, len(messages), AT_ONCE):
        with tempfile.TemporaryDirectory() as directory:
            names = []
            for number, message in enumerate(messages[start : start + AT_ONCE]):
                names.append(f"{directory}/{number}")
                with open(names[-1], "wb") as file:
                    file.write(message)
            argv = ["rspamadm", "mime", "--messagepack", "dump", *names]
            done = subprocess.run(argv, capture_output=True, check=False)
            found += [_dumped(one) for one in unpacked(done.stdout) if isinstance(one, dict)]
    return found


def _dumped(dump: dict[bytes, Any]) -> Shown:
    shown = Shown()
    for part in dump[b"parts"]:
        if b"filename" in part:
            shown.name(part[b"filename"], part.get(b"boundary"))
        shown.add(part.get(b"content", b""), part.get(b"boundary"))
    return shown


def unpacked(octets: bytes) -> Iterator[Any]:
    """
    The objects of MessagePack one after another, texts as octets.
    """
    at = 0
    while at < len(octets):
        one, at = _object(octets, at)
        yield one


#: Sizes of what has a fixed length.
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, **{0xCC + n: 1 << n for n in range(4)}}
_FIXED.update({0xD0 + n: 1 << n for n in range(4)})
#: Octets of the length of texts, lists and maps.
_TEXTS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_LISTS, _MAPS = {0xDC: 2, 0xDD: 4}, {0xDE: 2, 0xDF: 4}


def _object(octets: bytes, at: int) -> tuple[Any, int]:
    kind = octets[at]
    at += 1
    if kind < 0x80 or kind >= 0xE0:
        return struct.unpack("b", bytes([kind]))[0], at
    if kind in _FIXED:
        return octets[at : at + _FIXED[kind]], at + _FIXED[kind]
    if 0xA0 <= kind < 0xC0 or kind in _TEXTS:
        length, at = _length(octets, at, _TEXTS.get(kind, 0), kind & 0x1F)
        return octets[at : at + length], at + length
    isMap = kind < 0x90 or kind in _MAPS
    length, at = _length(octets, at, {**_LISTS, **_MAPS}.get(kind, 0), kind & 0x0F)
    found = []
    for _ in range(length * (2 if isMap else 1)):
        one, at = _object(octets, at)
        found.append(one)
    return (dict(zip(found[::2], found[1::2], strict=True)) if isMap else found), at


def _length(octets: bytes, at: int, size: int, small: int) -> tuple[int, int]:
    if not size:
        return small, at
    return int.from_bytes(octets[at : at + size], "big"), at + size
