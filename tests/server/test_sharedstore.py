"""
Tests for L{deferrals.server.sharedstore}; those with a real database are in
L{tests.integration.test_cluster_notes}.
"""

from __future__ import annotations

from typing import Any

import attrs
import psycopg
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from deferrals.errors import SpoolError, StoreAway
from deferrals.model.status import Status
from deferrals.model.store import SpoolSettings
from deferrals.server import sharedstore
from deferrals.server.limits import SharedLimits
from deferrals.server.notes import Notes
from deferrals.server.services import Services
from deferrals.server.sharedstore import SharedStore
from deferrals.spool.postgresql import owners, spool
from deferrals.spool.postgresql.owners import Identity, Living, OwnerRow
from deferrals.spool.postgresql.schema import VERSION
from tests.spool.postgresql.fakes import FakeConnection, FakeThread, LinkCase

ME = Identity("mx1", 3, "0.2", 20)

SETTINGS = SpoolSettings(notes="postgresql", conninfo="host=db", upgrade=False, machine="mx1")


class _Thread(FakeThread):
    """
    One that ends.
    """

    def end(self) -> None:
        self.isBusy = True


class SharedStoreTests(LinkCase):
    """
    L{SharedStore}.
    """

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.link = FakeConnection()
        self.addCleanup(self.link.close)
        self.version = VERSION
        self.status = Status()
        self.patch(owners, "enroll", lambda db, identity: OwnerRow(7, 1))
        self.patch(owners, "living", lambda db, me: Living(4, 2))
        self.limits = SharedLimits(self.clock)
        self.patch(sharedstore, "OwnThread", lambda *_: _Thread())
        self.patch(sharedstore, "versionOf", lambda db: self.version)

    def store(self, connect: Any) -> SharedStore:
        """
        One whose database is connected to by this.
        """
        self.patch(psycopg, "connect", connect)
        found = SharedStore(SETTINGS, "/etc", self.clock, Notes(self.clock), self.limits, ME)
        found.show(self.status)
        return found

    def test_open(self) -> None:
        """What is there is used; the status says so."""
        store = self.store(lambda *_, **options: self.link)
        self.successResultOf(self.deferred(store.open()))
        self.assertEqual(self.state(), "working")
        owner = {"machine": "mx1", "worker": 3, "owner": 7, "up": True, "owners": 4, "machines": 2}
        self.assertEqual(self.status.parts()["owner"], owner)
        self.assertIn("SET", self.link.said)
        self.assertEqual((store.company.me, store.company.machines), (7, 2))
        self.successResultOf(self.deferred(store.close()))
        self.assertTrue(self.link.closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_away(self) -> None:
        """What is away is not waited for, and found when it is there."""
        links: list[Any] = []

        def connect(*_: Any, **options: Any) -> Any:
            if not links:
                raise psycopg.OperationalError("refused")
            return links[0]

        store = self.store(connect)
        self.successResultOf(self.deferred(store.open()))
        self.assertEqual(self.state(), "resting")
        links.append(self.link)
        self.clock.advance(1)
        self.assertEqual(self.state(), "working")

    def test_saidOnce(self) -> None:
        """Where the queue is in the database, too, that it is away is said once for all."""
        texts = self.logged()

        def connect(*_: Any, **options: Any) -> Any:
            raise psycopg.OperationalError("refused")

        store = self.store(connect)
        self.patch(spool, "OwnThread", lambda *_: _Thread())
        settings = attrs.evolve(SETTINGS, use="postgresql", notes=None)
        services = Services(self.clock, hostname="mx1", stateDir=self.mktemp())
        queue: Any = sharedstore.spoolFor(settings, "/etc", "", services, 0, store)
        self.successResultOf(self.deferred(store.open()))
        self.failureResultOf(queue.open(), StoreAway)
        self.assertEqual(texts(), ["the database is away: refused"])

    def test_again(self) -> None:
        """Opened again, after what is there could not be used, it is there when it can."""
        links = [FakeConnection() for _ in range(3)]
        for one in links:
            self.addCleanup(one.close)
        given = iter(links)
        self.version = 7
        store = self.store(lambda *_, **options: next(given))
        self.failureResultOf(self.deferred(store.open()), SpoolError)
        self.failureResultOf(self.deferred(store.open()), StoreAway)
        self.version = VERSION
        self.clock.advance(1)
        self.successResultOf(self.deferred(store.open()))
        self.assertEqual(self.state(), "working")
        self.assertEqual([one.closed for one in links], [True, False, False])

    def test_look(self) -> None:
        """It is looked whether its connection is there where others are lost."""
        store = self.store(lambda *_, **options: self.link)
        self.successResultOf(self.deferred(store.open()))
        self.link.answers["SELECT"] = self.link.lose
        store.look()
        self.assertEqual(self.state(), "resting")

    def test_others(self) -> None:
        """Tables that this version cannot use are no reason to begin."""
        self.version = 7
        store = self.store(lambda *_, **options: self.link)
        failure = self.failureResultOf(self.deferred(store.open()), SpoolError)
        self.assertIn("install a newer deferrals", failure.getErrorMessage())

    def state(self) -> object:
        """
        What the status says of the database.
        """
        part: Any = self.status.parts()["notes"]
        return part["state"]

    def deferred(self, coroutine: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(coroutine)
