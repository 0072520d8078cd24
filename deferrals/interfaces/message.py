"""
What a message is: its content, and what takes it as it comes in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import BinaryIO, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

_T = TypeVar("_T")

#: What a method that may wait can return: the value, a Deferred, or a coroutine.
MaybeAwaitable: TypeAlias = _T | Deferred[_T] | Awaitable[_T]


class IMessage(Interface):
    """
    The content of one message: octets as they came in, dots unstuffed, every
    line ended by CRLF (unless the envelope says BODY=BINARYMIME), without any
    field of this server's trace.  Mail on a submission listener is completed before
    that (L{deferrals.model.completion}).  The same octets are judged, stored and
    delivered; but content stages are not shown fields that only this server may
    say (L{deferrals.model.ours}), which no mailbox gets, and text behind no header
    section begins with an empty line for them, as it does in the mailbox.  What
    the mailbox will have in front of it is in
    L{IServices.view<deferrals.interfaces.IServices.view>}.
    """

    size: int = Attribute("Its size in octets.")
    digest: bytes = Attribute("The SHA-256 of its octets, 32 bytes.")
    inMemory: bool = Attribute("Whether its octets are in memory, so that reading them is cheap.")
    header: bytes = Attribute(
        "The raw header section, up to and without the empty line; cut off at the header limit."
    )

    def fields() -> list[tuple[str, str]]:
        """
        The header fields in their order.

        @return: a list of (name, value): text; unfolded; octets that are not
            UTF-8 replaced; MIME words not decoded.
        """

    def open() -> BinaryIO:
        """
        @return: a binary file object at the message's first octet, for the
            caller to close.  It can be read from anywhere (C{seek}), in another
            thread, too.
        """

    def isIntact() -> bool:
        """
        Read it all, and compare with what came in.  Blocks: for a thread.

        @return: whether size and digest are right.
        """

    def shared(key: Hashable, function: Callable[[IMessage], MaybeAwaitable[_T]]) -> Deferred[_T]:
        """
        Compute something once for this message: a scan, a parse.  The first
        one to ask for C{key} has C{function(message)} called; all that ask get a
        Deferred of that same result.

        @param key: hashable; the asker's own, e.g. C{(__name__, socket)}.
        @param function: takes the message; may return a Deferred or a
            coroutine, which is cancelled when all that wait for it have
            cancelled theirs.  It is called anew for what asks after that.
        @return: a Deferred of the result or of its failure; may be cancelled.
        """


class IBodyWriter(Interface):
    """
    Takes the content of one message as it comes in.
    """

    size: int = Attribute("How many octets have been written.")
    head: bytes = Attribute("The first octets: at least the header section, up to its limit.")
    congested: bool = Attribute("Whether where it is put is behind: stop until drained() fires.")

    def write(chunk: bytes) -> None:
        """
        @param chunk: the next octets.
        """

    def drained() -> Deferred[None]:
        """
        @return: a Deferred that fires when there is room again.
        """

    def finish() -> Deferred[IMessage]:
        """
        The content is complete.

        @return: a Deferred of an L{IMessage}, or a failure with
            L{SpoolError<deferrals.errors.SpoolError>}.
        """

    def abort() -> None:
        """
        The content is not wanted; may be called at any time, more than once.
        """
