"""
Whether there is room for more.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.sqlite.diskspace import RESERVE_FILES, RESERVE_OCTETS, lack

#: Blocks of 4 KiB.
RESERVE = RESERVE_OCTETS // 4096


class LackTests(SynchronousTestCase):
    """
    L{lack}.
    """

    def lack(self, *, blocks: int, free: int, files: int = 1000, freeFiles: int = 1000) -> str:
        found = SimpleNamespace(
            f_frsize=4096, f_blocks=blocks, f_bavail=free, f_files=files, f_favail=freeFiles
        )
        self.patch(os, "statvfs", lambda path: found)
        return lack("/spool")

    def test_room(self) -> None:
        """The last 16 MiB are not for new messages."""
        self.assertEqual(self.lack(blocks=1 << 20, free=RESERVE), "")
        self.assertEqual(
            self.lack(blocks=1 << 20, free=RESERVE - 1), "/spool: no space left, 16380 KiB are free"
        )

    def test_small(self) -> None:
        """Of a small file system it is the last eighth."""
        self.assertEqual(self.lack(blocks=800, free=100), "")
        self.assertIn("no space left", self.lack(blocks=800, free=99))

    def test_files(self) -> None:
        """A message may need a file; some file systems do not count them."""
        few = RESERVE_FILES - 1
        self.assertEqual(self.lack(blocks=1 << 20, free=1 << 19, freeFiles=RESERVE_FILES), "")
        self.assertEqual(
            self.lack(blocks=1 << 20, free=1 << 19, freeFiles=few),
            "/spool: no more files can be made, 15 are left",
        )
        self.assertEqual(self.lack(blocks=1 << 20, free=1 << 19, files=0, freeFiles=0), "")
