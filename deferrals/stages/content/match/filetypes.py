"""
What kind of file some octets are, whatever its name says.

The knowledge is puremagic's table of magic numbers.  It is read from the data
file of that package: its functions go through the table row by row, which would
cost most of a millisecond per attachment, so the rows are indexed here by
offset and first octet.
"""

from __future__ import annotations

import functools
import importlib.resources
import json

#: How much of the beginning of a file is compared.
HEAD_OCTETS = 2048

#: For each offset, in their order, the octets that may be there, by the first of
#: them, and the kinds of file that they stand for.
_Index = list[tuple[int, dict[int, dict[bytes, set[str]]]]]

_NOTHING: dict[bytes, set[str]] = {}


@functools.cache
def _index() -> _Index:
    """
    Each row of the table is (hexadecimal octets, offset, extension, MIME type,
    text for people).
    """
    table = importlib.resources.files("puremagic").joinpath("magic_data.json")
    index: dict[int, dict[int, dict[bytes, set[str]]]] = {}
    for digits, offset, extension, mimeType, _ in json.loads(table.read_bytes())["headers"]:
        octets = bytes.fromhex(digits)
        if offset < 0 or not octets or offset + len(octets) > HEAD_OCTETS:
            continue
        kinds = index.setdefault(offset, {}).setdefault(octets[0], {}).setdefault(octets, set())
        kinds.update(word for word in (extension.lstrip(".").lower(), mimeType) if word)
    return sorted(index.items())


def kindsOf(head: bytes) -> set[str]:
    """
    @param head: the beginning of a file.
    @return: extensions (C{"exe"}) and MIME types that its magic number fits:
        several kinds of file share one, and plain text has none.
    """
    found: set[str] = set()
    for offset, byFirst in _index():
        if offset >= len(head):
            break
        for octets, kinds in byFirst.get(head[offset], _NOTHING).items():
            if head.startswith(octets, offset):
                found |= kinds
    return found
