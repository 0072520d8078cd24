"""
Packets of the milter protocol.
"""

from __future__ import annotations

from ipaddress import ip_address

from kilter.protocol.messages import Accept, ChangeHeader, Continue, Message
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import StageError
from deferrals.stages.milter.wire import (
    MAX_PACKET_OCTETS,
    ConnectionFailure,
    NamedConnect,
    NamedHelo,
    NamedMacro,
    Packets,
    packed,
)
from tests.milters import packet


class WireTests(SynchronousTestCase):
    """
    L{Packets} and what is sent.
    """

    def test_pieces(self) -> None:
        """In whatever pieces they come."""
        data = packet(b"c") + packet(b"m\0\0\0\1X\0v\0") + packet(b"f") + packet(b"a")
        for size in (1, 3, len(data)):
            packets, found = Packets(), []
            for start in range(0, len(data), size):
                found += packets.feed(data[start : start + size])
            kinds = [Continue, ChangeHeader, ConnectionFailure, Accept]
            self.assertEqual([type(one) for one in found], kinds)
            self.assertEqual(found[1], ChangeHeader(1, "X", b"v"))

    def test_nonsense(self) -> None:
        """What is no message, or too long, is an error; what came before it counts."""
        for bad in (
            packet(b""),
            packet(b"?"),
            packet(b"m\0"),
            packet(b"h\xff\0v\0"),
            packet(b"hX"),
            b"\xff\xff\xff\xff",
            (MAX_PACKET_OCTETS + 1).to_bytes(4, "big"),
        ):
            packets = Packets()
            found: list[Message] = []

            def read(packets: Packets = packets, data: bytes = bad) -> None:
                found.extend(packets.feed(packet(b"c") + data))  # noqa: B023

            self.assertRaises(StageError, read)
        self.assertEqual(packed(ConnectionFailure(), 0), packet(b"f"))

    def test_names(self) -> None:
        """Names and values that are no host names, and not ASCII, are sent all the same."""
        name = "gr\xfcn..\ud800" + "x" * 70
        text = name.encode("utf-8", "replace")
        self.assertEqual(packed(NamedHelo(name), 400), packet(b"H" + text + b"\0"))
        self.assertEqual(packed(NamedMacro(67, {"j": name}), 400), packet(b"DCj\0" + text + b"\0"))
        self.assertEqual(packed(NamedConnect(name), 400), packet(b"C" + text + b"\0U"))
        for address, wanted in (("192.0.2.1", b"4\0\x19"), ("2001:db8::1", b"6\0\x19")):
            made = packed(NamedConnect("a", ip_address(address), 25), 400)
            self.assertEqual(made, packet(b"Ca\0" + wanted + address.encode() + b"\0"))
