"""
8-bit mail in 7-bit.
"""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.delivery.sevenbit import (
    FIELD_OCTETS,
    FIELDS_OCTETS,
    MOST_BOUNDARIES,
    MOST_FIELDS,
    MOST_LEVELS,
    MOST_MARKS,
    MOST_OCTETS,
    sevenBit,
)
from tests.rigs import examples

PARTS = """\
From: J\u00fcrgen M\u00fcller <j@x.example>\r
Subject: Gr\u00f6\u00dfe\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary=b\r
\r
--b\r
Content-Type: text/plain; charset=utf-8\r
Content-Transfer-Encoding: 8bit\r
\r
H\u00e4llo = x \r
.dot\r
\r
--b\r
Content-Type: application/x; name="\u00fc.txt"\r
Content-Transfer-Encoding: 8bit\r
\r
\u00ff\r
--b\r
Content-Type: image/x\r
Content-Transfer-Encoding: base64\r
\r
/////w==\r
--b\r
Content-Type: message/rfc822\r
Content-Transfer-Encoding: 8bit\r
\r
Subject: \u00fc\r
Content-Type: text/plain; charset=utf-8\r
\r
\u00fc\u00fc\r
--b--\r
""".encode()

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=90)


def read(octets: bytes) -> Any:
    return message_from_bytes(octets, EmailMessage, policy=policy.SMTP)


class SevenBitTests(SynchronousTestCase):
    """
    L{sevenBit}.
    """

    def converted(self, octets: bytes) -> bytes:
        found = sevenBit(octets)
        assert found is not None
        self.assertTrue(found.isascii())
        self.assertNotIn(b"\n", found.replace(b"\r\n", b""))
        return found

    def test_parts(self) -> None:
        """Fields become encoded words, and parts are encoded, as far as they are 8-bit."""
        found = self.converted(PARTS)
        before, after = read(PARTS), read(found)
        self.assertEqual(after["From"].addresses[0].display_name, "J\u00fcrgen M\u00fcller")
        self.assertEqual(after["From"].addresses[0].addr_spec, "j@x.example")
        self.assertEqual(after["Subject"], "Gr\u00f6\u00dfe")
        leaves = [
            [part.get_payload(decode=True) for part in one.walk() if not part.is_multipart()]
            for one in (before, after)
        ]
        self.assertEqual(leaves[0], leaves[1])
        encodings = [part["Content-Transfer-Encoding"] for part in after.walk()]
        self.assertEqual(
            encodings, [None, "quoted-printable", "base64", "base64", "7bit", "quoted-printable"]
        )
        self.assertEqual([*after.walk()][2].get_filename(), "\u00fc.txt")
        self.assertEqual(sevenBit(found), found)

    def test_plain(self) -> None:
        """A message without MIME has it then; what is ASCII stays."""
        long = b"X-Long: " + b"y" * 300 + b"\r\n"
        found = self.converted(long + b"Subject: x\r\n\r\nH\xe4llo\r\nFrom x\r\n")
        self.assertTrue(found.startswith(long + b"Subject: x\r\n"))
        self.assertIn(b"\r\nMIME-Version: 1.0\r\n", found)
        self.assertTrue(found.endswith(b"\r\n\r\nH=E4llo\r\nFrom x\r\n"))

    def test_signed(self) -> None:
        """What is signed stays as it is, also where it lies deep."""
        for octets in (
            b"DKIM-Signature: v=1\r\n" + PARTS,
            b"ARC-Message-Signature: i=1\r\n" + PARTS,
            PARTS.replace(b"multipart/mixed", b"multipart/signed"),
            PARTS.replace(b"Subject: \xc3\xbc", b"DKIM-Signature: v=1"),
        ):
            self.assertIsNone(sevenBit(octets))

    def test_bounds(self) -> None:
        """Nor is what is too large, too deep, or has octets that no encoding reaches."""
        deep = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * (MOST_LEVELS + 1)
        self.assertIsNone(sevenBit(deep + b"\r\n\xff"))
        for name in (b"Content-Type: x/", b"Subject: \xff"):
            self.assertIsNone(sevenBit(name + b"x" * FIELD_OCTETS + b"\r\n\r\n\xff"))
        short = b"X: \xff" + b" x" * (FIELD_OCTETS // 3) + b"\r\n"
        self.assertIsNone(sevenBit(short * (FIELDS_OCTETS // len(short) + 1)))
        self.assertIsNone(sevenBit(b"\r\n\xff".ljust(MOST_OCTETS + 1)))
        self.assertIsNone(sevenBit(PARTS + b"--b\r\n" * MOST_BOUNDARIES))
        marks = b"--b\r\nContent-Type: text/plain" + b";" * 2000 + b"\r\n\r\n"
        self.assertIsNone(sevenBit(PARTS + marks * (MOST_MARKS // 2000 + 1)))
        self.assertIsNotNone(sevenBit(b"\r\n--b \xff" * (MOST_BOUNDARIES + 1)), "without parts")
        self.assertIsNone(sevenBit(PARTS.replace(b"--b\r\n", b"\xff\r\n--b\r\n", 1)))
        self.assertIsNone(sevenBit(PARTS.replace(b"/////w==", b"\xff")))

    def test_fields(self) -> None:
        """Fields in 8-bit are not so many that all their time is spent on them."""
        many = [b"X-%d: x\r\n" % index for index in range(MOST_FIELDS)]
        self.assertIsNone(sevenBit(b"".join(many) + b"Subject: \xff\r\n\r\n"))
        self.assertIsNotNone(sevenBit(b"".join(many[1:]) + b"Subject: \xff\r\n\r\n"))
        self.assertIsNotNone(sevenBit(b"".join(many) + b"Subject: x\r\n\r\n\xff"))

    def test_folded(self) -> None:
        """Nothing is added to a field where its line had been folded."""
        found = self.converted("Subject: Gr\u00fc\u00dfe\r\n an\r\n\talle\r\n\r\n".encode())
        self.assertEqual(read(found)["Subject"], "Gr\u00fc\u00dfe an\talle")

    def test_dated(self) -> None:
        """Nor is a field thrown away that can be read no more."""
        for name in ("Date", "Resent-Date", "Message-ID"):
            found = self.converted(f"{name}: 3. M\u00e4rz\r\n\r\n".encode())
            self.assertIn(f"{name}: 3. =?utf-8?q?M=C3=A4rz?=\r\n".encode(), found)

    def test_ends(self) -> None:
        """What the library takes for a line's end does not end the header."""
        for end in ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"):
            for field in (f"References: <a>\r\n {end}\r\n b", f"Subject: a{end}b"):
                self.assertIsNone(sevenBit(f"{field}\r\n\r\n\u00fc\r\n".encode()), field)

    @settings(max_examples=examples(30), deadline=None)
    @given(texts, st.lists(texts, max_size=5))
    def test_same(self, subject: str, lines: list[str]) -> None:
        """A text is read as it was written."""
        text = "".join(f"{line}\r\n" for line in lines).encode()
        head = f"X-Field: {subject.encode('unicode_escape').decode()}\r\n".encode()
        more = b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
        found = self.converted(head + more + text)
        self.assertTrue(found.startswith(head))
        self.assertEqual(read(found).get_payload(decode=True), text)

    @settings(max_examples=examples(30), deadline=None)
    @given(st.binary(max_size=300))
    def test_anything(self, octets: bytes) -> None:
        """Whatever it is, it is ASCII in the end, or stays as it is."""
        for head in (b"", b"Content-Type: ", b"MIME-Version: 1.0\r\nContent-Type: multipart/x; b"):
            found = sevenBit(head + octets)
            self.assertTrue(found is None or found.isascii())
