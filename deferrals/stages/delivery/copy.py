"""
A recipient's copy of a message: trace fields and marks in front, the rest as
it is in the spool.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deferrals.model.trace import marked
from deferrals.model.verdict import Marks

CHUNK_OCTETS = 64 * 1024


class Copy:
    """
    @param message: L{IMessage<deferrals.interfaces.IMessage>}.
    @param trace: the trace fields, each with its CRLF.
    @param marks: how this copy is marked.
    """

    def __init__(self, message: Any, trace: bytes, marks: Marks) -> None:
        self._message = message
        head = message.header
        front, newHead = marked(marks, head)
        self._front = trace + front
        self._skip = 0
        if newHead is not head:
            self._front += newHead if head else newHead + b"\r\n"
            self._skip = len(head)

    @property
    def size(self) -> int:
        """
        In octets.
        """
        return len(self._front) + self._message.size - self._skip

    def chunks(self) -> Iterator[bytes]:
        """
        The octets of the copy.  Reads the message's file: in the reactor
        thread only a chunk at a time.
        """
        yield self._front
        with self._message.open() as file:
            file.seek(self._skip)
            while chunk := file.read(CHUNK_OCTETS):
                yield chunk
