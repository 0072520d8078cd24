"""
Refusals in memory.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IRefusalStore
from deferrals.spool.refusals import MemoryRefusals
from tests.spool import refusalcontract


class MemoryRefusalsTests(refusalcontract.Contract, SynchronousTestCase):
    """
    The contract, for L{MemoryRefusals}.
    """

    def make(self) -> IRefusalStore:
        return MemoryRefusals()
