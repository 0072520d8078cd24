"""
Tests for L{deferrals.spool.postgresql.owners}; those with a real server are in
L{tests.integration.test_cluster}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from deferrals.spool.postgresql import owners
from deferrals.spool.postgresql.connection import Access, Presence, StoreConnection
from deferrals.spool.postgresql.owners import Identity, Owner, OwnerRow
from tests.spool.postgresql.fakes import FakeConnection, FakeThread, LinkCase


class OwnerTests(LinkCase):
    """
    L{Owner}.
    """

    def setUp(self) -> None:
        self.clock = Clock()

        def connect() -> Any:
            self.link = FakeConnection()
            self.addCleanup(self.link.close)
            return self.link

        database = StoreConnection(
            *(Access(""), FakeThread(), self.clock, Presence(self.clock)), connect=connect
        )
        self.successResultOf(database.open())
        self.rows = [OwnerRow(1, 1), OwnerRow(2, 2)]
        self.beats: list[int] = []
        self.isAlive = True
        self.dead: list[tuple[int, str, int]] = []
        self.patch(owners, "enroll", lambda db, identity: self.rows.pop(0))
        self.patch(owners, "beat", self.beat)
        self.patch(owners, "bury", lambda db: self.dead)
        self.owner = Owner(database, self.clock, Identity("mx1", 0, "0.2", 20))
        self.successResultOf(self.owner.start())

    def beat(self, db: Any, me: int) -> bool:
        self.beats.append(me)
        return self.isAlive

    def test_beats(self) -> None:
        """The heart beats four times in a lease, until it stops."""
        self.clock.pump([5.0] * 4)
        self.assertEqual(self.beats, [1] * 4)
        self.successResultOf(self.owner.stop())
        self.clock.pump([5.0] * 4)
        self.assertEqual(len(self.beats), 4)

    def test_woken(self) -> None:
        """One that finds itself dead goes on under another number, and says so."""
        woken: list[Any] = []
        self.owner.woken = lambda old, new: woken.append((old, new))
        self.isAlive = False
        self.clock.advance(5)
        self.assertEqual((woken, self.owner.id), ([(OwnerRow(1, 1), OwnerRow(2, 2))], 2))

    def test_anyhow(self) -> None:
        """One whose work is elsewhere begins when the database is there."""
        self.rows.append(OwnerRow(3, 3))
        self.owner.row = None
        self.clock.advance(5)
        self.assertEqual((self.owner.id, self.beats), (2, []))

    def test_buried(self) -> None:
        """That work of the dead has become free is told."""
        buried: list[int] = []
        self.owner.buried = buried.append
        self.clock.advance(5)
        self.dead = [(7, "mx2", 0)]
        self.clock.advance(5)
        self.assertEqual(buried, [1])

    def test_away(self) -> None:
        """While the database is away, nothing happens; the heart beats again after it."""
        self.link.answers["BEGIN"] = self.link.lose
        self.clock.advance(5)
        self.flushLoggedErrors()
        self.clock.advance(1)
        self.clock.advance(5)
        self.assertEqual(self.beats, [1, 1])

    def test_awayForAll(self) -> None:
        """
        Others were not heard while the database was away: none of them is thought dead
        before it was there for a lease.
        """
        buried: list[int] = []
        self.owner.buried = buried.append
        self.link.answers["BEGIN"] = self.link.lose
        self.clock.advance(5)
        self.flushLoggedErrors()
        self.dead = [(7, "mx2", 0)]
        self.clock.pump([1.0, *[5.0] * 4])
        self.assertEqual(buried, [])
        self.clock.advance(5)
        self.assertEqual(buried, [1])
