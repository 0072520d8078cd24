"""
What is compressed as a whole.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match.compressed import inflated, kindOf, nameInside, unpacked

_CONTENT = os.urandom(20_000) + bytes(100_000) + b"the end"


class UnpackedTests(SynchronousTestCase):
    """
    L{unpacked}.
    """

    def setUp(self) -> None:
        self.streams = 0
        self.troubles: list[str] = []

    def begins(self) -> None:
        self.streams += 1

    def unpacked(self, data: bytes) -> bytes:
        """What can be unpacked."""
        found = []
        try:
            for piece in unpacked(io.BytesIO(data), self.begins, self.troubles.append):
                found.append(piece)
        except (EOFError, OSError, lzma.LZMAError) as error:
            self.troubles.append(str(error))
        return b"".join(found)

    def test_kinds(self) -> None:
        """What is compressed comes out again; of streams behind one another, all."""
        for compress in (gzip.compress, bz2.compress, lzma.compress):
            one = compress(_CONTENT)
            self.assertEqual(self.unpacked(one), _CONTENT)
            self.assertEqual(self.unpacked(one + compress(b"two")), _CONTENT + b"two")
            self.assertEqual(self.unpacked(one + bytes(9000) + one), 2 * _CONTENT)
            self.assertEqual(self.unpacked(one + b"garbage"), _CONTENT)
            self.assertEqual(self.unpacked(compress(b"")), b"")
        self.assertEqual((self.streams, self.troubles), (21, []))
        self.assertEqual(self.unpacked(b"neither"), b"")

    def test_pending(self) -> None:
        """What an unpacker holds back is there, where all that was compressed has been read."""
        for compress in (gzip.compress, bz2.compress, lzma.compress):
            self.assertEqual(self.unpacked(compress(bytes(1_000_000))), bytes(1_000_000))

    def test_cut(self) -> None:
        """What is in front of the end is there; and that it is cut off is told."""
        for compress in (gzip.compress, lzma.compress):
            data = compress(_CONTENT)
            for end in (5000, len(data) - 20):
                found = self.unpacked(data[:end])
                self.assertTrue(found and _CONTENT.startswith(found))
        self.assertEqual(self.unpacked(gzip.compress(b"")[:11]), b"")
        self.assertEqual(self.troubles, ["cut off"] * 5)

    def test_checksum(self) -> None:
        """A wrong one is told, and hides nothing."""
        one = gzip.compress(_CONTENT)
        wrong = one[:-8] + bytes(4) + one[-4:]
        self.assertEqual(self.unpacked(wrong + one), 2 * _CONTENT)
        self.assertEqual(self.troubles, ["a wrong checksum"])

    def test_header(self) -> None:
        """All that may stand in front of what gzip has compressed."""
        one = gzip.compress(b"content")
        fields = struct.pack("<H", 300) + bytes(300) + b"n" * 9000 + b"\0comment\0" + b"hc"
        data = one[:3] + bytes([2 | 4 | 8 | 16]) + one[4:10] + fields + one[10:]
        self.assertEqual(self.unpacked(data), b"content")
        self.assertEqual(nameInside(io.BytesIO(data))[:9], b"n" * 9)
        self.assertEqual(nameInside(io.BytesIO(one)), b"")
        self.assertEqual(nameInside(io.BytesIO(bz2.compress(b""))), b"")
        self.assertEqual(self.troubles, [])

    def test_inflated(self) -> None:
        """A stream alone; its end is told."""
        one = gzip.compress(_CONTENT)
        pieces = inflated(io.BytesIO(one), 10)
        found = []
        with self.assertRaises(StopIteration) as stopped:
            while True:
                found.append(next(pieces))
        self.assertEqual(b"".join(found), _CONTENT)
        self.assertEqual(stopped.exception.value, len(one) - 8)

    def test_kindOf(self) -> None:
        """By the first octets."""
        self.assertEqual(kindOf(b"BZh91"), "bzip2")
        self.assertIsNone(kindOf(b"PK"))
