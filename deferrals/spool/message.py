"""
The content of a message: written as it comes in, read when it is judged and
delivered.

Up to a threshold it stays in memory (and later in the database); above it, it
goes to a file.  Files are written, synced and removed in threads; what waits
to be written is bounded, since a writer whose disk is behind says so
(L{BodyWriter.congested}).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from collections.abc import Callable, Hashable
from typing import BinaryIO, Protocol, TypeAlias, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals import durable
from deferrals.deferreds import SharedResults
from deferrals.errors import SpoolError
from deferrals.interfaces import IBodyWriter, IMessage, MaybeAwaitable
from deferrals.model.fields import fieldsOf, headerEnd
from deferrals.threads import InThread

_T = TypeVar("_T")

#: A message larger than this goes to a file.
MEMORY_OCTETS = 256 * 1024

#: A writer that has more than this to write asks for a pause.
CONGESTED_OCTETS = 1024 * 1024

#: How much of a message L{Message.header} may show.
HEADER_OCTETS = 256 * 1024

#: What the name of a content's file ends with until its message's row is durable:
#: so what a process that dies leaves is known to have been ours, or not.
PART = ".part"

READ_OCTETS = 256 * 1024


@implementer(IMessage)
class Message:
    """
    The content of a message, in memory or in a file.

    @ivar body: the octets, where they are in memory; otherwise C{None}.
    @ivar path: the file that holds them; otherwise C{None}.
    @ivar fresh: whether the octets are the ones that came in: not read back
        from a disk that may have changed them.
    """

    def __init__(
        self,
        size: int,
        digest: bytes,
        body: bytes | None,
        path: str | None,
        head: bytes,
        fresh: bool = True,
    ) -> None:
        self.size = size
        self.digest = digest
        self.body = body
        self.path = path
        self.fresh = fresh
        self._head = head
        self._shared = SharedResults()
        self._header: bytes | None = None

    @property
    def inMemory(self) -> bool:
        return self.path is None

    @property
    def header(self) -> bytes:
        if self._header is None:
            self._header = _headerOf(self._head)
        return self._header

    @property
    def beginning(self) -> bytes:
        """As much of it as the header is found in."""
        head, end, _ = self._head.partition(b"\r\n\r\n")
        return head + end

    def fields(self) -> list[tuple[str, str]]:
        return fieldsOf(self.header)

    def open(self) -> BinaryIO:
        if self.path is None:
            return io.BytesIO(self.body or b"")
        try:
            return open(self.path, "rb")
        except FileNotFoundError:
            return open(self.path.removesuffix(PART), "rb")  # it was just given its name

    def settle(self) -> bool:
        """
        Make it durable, before a message has it.  Blocks.

        @return: whether it has still to be given its L{name<giveName>}.
        @raise OSError: it cannot be; or there is another one of that name.
        """
        if self.path is None:
            return False
        name = self.path.removesuffix(PART)
        isNew = name != self.path
        if isNew and os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, "the content of another message", name)
        durable.syncWithName(self.path)
        return isNew

    def giveName(self) -> None:
        """
        A message has it now, durably: so says its name.  That needs no sync: the
        next process does it again.  Blocks.

        @raise OSError: it cannot be given a name.
        """
        if self.path is not None:
            name = self.path.removesuffix(PART)
            if name != self.path:
                with contextlib.suppress(FileNotFoundError):  # it has got it
                    os.rename(self.path, name)
            self.path = name

    def measured(self) -> tuple[int, bytes]:
        """
        @return: the size and the digest of what is really there.  Blocks.
        """
        size, digest = 0, hashlib.sha256()
        with self.open() as file:
            while chunk := file.read(READ_OCTETS):
                size += len(chunk)
                digest.update(chunk)
        return size, digest.digest()

    def isIntact(self) -> bool:
        return self.fresh or self.measured() == (self.size, self.digest)

    def shared(
        self, key: Hashable, function: Callable[[IMessage], MaybeAwaitable[_T]]
    ) -> Deferred[_T]:
        return self._shared.wait(key, function, self)


def _headerOf(begin: bytes) -> bytes:
    """
    The header section at the beginning of a message, without the empty line.
    """
    if begin.startswith(b"\r\n"):
        return b""
    head, end, _ = begin.partition(b"\r\n\r\n")
    head = head if end else head.removesuffix(b"\r\n")
    return head[: headerEnd(head)]


def ownMessage(message: IMessage) -> Message:
    """
    @return: the same, as one of our spools has made it.
    @raise TypeError: another one has made it.
    """
    if not isinstance(message, Message):
        raise TypeError(f"{message!r} does not come from this spool's newBody")
    return message


class Follower(Protocol):
    """
    Has a large content's file put somewhere else while it grows.
    """

    @property
    def isBehind(self) -> bool:
        """Whether more of it should not come before some has been put there."""

    def grew(self, octets: int) -> None:
        """
        @param octets: so many are in the file.
        """

    def ended(self) -> None:
        """
        All are.
        """

    def abort(self) -> None:
        """
        The content is not wanted; called once, at any time.
        """


#: Is told of a file, when there is one, and what to call when its follower is not behind
#: any longer.
Follow: TypeAlias = Callable[[str, Callable[[], None]], Follower | None]


@implementer(IBodyWriter)
class BodyWriter:
    """
    Takes the content as it comes in: into memory, and from some size on into a
    file.

    @param path: the file to use when the message is large: L{PART} is added to
        its name until L{Message.giveName}.
    @param inThread: runs a function outside the reactor thread.
    @param aborted: called when the content was not wanted, and its file, if
        there was one, is gone.
    @param follow: says who follows the file, if anybody does.
    """

    def __init__(
        self,
        path: str,
        inThread: InThread,
        aborted: Callable[[], object],
        follow: Follow | None = None,
    ) -> None:
        self._path = f"{path}{PART}"
        self._inThread = inThread
        self._onAborted = aborted
        self._follow = follow
        self._follower: Follower | None = None
        self._inFile = 0
        self._chunks: list[bytes] = []
        self._held = 0
        self._size = 0
        self._digest = hashlib.sha256()
        self._head = b""
        self._file: _BodyFile | None = None
        self._writing: Deferred[None] | None = None
        self._failure: Failure | None = None
        self._drained: Deferred[None] | None = None
        self._aborted = False

    @property
    def congested(self) -> bool:
        follower = self._follower
        return self._held > CONGESTED_OCTETS or (follower is not None and follower.isBehind)

    @property
    def size(self) -> int:
        """How many octets have been written so far."""
        return self._size

    @property
    def head(self) -> bytes:
        """The first octets, as far as they have come and are kept."""
        return self._head or b"".join(self._chunks)[:HEADER_OCTETS]

    def write(self, chunk: bytes) -> None:
        self._size += len(chunk)
        self._held += len(chunk)
        self._chunks.append(chunk)
        if self._size > MEMORY_OCTETS and self._writing is None and self._held >= MEMORY_OCTETS:
            self._flush()

    def drained(self) -> Deferred[None]:
        if not self.congested:
            return succeed(None)
        self._drained = Deferred()
        return self._drained

    def _flush(self) -> None:
        """
        Write what is held, in a thread; one write at a time.
        """
        if self._failure is not None or self._aborted:
            self._chunks, self._held = [], 0
            return
        if self._file is None:
            self._head = b"".join(self._chunks)[:HEADER_OCTETS]
            self._file = _BodyFile(self._path)
        chunks, self._chunks = self._chunks, []
        octets = sum(map(len, chunks))
        self._writing = Deferred()
        d = self._inThread(self._file.write, chunks, self._digest)
        d.addErrback(self._failed)
        d.addCallback(self._written, octets)

    def _failed(self, failure: Failure) -> None:
        self._failure = failure

    def _written(self, _: None, octets: int) -> None:
        self._held -= octets
        writing, self._writing = self._writing, None
        if self._failure is None and not self._aborted:
            self._grew(octets)
        self._tellDrained()
        if self._held >= MEMORY_OCTETS and self._writing is None:
            self._flush()
        if self._aborted:
            self._remove()
        assert writing is not None
        writing.callback(None)

    def _grew(self, octets: int) -> None:
        if self._follow is not None and not self._inFile:
            self._follower = self._follow(self._path, self._tellDrained)
        self._inFile += octets
        if self._follower is not None:
            self._follower.grew(self._inFile)

    def _tellDrained(self) -> None:
        if self._drained is not None and not self.congested:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def finish(self) -> Deferred[IMessage]:
        if self._size <= MEMORY_OCTETS:
            body = b"".join(self._chunks)
            self._digest.update(body)
            return succeed(
                Message(self._size, self._digest.digest(), body, None, body[:HEADER_OCTETS])
            )
        return self._finishFile()

    def _finishFile(self) -> Deferred[IMessage]:
        if self._writing is None and self._chunks:
            self._flush()
        if self._writing is not None:
            return self._writing.addCallback(lambda _: self._finishFile())
        if self._failure is not None:
            self.abort()
            return fail(SpoolError(f"cannot write {self._path}: {self._failure.getErrorMessage()}"))
        if self._follower is not None:
            self._follower.ended()
        return succeed(
            Message(self._size, self._digest.digest(), None, self._path, self._head, False)
        )

    def abort(self) -> None:
        if self._aborted:
            return
        self._aborted = True
        self._chunks, self._held = [], 0
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.abort()
        if self._writing is None:
            self._remove()

    def _remove(self) -> None:
        if self._file is None:
            self._onAborted()
            return
        file, self._file = self._file, None
        d = self._inThread(file.remove)
        d.addErrback(lambda failure: None)
        d.addCallback(self._removed)

    def _removed(self, _: None) -> None:
        self._tellDrained()  # what is not wanted is behind nothing
        self._onAborted()


class _BodyFile:
    """
    The file of a large message; used by one thread at a time.  It is open only
    while there is something to write: clients that send slowly, however many, hold
    no descriptor but their own.  The data is synced when the message is staged.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._flags = os.O_CREAT | os.O_EXCL  # a file that is there is another message's
        self._isThere = False

    def write(self, chunks: list[bytes], digest: hashlib._Hash) -> None:
        """Append, and hash: as one, since each call lets go of the interpreter."""
        content = b"".join(chunks)
        fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | self._flags, 0o600)
        self._flags, self._isThere = os.O_APPEND, True
        try:
            digest.update(content)
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Delete, if it is there."""
        if not self._isThere:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
