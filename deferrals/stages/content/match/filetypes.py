"""
What kind of file some octets are, whatever its name says.

The knowledge is puremagic's table of magic numbers.  It is read from the data
file of that package: its functions go through the table row by row, which would
cost most of a millisecond per attachment, so the rows are indexed here by
offset and length.
"""

from __future__ import annotations

import functools
import importlib.resources
import json

#: How much of the beginning of a file is compared.
HEAD_OCTETS = 2048

#: The kinds of file that octets of this offset and length stand for.
_Index = dict[tuple[int, int], dict[bytes, set[str]]]


@functools.cache
def _index() -> _Index:
    """
    Each row of the table is (hexadecimal octets, offset, extension, MIME type,
    text for people).
    """
    table = importlib.resources.files("puremagic").joinpath("magic_data.json")
    index: _Index = {}
    for digits, offset, extension, mimeType, _ in json.loads(table.read_bytes())["headers"]:
        octets = bytes.fromhex(digits)
        if offset < 0 or not octets or offset + len(octets) > HEAD_OCTETS:
            continue
        kinds = index.setdefault((offset, len(octets)), {}).setdefault(octets, set())
        kinds.update(word for word in (extension.lstrip(".").lower(), mimeType) if word)
    return index


def kindsOf(head: bytes) -> set[str]:
    """
    @param head: the beginning of a file.
    @return: extensions (C{"exe"}) and MIME types that its magic number fits:
        several kinds of file share one, and plain text has none.
    """
    found: set[str] = set()
    for (offset, length), kinds in _index().items():
        found |= kinds.get(head[offset : offset + length], set())
    return found
