"""
The last file descriptors of the process are for mail that is here already: a
client that would take one of them is told 421 and closed at once, so that there
is always one for the next client's 421.

A new connection has the lowest number that is free.  So its number says how many
are left, and none needs to be counted.
"""

from __future__ import annotations

import contextlib
import math
import resource
from typing import Protocol, runtime_checkable

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadWriteDescriptor, ISystemHandle, ITransport
from twisted.python.failure import Failure

#: So many are kept back: for the spool, deliveries, look-ups, the log.
SPARE = 500


@runtime_checkable
class _Socket(Protocol):
    """
    What there is of a connection's socket.
    """

    def fileno(self) -> int:
        """
        Its descriptor.
        """

    def send(self, data: bytes, /) -> int:
        """
        As much as it takes at once.
        """


def _socketOf(transport: ITransport) -> _Socket | None:
    handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
    return handle if isinstance(handle, _Socket) else None


def isScarce(transport: ITransport) -> bool:
    """
    Whether a connection has taken one of the last descriptors: the last
    L{SPARE}, at most a quarter of all.
    """
    socket = _socketOf(transport)
    return socket is not None and socket.fileno() >= firstSpare()


def firstSpare(part: int = 1) -> float:
    """
    @param part: 2 for what may have half of those that are kept back.
    @return: the lowest number that is kept back.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    return limit - min(SPARE, limit // 4) // part


def closeNow(transport: ITransport, farewell: bytes) -> None:
    """
    Say something, and give the descriptor back before this returns: the next
    client may be accepted in the same turn of the reactor.
    """
    socket = _socketOf(transport)
    if farewell and socket is not None:
        with contextlib.suppress(OSError):  # gone, or it takes nothing
            socket.send(farewell)
    if IReadWriteDescriptor.providedBy(transport):
        transport.connectionLost(Failure(ConnectionDone()))
    else:
        transport.loseConnection()
