"""
Line ends: what is bare, and how it is mended.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.lines import LineEnds, hasBare, normalised

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

    def test_manyCRs(self) -> None:
        """CRs in front of an LF are one line end with it; others are one each."""
        for sent, expected in (
            (b"a\r\r\nb", b"a\r\nb"),
            (b"a\r\r\r\nb", b"a\r\nb"),
            (b"a\r\rb", b"a\r\n\r\nb"),
            (b"a\n\rb", b"a\r\n\r\nb"),
        ):
            self.assertEqual(normalised(sent), expected)


class LineEndsTests(SynchronousTestCase):
    """
    L{LineEnds}.
    """

    def inPieces(self, text: bytes, sizes: list[int], isStuffed: bool) -> bytes:
        ends, found, place, step = LineEnds(isStuffed), b"", 0, 0
        while place < len(text):
            size = sizes[step % len(sizes)]
            found += ends.feed(text[place : place + size])
            place, step = place + size, step + 1
        return found + ends.end()

    @given(_text, st.lists(st.integers(1, 7), min_size=1, max_size=5))
    def test_anyPieces(self, text: bytes, sizes: list[int]) -> None:
        """However the octets come in pieces, they become the same."""
        self.assertEqual(self.inPieces(text, sizes, False), normalised(text))
        whole = self.inPieces(text, [1000], True)
        self.assertEqual(self.inPieces(text, sizes, True), whole)
        self.assertFalse(hasBare(whole))

    def test_stuffed(self) -> None:
        """Behind a bare LF one of two dots is stuffing, and one alone is text."""
        self.assertEqual(self.inPieces(b"a\n..b\n.c\r\n..d", [1], True), b"a\r\n.b\r\n.c\r\n..d")
        self.assertEqual(self.inPieces(b"a\n..b", [1], False), b"a\r\n..b")

    def test_endlessCRs(self) -> None:
        """What is held back is bounded, whatever comes."""
        ends = LineEnds(True)
        self.assertGreater(len(ends.feed(b"\r" * 100000)), 190000)
