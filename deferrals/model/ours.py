"""
Header fields that this server alone may say: what comes from outside under their
names is taken out before a reader believes it.

Which ones depends on where a copy goes.  Into a mailbox (final delivery, RFC 5321
§4.4): C{Return-Path} and C{Delivered-To}, which say what this server knows.  On
to another server these stay: C{Delivered-To} is how a loop is found.  Everywhere:
C{Authentication-Results} with this server's name (RFC 8601 §5), C{Deferrals-*}
and C{X-Deferrals-*}.
"""

from __future__ import annotations

import re

from deferrals.model.address import AddressError, normalDomain
from deferrals.model.characters import UNFIT

#: A field of such a name, with its folded lines, and the end of the last one.  A
#: bare CR or LF ends a line here: some reader takes it for one.
_FIELD = re.compile(
    rb"(?<![^\r\n])(return-path|delivered-to|(?:x-)?deferrals-[!-9;-~]*|authentication-results)"
    rb"[ \t]*:([^\r\n]*(?:(?:\r\n|\r|\n)[ \t][^\r\n]*)*)(?:\r\n|\r|\n|\Z)",
    re.I,
)

#: What may stand before the name of who has authenticated (CFWS, RFC 5322 §3.2.2).
_BLANK = re.compile(r"[ \t\r\n]*")
_IN_COMMENT = re.compile(r"\\.|[()]", re.S)

#: RFC 8601 §2.2: C{value}, of RFC 2045 §5.1.
_TOKEN = re.compile(r"[^\x00-\x20\x7f()<>@,;:\\\"/\[\]?=]+")

#: What a reader may not see between the letters of a name: comments, blanks and
#: controls of all kinds, quotes.
_COMMENT = re.compile(r"\([^()]*\)")
_NOISE = re.compile(rf"[\s\"\\{UNFIT}]+")

#: MIME's words (RFC 2047): there are readers that decode them everywhere.
_CODED = re.compile(r"=\?[^?]*\?[bq]\?", re.I)

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)


def withoutOurs(head: bytes, hostname: str, isFinal: bool) -> bytes:
    """
    A header section without what is ours to say.

    @param head: as it came, without the empty line.
    @param hostname: this server's name, as L{normalDomain} spells it.
    @param isFinal: whether it goes into a mailbox.
    @return: the same object, where nothing is taken out.
    """

    def kept(match: re.Match[bytes]) -> bytes:
        name = match[1].lower()
        if name == b"authentication-results":
            isOurs = _isFrom(match[2].decode("utf-8", "replace"), hostname)
        else:
            isOurs = isFinal or name not in (b"return-path", b"delivered-to")
        return b"" if isOurs else match[0]

    left = _FIELD.sub(kept, head)
    if len(left) == len(head):
        return head
    return left if head.endswith(b"\r\n") else left.removesuffix(b"\r\n")


def _isFrom(value: str, hostname: str) -> bool:
    """
    Whether the results in C{value} claim to be this server's; also where it
    cannot be told whose they are.
    """
    start = _afterBlanks(value)
    name = value.partition(";")[0]
    if start is None or _CODED.search(name):
        return True
    if _NOISE.sub("", _COMMENT.sub("", name)).casefold() == hostname:
        return True
    quoted = _QUOTED.match(value, start)
    token = _TOKEN.match(value, start)
    if quoted is not None:
        name = re.sub(r"\\(.)", r"\1", quoted[1], flags=re.S).strip()
    elif token is not None:
        name = token[0]
    else:
        return value[start : start + 1] == '"'  # without its end
    try:
        return normalDomain(name) == hostname
    except AddressError:
        return False


def _afterBlanks(value: str) -> int | None:
    """
    @return: where blanks and comments end; C{None} where a comment does not.
    """
    offset, depth = 0, 0
    while True:
        if not depth:
            blanks = _BLANK.match(value, offset)
            offset = blanks.end() if blanks is not None else offset
            if value[offset : offset + 1] != "(":
                return offset
        mark = _IN_COMMENT.search(value, offset)
        if mark is None:
            return None
        offset = mark.end()
        depth += {"(": 1, ")": -1}.get(mark[0], 0)
