"""
Files written into a text.
"""

from __future__ import annotations

import base64
import binascii

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match.uuencode import files


def uuencoded(content: bytes, name: str = "a.exe", end: bytes = b"\r\n") -> bytes:
    lines = [binascii.b2a_uu(content[at : at + 45]) for at in range(0, len(content), 45)]
    text = b"begin 644 %s\n" % name.encode() + b"".join(lines) + b"`\nend\n"
    return text.replace(b"\n", end)


class UuencodeTests(SynchronousTestCase):
    """
    L{files}.
    """

    @given(st.binary(max_size=300), st.sampled_from([b"\r\n", b"\n", b"\r"]))
    def test_files(self, content: bytes, end: bytes) -> None:
        """What was encoded is decoded, wherever in a text and however lines end."""
        text = b"see here:" + end + uuencoded(content, end=end) + b"regards" + end
        self.assertEqual(list(files(text)), [("a.exe", content)])

    def test_several(self) -> None:
        """One behind the other; one that is cut off; names with blanks."""
        text = uuencoded(b"one", "a b.exe") + uuencoded(b"two" * 100)[:-20]
        (first, one), (second, two) = files(text)
        self.assertEqual((first, one, second), ("a b.exe", b"one", "a.exe"))
        self.assertTrue((b"two" * 100).startswith(two[:200]))

    def test_lostBlanks(self) -> None:
        """Blanks at the ends of lines, which some programs lose, are no loss."""
        text = uuencoded(b"\0" * 10).replace(b"`", b" ").replace(b"  \r\n", b"\r\n")
        self.assertEqual(list(files(text)), [("a.exe", b"\0" * 10)])

    def test_base64(self) -> None:
        """In base 64, too."""
        text = b"begin-base64 644 a.exe\n" + base64.encodebytes(b"MZ" * 50) + b"====\nregards\n"
        self.assertEqual(list(files(text)), [("a.exe", b"MZ" * 50)])

    def test_none(self) -> None:
        """A text that begins something else."""
        for text in (b"begin the day", b"x begin 644 a", b"begin 999 a", b""):
            self.assertEqual(list(files(text)), [])
