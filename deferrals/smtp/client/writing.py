"""
A message onto the wire: as fast as the server reads it, behind DATA with its
dots stuffed, behind BDAT as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IPullProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import PeerError
from deferrals.model.lines import hasBare

_BARE = "a bare CR or LF in the message"


class _Encoding(Protocol):
    """
    How the octets of a message go over the wire.
    """

    @property
    def complete(self) -> bool: ...

    def feed(self, chunk: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class Stuffing:
    """
    Dot-stuffing (RFC 5321 §4.5.2) of a message in chunks of any size.

    @ivar complete: whether all of the message has been given.
    """

    def __init__(self) -> None:
        self._last = b"\r\n"
        self.complete = False

    def feed(self, chunk: bytes) -> bytes:
        """
        @return: the chunk as it goes over the wire.
        """
        if not chunk:
            return b""
        seam = self._last
        stuffed = (seam + chunk).replace(b"\r\n.", b"\r\n..")[len(seam) :]
        self._last = (seam + chunk)[-2:]
        return stuffed

    def end(self) -> bytes:
        """
        @return: what ends the message.
        """
        self.complete = True
        return b".\r\n" if self._last == b"\r\n" else b"\r\n.\r\n"


class Exactly:
    """
    A message behind C{BDAT n LAST}: as many octets as were announced, or none
    of what follows could be understood (RFC 3030 §2).

    @param octets: how many.
    """

    def __init__(self, octets: int) -> None:
        self._left = octets

    @property
    def complete(self) -> bool:
        """
        See L{Stuffing}.
        """
        return self._left == 0

    def feed(self, chunk: bytes) -> bytes:
        """
        @return: the chunk as it is.
        @raise ValueError: there are more octets than were announced.
        """
        self._left -= len(chunk)
        if self._left < 0:
            raise ValueError("the message is longer than it was")
        return chunk

    def end(self) -> bytes:
        """
        @return: nothing.
        @raise ValueError: there are fewer octets than were announced.
        """
        if self._left:
            raise ValueError("the message is shorter than it was")
        return b""


class BareNewline(PeerError):
    """
    The message has a CR or an LF that is not part of a CRLF.
    """


def _wholeLines(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """
    The same octets.  A CR at the end of a piece waits for what follows it, so
    that none is sent before it is known to be a line's end.

    @raise BareNewline: a line ends in another way than with CRLF.
    """
    held = b""
    try:
        for chunk in chunks:
            text = held + chunk
            held = b"\r" if text.endswith(b"\r") else b""
            text = text[: len(text) - len(held)]
            if hasBare(text):
                raise BareNewline(_BARE)
            yield text
        if held:
            raise BareNewline(_BARE)
    finally:
        if isinstance(chunks, Generator):
            chunks.close()


@implementer(IPullProducer)
class MessageProducer:
    """
    Writes a message.

    @param encoding: L{Stuffing} or L{Exactly}.
    @param isText: whether its lines must end with CRLF: what follows a bare CR
        or LF could be taken for a command further on.
    @param progress: called whenever the server has taken something.
    @ivar done: fires when all of it is written; fails where it cannot be read.
    """

    def __init__(
        self,
        transport: IConsumer,
        chunks: Iterator[bytes],
        encoding: _Encoding,
        isText: bool,
        progress: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._chunks = _wholeLines(chunks) if isText else chunks
        self._encoding = encoding
        self._progress = progress
        self.done: Deferred[None] = Deferred()

    @property
    def complete(self) -> bool:
        """
        Whether the transport has all of the message, so that there may be an
        answer to it.
        """
        return self._encoding.complete

    def resumeProducing(self) -> None:
        """
        The next chunk.
        """
        if self.done.called:
            # TLS asks on for a moment when the connection has been given up.
            self._transport.unregisterProducer()
            return
        self._progress()
        try:
            # A transport does not ask again after an empty write.
            chunk = next(filter(None, self._chunks), None)
            octets = self._encoding.end() if chunk is None else self._encoding.feed(chunk)
        except BareNewline:
            self._transport.unregisterProducer()
            self._finish(Failure())
            return
        except Exception:
            self._transport.unregisterProducer()
            self._finish(Failure(PeerError("the message could not be read")))
            return
        self._transport.write(octets)
        if chunk is None:
            self._transport.unregisterProducer()
            self._finish(None)

    def stopProducing(self) -> None:
        """
        The connection is gone, or the message is not to be sent any longer.
        """
        self._finish(Failure(PeerError("the connection was lost")))

    def _finish(self, failure: Failure | None) -> None:
        if isinstance(self._chunks, Generator):
            self._chunks.close()
        if self.done.called:
            return
        if failure is None:
            self.done.callback(None)
        else:
            self.done.errback(failure)
