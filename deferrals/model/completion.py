"""
What a submission server adds to a message, and takes out of it (RFC 6409 §8):
C{Date} and C{Message-ID} where they are missing, C{Sender} where C{From} is
another's than the login's; C{Bcc}, which is for the sender alone.

It is done while the message comes in, once its header section is there: what is
judged, kept and delivered is one message.  A field that the client has signed
(DKIM, RFC 6376), or has signed not to be there, is not added or replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence

import attrs

from deferrals.model.address import AddressError, Mailbox
from deferrals.model.fields import hasEnd, headerEnd, separation

#: Also where binary mail (RFC 3030) has but half a line end: many readers take it
#: for one.
_BETWEEN_FIELDS = re.compile(rb"(\r\n|\r(?!\n)|\n)(?![ \t])")
_END = b"\r\n\r\n"
_END_LF = b"\n\n"

#: Whom the copies are for that no recipient should know of.
_DROPPED = (b"bcc", b"resent-bcc")

_SIGNATURES = (b"dkim-signature", b"arc-message-signature")
_SIGNED = re.compile(rb"(?:\A|;)\s*h\s*=([^;]*)")

#: The parts of an address list (RFC 5322 §3.4): quoted text, an address in
#: brackets, what opens and closes comments, what ends a mailbox, and the rest.
_PART = re.compile(
    r'"(?:[^"\\]|\\.)*"|<[^<>]*>|\\.|[()]|[,;:]|[^"<>\\(),;:]+|.',
    re.S,
)


@attrs.frozen
class Submitter:
    """
    The user who has logged in.

    @ivar address: the login's own address.
    @ivar mayUse: whether it may send as this one.
    """

    address: Mailbox
    mayUse: Callable[[Mailbox], bool]


@attrs.frozen
class Additions:
    """
    What may be missing.

    @ivar date: the value of C{Date}.
    @ivar messageID: the value of C{Message-ID}.
    @ivar submitter: C{None}, where the client has not logged in.
    """

    date: str
    messageID: str
    submitter: Submitter | None = None


class Completion:
    """
    The octets of a message, of which the first ones wait until the header section
    is complete.

    @param additions: what may be missing.
    @param limit: a longer header section is left as it is (L{hasEnd}).
    """

    def __init__(self, additions: Additions, limit: int) -> None:
        self._additions = additions
        self._limit = limit
        self._held: bytearray | None = bytearray(b"\r\n")

    def feed(self, data: bytes) -> bytes:
        """
        @param data: the next octets.
        @return: the next octets of what becomes of the message.
        """
        held = self._held
        if held is None:
            return data
        start = max(0, len(held) - len(_END) + 1)
        held += data
        if held.find(_END, start) < 0 and len(held) <= self._limit:
            return b""
        return self.end()

    def end(self) -> bytes:
        """
        The message is complete.

        @return: its last octets.
        """
        held, self._held = self._held, None
        if held is None:
            return b""
        content = bytes(held)[2:]
        first = content[: self._limit]
        if len(content) > self._limit and not hasEnd(first) and _END_LF not in first:
            return content
        return completed(content, self._additions)


def completed(content: bytes, additions: Additions) -> bytes:
    """
    @param content: a message, or its beginning: with the whole header section, and
        with the empty line where there is one.
    @return: the same object, where nothing is missing and nothing too much.
    """
    head = _head(content)
    pieces = _BETWEEN_FIELDS.split(head) if head else []
    fields = pieces[::2]
    names = [_name(one) for one in fields]
    signed = _signed(fields, names)
    sender = _sender(fields, names, additions.submitter)
    dropped = set(_DROPPED)
    added = [("Date", additions.date), ("Message-ID", additions.messageID)]
    if sender is not None and b"sender" not in signed:
        dropped.add(b"sender")
        added.append(("Sender", sender))
    between = [b"", *pieces[1::2]][: len(fields)]
    kept = [
        (end, one)
        for end, one, name in zip(between, fields, names, strict=True)
        if name not in dropped
    ]
    missing = [
        f"{name}: {value}".encode()
        for name, value in added
        if name == "Sender" or not {name.lower().encode()} & {*names, *signed}
    ]
    if len(kept) == len(fields) and not missing:
        return content
    header = b"".join(part for one in kept for part in one)[len(kept[0][0]) if kept else 0 :]
    header = b"\r\n".join([*([header] if header else []), *missing])
    rest = content[len(head) :] if head else b"\r\n" + content
    if not header:  # nothing but what is dropped
        return rest.removeprefix(b"\r\n")
    return header + (b"" if rest.startswith(_END_LF) else separation(header, rest)) + rest


def _head(content: bytes) -> bytes:
    """
    Its header section, without the end; where nothing ends with CRLF CRLF, LF LF
    ends it.
    """
    if content.startswith(b"\r\n"):
        return b""
    head, end, _ = content.partition(_END)
    if not end:
        head = head.partition(_END_LF)[0]
    return head[: headerEnd(head)].removesuffix(b"\r\n")


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].strip().lower()


def _signed(fields: list[bytes], names: list[bytes]) -> Collection[bytes]:
    """
    The names of the fields that signatures are about.
    """
    found: set[bytes] = set()
    for field, name in zip(fields, names, strict=True):
        if name in _SIGNATURES:
            for listed in _SIGNED.findall(field.partition(b":")[2]):
                found |= {word.strip().lower() for word in listed.split(b":")}
    return found


def _sender(fields: list[bytes], names: list[bytes], submitter: Submitter | None) -> str | None:
    """
    @return: the value of C{Sender}, where it is needed: C{From} is not the
        login's, or says that there are several authors (RFC 5322 §3.6.2), and no
        C{Sender} is the login's.
    """
    if submitter is None:
        return None
    for name in (b"from", b"sender"):
        found = [
            text
            for field, one in zip(fields, names, strict=True)
            if one == name
            for text in mailboxes(field.partition(b":")[2].decode("utf-8", "replace"))
        ]
        if len(found) == 1 and _isOwn(found[0], submitter):
            return None
        if name == b"from" and not found and b"from" not in names:
            return None
    address = submitter.address
    return str(Mailbox(address.local, address.domain))


def _isOwn(text: str, submitter: Submitter) -> bool:
    try:
        mailbox = Mailbox.parse(text)
    except AddressError:
        return False
    return mailbox.key == submitter.address.key or submitter.mayUse(mailbox)


def mailboxes(value: str) -> Iterator[str]:
    """
    The addresses in a field of addresses, roughly: what cannot be read comes out as
    something that is none.  What one reader takes for an address, and another does not,
    is one here.
    """
    words: list[str] = []
    bracketed: str | None = None
    depth = 0
    for part in _PART.findall(value):
        if part in "()":
            depth = max(0, depth + (1 if part == "(" else -1))
        elif depth:
            continue
        elif part in ",;":
            yield from _mailbox(words, bracketed)
            words, bracketed = [], None
        elif part == ":":
            if _hasAddress(words):
                yield "".join(words).strip()
            words = []  # a group's name, or a route
        elif part.startswith("<") and len(part) > 1:
            # what has several is no address
            bracketed = part[1:-1].strip() if bracketed is None else ""
            words = []  # what it is called
        else:
            words.append(part)
    yield from _mailbox(words, bracketed)
    if depth and (words or bracketed is not None):
        yield ""  # a comment without end: it is not known what was meant


def _mailbox(words: Sequence[str], bracketed: str | None) -> Iterator[str]:
    """
    @param words: what stands behind the address in brackets, if there is one.
    """
    text = "".join(words).strip()
    if bracketed is not None:
        yield bracketed
    if _hasAddress(words) if bracketed is not None else text:
        yield text


def _hasAddress(words: Sequence[str]) -> bool:
    """
    Whether there is one, outside quotes, where none should be.
    """
    return any("@" in word and not word.startswith('"') for word in words)
