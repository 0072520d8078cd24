"""
Tests for L{deferrals.spool.postgresql.connection}; those with a real server are in
L{tests.integration.test_cluster}.
"""

from __future__ import annotations

import os
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.model.store import SpoolSettings
from deferrals.spool.postgresql import connection
from deferrals.spool.postgresql.connection import Access, Presence, StoreConnection, opened
from tests.spool.postgresql.fakes import FakeConnection, FakeThread, LinkCase, Notice


def select(db: Any) -> str:
    db.execute("SELECT 1")
    return "selected"


class AccessTests(LinkCase):
    """
    L{Access}.
    """

    def test_of(self) -> None:
        """A password's file is where the configuration is."""
        settings = SpoolSettings(notes="postgresql", conninfo="host=db", password_file="pw")
        self.assertEqual(Access.of(settings, "/etc").passwordFile, os.path.join("/etc", "pw"))
        settings = SpoolSettings(notes="postgresql", conninfo="host=db")
        self.assertIsNone(Access.of(settings, "/etc").passwordFile)

    def test_opened(self) -> None:
        """A command's connection has the schema; what goes wrong is one line."""
        links = [FakeConnection(), FakeConnection(SELECT=psycopg.OperationalError("a\n\tb"))]
        self.patch(psycopg, "connect", lambda *_, **options: links.pop(0))
        db: Any = opened(Access("host=db"), "test")
        self.addCleanup(db.close)
        self.assertEqual(db.said, ["SELECT"] * 2)
        error = self.assertRaises(StoreAway, opened, Access("host=db"), "test")
        self.assertEqual(str(error), "a")

    def test_password(self) -> None:
        """It is read at each connection: it may have changed."""
        asked: list[str] = []
        self.patch(psycopg, "connect", lambda conninfo, **options: asked.append(conninfo))
        path = self.mktemp()
        access = Access("host=db", path)
        for text in ("first 'x\n", "second\r\nmore"):
            with open(path, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            access.connect("deferrals")
        found = [conninfo_to_dict(one)["password"] for one in asked]
        self.assertEqual(found, ["first 'x", "second"])
        self.assertRaises(OSError, Access("host=db", self.mktemp()).connect, "deferrals")


class StoreConnectionTests(LinkCase):
    """
    L{StoreConnection}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.thread = FakeThread()
        self.presence = Presence(self.clock)
        self.seen: list[bool] = []
        self.presence.watchers.append(self.seen.append)
        self.links: list[FakeConnection] = []
        self.error: Exception | None = None
        self.database = StoreConnection(
            Access("", seconds=5), self.thread, self.clock, self.presence, connect=self.connect
        )

    def connect(self) -> Any:
        if self.error is not None:
            raise self.error
        self.links.append(FakeConnection())
        self.addCleanup(self.links[-1].close)
        return self.links[-1]

    def opened(self) -> FakeConnection:
        self.successResultOf(self.database.open())
        self.links[-1].said.clear()
        return self.links[-1]

    def test_transaction(self) -> None:
        """What runs is committed before it is told; what is alone needs no more."""
        link = self.opened()
        self.assertEqual(self.successResultOf(self.database.run(select)), "selected")
        self.assertEqual(self.successResultOf(self.database.alone(select)), "selected")
        self.assertEqual(link.said, ["BEGIN", "SELECT", "COMMIT", "SELECT"])

    def test_refused(self) -> None:
        """What the server refuses is rolled back, and the connection goes on."""
        link = self.opened()
        link.answers["SELECT"] = psycopg.errors.lookup("53100")("disk full")
        failure = self.failureResultOf(self.database.run(select), SpoolError)
        self.assertEqual(type(failure.value), SpoolError)
        self.assertEqual(link.said, ["BEGIN", "SELECT", "ROLLBACK"])
        self.assertTrue(self.database.isThere)
        self.assertEqual(self.seen, [])

    def test_lost(self) -> None:
        """
        What is lost before it is committed has not been done; while it is committed, that
        is unknown.  What waits is told at once.
        """
        for lost, kind in (("SELECT", StoreAway), ("COMMIT", OutcomeUnknown)):
            link = self.opened()
            link.answers[lost] = link.lose
            self.thread.isBusy = True
            both = [self.database.run(select) for _ in range(2)]
            self.thread.isBusy = False
            self.thread.work()
            failure = self.failureResultOf(both[0], kind)
            self.assertEqual(failure.getErrorMessage(), "server closed the connection")
            self.failureResultOf(both[1], StoreAway)
            self.failureResultOf(self.database.run(select), StoreAway)
            self.assertFalse(self.database.isThere)
            self.clock.advance(connection.FIRST_SECONDS)
            self.assertTrue(self.database.isThere)
        self.failureResultOf(self.aloneLost(), OutcomeUnknown)
        self.assertEqual(self.seen, [False, True, False, True, False])
        self.flushLoggedErrors()

    def aloneLost(self) -> Deferred[str]:
        link = self.opened()
        link.answers["SELECT"] = link.lose
        return self.database.alone(select)

    def test_left(self) -> None:
        """
        A connection that is given up says nothing of the database; one that is refused is
        not called away.
        """
        texts = self.logged()
        self.error = psycopg.OperationalError("refused")
        self.failureResultOf(self.database.open(), StoreAway)
        self.successResultOf(self.database.close())
        self.assertEqual(texts(), ["the database is away: refused"])
        self.assertEqual((self.seen, self.presence.isThere), ([False], True))

    def test_saidOnce(self) -> None:
        """Of several parts in one database it is said once that it is away, and back."""
        texts = self.logged()
        whole = Presence(self.clock)
        notes, queue = Presence(self.clock, whole), Presence(self.clock, whole)
        seen: list[bool] = []
        queue.watchers.append(seen.append)
        for _ in range(2):
            for part in (notes, queue):
                part.lost(part, "refused")
                part.lost(self, "refused, too")
            self.assertEqual((queue.isThere, whole.isThere), (False, False))
            queue.found(queue)
            queue.found(self)
            self.assertEqual((queue.isThere, whole.isThere), (True, False))
            notes.left(notes)
            notes.found(self)
            self.assertTrue(whole.isThere)
        self.assertEqual(texts(), ["the database is away: refused", "the database is back"] * 2)
        self.assertEqual(seen, [False, True] * 2)
        queue.lost(self, "cut")
        queue.left(self)
        self.assertTrue(whole.isThere)

    def test_unfit(self) -> None:
        """What is there, and cannot be used, is not said to be away."""
        texts = self.logged()

        def unfit(db: Any) -> None:
            raise SpoolError("it is LATIN1")

        self.database.begin.append(unfit)
        self.failureResultOf(self.database.open(), SpoolError)
        self.assertEqual(texts(), ["the database cannot be used: it is LATIN1"])
        self.successResultOf(self.database.close())

    def test_stays(self) -> None:
        """Of one that stays away the log says so now and then; what else is wrong at once."""
        texts = self.logged()
        for what in ("is away", "is away", "cannot be used", "is away", "cannot be used"):
            self.presence.lost(self, "refused", what)
        self.clock.advance(connection.SAID_SECONDS)
        for _ in range(2):
            self.presence.lost(self, "gone")
        away, unfit = "the database is away", "the database cannot be used"
        wanted = [f"{away}: refused", f"{unfit}: refused", f"{away}: gone"]
        self.assertEqual(texts(), wanted)
        self.presence.found(self)
        self.presence.lost(self, "refused")
        self.assertEqual(texts()[-2:], ["the database is back", f"{away}: refused"])

    def test_there(self) -> None:
        """It is told when there is a connection, or will be none."""
        self.error = psycopg.OperationalError("refused")
        self.failureResultOf(self.database.open(), StoreAway)
        there = self.database.there()
        self.assertNoResult(there)
        self.error = None
        self.clock.advance(connection.FIRST_SECONDS)
        self.successResultOf(there)
        self.successResultOf(self.database.there())
        self.links[-1].answers["SELECT"] = self.links[-1].lose
        self.failureResultOf(self.database.run(select), StoreAway)
        there = self.database.there()
        for _ in range(2):
            self.successResultOf(self.database.close())
        self.failureResultOf(there, StoreAway)
        self.failureResultOf(self.database.there(), StoreAway)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_look(self) -> None:
        """One that may be lost, too, is asked; not where it is asked something anyway."""
        self.database.look()
        link = self.opened()
        self.database.look()
        self.assertEqual(link.said, ["SELECT"])
        self.thread.isBusy = True
        busy = self.database.alone(select)
        self.database.look()
        self.thread.isBusy = False
        self.thread.work()
        self.successResultOf(busy)
        self.assertEqual(link.said, ["SELECT"] * 2)
        link.answers["SELECT"] = link.lose
        self.database.look()
        self.assertFalse(self.database.isThere)

    def test_entered(self) -> None:
        """What the server will never let in is not said to be away, and is tried again."""
        self.error = SpoolError("password authentication failed")
        failure = self.failureResultOf(self.database.open(), SpoolError)
        self.assertEqual(type(failure.value), SpoolError)
        self.error = None
        self.clock.advance(connection.FIRST_SECONDS)
        self.assertTrue(self.database.isThere)

    def test_notReplicated(self) -> None:
        """What a server warns of is not said to be safe; the next may be."""
        link = self.opened()
        notice = Notice("SyncRepWaitForLSN")
        link.answers["COMMIT"] = lambda: [link.warn(notice)]
        self.failureResultOf(self.database.run(select), OutcomeUnknown)
        link.answers.clear()
        self.successResultOf(self.database.run(select))
        link.warn(Notice("another"))

    def test_readOnly(self) -> None:
        """A server that has become a standby is left: another one may be the primary now."""
        link = self.opened()
        link.answers["SELECT"] = psycopg.errors.lookup("25006")("read-only")
        self.failureResultOf(self.database.alone(select), StoreAway)
        self.assertFalse(self.database.isThere)

    def test_watchdog(self) -> None:
        """A connection that says nothing for too long is cut; one that works is not."""
        link = self.opened()
        self.thread.isBusy = True
        for seconds, isCut in ((4, False), (6, True)):
            waiting = self.database.run(select)
            self.clock.advance(seconds)
            self.assertEqual(link.isCut(), isCut)
            self.thread.work()
            self.successResultOf(waiting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_watchdogBegin(self) -> None:
        """So is one that does not come to its beginning."""
        self.database.begin.append(lambda db: self.clock.pump([5, 4]) or isCut.append(db.isCut()))
        self.database.begin.append(lambda db: self.clock.advance(1) or isCut.append(db.isCut()))
        isCut: list[bool] = []
        self.successResultOf(self.database.open())
        self.assertEqual(isCut, [False, True])

    def test_again(self) -> None:
        """It is tried again, in growing distances; what begins it is done each time."""
        begun: list[Any] = []
        self.database.begin.append(begun.append)
        self.error = psycopg.OperationalError("refused")
        self.failureResultOf(self.database.open(), StoreAway)
        for seconds in (0.25, 0.5, 1, 2, 4, 5, 5):
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
            self.clock.advance(seconds)
        self.assertEqual(begun, [])
        self.error = None
        self.clock.advance(5)
        self.assertEqual(begun, self.links)
        self.assertEqual(self.seen, [False, True])

    def test_cannotBegin(self) -> None:
        """What is wrong with the tables is told, and the connection is closed."""

        def begin(db: Any) -> None:
            raise SpoolError("another version")

        self.database.begin.append(begin)
        self.failureResultOf(self.database.open(), SpoolError)
        self.assertTrue(self.links[0].closed)

    def test_cancelled(self) -> None:
        """What is not waited for any longer, and has not begun, is not done."""
        link = self.opened()
        self.thread.isBusy = True
        first, second = self.database.run(select), self.database.alone(select)
        for one in (first, second):
            one.cancel()
            self.failureResultOf(one, CancelledError)
        self.thread.isBusy = False
        self.thread.work()
        self.assertEqual(link.said, ["BEGIN", "SELECT", "COMMIT"])

    def test_closed(self) -> None:
        """What was asked for is done first; then no connection is made."""
        link = self.opened()
        self.thread.isBusy = True
        done = self.database.run(select)
        closed = self.database.close()
        self.thread.isBusy = False
        self.thread.work()
        self.successResultOf(done)
        self.successResultOf(closed)
        self.assertTrue(link.closed)
        self.failureResultOf(self.database.run(select), StoreAway)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closedWhileAway(self) -> None:
        """One that is away is not tried again after it was closed."""
        self.error = psycopg.OperationalError("refused")
        self.failureResultOf(self.database.open(), StoreAway)
        self.successResultOf(self.database.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.presence.isThere)
