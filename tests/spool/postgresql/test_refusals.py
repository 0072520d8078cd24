"""
Tests for L{deferrals.spool.postgresql.refusals}; the contract of a store, with a real
database, is run by L{tests.integration.test_cluster_refusals}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from deferrals.errors import StoreAway
from deferrals.spool.postgresql.connection import Access, Presence, StoreConnection
from deferrals.spool.postgresql.refusals import OnDemand, PostgresqlRefusals
from tests.model.test_refusal import makeRefusal
from tests.spool.postgresql.fakes import FakeConnection, FakeThread, LinkCase


class OnDemandTests(LinkCase):
    """
    L{OnDemand}.
    """

    def setUp(self) -> None:
        self.made: list[Any] = []
        self.isAway = False
        self.ended: list[int] = []
        self.thread = FakeThread()
        clock = Clock()
        connection = StoreConnection(
            Access(""), self.thread, clock, Presence(clock), connect=self.connect
        )
        self.asked = OnDemand(connection, lambda: self.ended.append(1))

    def connect(self) -> Any:
        if self.isAway:
            raise OSError("away")
        self.made.append(FakeConnection(SELECT=[("[",)]))
        self.addCleanup(self.made[-1].close)
        return self.made[-1]

    def test_once(self) -> None:
        """It is made when something is asked first; who asks meanwhile waits for it."""
        self.assertEqual(self.made, [])
        self.thread.isBusy = True
        both = [self.asked.run(lambda db: 7) for _ in range(2)]
        self.thread.isBusy = False
        self.thread.work()
        self.assertEqual([self.successResultOf(d) for d in both], [7, 7])
        self.assertEqual(len(self.made), 1)
        self.successResultOf(self.asked.close())
        self.assertEqual(self.ended, [1])

    def test_away(self) -> None:
        """Who asks while it cannot be had is told so at once."""
        self.isAway = True
        for _ in range(2):
            self.failureResultOf(self.asked.run(lambda db: 7), StoreAway)
        self.successResultOf(self.asked.close())

    def test_unused(self) -> None:
        """What was never asked is closed all the same, and not made afterwards."""
        self.successResultOf(self.asked.close())
        self.failureResultOf(self.asked.run(lambda db: 7), StoreAway)
        self.assertEqual((self.made, self.ended), ([], [1]))

    def test_unreadable(self) -> None:
        """A row that cannot be read is as if it were not there."""
        store = PostgresqlRefusals(self.asked, lambda: 60.0)
        self.assertEqual(self.successResultOf(store.find("a", 0.0, 9)), [])
        self.assertIsNone(self.successResultOf(store.named("x", "a")))
        self.successResultOf(store.add([("a", makeRefusal(1)), ("a", makeRefusal(1))]))
        self.assertIn("INSERT", self.made[0].said)
