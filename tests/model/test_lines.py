"""
Line ends: what is bare, and how it is mended.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.lines import hasBare, normalised

_text = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"a", b"\0"]), max_size=20).map(
    b"".join
)


class LineTests(SynchronousTestCase):
    """
    L{hasBare} and L{normalised}.
    """

    @given(_text)
    def test_bare(self, text: bytes) -> None:
        """A CR or an LF is bare where it is no part of a CRLF."""
        rest = text.replace(b"\r\n", b"")
        self.assertEqual(hasBare(text), b"\r" in rest or b"\n" in rest)

    @given(_text)
    def test_normalised(self, text: bytes) -> None:
        """What is normalised has no bare CR or LF, and stays as it is from then on."""
        found = normalised(text)
        self.assertFalse(hasBare(found))
        self.assertEqual(normalised(found), found)
        self.assertEqual(found.replace(b"\r\n", b""), text.translate(None, b"\r\n"))
