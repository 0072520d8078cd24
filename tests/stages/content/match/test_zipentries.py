"""
A zip's headers.
"""

from __future__ import annotations

import io
import struct
import zipfile

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match.zipentries import content, entries
from tests.mails import zipped


class EntriesTests(SynchronousTestCase):
    """
    L{entries} and L{content}.
    """

    def names(self, data: bytes) -> list[str]:
        self.read: list[int] = []
        found = entries(io.BytesIO(data), 1000, self.read.append)
        return [name for entry in found for name in entry.names]

    def test_headers(self) -> None:
        """The names in front of the members and in the directory, wherever they are."""
        data = zipped({"a.txt": b"x", "b.txt": b"y"})
        self.assertEqual(self.names(b"junk" + data), ["a.txt", "b.txt"] * 2)
        other = data.replace(b"a.txt", b"c.exe", 1)
        self.assertEqual(self.names(other), ["c.exe", "b.txt", "a.txt", "b.txt"])
        self.assertEqual(self.names(data[: data.index(b"PK\1\2")]), ["a.txt", "b.txt"])
        self.assertEqual(self.names(bytes(3 << 20) + data), ["a.txt", "b.txt"] * 2)

    def test_unicodePath(self) -> None:
        """Info-ZIP's other name counts, too; octets in no character set have several."""
        info = zipfile.ZipInfo("plain.txt")
        info.extra = struct.pack("<HHBI", 0x7075, 10, 1, 0) + b"u.exe"
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(info, b"")
        self.assertEqual(set(self.names(file.getvalue())), {"plain.txt", "u.exe"})
        latin = zipped({"u.exe": b""}).replace(b"u.exe", b"\xfc.exe")
        self.assertIn("\u00fc.exe", self.names(latin))

    def test_content(self) -> None:
        """What is behind a header, stored or deflated."""
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            file = io.BytesIO(zipped({"a": b"content" * 1000}, method))
            entry = next(entries(file, 1000, [].append))
            self.assertEqual(b"".join(content(file, entry, 100)), b"content" * 1000)

    def test_noHeaders(self) -> None:
        """What only looks like one."""
        for data in (b"PK\3\4", b"PK\3\4" + b"\xff" * 20, b"PK\1\2" + bytes(42), b""):
            self.assertEqual(self.names(data), [])

    def test_read(self) -> None:
        """What each header costs is told, of what only looks like one, too."""
        self.assertEqual(self.names(zipped({"a.txt": b"x"})), ["a.txt"] * 2)
        self.assertEqual(self.read, [30 + 5, 46 + 5])
        self.names((b"PK\3\4" + bytes(3)) * 1000)
        self.assertEqual(len(self.read), 1000)
        self.names(b"PK\3\4" + bytes(22) + struct.pack("<HH", 1, 65535) + b"a" + bytes(70_000))
        self.assertEqual(self.read, [30 + 1 + 65535])
