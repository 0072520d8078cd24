"""
Whether there is room for more.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.sqlite.diskspace import (
    HELD_OCTETS,
    RESERVE_FILES,
    RESERVE_OCTETS,
    Reserve,
    lack,
)

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


class ReserveTests(SynchronousTestCase):
    """
    L{Reserve}.
    """

    def setUp(self) -> None:
        self.path = os.path.abspath(self.mktemp())
        self.reserve = Reserve(self.path)

    def free(self, blocks: int, free: int) -> None:
        found = SimpleNamespace(
            f_frsize=4096, f_blocks=blocks, f_bavail=free, f_files=1000, f_favail=1000
        )
        self.patch(os, "statvfs", lambda path: found)

    def test_made(self) -> None:
        """It holds what it says, once; readable by no other user."""
        self.free(1 << 20, 1 << 20)
        self.assertTrue(self.reserve.make())
        self.assertFalse(self.reserve.make())
        found = os.stat(self.path)
        self.assertEqual(found.st_size, HELD_OCTETS)
        self.assertGreaterEqual(found.st_blocks * 512, HELD_OCTETS)
        self.assertEqual(found.st_mode & 0o777, 0o600)

    def test_small(self) -> None:
        """Of a small file system it is a thirty-second."""
        self.free(3200, 3200)
        self.assertTrue(self.reserve.make())
        self.assertEqual(os.path.getsize(self.path), 100 * 4096)

    def test_lack(self) -> None:
        """While new messages lack room, it is not made."""
        self.free(3200, 300)
        self.assertFalse(self.reserve.make())
        self.assertFalse(os.path.exists(self.path))

    def test_given(self) -> None:
        """It is given up once, and made again when there is room."""
        self.free(3200, 3200)
        self.assertFalse(self.reserve.give())
        self.reserve.make()
        self.assertTrue(self.reserve.give())
        self.assertFalse(self.reserve.give())
        self.assertTrue(self.reserve.make())

    def test_fails(self) -> None:
        """Where it cannot be had as a whole, there is nothing of it."""
        self.free(3200, 3200)

        def full(fd: int, offset: int, size: int) -> None:
            raise OSError(28, "no space left on device")

        self.patch(os, "posix_fallocate", full)
        self.assertFalse(self.reserve.make())
        self.assertFalse(os.path.exists(self.path))
