"""
A header section, field by field.
"""

from __future__ import annotations

import re

_FIELD = re.compile(r"([!-9;-~]+)[ \t]*:(.*)", re.S)
_NO_FIELD = re.compile(rb"(?:\A|\r\n)(?![ \t]|[!-9;-~]+[ \t]*:|\Z)")
_MAILBOX_LINE = re.compile(rb">*From ")
_FOLD = re.compile(r"\r\n(?=[ \t])")
_MESSAGE_ID = re.compile(
    rb"^message-id[ \t]*:[ \t]*(?:\r\n[ \t]{1,100})?([^\r\n]{0,998})", re.I | re.M
)

#: A Message-ID is looked for in so many octets.
_EARLY_OCTETS = 64 << 10


def headerEnd(head: bytes) -> int:
    """
    Where a header section really ends: in front of the first line that is no
    field and continues none.  What follows is text, although no empty line says so.

    @param head: what stands in front of the first empty line.
    """
    if head[:1] in (b" ", b"\t"):
        return 0
    # What programs that keep mail in one file leave in front of the fields.
    start = 1 if _MAILBOX_LINE.match(head) else 0
    found = _NO_FIELD.search(head, start)
    return len(head) if found is None else found.start()


def hasEnd(first: bytes) -> bool:
    """
    @param first: the first octets of a longer message.
    @return: whether the header section ends within them.
    """
    head, mark, _ = first.partition(b"\r\n\r\n")
    if not mark:
        head = head.rpartition(b"\r\n")[0] or head  # half a line could be a field
    return bool(mark) or headerEnd(head) < len(head)


def separation(header: bytes, following: bytes) -> bytes:
    """
    @param header: a message's header section, without its last CRLF.
    @param following: the next octets, four at least where there are so many.
    @return: what is missing between the header section and the text.
    """
    if following.startswith(b"\r\n" if not header else b"\r\n\r\n"):
        return b""
    return b"\r\n"


def fieldsOf(head: bytes) -> list[tuple[str, str]]:
    """
    @param head: without the empty line.
    @return: (name, value) in their order: text; unfolded; octets that are not
        UTF-8 replaced.
    """
    text = _FOLD.sub("", head.decode("utf-8", "replace"))
    found = map(_FIELD.fullmatch, text.split("\r\n"))
    return [(match[1], match[2].strip()) for match in found if match]


def messageIdOf(head: bytes) -> str:
    """
    @param head: the first octets of a message.
    @return: the value of its first Message-ID, without angle brackets, whatever
        stands in it; empty where there is none.
    """
    header = head[:_EARLY_OCTETS].partition(b"\r\n\r\n")[0]
    found = _MESSAGE_ID.search(header)
    return "" if found is None else found[1].decode("utf-8", "replace").strip(" \t<>")
