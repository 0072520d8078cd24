"""
What kind of file some octets are, whatever its name says.

The knowledge is puremagic's table of magic numbers; looking each of its rows
up in turn would cost most of a millisecond per attachment, so they are indexed
here by place and length.
"""

from __future__ import annotations

import functools

import puremagic.main

#: How much of the beginning of a file is looked at.
HEAD_OCTETS = 2048

_Index = dict[tuple[int, int], dict[bytes, set[str]]]


@functools.cache
def _index() -> _Index:
    index: _Index = {}
    for row in puremagic.main.magic_header_array:
        place = (row.offset, len(row.byte_match))
        if row.offset < 0 or not row.byte_match or sum(place) > HEAD_OCTETS:
            continue
        kinds = index.setdefault(place, {}).setdefault(row.byte_match, set())
        kinds.update(word for word in (row.extension.lstrip(".").lower(), row.mime_type) if word)
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
