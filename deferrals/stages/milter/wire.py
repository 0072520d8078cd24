"""
Packets of the milter protocol: what C{kilter.protocol} knows, and what it does not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from kilter.protocol.buffer import FixedSizeBuffer, SimpleBuffer
from kilter.protocol.messages import Connect, Helo, Macro, Message

from deferrals.errors import StageError

#: A larger packet of a filter is none.
MAX_PACKET_OCTETS = 128 * 1024

_LENGTH_OCTETS = 4


class ConnectionFailure(Message, ident=b"f"):
    """
    From a filter: as if the connection to it had failed.
    """

    @classmethod
    def from_buffer(cls, buf: memoryview) -> Self:
        return cls()

    def to_buffer(self, buf: FixedSizeBuffer) -> None:
        """
        There is nothing.
        """


class NamedConnect(Connect):
    """
    One whose client's name may be whatever DNS says.
    """

    def to_buffer(self, buf: FixedSizeBuffer, offset: int = 0) -> None:
        buf[:] = self.hostname.encode("utf-8", "replace") + b"\0"
        if not isinstance(self.address, IPv4Address | IPv6Address):
            buf[:] = b"U"
            return
        family = b"6" if self.address.version == 6 else b"4"
        buf[:] = family + struct.pack(">H", self.port) + str(self.address).encode() + b"\0"


class NamedHelo(Helo):
    """
    One whose name may be whatever the client says.
    """

    def to_buffer(self, buf: FixedSizeBuffer) -> None:
        buf[:] = self.hostname.encode("utf-8", "replace") + b"\0"


class NamedMacro(Macro):
    """
    One whose values may be text of any kind.
    """

    def to_buffer(self, buf: FixedSizeBuffer) -> None:
        buf[:] = bytes([self.stage])
        for name, value in self.macros.items():
            pair = f"{name}\0{value}\0"
            buf[:] = pair.encode("utf-8", "replace")


def packed(message: Message, octets: int) -> bytes:
    """
    A message as it is sent.

    @param octets: about as many as it has; not fewer.
    """
    buffer = SimpleBuffer(octets + 64)
    message.pack(buffer)
    return buffer[:].tobytes()


class Packets:
    """
    A filter's messages out of what it sends, in whatever pieces that comes: each octet
    is looked at a bounded number of times.
    """

    def __init__(self) -> None:
        self._octets = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """
        @raise StageError: what it sends is no message.
        """
        self._octets += data
        start = 0
        try:
            while len(self._octets) - start >= _LENGTH_OCTETS:
                size = int.from_bytes(self._octets[start : start + _LENGTH_OCTETS])
                if not 0 < size <= MAX_PACKET_OCTETS:
                    raise StageError(f"the filter sends a packet of {size} octets")
                end = start + _LENGTH_OCTETS + size
                if len(self._octets) < end:
                    break
                packet = bytes(self._octets[start:end])
                start = end
                yield _unpacked(packet)
        finally:
            del self._octets[:start]


def _unpacked(packet: bytes) -> Message:
    """
    @raise StageError: it is no message.
    """
    buffer = SimpleBuffer(len(packet))
    buffer[:] = packet
    try:
        message, _ = Message.unpack(buffer)
        message.freeze()
    except Exception as error:  # of each of its kinds
        shown = packet[4:54]
        raise StageError(f"the filter sends {shown!r}, which is no message") from error
    return message
