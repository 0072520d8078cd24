"""
The MIME structure that C{match} looks into.
"""

from __future__ import annotations

import email.message
import email.policy
import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match import mime
from deferrals.stages.content.match.contents import files
from deferrals.stages.content.match.mime import (
    MAX_FIELD_OCTETS,
    TooComplex,
    parts,
)
from tests.mails import mail, many
from tests.work import linesRun, peakOctets


def nested(depth: int) -> bytes:
    levels = [
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n)
        for n in range(depth)
    ]
    return b"".join(levels) + b"\r\n" + b"hello\r\n--b\r\n" * 20000


PIECES = [
    *(b"--b", b"--", b"\r\n", b"x", b"\r\n\r\n"),
    b"Content-Type: multipart/mixed; boundary=b",
    b"Content-Type: message/rfc822",
]


class MimeTests(SynchronousTestCase):
    """
    L{parts}.
    """

    def structure(self, data: bytes) -> list[tuple[str, bytes]]:
        return [(part.header.mimeTypes[0], data[part.start : part.end]) for part in parts(data)]

    def test_otherBoundaries(self) -> None:
        """A part that only some readers see has a header of its own."""
        part = b"Content-Type: application/x; name=a.exe\r\n\r\nMZ\r\n"
        top = b"Content-Type: multipart/mixed; boundary=b1\r\n"
        for data in (
            b'Content-Type: multipart / mixed;\r\n\r\n--"b"\r\n' + part,
            top + b'\r\n--x"b1 \r\n' + part + b"--b1--\r\n",
            top + b"From: a@example.com\r\n--b1\r\n\r\n" + part.replace(b"x; n", b"x; N"),
            top + b"--b1\r\n" + part + b"--b1--\r\n",
        ):
            types = [kind for one in parts(data) for kind in one.header.mimeTypes]
            self.assertIn("application/x", types, data)

    def test_fields(self) -> None:
        """What is read of fields in many ways is bounded, one by one and together."""
        field = b"Content-Type: a/b; x=(" + b"y" * (MAX_FIELD_OCTETS - 100) + b"\r\n"
        self.assertEqual(len(parts(field + b"\r\n")), 1)
        self.assertRaises(TooComplex, parts, field.replace(b"x=(", b"x=(" + b"y" * 100) + b"\r\n")
        top = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        part = b"--b\r\nContent-Type: a/b; x=(" + b"y" * 500 + b"\r\n\r\n"
        self.patch(mime, "MAX_FIELDS_OCTETS", 2000)
        self.assertEqual(len(parts(top + part * 3)), 4)
        self.assertRaises(TooComplex, parts, top + part * 4)

    def test_noEnd(self) -> None:
        """A part that is all header section is content, too, up to the end of the message."""
        top = b"Content-Type: multipart/mixed; boundary=b1\r\n\r\n--b1\r\n"
        contents = [one.content(100) for one in files(top + b"X: y\r\nZ: z")]
        self.assertIn(b"X: y\r\nZ: z", contents)

    def test_likeTheLibrary(self) -> None:
        """Ordinary mail has the parts that the standard library finds."""
        inner = mail(subject="inner", text="inside")
        message = mail(
            text="text",
            html="<p>html</p>",
            attachments=[("a.bin", "application/x", zlib.compress(b"x"))],
        )
        message.add_attachment(inner)
        data = message.as_bytes()
        found = [(p.header.mimeTypes[0], (*p.header.names, "")[0]) for p in parts(data)]
        wanted = [
            (part.get_content_type(), part.get_filename() or "")
            for part in email.message_from_bytes(data, policy=email.policy.compat32).walk()
        ]
        self.assertEqual(found, wanted)

    def test_contents(self) -> None:
        """What each part contains."""
        data = (
            b'Content-Type: multipart/mixed; boundary="a b"\r\n\r\npreamble\r\n'
            b"--a b\r\n\r\none\r\n"
            b"--a b  \r\nContent-Type: text/html\r\n\r\ntwo\r\n\r\n--a b--\r\nepilogue\r\n"
        )
        self.assertEqual(data[parts(data)[-1].others[0][0] :], b"epilogue\r\n")
        self.assertEqual(
            self.structure(data),
            [
                ("multipart/mixed", b"preamble"),
                ("text/plain", b"one"),
                ("text/html", b"two\r\n"),
                ("text/plain", b""),
            ],
        )

    def test_sameBoundaryTwice(self) -> None:
        """An inner multipart that reuses the boundary hides nothing."""
        data = (
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
            b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b\r\n"
            b"Content-Type: application/evil\r\n\r\ny\r\n--b--\r\n"
        )
        self.assertIn("application/evil", [kind for kind, _ in self.structure(data)])

    def test_unfinished(self) -> None:
        """A message that stops anywhere has parts."""
        data = mail(html="<p>x</p>", attachments=[("a", "a/b", b"x")]).as_bytes()
        for end in range(len(data)):
            list(parts(data[:end]))

    def test_linear(self) -> None:
        """Twice the parts, or twice the levels, are no more than twice the work."""
        self.assertEqual(len(list(parts(many(10000)))), 10001)
        top = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        noEmptyLine = b"--b\r\nContent-Type: text/plain\r\n"
        for once, twice in (
            (many(100), many(200)),
            (nested(45), nested(90)),
            (top + noEmptyLine * 100, top + noEmptyLine * 200),
        ):
            work = linesRun(parts, once)
            self.assertLess(linesRun(parts, twice), 2.1 * work)

    def test_tooComplex(self) -> None:
        """There is a limit."""
        self.assertRaises(TooComplex, parts, nested(1000))

    def test_compared(self) -> None:
        """Lines that look like boundaries are not compared with all of them for ever."""
        names = [b"z" * length for length in range(1, 41)]
        fields = b"".join(b"Content-Type: multipart/mixed; boundary=%s\r\n" % one for one in names)
        self.patch(mime, "MAX_COMPARED", 1000)
        self.assertTrue(parts(fields + b"\r\n" + b"--\n" * 10))
        self.assertRaises(TooComplex, parts, fields + b"\r\n" + b"--\n" * 100)

    def test_headers(self) -> None:
        """The headers of all parts together have a bound, in lines and in octets."""
        self.patch(mime, "MAX_HEADER_LINES", 10_000)
        self.patch(mime, "MAX_HEADERS_OCTETS", 1_000_000)
        head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        for fields, most in (
            (b"a:b\r\n" * 2_000, 5),
            ((b"a:" + b"b" * 990 + b"\r\n") * 100, 10),
        ):
            part = b"--b\r\n" + fields + b"\r\nx\r\n"
            self.assertEqual(len(list(parts(head + part * (most - 1)))), most)
            self.assertRaises(TooComplex, parts, head + part * (most + 2))

    def test_memory(self) -> None:
        """What is kept of a message's structure is a small multiple of its size."""
        head = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
        for data in (
            head + (b"--b\r\n" + b"a:b\r\n" * 4_000 + b"\r\nx\r\n") * 24,
            head + b"--b\r\n\r\n" * 4_000,
            b"Content-Type: message/rfc822\r\n\r\n" * 4_000,
        ):
            self.assertLess(peakOctets(parts, data), 30 * len(data) + 1_000_000)

    @given(st.lists(st.sampled_from(PIECES), max_size=30))
    def test_anything(self, pieces: list[bytes]) -> None:
        """Parts of any octets are inside them, in order."""
        data = b"".join(pieces)
        place = 0
        for part in parts(data):
            self.assertTrue(0 <= part.start <= part.end <= len(data), (data, part))
            self.assertGreaterEqual(part.start, place)
            place = part.start
            for start, end in part.others:
                self.assertTrue(0 <= start <= end <= len(data), (data, part))
        for file in files(data):
            file.texts(1000)
