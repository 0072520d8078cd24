"""
The spool in memory against the contract.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.memory import MemorySpool
from deferrals.testing import SpoolContract


class MemorySpoolTests(SpoolContract, SynchronousTestCase):
    """
    L{MemorySpool}.
    """

    def makeSpool(self) -> MemorySpool:
        self.clock = Clock()
        return MemorySpool(self.clock)

    def reopen(self, spool: MemorySpool) -> MemorySpool:
        self.successResultOf(spool.open())
        return spool
