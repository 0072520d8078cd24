"""
The header of the PROXY protocol.
"""

from __future__ import annotations

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


class HeaderTests(SynchronousTestCase):
    """
    L{takeHeader}.
    """

    def test_good(self) -> None:
        """Versions 1 and 2, for others and for the proxy itself; what follows is not touched."""
        for header, source in GOOD:
            self.assertEqual(takeHeader(header + b"EHLO x\r\n"), (source, len(header)))

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
