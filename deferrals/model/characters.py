"""
Characters that are not for text in one line: they cannot be seen, or are taken
for a line's end.  In an address or a command one could hide what it really says.

The names here are made for the inside of C{[]} in a regular expression.
"""

from __future__ import annotations

#: Unicode's Cc (C0 and C1 controls, DEL), Zl and Zp (what some programs take for a
#: line's end), Cs (halves of characters, which have no octets) and Cf (format
#: characters).  Two of Cf are left out, which some scripts need inside of words:
#: U+200C and U+200D (RFC 5892, appendix A).
_UNFIT = (
    *((0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x600, 0x605), (0x61C, 0x61C)),
    *((0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2), (0x180E, 0x180E)),
    *((0x200B, 0x200B), (0x200E, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F)),
    *((0xD800, 0xDFFF), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB), (0x110BD, 0x110BD)),
    *((0x110CD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A)),
    (0xE0000, 0xE007F),
)

#: Zs: blanks of all kinds, but for the one of ASCII.
_BLANKS = (
    *((0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x202F, 0x202F)),
    *((0x205F, 0x205F), (0x3000, 0x3000)),
)


def _between(start: int, end: int) -> str:
    return f"\\U{start:08x}-\\U{end:08x}"


def _fit() -> str:
    ranges, start = [], 0x80
    for first, last in sorted((*_UNFIT, *_BLANKS)):
        if first > start:
            ranges.append(_between(start, first - 1))
        start = max(start, last + 1)
    return "".join([*ranges, _between(start, 0x10FFFF)])


#: What does not belong in a line of text.
UNFIT = "".join(_between(*one) for one in _UNFIT)

#: What is not ASCII, and can stand in a word.
WORD = _fit()
