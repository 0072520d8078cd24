"""
How full a mailbox is.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from deferrals.stages.delivery import quota
from deferrals.stages.delivery.quota import SETTLED_SECONDS, Usage


class UsageTests(SynchronousTestCase):
    """
    L{Usage}.
    """

    def setUp(self) -> None:
        self.maildir = self.mktemp()
        for box in ("", ".Junk"):
            for name in ("cur", "new", "tmp"):
                os.makedirs(os.path.join(self.maildir, box, name))
        self.usage = Usage()
        self.scanned: list[str] = []
        total = quota._total
        self.patch(quota, "_total", lambda path: self.scanned.append(path) or total(path))

    def put(self, *path: str, octets: int = 0) -> str:
        name = os.path.join(self.maildir, *path)
        with open(name, "wb") as file:
            file.write(b"x" * octets)
        return name

    def octets(self, later: float = 0.0) -> int:
        now = max(os.stat(os.path.join(self.maildir, name)).st_mtime for name in ("cur", "new"))
        return self.usage.octets(self.maildir, now + later)

    def test_sum(self) -> None:
        """Read and unread mail of all folders, by its size, or by what its name says."""
        self.put("new", "1", octets=10)
        self.put("cur", "2,S=1000:2,S")
        self.put(".Junk", "new", "3", octets=5)
        self.put("tmp", "4", octets=100000)
        self.assertEqual(self.octets(), 1015)

    def test_none(self) -> None:
        """What is not there is empty."""
        self.assertEqual(self.usage.octets(self.mktemp(), 0), 0)

    def test_remembered(self) -> None:
        """A directory that has settled is read once, until it changes."""
        for _ in range(3):
            self.octets(SETTLED_SECONDS + 1)
        self.assertEqual(len(self.scanned), 4)
        path = self.put("new", "1", octets=10)
        os.utime(os.path.dirname(path), (2e9, 2e9))
        self.assertEqual(self.octets(SETTLED_SECONDS + 1), 10)
        self.assertEqual(len(self.scanned), 5)

    def test_justNow(self) -> None:
        """One that has just changed may change again within the same tick, and is read again."""
        self.octets(0)
        self.octets(0)
        self.assertEqual(len(self.scanned), 8)

    def test_bounded(self) -> None:
        """Not more are remembered than a machine can hold."""
        self.patch(quota, "MAX_REMEMBERED", 2)
        self.usage = Usage()
        self.octets(SETTLED_SECONDS + 1)
        self.octets(SETTLED_SECONDS + 1)
        self.assertEqual(len(self.scanned), 8)
