"""
A header section, field by field.
"""

from __future__ import annotations

import re

_FIELD = re.compile(r"([!-9;-~]+)[ \t]*:(.*)", re.S)
_FOLD = re.compile(r"\r\n(?=[ \t])")


def fieldsOf(head: bytes) -> list[tuple[str, str]]:
    """
    @param head: without the empty line.
    @return: (name, value) in their order: text; unfolded; octets that are not
        UTF-8 replaced.
    """
    text = _FOLD.sub("", head.decode("utf-8", "replace"))
    found = map(_FIELD.fullmatch, text.split("\r\n"))
    return [(match[1], match[2].strip()) for match in found if match]
