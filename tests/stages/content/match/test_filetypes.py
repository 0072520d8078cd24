"""
What kind of file some octets are.
"""

from __future__ import annotations

import importlib.resources
import json

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.content.match.filetypes import kindsOf
from tests.mails import zipped


class KindTests(SynchronousTestCase):
    """
    L{kindsOf}.
    """

    def test_known(self) -> None:
        """Files are known by their first octets."""
        for head, kind in (
            (b"MZ\x90\0\3\0\0\0", "exe"),
            (b"MZ\x90\0\3\0\0\0", "application/vnd.microsoft.portable-executable"),
            (b"%PDF-1.7\n", "application/pdf"),
            (zipped({"a": b"b"}), "zip"),
            (b"Rar!\x1a\x07\x01\0", "rar"),
            (b"\x89PNG\r\n\x1a\n", "image/png"),
            (bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 600, "doc"),
        ):
            self.assertIn(kind, kindsOf(head))
        for head in (b"", b"hello\r\n"):
            self.assertEqual(kindsOf(head), set())

    def test_table(self) -> None:
        """
        puremagic's data file is laid out as it is read: rows of hexadecimal
        octets, offset, extension, MIME type and text.
        """
        table = importlib.resources.files("puremagic").joinpath("magic_data.json")
        rows = json.loads(table.read_bytes())["headers"]
        self.assertGreater(len(rows), 1000)
        for row in rows:
            self.assertEqual([type(one) for one in row], [str, int, str, str, str])
            self.assertEqual(len(bytes.fromhex(row[0])) * 2, len(row[0]))
