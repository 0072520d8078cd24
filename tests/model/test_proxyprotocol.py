"""
The header of the PROXY protocol.
"""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.proxyprotocol import ProxyError, takeHeader
from tests.proxies import GOOD, SIGNATURE, V1, v2

BAD = [
    b"EHLO client\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 1025\r\n",
    b"PROXY TCP4 2001:db8::7 192.0.2.1 1025 25\r\n",
    b"PROXY TCP4 198.51.100.7 nonsense 1025 25\r\n",
    b"PROXY TCP4 198.51.100.7 192.0.2.1 65536 25\r\n",
    b"PROXY TCP9 198.51.100.7 192.0.2.1 1 25\r\n",
    b"PROXY UNKNOWN " + b"x" * 200,
    b"PROXY\tTCP4\r\n",
    SIGNATURE + b"\x11\x11\0\0",
    SIGNATURE + b"\x22\x11\0\0",
    SIGNATURE + b"\x21\x11\xff\xff",
    v2(1, 0x11, b"short"),
    v2(1, 0x21, b"\0" * 12),
]


def value(kind: int, data: bytes) -> bytes:
    """
    What a proxy tells beside the addresses.
    """
    return struct.pack("!BH", kind, len(data)) + data


class HeaderTests(SynchronousTestCase):
    """
    L{takeHeader}.
    """

    def test_good(self) -> None:
        """Versions 1 and 2, for others and for the proxy itself; what follows is not touched."""
        for header, source in GOOD:
            self.assertEqual(takeHeader(header + b"EHLO x\r\n"), (source, len(header)))

    def test_tls(self) -> None:
        """What version 2 tells of the client's TLS; of what is not complete, nothing."""
        inner = value(0x21, b"TLSv1.3") + value(0x23, b"TLS_AES_256_GCM_SHA384")
        for more, tls in (
            (value(0x20, b"\x01\0\0\0\0" + inner), "TLSv1.3 TLS_AES_256_GCM_SHA384"),
            (value(1, b"smtp") + value(0x20, b"\x07\0\0\0\0" + inner[:10]), "TLSv1.3"),
            (value(0x20, b"\x01\0\0\0\0" + value(0x21, b"\r\n250")), "TLS"),
            (value(0x20, b"\x00\0\0\0\0" + inner), None),
            (value(0x20, b"\x01"), None),
            (value(0x20, b"\x01\0\0\0\0" + inner)[:-1], None),
            (b"\x20", None),
        ):
            for family, octets in ((0x11, 12), (0x21, 36), (0x31, 216), (0, 0)):
                header = v2(1, family, b"\1" * octets + more)
                found = takeHeader(header)
                assert found is not None
                self.assertEqual((found[0].tls, found[1]), (tls, len(header)))

    def test_inPieces(self) -> None:
        """No beginning of a header is one, and none is refused."""
        for header, _ in GOOD:
            for end in range(len(header)):
                self.assertIsNone(takeHeader(header[:end]), header[:end])

    def test_bad(self) -> None:
        """Everything else is refused, as soon as that can be known."""
        for data in BAD:
            with self.assertRaises(ProxyError, msg=repr(data)):
                takeHeader(data)

    @given(st.binary(max_size=60), st.sampled_from([b"", b"PROXY ", SIGNATURE, V1[:20]]))
    def test_any(self, data: bytes, front: bytes) -> None:
        """Any octets are a header, the beginning of one, or L{ProxyError}."""
        try:
            found = takeHeader(front + data)
        except ProxyError:
            return
        self.assertTrue(found is None or found[1] <= len(front + data))
