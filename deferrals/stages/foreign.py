"""
A message as the mailbox will have it: without what is ours to say
(L{deferrals.model.ours}), its text separated from its header section, and for
scanners with our own trace fields in front.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.deferreds import SharedResults
from deferrals.interfaces import IMessage, MaybeAwaitable
from deferrals.model.address import normalDomain
from deferrals.model.envelope import Envelope
from deferrals.model.fields import fieldsOf, separation
from deferrals.model.ours import withoutOurs
from deferrals.model.trace import Head, received, returnPath
from deferrals.model.verdict import HeaderEdit, Marks

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_T = TypeVar("_T")

_READ_OCTETS = 256 * 1024

#: Header sections that have been looked through: once per message, not once per
#: recipient.
_heads: WeakKeyDictionary[IMessage, dict[tuple[str, bool], bytes]] = WeakKeyDictionary()


_gaps: WeakKeyDictionary[IMessage, bytes] = WeakKeyDictionary()


def gapOf(message: IMessage) -> bytes:
    """
    @return: the line end that a message lacks between its header section and its
        text (L{separation}): what stands in front of it would swallow the text.
    """
    found = _gaps.get(message)
    if found is None:
        header = message.header
        try:
            with message.open() as file:
                file.seek(len(header))
                found = _gaps[message] = separation(header, file.read(4))
        except OSError:
            return b""  # what reads the whole message fails, and says so
    return found


def ownHead(message: IMessage, hostname: str, isFinal: bool) -> bytes:
    """
    @return: the message's header section as L{withoutOurs} leaves it.
    """
    known = _heads.setdefault(message, {})
    found = known.get((hostname, isFinal))
    if found is None:
        found = known[hostname, isFinal] = withoutOurs(message.header, hostname, isFinal)
    return found


def behindHead(message: IMessage, head: bytes) -> int:
    """
    @param head: what the header section has become.
    @return: where the part of the message begins that stays as it is: the
        empty line; or, where no field is left, what is behind it.
    """
    end = len(message.header)
    return end if head or not end else min(end + 2, message.size)


def seen(message: IMessage, hostname: str) -> IMessage:
    """
    @return: what stages are given; the same object, where nothing is taken out, and
        nothing is missing.
    """
    head = ownHead(message, hostname, True)
    if len(head) == len(message.header) and not gapOf(message):
        return message
    return _View(message, b"", head)


def original(message: IMessage) -> IMessage:
    """
    @param message: perhaps as stages are given it.
    @return: as it came in: that is what its sender has signed, and what is found out
        about it is found out once.
    """
    while isinstance(message, _View):
        message = message.whole
    return message


def view(message: IMessage, envelope: Envelope, hostname: str) -> IMessage:
    """
    See L{IServices.view<deferrals.interfaces.IServices.view>}.
    """
    trace = returnPath(envelope) + received(envelope, hostname)
    return _View(message, trace, ownHead(message, normalDomain(hostname), True))


def withHead(message: IMessage, front: bytes, head: bytes) -> IMessage:
    """
    @param front: fields to put in front, each with its CRLF.
    @param head: what the message's header section becomes.
    @return: the message as it goes on.
    """
    return _View(message, front, head)


def withEdits(message: IMessage, edits: tuple[HeaderEdit, ...]) -> IMessage:
    """
    @param message: as stages are shown it.
    @return: the same with the changes that stages have made in its header section.
    """
    return _View(message, b"", Head(message.header).marked(Marks(edits=edits)))


@implementer(IMessage)
class _View:
    """
    A message with another header section.

    @param trace: what stands in front, each field with its CRLF.
    @param head: what its own has become.
    @ivar whole: the message.
    """

    def __init__(self, message: IMessage, trace: bytes, head: bytes) -> None:
        self.whole: IMessage = message
        self._front = trace + head + gapOf(message)
        self._skip = behindHead(message, head)
        self._digest: bytes | None = None
        self._shared = SharedResults()
        self.header = (head and trace + head) or trace.removesuffix(b"\r\n")
        self.size = len(self._front) + message.size - self._skip
        self.inMemory = message.inMemory

    @property
    def digest(self) -> bytes:
        """
        The SHA-256 of its octets.  Reads all of them, the first time.
        """
        if self._digest is None:
            digest = hashlib.sha256()
            with self.open() as file:
                while chunk := file.read(_READ_OCTETS):
                    digest.update(chunk)
            self._digest = digest.digest()
        return self._digest

    def fields(self) -> list[tuple[str, str]]:
        return fieldsOf(self.header)

    def open(self) -> BinaryIO:
        file = self.whole.open()
        file.seek(self._skip)
        if self.inMemory:
            with file:
                return io.BytesIO(self._front + file.read())
        return io.BufferedReader(_Spliced(self._front, file))

    def isIntact(self) -> bool:
        return self.whole.isIntact()

    def shared(
        self, key: Hashable, function: Callable[[IMessage], MaybeAwaitable[_T]]
    ) -> Deferred[_T]:
        return self._shared.wait(key, function, self)


class _Spliced(io.RawIOBase):
    """
    Octets, and then what is left of a file.  Like the file of any message, it can
    be read from anywhere: what asks a web service looks for its end first.
    """

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head = memoryview(head)
        self._file = file
        self._skip = file.tell()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += len(self._head) + self._file.seek(0, os.SEEK_END) - self._skip
        if offset < 0:
            raise ValueError(f"a place before the beginning: {offset}")
        self._position = offset
        self._file.seek(self._skip + max(0, offset - len(self._head)))
        return offset

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        room = memoryview(buffer)
        piece = self._head[self._position : self._position + len(room)]
        if not piece:
            piece = memoryview(self._file.read(len(room)))
        self._position += len(piece)
        room[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
