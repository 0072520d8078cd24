"""
Files written into a text with uuencode, or with base 64 as uuencode writes it.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

from deferrals.stages.content.match.fields import base64

#: The word comes first, and then what must stand in front of it: so it is sought fast.
_BEGIN = re.compile(rb"begin(?<![^\r\n]begin)(-base64)?[ \t]++[0-7]{3,5}[ \t]++([^\r\n]++)")
#: Where the transfer encoding says it, any such line will do.
_ANY_BEGIN = re.compile(
    rb"begin(?<![^\r\n]begin)(-base64)?\b(?:[ \t]++[0-7]++)?+[ \t]*+([^\r\n]*+)"
)
_LINE_END = re.compile(rb"\r\n|\n|\r")
_END_OF_BASE64 = re.compile(rb"[\r\n]====")


def files(text: bytes, isDeclared: bool = False) -> Iterator[tuple[str, bytes]]:
    """
    @param isDeclared: whether the transfer encoding says that it is one.
    @return: the name and the octets of each file in a text.  One that is cut off
        is there as far as it goes.
    """
    position = 0
    form = _ANY_BEGIN if isDeclared else _BEGIN
    while found := form.search(text, position):
        following = form.search(text, found.end())
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
    if not line:
        return b""
    length = (line[0] - 32) & 63
    wanted = 1 + (length * 4 + 2) // 3
    try:
        return binascii.a2b_uu(line[:wanted].ljust(wanted, b" "))
    except binascii.Error:
        return b""
