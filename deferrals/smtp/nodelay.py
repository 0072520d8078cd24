"""
Pieces that are whole already go out at once.
"""

from __future__ import annotations

import contextlib

from twisted.internet.interfaces import ITCPTransport, ITransport


def sendAtOnce(transport: ITransport) -> None:
    """
    Let the system not wait for more to send with what it has (Nagle's algorithm).
    """
    if ITCPTransport.providedBy(transport):
        # Twisted 24 says that a Unix socket is one of TCP, too; the system knows better.
        with contextlib.suppress(OSError):
            transport.setTcpNoDelay(True)
