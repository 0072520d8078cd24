"""
Whom a start waits for.
"""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.logger import formatEvent, globalLogPublisher

from deferrals.errors import ListenError
from deferrals.spool.sqlite.files import SpoolFiles, SpoolLock
from deferrals.workers.orphans import LONGER_SECONDS, Orphan, OrphanedWorkers
from tests.configs import LISTEN, RULES, ConfigCase

GRACE = 20


class OrphansTests(ConfigCase):
    """
    L{OrphanedWorkers}.
    """

    def setUp(self) -> None:
        self.state = os.path.abspath(self.mktemp())
        text = f'state_dir = "{self.state}"\ngrace = {GRACE}\nworkers = 2\n'
        self.config = self.load(text + LISTEN + RULES)
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        self.now = 1000.0
        self.patch(time, "monotonic", lambda: self.now)
        self.patch(time, "sleep", self.sleep)

    def observe(self, event: Any) -> None:
        if event.get("log_namespace") == "deferrals.workers":
            self.said.append(str(formatEvent(event)))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def lock(self, worker: int) -> SpoolLock:
        files = SpoolFiles(self.config.spoolOf(worker))
        files.make()
        lock = SpoolLock(files)
        lock.take()
        self.addCleanup(lock.release)
        return lock

    def waited(self, found: OrphanedWorkers) -> tuple[float, ListenError]:
        """
        @return: for how long it was waited, and what was said then.
        """
        began, error = self.now, ListenError("tcp:25", "")
        error.__cause__ = OSError(98, "Address in use")
        while True:
            try:
                found.wait(error)
            except ListenError as last:
                return self.now - began, last

    def test_unknown(self) -> None:
        """They may not have a spool yet, and be waited for without a name."""
        seconds, error = self.waited(OrphanedWorkers(self.config))
        self.assertEqual(round(seconds), GRACE + LONGER_SECONDS)
        self.assertEqual(str(error), "cannot listen on tcp:25: [Errno 98] Address in use")
        self.assertEqual(self.said, [])

    def test_long(self) -> None:
        """Those that have one may take as long as transactions may, and are named, once."""
        self.lock(0)
        self.lock(5)  # of more workers than there are now
        seconds, error = self.waited(OrphanedWorkers(self.config))
        self.assertEqual(round(seconds), GRACE + LONGER_SECONDS)
        whom = f"another process ({os.getpid()})"
        spools = [f"{self.state}/spool", f"{self.state}/workers/5/spool"]
        self.assertEqual(self.said, [f"waiting for {whom}, which has {one}" for one in spools])
        self.assertIn(f"{spools[1]} is in use by {whom}", str(error))
        self.assertIn("Address in use; ", str(error))

    def test_one(self) -> None:
        """
        One process that begins where several were waits for those of them that are there
        still, as several would.
        """
        OrphanedWorkers(self.config).waitForAll()
        self.lock(0)
        OrphanedWorkers(self.config).waitForAll()  # a server of one process: it would stay
        self.assertEqual((self.now, self.said), (1000.0, []))
        self.lock(1)
        OrphanedWorkers(self.config).waitForAll()
        self.assertEqual(round(self.now - 1000.0), GRACE + LONGER_SECONDS)
        self.assertEqual(len(self.said), 2)

    def test_oneEnded(self) -> None:
        """It is waited for no longer than it takes."""
        lock = self.lock(1)
        self.patch(time, "sleep", lambda seconds: (self.sleep(seconds), lock.release()))
        OrphanedWorkers(self.config).waitForAll()
        self.assertLess(self.now - 1000.0, 1.0)

    def test_words(self) -> None:
        """One that ends just now has no words."""
        lock = self.lock(0)
        one = Orphan(self.config.spoolOf(0))
        self.assertTrue(one.isThere())
        self.assertIn(str(os.getpid()), one.words)
        lock.release()
        self.assertEqual((one.isThere(), one.words), (False, ""))
