"""
Dot-stuffing on the way out.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.client import withCRLF
from deferrals.smtp.client.writing import Stuffing
from deferrals.smtp.server.decoding import DataDecoder


class StuffingTests(SynchronousTestCase):
    """
    Dot-stuffing, and back.
    """

    @given(st.lists(st.lists(st.sampled_from([b"\r\n", b".", b"a", b".."])).map(b"".join)))
    def test_roundTrip(self, chunks: list[bytes]) -> None:
        """What the decoder makes of it is the message, ended by a CRLF."""
        stuffing = Stuffing()
        wire = b"".join(map(stuffing.feed, chunks)) + stuffing.end()
        content, rest = DataDecoder().feed(wire + b"NEXT")
        body = b"".join(chunks)
        expected = body if body.endswith(b"\r\n") or not body else body + b"\r\n"
        self.assertEqual((content, rest), (expected, b"NEXT"))

    def test_withCRLF(self) -> None:
        """Line ends of any kind."""
        self.assertEqual(withCRLF(b"a\nb\r\nc\rd"), b"a\r\nb\r\nc\r\nd\r\n")
        self.assertEqual(withCRLF(b""), b"")
