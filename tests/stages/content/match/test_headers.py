"""
A header section, as all readers together read it.
"""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match import headers
from deferrals.stages.content.match.headers import NO_HEADER, PartHeader, otherStarts


class PartHeaderTests(SynchronousTestCase):
    """
    L{PartHeader.read}.
    """

    def test_usual(self) -> None:
        """What is written as the standards say has one reading."""
        header = PartHeader.read(
            b'Content-Type: Application/X; name="a.exe"\r\n'
            b"Content-Transfer-Encoding: base64\r\n"
            b'Content-Disposition: attachment;\r\n\tfilename="a.exe"\r\n'
        )
        self.assertEqual(header.mimeTypes, ("application/x",))
        self.assertEqual((header.names, header.encodings), (("a.exe",), ("base64",)))
        self.assertTrue(header.isPlain)
        multipart = PartHeader.read(b'Content-Type: multipart/mixed; boundary="a (b)"; x=y')
        self.assertEqual(multipart.boundaries, ("a (b)",))
        self.assertTrue(multipart.isContainer)
        self.assertIs(PartHeader.read(b"Subject: x\r\n"), NO_HEADER)

    def test_unusual(self) -> None:
        """Blanks, comments, fields twice and behind what is none: all is there."""
        for section, name, value in (
            (b"Content-Type : a/b; name=x", "names", "x"),
            (b"CONTENT-TYPE\t:a/b; name=x", "names", "x"),
            (b"no field\r\nContent-Type: a/b; name=x", "names", "x"),
            (b" \r\nContent-Type: a/b; name=x", "names", "x"),
            (b"a: b\rContent-Type: a/b; name=x", "names", "x"),
            (b"Content-Type: a/b; name=y\r\nContent-Type: c/d; name=x", "names", "x"),
            (b"Content-Type: a/b; name=y\r\nContent-Type: c/d; name=x", "mimeTypes", "c/d"),
            (b"Content-Disposition: x; filename=y\r\nContent-Type: a/b; name=x", "names", "x"),
            (b"Content-Type: a / b", "mimeTypes", "a/b"),
            (b"Content-Type: (c) a/b (d)", "mimeTypes", "a/b"),
            (b"Content-Type: multipart/mixed; boundary=b1 (c)", "boundaries", "b1"),
            (b"Content-Type: multipart/mixed; boundary=x; boundary=b1", "boundaries", "b1"),
            (b"Content-Transfer-Encoding: base64 (c)", "encodings", "base64"),
            (b'Content-Transfer-Encoding: "BASE64"', "encodings", "base64"),
            (
                b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64",
                "encodings",
                "base64",
            ),
            (b"Content-Transfer-Encoding: x-uue", "encodings", "uuencode"),
        ):
            header = PartHeader.read(section)
            self.assertIn(value, getattr(header, name), section)
            self.assertFalse(header.isContainer, section)
            self.assertFalse(header.isPlain, section)

    def test_otherStarts(self) -> None:
        """Where readers differ in where a section ends."""
        self.assertEqual(otherStarts(b"A: b\r\n c\r\nD: e"), [])
        self.assertEqual(otherStarts(b"A: b\r\nno field\r\nD: e"), [6])
        self.assertEqual(otherStarts(b"A: b\r\n \r\nD: e"), [6])
        self.assertEqual(otherStarts(b"A : b\r\nD: e"), [0])

    @given(
        st.lists(
            st.sampled_from([b"Content-Type", b": ", b"\r\n", b" ", b"a/b", b";", b"name=", b"("])
        )
    )
    def test_anything(self, pieces: list[bytes]) -> None:
        """Any octets have a reading."""
        data = b"".join(pieces)
        self.assertTrue(PartHeader.read(data).mimeTypes)
        self.assertTrue(all(start <= len(data) for start in otherStarts(data)))


#: Where a type is, which it takes far too long to find out.
_TYPE = re.compile(r"[^\s/;,\"()=]+\s*/\s*[^\s/;,\"()=]+")


class PatternTests(SynchronousTestCase):
    """
    What is asked of a header section.
    """

    @given(st.text(alphabet='aB/;,"()= \t\r\n\u00e9'))
    def test_type(self, text: str) -> None:
        """The first type in a text is found, and with it all of its words."""
        expected, found = _TYPE.search(text), headers._TYPE.search(text)
        self.assertEqual(found and found.span(), expected and expected.span())
