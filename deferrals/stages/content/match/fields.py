"""
What header fields say: parameters (RFC 2045 §5.1; continued, encoded, with
character sets: RFC 2231) and encoded words (RFC 2047), as leniently as mail
programs read them, in time linear in the length of the field.  The standard
library's readers take seconds for some fields of a few kilobytes.
"""

from __future__ import annotations

import binascii
import codecs
import re
import urllib.parse

_PARAMETER = re.compile(r';\s*+([^\s=;]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^;]*+)', re.S)
_SECTION = re.compile(r"(.+?)(?:\*([0-9]{1,4}))?(\*)?")
_WORDS = re.compile(r"(=\?[^?\s]++\?[bBqQ]\?[^?]*+\?=)(?:\s++(?==\?[^?\s]++\?[bBqQ]\?))?")
_WORD = re.compile(r"=\?([^?\s*]*+)[^?\s]*+\?([bBqQ])\?([^?]*+)\?=")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")

#: Codecs that no mail is written in; some of them take their time.
_NO_CHARSETS = {"punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined"}

#: A parameter in more sections than this has no more.
MAX_SECTIONS = 1000


def parameters(value: str) -> dict[str, str]:
    """
    @param value: a field's value; what is in front of its first semicolon is
        no parameter.
    @return: values by name, names in lower case; of parameters of the same
        name the first one counts, and one that is encoded before one that is
        not.
    """
    plain: dict[str, str] = {}
    sections: dict[str, dict[int, tuple[str, bool]]] = {}
    for found in _PARAMETER.finditer(value):
        text = _unquoted(found[2])
        match = _SECTION.fullmatch(found[1].lower())
        if match is None or (match[2] is None and match[3] is None):
            plain.setdefault(found[1].lower(), text)
        elif int(match[2] or 0) < MAX_SECTIONS:
            encoded = match[3] is not None
            sections.setdefault(match[1], {}).setdefault(int(match[2] or 0), (text, encoded))
    return {**plain, **{name: _joined(found) for name, found in sections.items()}}


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text.strip()
    quoted = text[1:-1] if len(text) > 1 and text.endswith('"') else text[1:]
    return re.sub(r"\\(.)", r"\1", quoted, flags=re.S)


def _joined(sections: dict[int, tuple[str, bool]]) -> str:
    """
    The sections from the first one on, as far as none is missing.
    """
    charset, pieces = "utf-8", []
    for number in range(MAX_SECTIONS):
        if number not in sections:
            break
        text, encoded = sections[number]
        if number == 0 and encoded and text.count("'") >= 2:
            charset, _, text = text.split("'", 2)
        octets = text.encode("utf-8", "surrogateescape")
        pieces.append(urllib.parse.unquote_to_bytes(octets) if encoded else octets)
    return decoded(b"".join(pieces), charset)


def words(value: str) -> str:
    """
    A field's value with its encoded words decoded, and what stands between
    two of them left out.
    """
    pieces: list[str] = []
    held: list[bytes] = []
    heldCharset = ""
    for number, piece in enumerate(_WORDS.split(value)):
        word = _WORD.fullmatch(piece) if number % 2 else None
        charset = word[1].lower() if word else ""
        if held and (piece if word is None else charset != heldCharset):
            pieces.append(decoded(b"".join(held), heldCharset))
            held = []
        if word is None:
            pieces.append(piece)
        else:
            held.append(_octets(word[2], word[3]))
            heldCharset = charset
    return "".join([*pieces, decoded(b"".join(held), heldCharset)])


def _octets(encoding: str, text: str) -> bytes:
    """
    What an encoded word stands for.
    """
    octets = text.encode("utf-8", "surrogateescape")
    if encoding in "qQ":
        return binascii.a2b_qp(octets, header=True)
    return base64(octets)


def base64(octets: bytes) -> bytes:
    """
    What lenient mail programs make of it: all that is no base64 is left out,
    and so is a last character that is alone.
    """
    octets = _NOT_BASE64.sub(b"", octets)
    whole = len(octets) // 4 * 4
    rest = octets[whole:]
    tail = binascii.a2b_base64(rest + b"=" * (4 - len(rest))) if len(rest) > 1 else b""
    return binascii.a2b_base64(octets[:whole]) + tail


def decoded(octets: bytes, charset: str) -> str:
    """
    Octets as text, whatever the character set is called.
    """
    try:
        codec = codecs.lookup(charset or "utf-8").name
        if codec not in _NO_CHARSETS:
            text = octets.decode(codec, "replace")
            return _whole(text) if codec == "utf-7" else text
    except (LookupError, ValueError):
        pass
    return octets.decode("utf-8", "replace")


def _whole(text: str) -> str:
    """
    Without halves of characters, which UTF-7 can say alone.
    """
    return text.encode("utf-8", "replace").decode("utf-8")
