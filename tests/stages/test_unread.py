"""
What the other side has said, and was not read any longer.
"""

from __future__ import annotations

import socket

from twisted.internet.interfaces import ISystemHandle
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.stages.unread import UnreadSocket


class UnreadHandle(socket.socket):
    """
    A socket from which something can still be read; it is no real one.
    """

    def __init__(self, unread: list[bytes]) -> None:
        self.unread = unread
        self.closings = 0

    def dup(self) -> UnreadHandle:
        self.twin = UnreadHandle(self.unread)
        return self.twin

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self.unread:
            raise BlockingIOError
        return self.unread.pop(0)

    def close(self) -> None:
        self.closings += 1


@implementer(ISystemHandle)
class SocketTransport(StringTransport):
    """
    A connection that has a socket.
    """

    def __init__(self, handle: object) -> None:
        super().__init__()
        self.handle = handle

    def getHandle(self) -> object:
        return self.handle


class UnreadSocketTests(SynchronousTestCase):
    """
    L{UnreadSocket}.
    """

    def test_take(self) -> None:
        """What has come in is read until there is no more of it, or enough."""
        handle = UnreadHandle([b"abc", b"def", b"", b"ghi", b"jkl"])
        unread = UnreadSocket(SocketTransport(handle))
        self.assertEqual(unread.take(100), b"abcdef")
        self.assertEqual(unread.take(2), b"ghi")
        self.assertEqual(unread.take(100), b"jkl")
        self.assertEqual(unread.take(100), b"")
        unread.close()
        unread.close()
        self.assertEqual((handle.twin.closings, handle.closings), (1, 0))

    def test_none(self) -> None:
        """What has no socket has nothing to read."""
        for transport in (StringTransport(), SocketTransport(None), SocketTransport("TLS")):
            unread = UnreadSocket(transport)
            self.assertEqual(unread.take(100), b"")
            unread.close()
