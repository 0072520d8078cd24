"""
Headers of the PROXY protocol, for tests.
"""

from __future__ import annotations

import socket
import struct

from deferrals.model.proxyprotocol import Source

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 1025 25\r\n"


def v2(command: int, family: int, payload: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(payload)) + payload


def v2inet(address: str, port: int, more: bytes = b"") -> bytes:
    if ":" in address:
        both = socket.inet_pton(socket.AF_INET6, address) * 2
        return v2(1, 0x21, both + struct.pack("!HH", port, 25) + more)
    both = socket.inet_pton(socket.AF_INET, address) * 2
    return v2(1, 0x11, both + struct.pack("!HH", port, 25) + more)


GOOD = [
    (V1, Source("198.51.100.7", 1025)),
    (b"PROXY TCP6 2001:DB8::7 ::1 65535 25\r\n", Source("2001:db8::7", 65535)),
    (b"PROXY TCP6 ::ffff:198.51.100.7 ::1 1 25\r\n", Source("198.51.100.7", 1)),
    (b"PROXY UNKNOWN\r\n", Source("unknown")),
    (b"PROXY UNKNOWN ffff:f::1 ffff:f::2 65535 65535\r\n", Source("unknown")),
    (v2inet("198.51.100.7", 1025), Source("198.51.100.7", 1025)),
    (v2inet("2001:db8::7", 1, b"\x04\x00\x03abc"), Source("2001:db8::7", 1)),
    (v2(0, 0, b""), Source()),
    (v2(0, 0x11, b"garbage"), Source()),
    (v2(1, 0, b"abc"), Source("unknown")),
    (v2(1, 0x31, b"\0" * 216), Source("local")),
]
