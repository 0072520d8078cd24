"""
The spool in memory against the contract.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.memory import MemorySpool
from deferrals.testing import SharedSpoolContract


class MemorySpoolTests(SharedSpoolContract, SynchronousTestCase):
    """
    L{MemorySpool}.
    """

    def makeSpool(self) -> MemorySpool:
        self.clock = Clock()
        return MemorySpool(self.clock)

    def reopen(self, spool: MemorySpool) -> MemorySpool:
        self.successResultOf(spool.open())
        return spool

    def makeOther(self, spool: MemorySpool) -> MemorySpool:
        other = MemorySpool(self.clock, spool._memory)
        self.successResultOf(other.open())
        return other

    def endOf(self, spool: MemorySpool) -> None:
        spool.end()
