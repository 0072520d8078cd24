"""
What is in a C{winmail.dat}.
"""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match.tnef import MAGIC, BrokenTNEF, files
from tests.work import linesRun, peakOctets


def attribute(identity: int, value: bytes) -> bytes:
    head = struct.pack("<BII", 2, identity, len(value))
    return head + value + struct.pack("<H", sum(value) & 0xFFFF)


def properties(*found: tuple[int, int, bytes]) -> bytes:
    text = struct.pack("<I", len(found))
    for kind, identity, value in found:
        padded = value + bytes(-len(value) % 4)
        text += struct.pack("<HHII", kind, identity, 1, len(value)) + padded
    return text


def tnef(*attributes: bytes) -> bytes:
    return MAGIC + b"\1\0" + b"".join(attributes)


RENDERING = attribute(0x00069002, bytes(14))
ATTACHED = tnef(
    attribute(0x00078008, b"IPM.Note\0"),
    RENDERING,
    attribute(0x00018010, b"A~1.EXE\0"),
    attribute(0x0006800F, b"MZ and more"),
    attribute(
        0x00069005,
        properties(
            (0x1F, 0x3707, "ä long.exe\0".encode("utf-16-le")),
            (0x1E, 0x3704, b"A~1.EXE\0"),
            (0x102, 0x3701, b"MZ"),
        ),
    ),
    RENDERING,
    attribute(0x00018010, b"b.txt\0"),
    attribute(0x0006800F, b"text"),
)


class TNEFTests(SynchronousTestCase):
    """
    L{files}.
    """

    def test_files(self) -> None:
        """Each name and each content of two attachments."""
        found = list(files(ATTACHED))
        self.assertIn((["A~1.EXE"], b"MZ and more"), found)
        self.assertIn((["A~1.EXE", "ä long.exe", "A~1.EXE"], b"MZ"), found)
        self.assertIn((["ä long.exe"], b""), found)
        self.assertEqual(found[-1], (["b.txt"], b"text"))

    def test_fixedProperties(self) -> None:
        """Properties of other types, named ones and several values are skipped."""
        named = struct.pack("<HH", 0x1E, 0x8001) + bytes(16) + struct.pack("<II", 1, 3) + b"x\0\0\0"
        text = struct.pack("<I", 3)
        text += struct.pack("<HHI", 3, 0x3705, 1)
        text += named + struct.pack("<II", 1, 2) + b"v\0\0\0"
        text += struct.pack("<HHII", 0x1E, 0x3707, 1, 6) + b"c.exe\0\0\0"
        self.assertEqual(list(files(tnef(attribute(0x69005, text)))), [(["c.exe"], b"")])

    def test_behind(self) -> None:
        """Properties that cannot be read hide none in front of them, and no attachment."""
        named = struct.pack("<HHII", 0x1E, 0x3707, 1, 6) + b"c.exe\0\0\0"
        broken = struct.pack("<I", 9) + named + struct.pack("<HHI", 0x77, 0x3705, 1)
        title = attribute(0x00018010, b"b.exe\0")
        for text in (broken, b"\1", struct.pack("<IHHI", 1, 0x1E, 0x3707, 1 << 31)):
            found = list(files(tnef(attribute(0x69005, text), RENDERING, title)))
            self.assertEqual(found[-1], (["b.exe"], b""))
            self.assertEqual(len(found), 2 if text == broken else 1)

    def test_manyNames(self) -> None:
        """Names, however many, cost what they are long; each is there."""
        titles, work = [attribute(0x00018010, b"%d.exe" % number) for number in range(800)], []
        for count in (200, 800):
            content = attribute(0x0006800F, b"MZ") * count
            data = tnef(RENDERING, *titles[:count], content)
            names = {name for called, _ in files(data) for name in called}
            self.assertEqual(names, {f"{number}.exe" for number in range(count)})
            work.append(peakOctets(list, files(data)))
        self.assertLess(work[1], 8 * work[0])  # sixteen, if each cost all before it

    def test_lengths(self) -> None:
        """Lengths that are not there promise nothing: they cost nothing."""
        for octets in (0xFFFFFFFF, 0x7FFFFFFF, 1 << 24):
            lying = struct.pack("<BII", 2, 0x00018010, octets) + b"a.exe\0"
            counts = struct.pack("<I", octets) + struct.pack("<HHI", 0x101E, 0x3707, octets)
            self.assertRaises(BrokenTNEF, list, files(tnef(lying)))
            for data in (tnef(lying), tnef(attribute(0x69005, counts))):
                self.assertLess(linesRun(self._read, data), 500)
                self.assertLess(peakOctets(self._read, data), 100_000)

    def _read(self, data: bytes) -> None:
        with contextlib.suppress(BrokenTNEF):
            list(files(data))

    def test_broken(self) -> None:
        """What is cut off anywhere gives what was there, or says so."""
        for end in range(len(ATTACHED)):
            with contextlib.suppress(BrokenTNEF):
                list(files(ATTACHED[:end]))
        self.assertRaises(BrokenTNEF, list, files(ATTACHED[:-5]))

    @given(st.binary(max_size=200))
    def test_anything(self, data: bytes) -> None:
        """Any octets give files, or BrokenTNEF."""
        for start in (b"", attribute(0x69005, b"")[:9]):
            with contextlib.suppress(BrokenTNEF):
                list(files(tnef(start + data)))
