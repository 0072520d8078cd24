"""
What a claim waits for, with connections that answer when they are told to.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.spool.claims import Claims
from deferrals.spool.postgresql.held import Held
from deferrals.spool.postgresql.ledger import PostgresqlLedger
from deferrals.spool.postgresql.order import LEASES_SECONDS, Order
from deferrals.spool.rows import QueueRow


class Connection:
    """
    Does what it is asked for when it is its turn.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[Any], Any], Deferred[Any]]] = []

    def run(self, function: Callable[[Any], Any]) -> Deferred[Any]:
        self.waiting.append((function, Deferred()))
        return self.waiting[-1][1]

    alone = run

    def turn(self) -> None:
        """
        One has its turn.
        """
        function, done = self.waiting.pop(0)
        done.callback(function(None))


class OrderTests(SynchronousTestCase):
    """
    L{Order}.
    """

    def setUp(self) -> None:
        self.writes, self.claims = Connection(), Connection()
        self.said: list[str] = []
        batches: Any = SimpleNamespace(
            retry=lambda: self.said.append("again"), flush=lambda: self.said.append("new")
        )
        self.ended: list[Any] = []
        nothing: Any = SimpleNamespace(
            endedLeases=lambda limit: self.ended, save=list, waitFor=dict, now=0.0
        )
        self.clock, self.held = Clock(), Held()
        writes: Any = self.writes
        claims: Any = self.claims
        self.order = Order(writes, claims, batches, self.held, self.clock, lambda db: nothing)

    def ask(self) -> Deferred[bool]:
        """
        @return: a Deferred of whether it looks for leases that have ended.
        """

        def look(claims: Claims, _: PostgresqlLedger) -> bool:
            claims._endLeases()
            return claims.endsLeases

        return Deferred.fromCoroutine(self.order.ask(look))

    def asked(self) -> bool:
        """
        The same, where nothing keeps it up.
        """
        found = self.ask()
        self.claims.turn()
        return self.successResultOf(found)

    def whole(self) -> None:
        """
        One waits until all is written.
        """
        self.said.clear()
        found = self.ask()
        self.assertEqual((self.claims.waiting, self.said), ([], ["again", "new"]))
        self.writes.turn()
        self.claims.turn()
        self.assertTrue(self.successResultOf(found))

    def test_now_and_then(self) -> None:
        """The first waits, and ends leases; then none does for a while."""
        self.whole()
        self.clock.advance(LEASES_SECONDS / 2)
        self.assertFalse(self.asked())
        self.clock.advance(LEASES_SECONDS)
        self.whole()
        self.assertFalse(self.asked())

    def test_changes(self) -> None:
        """What changes the queue is waited for, also where it fails."""
        self.whole()
        for isGood in (True, False):
            changed = Deferred.fromCoroutine(self.order.change(lambda ledger: None))
            found = self.ask()
            self.assertEqual(self.claims.waiting, [])
            if isGood:
                self.writes.turn()
            else:
                _, done = self.writes.waiting.pop(0)
                done.errback(ZeroDivisionError())
                self.failureResultOf(changed, ZeroDivisionError)
            self.assertEqual(self.claims.waiting, [])
            self.writes.turn()
            self.claims.turn()
            self.assertTrue(self.successResultOf(found))
            self.assertFalse(self.asked())

    def test_together(self) -> None:
        """Who asks while another one ends leases waits, too: it could find what these were of."""
        first = self.ask()
        self.writes.turn()
        second = self.ask()
        self.assertEqual(len(self.claims.waiting), 1)
        self.claims.turn()
        self.writes.turn()
        self.claims.turn()
        self.assertTrue(self.successResultOf(first) and self.successResultOf(second))
        self.order.endLeases()
        self.whole()

    def test_freed(self) -> None:
        """What had a lease that has ended is this process's no longer; the rest is."""
        self.held.take(7, (0, 1), 3)
        row = QueueRow(7, 0, 1, 0.0, None, "box", "a@b.example")
        self.ended = [row]
        self.whole()
        self.assertFalse(self.held.isOurs(7, (0,), 3))
        self.assertTrue(self.held.isOurs(7, (1,), 3))
