"""
What links are signed with, where it is in a database.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError, StoreAway
from deferrals.server import storekey
from deferrals.server.storekey import StoreKey


class StoreKeyTests(SynchronousTestCase):
    """
    L{StoreKey}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.answer: Any = "ab" * 32
        self.asked = 0
        self.ended: list[int] = []

    def run_(self, function: Any) -> Deferred[Any]:
        self.asked += 1
        return fail(self.answer) if isinstance(self.answer, Exception) else succeed(self.answer)

    def make(self) -> StoreKey:
        database = mock.Mock(run=self.run_)
        key = StoreKey(database, self.clock, lambda: self.ended.append(1))
        self.addCleanup(key.stop)
        return key

    def test_kept(self) -> None:
        """It is asked for once, and then known whatever becomes of the database."""
        key = self.make()
        self.successResultOf(Deferred.fromCoroutine(key.known()))
        self.answer = StoreAway("away")
        self.assertEqual(key.get(), b"\xab" * 32)
        self.successResultOf(Deferred.fromCoroutine(key.known()))
        self.assertEqual((self.asked, self.ended), (1, [1]))

    def test_away(self) -> None:
        """While it is not known it is asked for again; who wants it is told so."""
        self.answer = StoreAway("away")
        key = self.make()
        for _ in range(3):
            self.assertRaises(StoreAway, key.get)
        self.assertEqual(self.asked, 1)
        self.failureResultOf(Deferred.fromCoroutine(key.known()), StoreAway)
        self.answer = "00" * 32
        self.clock.advance(storekey.RETRY_SECONDS)
        self.assertEqual(key.get(), bytes(32))
        self.clock.advance(10 * storekey.RETRY_SECONDS)
        self.assertEqual(self.asked, 3)

    def test_wrong(self) -> None:
        """What is no key is not taken for one, and not said."""
        for self.answer in ("c0ffee", "no digits"):
            failed = self.failureResultOf(Deferred.fromCoroutine(self.make().known()), SpoolError)
            self.assertNotIn(self.answer, str(failed.value))

    def test_stopped(self) -> None:
        """Who is not wanted any longer asks no more, and lets go of the database once."""
        self.answer = StoreAway("away")
        key = self.make()
        self.assertRaises(StoreAway, key.get)
        for _ in range(2):
            key.stop()
        self.clock.advance(60)
        self.assertEqual((self.asked, self.ended), (1, [1]))
