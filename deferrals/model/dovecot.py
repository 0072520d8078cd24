"""
How fields are written in Dovecot's protocols: lines, in which tabs stand between
fields.
"""

from __future__ import annotations

import re

_ESCAPED = {b"0": b"\0", b"1": b"\x01", b"t": b"\t", b"r": b"\r", b"n": b"\n"}
_LETTERS = {octet: b"\x01" + letter for letter, octet in _ESCAPED.items()}


def unescaped(value: bytes) -> bytes:
    """
    What stands for octets that a field cannot have.
    """
    return re.sub(rb"\x01(.)", lambda match: _ESCAPED.get(match[1], match[1]), value, flags=re.S)


def escaped(value: bytes) -> bytes:
    """
    The inverse of L{unescaped}.
    """
    return re.sub(rb"[\0\x01\t\r\n]", lambda match: _LETTERS[match[0]], value)
