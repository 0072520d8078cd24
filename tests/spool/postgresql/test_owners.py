"""
Tests for L{deferrals.spool.postgresql.owners}; those with a real server are in
L{tests.integration.test_cluster}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from deferrals.spool.postgresql import owners
from deferrals.spool.postgresql.connection import Access, Presence, StoreConnection
from deferrals.spool.postgresql.owners import Identity, Living, Owner, OwnerRow
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
        self.staged: list[int] = []
        self.living = Living(2, 2)
        self.isAlive = True
        self.dead: list[tuple[int, str, int]] = []
        self.patch(owners, "enroll", lambda db, identity: self.rows.pop(0))
        self.patch(owners, "beat", self.beat)
        self.patch(owners, "living", lambda db, me: self.living)
        self.buries = 0
        self.patch(owners, "bury", self.bury)
        self.owner = Owner(database, self.clock, Identity("mx1", 0, "0.2", 20))
        self.successResultOf(self.owner.start())

    def bury(self, db: Any) -> list[tuple[int, str, int]]:
        self.buries += 1
        return self.dead

    def beat(self, db: Any, me: int, staged: int) -> Living | None:
        self.beats.append(me)
        self.staged.append(staged)
        return self.living if self.isAlive else None

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

    def test_known(self) -> None:
        """Each beat says what is staged, and hears who lives."""
        heard: list[Any] = []
        self.owner.known = lambda me, living: heard.append((me, living))
        self.owner.staged = lambda: 3
        self.clock.advance(5)
        self.living = Living(5, 3)
        self.clock.advance(5)
        self.assertEqual(self.staged, [3, 3])
        self.assertEqual(heard, [(1, Living(2, 2)), (1, Living(5, 3))])
        described = self.owner.describe()
        self.assertEqual((described["owners"], described["machines"]), (5, 3))

    def test_wokenKnown(self) -> None:
        """Who takes a new row is known by it."""
        heard: list[Any] = []
        self.owner.known = lambda me, living: heard.append((me, living))
        self.isAlive = False
        self.clock.advance(5)
        self.assertEqual(heard, [(2, Living(2, 2))])

    def test_twin(self) -> None:
        """That another machine has this one's name is said once each time."""
        said: list[Any] = []
        watch = said.append
        globalLogPublisher.addObserver(watch)
        self.addCleanup(globalLogPublisher.removeObserver, watch)
        for hasTwin in (True, True, False, True):
            self.living = Living(2, 1, hasTwin)
            self.clock.advance(5)
        twins = [event for event in said if event.get("state") == "twin"]
        self.assertEqual([event["machine"] for event in twins], ["mx1", "mx1"])

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

    def test_awayBefore(self) -> None:
        """One that has waited for the database at its start thinks nobody dead at once."""
        self.assertEqual(self.buries, 1)
        self.successResultOf(self.owner.stop())
        other = Owner(self.owner._database, self.clock, Identity("mx1", 0, "0.2", 20))
        other.wasAway()
        self.successResultOf(other.start())
        self.clock.pump([5.0] * 3)
        self.assertEqual(self.buries, 1)
        self.clock.advance(5)
        self.assertEqual(self.buries, 2)

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
