"""
Text in a header field that we write, whoever says it: ASCII by RFC 2047, folded,
printable.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator

#: A line is folded before it gets longer than this (RFC 5322 §2.1.1), where
#: there is a place for it; no line is longer than 998.
FOLD_OCTETS = 76

#: So many octets of UTF-8 make an encoded word of 72 (RFC 2047 §2: at most 75).
_WORD_OCTETS = 45

#: A word that is longer is encoded, since it cannot be folded.
_WORD_MOST = 800

_NAME = re.compile(r"[!-9;-~]{1,200}")


def isFieldName(name: str) -> bool:
    """
    Whether a field may be called so (RFC 5322 §3.6.8), in a length that makes
    sense.
    """
    return _NAME.fullmatch(name) is not None


def lines(text: str, used: int) -> list[str]:
    """
    @param text: one line of printable text.
    @param used: how long the first line is already, the colon included.
    @return: the lines of a field's value, each with the blank in front of it.
        Words stay as they are where they are ASCII and can be folded; the others
        are encoded.  A reader that decodes them gets the text.
    """
    return _folded(list(_encoded(text.split(" "))), used)


def _encoded(words: Iterable[str]) -> Iterator[str]:
    """
    Words of which those that need it are encoded, with the blanks between them.
    """
    run: list[str] = []
    blanks = 0
    for word in words:
        if _needsEncoding(word):
            run += [""] * blanks + [word]
            blanks = 0
        elif not word and run:
            blanks += 1
        else:
            yield from encodedWords(" ".join(run))
            yield from [""] * blanks
            yield word
            run, blanks = [], 0
    yield from encodedWords(" ".join(run))
    yield from [""] * blanks


def _needsEncoding(word: str) -> bool:
    return not word.isascii() or "=?" in word or len(word) > _WORD_MOST


def encodedWords(text: str) -> Iterator[str]:
    """
    @return: words of at most 75 octets; no character is divided.
    """
    octets = text.encode("utf-8", "replace")
    start = 0
    while start < len(octets):
        end = start + _WORD_OCTETS
        while end < len(octets) and octets[end] & 0xC0 == 0x80:
            end -= 1
        yield f"=?utf-8?b?{base64.b64encode(octets[start:end]).decode('ascii')}?="
        start = end


def _folded(words: list[str], used: int) -> list[str]:
    found: list[str] = []
    line, length, isBlank = [""], used, False
    for word in words:
        if length + 1 + len(word) > FOLD_OCTETS and not isBlank:
            found.append(" ".join(line))
            line, length, isBlank = [""], 0, True
        line.append(word)
        length += 1 + len(word)
        isBlank = isBlank and not word.strip()
    last = " ".join(line)
    return [*found, last] if last.strip() or not found else found  # no line of blanks alone


def prefixed(prefix: str, value: str) -> list[str]:
    """
    Text in front of a value that is there already: a Subject's.

    @param prefix: printable text.
    @param value: the first line of the value, without the blanks in front.
    @return: lines, as in L{lines}.
    """
    if prefix.isascii() and "=?" not in prefix and len(prefix) + len(value) < FOLD_OCTETS:
        return [f" {prefix}{value}".rstrip()]
    # the blank between two encoded words is none
    text = prefix if value.startswith("=?") else prefix.rstrip()
    found = lines(text, len("Subject:"))
    if not value:
        return found
    if len(found[-1]) + len(value) < FOLD_OCTETS:
        return [*found[:-1], f"{found[-1]} {value}"]
    return [*found, f" {value}"]


def escaped(text: str) -> str:
    """
    Text with its characters written out that are not ASCII: RFC 6533 §3,
    utf-8-addr-xtext, for what can carry ASCII only and no encoded words.
    """
    return "".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in text)
