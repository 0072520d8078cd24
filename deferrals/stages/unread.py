"""
What the other side has said, and was not read any longer: when writing fails, a
transport closes its descriptor without reading what has come in.  A scanner that
finds a message too large says so, and closes, while it is still being sent.
"""

from __future__ import annotations

import contextlib
import socket

from twisted.internet.interfaces import ISystemHandle, ITransport


class UnreadSocket:
    """
    A second descriptor of a connection's socket: it survives the first.

    @param transport: one over a plain socket; any other has nothing to read.
    """

    def __init__(self, transport: ITransport) -> None:
        self._twin: socket.socket | None = None
        with contextlib.suppress(OSError, AttributeError):
            handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
            self._twin = handle.dup() if isinstance(handle, socket.socket) else None

    def take(self, most: int) -> bytearray:
        """
        @param most: more octets than this are not wanted by much.
        @return: what has come in, and was not read.
        """
        found = bytearray()
        with contextlib.suppress(OSError):
            while self._twin is not None and len(found) < most:
                data = self._twin.recv(4096, socket.MSG_DONTWAIT)
                if not data:
                    break
                found += data
        return found

    def close(self) -> None:
        """
        There is nothing more to read.
        """
        if self._twin is not None:
            self._twin.close()
            self._twin = None
