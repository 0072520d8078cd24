"""
Differences between C{match} and its readers that remain: each a predicate about
one concrete difference, with its reason, which stands in C{docs/stages/match.md},
too.  How often each was needed is counted.
"""

from __future__ import annotations

import base64
import binascii
import bisect
import contextlib
import quopri
import re
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

import attrs

_NOT_ASCII = re.compile("[^\0-\x7f]")
_LETTER = re.compile(rb"[A-Za-z0-9+/]")
_NO_BASE64 = re.compile(rb"[^A-Za-z0-9+/\r\n]")
#: A message with parts, in another one.
_ENCLOSED = re.compile(rb"\A[!-9;-~]+[ \t]*:(?s:.)*^Content-(?s:.)*^--", re.I | re.M)
_WORD = re.compile(rb"=\?[^?\s]+\?[bB]\?([^?]*)\?=")
#: Also where a CR alone ends the line.
_LIKE_BOUNDARY = re.compile(rb"(?:\A|(?<=[\r\n]))--([^\r\n]*)")
#: So many octets may be in common by chance.
_IN_COMMON = 3
#: What a reader shows of what is seen is more than one part of so many.
_SUBSTANTIAL = 10
_UNPRINTED = re.compile(r"[^!->@-~]")
_HALF = re.compile("[\udc80-\udcff]")
_CONTROL = re.compile("[\0-\x1f\x7f]")
_NO_LETTERS = re.compile(rb"[^A-Za-z0-9+/]+")


@attrs.frozen
class Difference:
    """
    What a reader shows of a message that C{match} does not see.

    @ivar reader: which.
    @ivar boundary: what the reader says is the boundary of the part.
    """

    reader: str
    message: bytes
    name: bytes | None = None
    content: bytes | None = None
    boundary: bytes | None = None


class WhatIsSeen(Protocol):
    """
    What C{match} sees of a message.
    """

    @property
    def names(self) -> Collection[str]: ...

    @property
    def contents(self) -> Collection[bytes]: ...

    @property
    def boundaries(self) -> Collection[bytes]: ...

    def ofOther(self, message: bytes) -> WhatIsSeen: ...

    def hasName(self, name: bytes) -> bool: ...

    def hasContent(self, content: bytes) -> bool: ...


@attrs.frozen
class Exemption:
    """
    A difference that may be.

    @ivar reason: the sentence in the documentation.
    @ivar applies: whether this is it.
    """

    reason: str
    applies: Callable[[Difference, WhatIsSeen], bool]


def trimmed(content: bytes) -> bytes:
    """
    Without what the comparison does not care for: how lines end, blanks around
    the whole.
    """
    return content.replace(b"\r\n", b"\n").strip()


def _letters(octets: bytes) -> bytes:
    return _NO_LETTERS.sub(b"", octets)


def _base64(content: bytes) -> bytes:
    letters = _letters(content)
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    return base64.b64decode(letters + b"=" * (-len(letters) % 4))


def _uudecoded(content: bytes) -> bytes:
    pieces = []
    for line in content.partition(b"\n")[2].splitlines():
        with contextlib.suppress(binascii.Error):
            pieces.append(binascii.a2b_uu(line))
    return b"".join(pieces)


def _goesOn(one: Difference, seen: WhatIsSeen) -> bool:
    content = trimmed(one.content or b"")
    return one.content is not None and any(
        other.startswith(content) and len(content) * _SUBSTANTIAL > len(other)
        for other in seen.contents
    )


@attrs.frozen
class _WithoutNul:
    """
    What is seen, without NULs.
    """

    seen: WhatIsSeen

    @property
    def names(self) -> Collection[str]:
        return self.seen.names

    @property
    def contents(self) -> Collection[bytes]:
        return {one.replace(b"\0", b"\x80") for one in self.seen.contents}

    @property
    def boundaries(self) -> Collection[bytes]:
        return self.seen.boundaries

    def ofOther(self, message: bytes) -> WhatIsSeen:
        return self.seen.ofOther(message)

    def hasName(self, name: bytes) -> bool:
        return self.seen.hasName(name)

    def hasContent(self, content: bytes) -> bool:
        return trimmed(content) in self.contents


def _hasNoNul(one: Difference, seen: WhatIsSeen) -> bool:
    if one.reader != "dovecot" or b"\0" not in one.message:
        return False
    if one.name is not None:
        return seen.hasName(one.name.replace(b"\xef\xbf\xbd", b"\0"))
    other = _WithoutNul(seen)
    return other.hasContent(one.content or b"") or any(
        why(one, other) for why in (_goesOn, _isEncoded, _readsOn)
    )


def _isReplaced(one: Difference, seen: WhatIsSeen) -> bool:
    if one.reader != "python" or one.name is None:
        return False
    shown = one.name.decode("utf-8", "surrogateescape").strip().lower()
    octets = [name.encode("utf-8", "surrogateescape").decode("latin-1") for name in seen.names]
    return shown in {_NOT_ASCII.sub("\ufffd", one) for one in (*octets, *seen.names)}


def _isEncoded(one: Difference, seen: WhatIsSeen) -> bool:
    return one.content is not None and _seenDecoded(one.content, seen)


def _seenDecoded(content: bytes, seen: WhatIsSeen) -> bool:
    return any(
        decoded.strip() and trimmed(decoded) in seen.contents
        for decoded in (_base64(content), binascii.a2b_qp(content), _uudecoded(content))
    )


def _readsOn(one: Difference, seen: WhatIsSeen) -> bool:
    content = trimmed(one.content or b"")
    places = [found.start() for found in re.finditer(rb"^--", content, re.M)][:50]
    isBoundary = content[2:202].lstrip(b'"').lower().startswith(tuple(seen.boundaries))
    return any(
        trimmed(content[:place]) in seen.contents or _seenDecoded(content[:place], seen)
        for place in places
        if place
    ) or (places[:1] == [0] and isBoundary)


def _isOddBase64(one: Difference, seen: WhatIsSeen) -> bool:
    content = one.content or b""
    begins = [trimmed(content[:20])[:3], content[:3]]
    return any(
        len(run) > _IN_COMMON and content.startswith(run) and _begins(run, seen)
        for begin in begins
        for run in _runs(one.message, base64.b64encode(begin))
    )


def _runs(message: bytes, begin: bytes) -> Iterator[bytes]:
    """
    What base 64 that begins so stands for, up to what is none.
    """
    places = [found.start() for found in _LETTER.finditer(message)]
    letters = _letters(message)
    at = letters.find(begin)
    while at >= 0 and len(begin) == 4:
        odd = _NO_BASE64.search(message, places[at])
        if odd:
            end = letters[at : bisect.bisect_left(places, odd.start())]
            yield base64.b64decode(end[: len(end) // 4 * 4])
        at = letters.find(begin, at + 1)


def _begins(content: bytes, seen: WhatIsSeen) -> bool:
    return any(other.startswith(trimmed(content)) for other in seen.contents)


def _hasBrokenLine(one: Difference, seen: WhatIsSeen) -> bool:
    content = one.content or b""
    common = max((_common(content, other) for other in seen.contents), default=0)
    begin = content[: min(common, 45) // 3 * 3]
    line = binascii.b2a_uu(begin, backtick=False)[1:].strip()
    return len(begin) > 2 and b"begin" in one.message and line in one.message


def _common(one: bytes, other: bytes) -> int:
    length = min(len(one), len(other))
    return next((at for at in range(length) if one[at] != other[at]), length)


def _isUndeclared(one: Difference, seen: WhatIsSeen) -> bool:
    """
    Whether C{match} sees it as soon as a header declares one of the lines, of the
    message or of one that is encoded in it.
    """
    if one.reader != "rspamd":
        return False
    encoded = [content for content in seen.contents if _ENCLOSED.search(content)]
    return any(
        _seesWith(line, attrs.evolve(one, message=message), seen)
        for message in (one.message, *encoded[:50])
        for line in _likeBoundaries(message)
    )


def _likeBoundaries(message: bytes) -> list[bytes]:
    lines = {found[1].rstrip() for found in _LIKE_BOUNDARY.finditer(message)}
    return sorted(lines | {line.removesuffix(b"--") for line in lines})[:50]


def _seesWith(line: bytes, one: Difference, seen: WhatIsSeen) -> bool:
    boundary = line.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    declared = b'Content-Type: multipart/x; boundary="' + boundary + b'"\r\n'
    other = seen.ofOther(declared + one.message.lstrip(b"\r\n"))
    return other.hasName(one.name) if one.name is not None else other.hasContent(one.content or b"")


def _beginsWithFrom(one: Difference, seen: WhatIsSeen) -> bool:
    first, _, rest = (one.content or b"").partition(b"\n")
    isMoved = one.reader == "python" and first.startswith(b"From ")
    return isMoved and (
        not rest.strip() or seen.hasContent(rest) or _goesOn(attrs.evolve(one, content=rest), seen)
    )


def _closesComment(one: Difference, seen: WhatIsSeen) -> bool:
    name = one.name or b""
    closed = name[:-1]
    forms = (closed, name.rstrip(b")"), name.rstrip(b')"'), closed.replace(b'"', b""))
    return one.reader == "python" and name.endswith(b")") and any(map(seen.hasName, forms))


def _isPunctuation(one: Difference, seen: WhatIsSeen) -> bool:
    return one.name is not None and not re.search(rb"[0-9A-Za-z\x80-\xff]", one.name)


def _hasNoControls(one: Difference, seen: WhatIsSeen) -> bool:
    name = (one.name or b"").decode("utf-8", "surrogateescape").strip().lower()
    plain = _UNPRINTED.sub("", name)
    isOctets = _HALF.search(name) is not None and len(plain) > _IN_COMMON
    return (
        one.reader == "rspamd"
        and "?" in name
        and (
            name in {_CONTROL.sub("?", other) for other in seen.names}
            or (isOctets and plain in {_UNPRINTED.sub("", other) for other in seen.names})
        )
    )


def _isOtherPieces(one: Difference, seen: WhatIsSeen) -> bool:
    name = one.name or b""
    halves = ((name[:at], name[at:]) for at in range(1, len(name)))
    return (
        one.reader == "rspamd"
        and re.search(rb"name\*\d", one.message, re.I) is not None
        and any(seen.hasName(first) and seen.hasName(second) for first, second in halves)
    )


def _isDecodedTwice(one: Difference, seen: WhatIsSeen) -> bool:
    shown = trimmed(one.content or b"")
    isEncoded = _ENCODED_MESSAGE.search(one.message) is not None
    return (
        one.reader == "rspamd"
        and isEncoded
        and bool(shown)
        and any(trimmed(decode(other)) == shown for other in seen.contents for decode in _DECODERS)
    )


def _byGroups(content: bytes) -> bytes:
    """
    Base 64, octet by octet, as rspamd has it where there is padding inside.
    """
    groups, before, letters = [b""], b" ", iter(re.findall(rb"(?s:.)", content))
    for octet in letters:
        if _LETTER.fullmatch(octet):
            groups[-1] += octet
        elif octet == b"=" and len(groups[-1]) % 4 == 2 and _LETTER.fullmatch(before):
            groups.append(b"")
            octet = next(letters, b" ")
        before = octet
    return b"".join(map(_base64, groups))


#: What a message's transfer encoding may be.
_DECODERS: tuple[Callable[[bytes], bytes], ...] = (_byGroups, binascii.a2b_qp)
_ENCODED_MESSAGE = re.compile(
    rb"^Content-Transfer-Encoding[ \t]*:\s*(?:base64|quoted-printable)", re.I | re.M
)


def _isCutWord(one: Difference, seen: WhatIsSeen) -> bool:
    words = [(found[1], _base64(found[1])) for found in _WORD.finditer(one.message)]
    return one.reader == "rspamd" and any(
        one.name == octets[: max(0, len(text) - len(octets))] for text, octets in words
    )


#: An encoded word, whatever is in it.
_ANY_WORD = re.compile(rb"=\?[^?\s]*\?([bq])\?([^\s\"]*?)\?=", re.I)
_NO_DIGITS = re.compile(rb"=(?![0-9A-Fa-f]{2})(..)", re.S)


def _isBrokenWord(one: Difference, seen: WhatIsSeen) -> bool:
    name = one.name or b""
    return one.reader == "rspamd" and any(
        len(name) > 2 and _readOn(text)[:3] == name[:3]  # behind that, anything
        if kind in b"bB"
        else _withDigits(text) == name
        for kind, text in _ANY_WORD.findall(one.message)
    )


def _readOn(text: bytes) -> bytes:
    """
    Base 64 without what it should not have; nothing where there is nothing of that.
    """
    letters = re.sub(rb"[^A-Za-z0-9+/]", b"", text)
    return b"" if letters == text.rstrip(b"=") else _base64(letters)


def _withDigits(text: bytes) -> bytes:
    """
    Quoted-printable, where a digit that is none counts as 0; nothing where all are some.
    """
    if not _NO_DIGITS.search(text):
        return b""
    digits = re.sub(rb"=(..)", lambda pair: b"=" + re.sub(rb"[^0-9A-Fa-f]", b"0", pair[1]), text)
    return re.sub(rb"[\0-\x1f]", b"?", quopri.decodestring(digits, header=True))


def _isHyphens(one: Difference, seen: WhatIsSeen) -> bool:
    return one.reader == "rspamd" and trimmed(one.content or b"") == b"--"


def _isRestOfLine(one: Difference, seen: WhatIsSeen) -> bool:
    content = trimmed(one.content or b"")
    place = re.search(rb"^--[^\r\n]*\r" + re.escape(content) + rb"\r?\n", one.message, re.M)
    return one.reader == "rspamd" and bool(content) and place is not None


def _isHeaderDecoded(one: Difference, seen: WhatIsSeen) -> bool:
    letters = base64.b64encode(one.content or b"")[:-4]
    return letters.startswith(b"Content") and letters in _letters(one.message)


#: In this order: the first one that applies is counted.
EXEMPTIONS = (
    Exemption(
        "What a reader shows ends where `match` reads on: it begins with the same octets,"
        " and each rule looks at beginnings or searches the whole.",
        _goesOn,
    ),
    Exemption(
        "IMAP has no NUL: Dovecot shows 0x80 for it, in names U+FFFD.",
        _hasNoNul,
    ),
    Exemption(
        "Python shows U+FFFD for each octet beyond ASCII of a name that is not encoded.",
        _isReplaced,
    ),
    Exemption(
        "A reader that does not undo a transfer encoding shows what is encoded; `match`"
        " sees what is in it.",
        _isEncoded,
    ),
    Exemption(
        "A reader takes a line for content that `match` takes for a boundary, and shows"
        " what is behind it, too; `match` sees what is in front of it, and the next part.",
        _readsOn,
    ),
    Exemption(
        "Base 64 with something else in it: readers agree up to there, and differ in what"
        " they make of the rest; `match` sees three of the ways.",
        _isOddBase64,
    ),
    Exemption(
        "Uuencode with a line that has another length than it says: readers agree up to"
        " there, and differ in what they make of it.",
        _hasBrokenLine,
    ),
    Exemption(
        "rspamd takes a line for a boundary that no header declares, in an encoded message,"
        " too; `match` does where fields of a part follow, and sees the rest in what is in front.",
        _isUndeclared,
    ),
    Exemption(
        "Python moves a line `From …` from the end of a header section into the content.",
        _beginsWithFrom,
    ),
    Exemption(
        "Python puts a `)` behind a name where a comment is not closed.",
        _closesComment,
    ),
    Exemption(
        "A name that is punctuation and nothing else.",
        _isPunctuation,
    ),
    Exemption(
        "rspamd shows `?` for a control character in a name, and octets that are no"
        " UTF-8 as they are.",
        _hasNoControls,
    ),
    Exemption(
        "rspamd puts some of a name's pieces together and leaves others out; `match` sees"
        " each of the pieces.",
        _isOtherPieces,
    ),
    Exemption(
        "rspamd undoes the transfer encoding of a message in its parts once more, where"
        " these say none; `match` sees what is decoded once.",
        _isDecodedTwice,
    ),
    Exemption(
        "rspamd cuts a name off where an encoded word in base 64 has something else in it;"
        " `match` sees the whole.",
        _isCutWord,
    ),
    Exemption(
        "rspamd reads on behind an octet that an encoded word should not have, each in its"
        " own way; `match` sees the word up to there, or as it is.",
        _isBrokenWord,
    ),
    Exemption(
        "rspamd shows the two hyphens of a second closing boundary.",
        _isHyphens,
    ),
    Exemption(
        "rspamd ends a boundary at a CR alone, and shows the rest of that line.",
        _isRestOfLine,
    ),
    Exemption(
        "Fields behind a line that is none are decoded as base 64, as far as a padding.",
        _isHeaderDecoded,
    ),
)
