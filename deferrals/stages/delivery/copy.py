"""
A recipient's copy of a message: trace fields and marks in front, the rest as
it is in the spool.

Recipients whose marks differ need copies of their own; a copy for several
names none of them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from weakref import WeakKeyDictionary

import attrs

from deferrals.interfaces import IMessage
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope
from deferrals.model.trace import Head, deliveredTo, fields, received, returnPath
from deferrals.model.verdict import Marks
from deferrals.stages.foreign import behindHead, gapOf, ownHead

CHUNK_OCTETS = 64 * 1024

#: What tells a next hop that a copy is marked as junk.
JUNK_FIELD = ("X-Spam-Flag", "YES")

#: Header sections that have been taken apart, once for each message.
_heads: WeakKeyDictionary[IMessage, dict[tuple[str, bool], Head]] = WeakKeyDictionary()


class Copy:
    """
    @param trace: the trace fields, each with its CRLF.
    @param marks: how this copy is marked.
    @param head: the header section that this copy has of the message's.
    @ivar isASCII: whether what stands in front has no octet above 127.
    @ivar signature: fields, each with its CRLF, that sign it, and come first.
    """

    signature = b""

    def __init__(self, message: IMessage, trace: bytes, marks: Marks, head: Head) -> None:
        self._message = message
        self._front = trace + fields(marks)
        self._head, self._skip = b"", 0
        before, newHead = message.header, head.marked(marks)
        gap = gapOf(message)
        if gap or newHead is not head.original or len(newHead) != len(before):
            self._head = (newHead if before or not newHead else newHead + b"\r\n") + gap
            self._skip = behindHead(message, newHead)
        self.isASCII = self._front.isascii() and self._head.isascii()

    @property
    def size(self) -> int:
        """
        In octets.
        """
        front = len(self.signature) + len(self._front)
        return front + len(self._head) + self._message.size - self._skip

    def chunks(self) -> Generator[bytes, None, None]:
        """
        The octets of the copy.  Reads the message's file: in the reactor
        thread only a chunk at a time.
        """
        if self.signature:
            yield self.signature
        yield from self.unsigned()

    def unsigned(self) -> Generator[bytes, None, None]:
        """
        The same without L{signature}.
        """
        yield self._front
        yield self._head
        with self._message.open() as file:
            file.seek(self._skip)
            while chunk := file.read(CHUNK_OCTETS):
                yield chunk


def withLF(chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """
    Lines that end with LF only.
    """
    held = b""
    for chunk in chunks:
        chunk = held + chunk
        held = b"\r" if chunk.endswith(b"\r") else b""
        yield chunk[: len(chunk) - len(held)].replace(b"\r\n", b"\n")
    yield held


class CopyFile:
    """
    A copy as a file to be read once.

    @param chunks: what L{Copy.chunks} gives, perhaps with other line ends.
    """

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks

    def read(self, size: int = -1) -> bytes:
        """
        @param size: does not count: chunks are small enough.
        @return: the next octets; none at the end.
        """
        return next(filter(None, self._chunks), b"")

    def close(self) -> None:
        """
        Let go of the message.
        """
        self._chunks.close()


def headOf(message: IMessage, hostname: str, isFinal: bool) -> Head:
    """
    @return: the header section that copies have of a message's, taken apart
        once for all of them (L{ownHead}).
    """
    known = _heads.setdefault(message, {})
    found = known.get((hostname, isFinal))
    if found is None:
        found = known[hostname, isFinal] = Head(ownHead(message, hostname, isFinal))
    return found


def final(message: IMessage, envelope: Envelope, hostname: str, addressee: Addressee) -> Copy:
    """
    The copy that a mailbox gets.
    """
    address = str(addressee)
    trace = (
        returnPath(envelope)
        + deliveredTo(address, envelope)
        + received(envelope, hostname, address)
    )
    return Copy(message, trace, addressee.marks, headOf(message, hostname, True))


def relayed(
    message: IMessage,
    envelope: Envelope,
    hostname: str,
    addressees: Sequence[Addressee],
    isFinal: bool = False,
) -> Copy:
    """
    The copy that goes on to another server, for recipients with equal marks.

    @param isFinal: whether it leaves SMTP there, as into a mail store.
    """
    only = str(addressees[0]) if len(addressees) == 1 else None
    marks = addressees[0].marks
    if marks.junk:
        marks = attrs.evolve(marks, headers=(JUNK_FIELD, *marks.headers))
    head = headOf(message, hostname, isFinal)
    return Copy(message, received(envelope, hostname, only), marks, head)


def byMarks(addressees: Sequence[Addressee]) -> list[list[Addressee]]:
    """
    Recipients that can share a copy.
    """
    groups: dict[Marks, list[Addressee]] = {}
    for addressee in addressees:
        groups.setdefault(addressee.marks, []).append(addressee)
    return list(groups.values())
