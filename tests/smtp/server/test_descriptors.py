"""
The last file descriptors.
"""

from __future__ import annotations

import math
import resource
from typing import Any

from twisted.internet.interfaces import IReadWriteDescriptor, ISystemHandle
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.smtp.server.descriptors import closeNow, firstSpare, isScarce
from tests.harness import Bench, Transport


class Handle:
    """
    A socket with a number.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent = b""
        self.error: OSError | None = None

    def fileno(self) -> int:
        return self.number

    def send(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        self.sent += data
        return len(data)


@implementer(ISystemHandle, IReadWriteDescriptor)
class Numbered(Transport):
    """
    A transport whose descriptor has a number.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.handle = Handle(number)
        self.lost = 0

    def getHandle(self) -> Handle:
        return self.handle

    def connectionLost(self, reason: Any) -> None:
        self.lost += 1
        self.protocol.connectionLost(reason)


class DescriptorTests(SynchronousTestCase):
    """
    L{isScarce} and L{closeNow}, and a session that asks them.
    """

    def limit(self, files: int) -> None:
        self.patch(resource, "getrlimit", lambda _: (files, files))

    def test_scarce(self) -> None:
        """The last 500 are kept back, at most a quarter of all."""
        for files, first in ((100, 75), (1024, 768), (65536, 65036)):
            self.limit(files)
            self.assertFalse(isScarce(Numbered(first - 1)))
            self.assertTrue(isScarce(Numbered(first)))
        self.limit(resource.RLIM_INFINITY)
        self.assertFalse(isScarce(Numbered(1 << 20)))
        self.assertFalse(isScarce(Transport()))
        self.assertEqual(firstSpare(), math.inf)

    def test_session(self) -> None:
        """The client is told 421, is gone when that returns, and is counted nowhere."""
        self.limit(100)
        transport = Numbered(99)
        bench = Bench(transport=transport)
        self.assertRegex(transport.handle.sent, rb"^421 4\.3\.2 [^\r\n]*\r\n$")
        self.assertEqual((bench.take(), transport.lost), (b"", 1))
        self.assertEqual(bench.backend.connectionLimits.total, 0)

    def test_tls(self) -> None:
        """One that expects TLS is told nothing."""
        self.limit(100)
        transport = Numbered(99)
        Bench(transport=transport, tls="implicit", certificates=object())
        self.assertEqual((transport.handle.sent, transport.lost), (b"", 1))

    def test_gone(self) -> None:
        """One that is gone already is closed all the same."""
        transport = Numbered(99)
        transport.protocol = Bench().session
        transport.handle.error = BrokenPipeError()
        closeNow(transport, b"421\r\n")
        self.assertEqual(transport.lost, 1)
