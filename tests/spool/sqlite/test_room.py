"""
The way out of a full disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.spool.sqlite import diskspace, room
from deferrals.spool.sqlite.clock import SpoolClock
from deferrals.spool.sqlite.diskspace import NoRoom, Reserve
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.room import LOOK_SECONDS, PAGES, RoomKeeping
from deferrals.spool.sqlite.store import Store


class RoomKeepingTests(SynchronousTestCase):
    """
    L{RoomKeeping}, on a disk that says what it is told to.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.files = SpoolFiles(os.path.abspath(self.mktemp()))
        self.files.make()
        self.lack: str | Exception = ""
        self.given: list[int] = []
        self.checkpoints = 0
        self.error: Exception | None = None
        self.said: list[str] = []
        self.patch(diskspace, "lack", self.lacks)
        for level in ("critical", "info"):
            self.patch(room._log, level, lambda text, **values: self.said.append(text))
        store = Store(
            self.files, SpoolClock(self.clock.seconds, lambda: 2e9), self.run_, self.checkpoint
        )
        self.reserve = Reserve(self.files.reserve)
        self.keeper = RoomKeeping(store, self.clock, maybeDeferred, self.reserve)

    def lacks(self, directory: str) -> str:
        if isinstance(self.lack, Exception):
            raise self.lack
        return self.lack

    def run_(self, function: Callable[..., Any], pages: int) -> Deferred[Any]:
        self.given.append(pages)
        return succeed(True) if self.error is None else fail(self.error)

    def checkpoint(self) -> Deferred[bool]:
        self.checkpoints += 1
        return succeed(True)

    def look(self, times: int = 1) -> None:
        if not self.keeper._loop.running:
            self.keeper.start()
            self.addCleanup(self.keeper.stop)
            times -= 1
        for _ in range(times):
            self.clock.advance(LOOK_SECONDS)

    def test_room(self) -> None:
        """While there is room, nothing is given back, and the reserve is made."""
        self.look(2)
        self.assertEqual(self.given, [])
        self.assertTrue(os.path.exists(self.files.reserve))

    def test_lack(self) -> None:
        """While there is none, pages are given back, a part at each look; it is said once."""
        self.lack = "full"
        self.look(3)
        self.assertEqual(self.given, [PAGES] * 3)
        self.assertEqual(self.checkpoints, 3)
        self.assertFalse(os.path.exists(self.files.reserve))
        self.assertEqual(self.said, ["no mail is taken: {lack}"])

    def test_ends(self) -> None:
        """When there is room again, that is said, and the reserve is made again."""
        self.lack = "full"
        self.look(2)
        self.lack = ""
        self.look(2)
        self.assertEqual(self.said[1:], ["there is room again: mail is taken"])
        self.assertEqual(len(self.given), 2)
        self.assertTrue(os.path.exists(self.files.reserve))

    def test_pieces(self) -> None:
        """Where the log has no room for so many, it is fewer; then as many as before."""
        self.lack, self.error = "full", NoRoom("full")
        self.look(7)
        self.assertEqual(self.given, [PAGES, PAGES // 4, PAGES // 16, PAGES // 64, 3, 1, 1])
        self.error = None
        self.given.clear()
        self.look(12)
        self.assertEqual(self.given[:3], [1, 2, 4])
        self.assertEqual(self.given[-1], PAGES)

    def test_trouble(self) -> None:
        """Whatever else goes wrong, it looks again."""
        self.lack, self.error = "full", SpoolError("the spool is closed")
        self.look(2)
        self.lack = OSError("gone")
        self.look()
        self.lack, self.error = "full", None
        self.look()
        self.assertEqual(self.given, [PAGES, PAGES, 0, PAGES])

    def test_stop(self) -> None:
        """It ends with the spool."""
        self.assertIsNone(self.successResultOf(self.keeper.stop()))
        self.keeper.start()
        self.assertIsNone(self.successResultOf(self.keeper.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
