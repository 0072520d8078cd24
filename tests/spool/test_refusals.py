"""
How a database has what was refused; and that the store in memory, which other tests
use, is one.
"""

from __future__ import annotations

import json

from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.interfaces import IRefusalStore
from deferrals.spool.refusals import readRefusal
from tests.memoryrefusals import MemoryRefusals
from tests.model.test_refusal import makeRefusal
from tests.spool import refusalcontract


class ReadTests(SynchronousTestCase):
    """
    L{readRefusal}.
    """

    def test_read(self) -> None:
        """What was written comes back; what is none is left out, and said."""
        said: list[LogEvent] = []
        globalLogPublisher.addObserver(said.append)
        self.addCleanup(globalLogPublisher.removeObserver, said.append)
        refusal = makeRefusal()
        self.assertEqual(readRefusal(json.dumps(refusal.toJSON())), refusal)
        self.assertEqual(said, [])
        others = ("", "{", "7", "[]", "null", "{}", '{"time": "x"}', "[" * 100_000)
        for text in others:
            self.assertIsNone(readRefusal(text), text[:10])
        self.assertEqual(len(said), len(others))


class MemoryRefusalsTests(refusalcontract.Contract, SynchronousTestCase):
    """
    The contract, for L{MemoryRefusals}.
    """

    def make(self) -> IRefusalStore:
        return MemoryRefusals()
