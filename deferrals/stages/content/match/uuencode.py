"""
Files written into a text with uuencode, or with base 64 as uuencode writes it.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

from deferrals.stages.content.match.fields import base64

_BEGIN = re.compile(rb"(?:\A|(?<=[\r\n]))begin(-base64)?[ \t]++[0-7]{3,5}[ \t]++([^\r\n]++)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_END_OF_BASE64 = re.compile(rb"[\r\n]====")


def files(text: bytes) -> Iterator[tuple[str, bytes]]:
    """
    @return: the name and the octets of each file in a text.  One that is cut off
        is there as far as it goes.
    """
    position = 0
    while found := _BEGIN.search(text, position):
        following = _BEGIN.search(text, found.end())
        position = following.start() if following else len(text)
        name = found[2].strip().decode("utf-8", "surrogateescape")
        body = text[found.end() : position]
        if found[1] is not None:
            yield name, base64(_END_OF_BASE64.split(body, maxsplit=1)[0])
        else:
            yield name, _decoded(body)


def _decoded(body: bytes) -> bytes:
    pieces = []
    for line in _LINE_END.split(body):
        if line.strip() == b"end":
            break
        pieces.append(_line(line))
    return b"".join(pieces)


def _line(line: bytes) -> bytes:
    """
    What a line stands for; blanks that were lost at its end are put there
    again, and what is behind it is left out.
    """
    if not line or not 32 < line[0] < 96:
        return b""
    length = (line[0] - 32) & 63
    wanted = 1 + (length * 4 + 2) // 3
    try:
        return binascii.a2b_uu(line[:wanted].ljust(wanted, b" "))
    except binascii.Error:
        return b""
