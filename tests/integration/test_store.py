"""
The queue in a real PostgreSQL, against the contract of every spool.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import unittest.mock
from typing import Any

import attrs
import psycopg
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.interfaces import Work
from deferrals.model.disposition import DelayNotified, NotifyThenRemove, Remove, Reschedule
from deferrals.model.reply import Reply
from deferrals.spool.batch import AGAIN_SECONDS
from deferrals.spool.changes import Changes
from deferrals.spool.postgresql import contents, order, queries, upkeep
from deferrals.spool.postgresql import spool as spool_
from deferrals.spool.postgresql.connection import Access, StoreConnection, opened
from deferrals.spool.postgresql.ledger import ALL_SECONDS, COMMIT_SECONDS, SELECTED, timeOf
from deferrals.spool.postgresql.owners import Identity, beat, bury, lives
from deferrals.spool.postgresql.schema import upgrade
from deferrals.spool.postgresql.spool import PostgresqlSpool
from deferrals.spool.postgresql.upkeep import keepUp
from deferrals.spool.rows import DAMAGED, QueueRow, queueRow
from deferrals.testing import SharedSpoolContract, makeAddressees, makeEnvelope
from tests.integration.clusters import Instance, primary
from tests.integration.support import PATIENCE
from tests.operations import SEQUENCES, RandomSequence, Store
from tests.ports import freePort
from tests.reactors import PumpedReactor

_CLOCK = """
CREATE TABLE IF NOT EXISTS frozen (at timestamptz NOT NULL);
INSERT INTO frozen SELECT '2026-01-01' WHERE NOT EXISTS (SELECT 1 FROM frozen);
CREATE OR REPLACE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS 'SELECT at FROM frozen'
"""


class FrozenReactor(PumpedReactor):
    """
    A clock that stands still, and the database's with it.
    """

    def __init__(self, server: Instance, schema: str) -> None:
        super().__init__()
        self._server = server
        self.schema = schema
        self._connections: list[StoreConnection] = []

    def advance(self, amount: float) -> None:
        """
        What is under way comes to its end first.
        """
        if amount:
            super().advance(0)
            for connection in 3 * self._connections:
                self.wait(connection.alone(lambda db: None))
            update = f"UPDATE {self.schema}.frozen SET at = at + make_interval(secs => %s)"
            self._server.ask(update, amount)
        super().advance(amount)

    def advance0(self) -> None:
        """
        Time passes for the process alone.
        """
        super().advance(0.25)
        with contextlib.suppress(queue.Empty):
            function, args = self.fromThread.get(timeout=0.1)
            function(*args)

    def result(self, d: Deferred[Any]) -> Any:
        """
        What a Deferred fires with.
        """
        found = self.wait(d)
        if isinstance(found, Failure):
            found.raiseException()
        return found

    def freeze(self, spool: PostgresqlSpool) -> None:
        """
        For a spool this clock is the database's.
        """
        spool._writes.begin.append(lambda db: db.execute(_CLOCK))
        path = f"SET search_path = {self.schema}, pg_catalog"
        self._connections = [spool._writes, spool._claims, spool._bodies]
        for connection in self._connections:
            connection.begin.append(lambda db: db.execute(path))


def inThread(function: Any, *args: Any) -> Deferred[Any]:
    return succeed(function(*args))


def _execute(db: Any, statement: str) -> None:
    db.execute(statement)


class StoreCase(SynchronousTestCase):
    """
    @ivar server: a real one.
    """

    def setUp(self) -> None:
        self.server = primary()

    def anew(self) -> FrozenReactor:
        """
        Tables that no other test has, and their clock.
        """
        return FrozenReactor(self.server, self.server.newSchema())

    def opened(
        self, reactor: FrozenReactor, directory: str, machine: str = "mx1", seconds: float = 5.0
    ) -> PostgresqlSpool:
        """
        A spool that is open until the test ends.

        @param seconds: how long a statement may take.
        """
        access = Access(self.server.conninfo, None, reactor.schema, seconds)
        me = Identity(machine, 0, "1", 20.0)
        spool = PostgresqlSpool(access, me, directory, reactor, inThread)
        reactor.freeze(spool)
        opened = reactor.wait(spool.open())
        self.assertIsNone(opened)
        self.addCleanup(self.shut, spool)
        return spool

    def shut(self, spool: PostgresqlSpool) -> None:
        if spool._contents.isTaken:
            reactor: Any = spool.owned._beating.clock
            reactor.wait(spool.close())


class PostgresqlSpoolTests(SharedSpoolContract, StoreCase):
    """
    L{PostgresqlSpool}.
    """

    def makeSpool(self) -> PostgresqlSpool:
        self.clock = self.reactor = self.anew()
        self.directory = self.mktemp()
        return self.opened(self.reactor, self.directory)

    def reopen(self, spool: PostgresqlSpool) -> PostgresqlSpool:
        """
        Its process has died: it has said nothing to the database.
        """
        self.reactor.wait(spool.waiting())
        if spool.owned._beating.running:
            spool.owned._beating.stop()
        self.reactor.wait(Deferred.fromCoroutine(spool._shut()))
        return self.opened(self.reactor, self.directory)

    def makeOther(self, spool: PostgresqlSpool) -> PostgresqlSpool:
        return self.opened(self.reactor, self.mktemp(), "mx2")

    def endOf(self, spool: PostgresqlSpool) -> None:
        """
        Another process finds that its heart does not beat.
        """
        update = f"UPDATE {self.reactor.schema}.owners SET seen = '-infinity' WHERE id = %s"
        self.server.ask(update, spool.owned.id)
        self.reactor.result(spool._claims.run(bury))

    def resultOf(self, d: Deferred[Any]) -> Any:
        return self.reactor.result(d)


class NumbersTests(StoreCase):
    """
    L{queries.numbers<deferrals.spool.postgresql.queries.numbers>}.
    """

    def test_destinations(self) -> None:
        """Those that most recipients wait for, the most first, with the age of the oldest."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        envelope = makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        writer.write(b"Subject: x\r\n\r\n")
        message = reactor.result(writer.finish())
        addressees = makeAddressees(*(f"{one}@b.example" for one in range(3)))
        reactor.result(spool.stage(envelope, message, addressees))
        for change in (
            "status = 0, owner = NULL, destination = 'b'",
            "destination = 'a' WHERE seq = 0",
        ):
            self.server.ask(f"UPDATE {reactor.schema}.recipients SET {change}")
        found = reactor.result(spool.read(lambda db: queries.numbers(db, timeOf(db))))
        self.assertEqual(
            [tuple(one.values()) for one in found["destinations"]], [("b", 2, 0.0), ("a", 1, 0.0)]
        )


class ClaimTests(StoreCase):
    """
    What a claim waits for.
    """

    def queued(self, spool: PostgresqlSpool, reactor: FrozenReactor) -> None:
        """
        One recipient is due.
        """
        envelope = makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        writer.write(b"hello\r\n")
        message = reactor.result(writer.finish())
        work = reactor.result(spool.stage(envelope, message, makeAddressees("a@b.example")))
        spool.release(work, {work.addressees[0]: Reschedule("b", 0.0, 1000.0, 0.0)})

    def test_notForNewMail(self) -> None:
        """
        What is being committed, which it cannot find, keeps up no claim, and an outcome that
        it can find does; so does what looks for leases that have ended, now and then.
        """
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        self.queued(spool, reactor)
        self.assertEqual(len(reactor.result(spool.claim(9, {}, 9))), 1)
        hold = threading.Event()
        self.addCleanup(hold.set)
        busy = spool._writes.alone(lambda db: hold.wait(30))
        self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])
        self.assertNoResult(busy)
        self.outcomeSeen(spool, reactor, hold)
        busy = spool._writes.alone(lambda db: hold.wait(30))
        reactor.advance(0)
        spool._order.clock = Clock()
        spool._order._endLeasesAt = order.LEASES_SECONDS
        self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])
        spool._order.clock.advance(order.LEASES_SECONDS)
        waits = spool.claim(9, {}, 9)
        reactor.advance0()
        self.assertNoResult(waits)
        hold.set()
        self.assertEqual(reactor.result(waits), [])

    def test_floor(self) -> None:
        """
        A destination that was ready before what a claim has found last is found as soon as
        all are looked at again; what becomes ready is found at once.
        """
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        self.queued(spool, reactor)
        self.assertEqual(len(reactor.result(spool.claim(9, {}, 9))), 1)
        reactor.advance(1)
        self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])
        self.queued(spool, reactor)
        self.assertEqual(len(reactor.result(spool.claim(9, {}, 9))), 1)
        self.queued(spool, reactor)
        reactor.result(spool.waiting())
        past = f"UPDATE {reactor.schema}.destinations SET ready = ready - interval '1 hour'"
        self.server.ask(past)  # as of what another process had locked, and has not served
        self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])
        reactor.advance(ALL_SECONDS)
        self.assertEqual(len(reactor.result(spool.claim(9, {}, 9))), 1)

    def waits(self, spool: PostgresqlSpool, *recipients: str, due: float = 0.0) -> int:
        """
        @return: the number of a message whose recipients wait for one destination.
        """
        reactor: Any = spool.owned._beating.clock
        writer = spool.newBody((envelope := makeEnvelope()).transaction)
        writer.write(b"hello\r\n")
        message = reactor.result(writer.finish())
        work = reactor.result(spool.stage(envelope, message, makeAddressees(*recipients)))
        later = {one: Reschedule("b", due, 1000.0, 0.0) for one in work.addressees}
        spool.release(work, later)
        reactor.result(spool.waiting())
        return envelope.transaction

    def test_severalRecipients(self) -> None:
        """Recipients of one message that are due first keep no place that another could have."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        many = self.waits(spool, *(f"{one}@b.example" for one in "abc"))
        single = self.waits(spool, "d@b.example", due=1.0)
        reactor.advance(2)
        works = reactor.result(spool.claim(9, {}, 2))
        found = [(work.envelope.transaction, len(work.addressees)) for work in works]
        self.assertEqual(found, [(many, 3), (single, 1)])

    def test_leftAlone(self) -> None:
        """What comes for a destination that is left alone waits as long."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        self.waits(spool, "a@b.example", due=100.0)
        spool.backOff("b", 50.0)
        self.waits(spool, "c@b.example")
        self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])
        reactor.advance(50)
        self.assertEqual(len(reactor.result(spool.claim(9, {}, 9))), 1)

    def test_notPutBack(self) -> None:
        """What could not be put back while the database was away is due when it is back."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())

        def away(ledger: Any) -> Any:
            raise StoreAway("the connection is lost")

        with unittest.mock.patch.object(spool_, "Outcomes", away):
            self.queued(spool, reactor)
            reactor.result(spool.waiting())
        self.assertEqual(len(reactor.result(spool.claim(9, {}, 9))), 1)
        self.flushLoggedErrors()

    def test_locked(self) -> None:
        """What another transaction has locked meanwhile is found as soon as that is over."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        self.queued(spool, reactor)
        reactor.result(spool.waiting())
        reactor.advance(2 * COMMIT_SECONDS)
        with psycopg.connect(self.server.conninfo) as other:
            other.execute(f"SELECT 1 FROM {reactor.schema}.destinations FOR UPDATE")
            self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])
        self.assertEqual(len(reactor.result(spool.claim(9, {}, 9))), 1)

    def test_unknown(self) -> None:
        """
        What this process does not know of is what was leased before it looked, of each
        message the recipients that it has not in hand.
        """
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        envelope = makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        writer.write(b"hello\r\n")
        message = reactor.result(writer.finish())
        number = envelope.transaction
        reactor.result(spool.stage(envelope, message, makeAddressees("a@b.example", "c@d.example")))

        def found(db: Any, earlier: float, *known: Any) -> list[int]:
            ledger = spool._ledger(db)
            ledger.now -= earlier
            return [row.seq for row in ledger.unknown(*known, 9)]

        for wanted, *asked in (
            ([0, 1], 0.0, [], []),
            ([1], 0.0, [(number, 0)], []),
            ([], 0.0, [], [number]),
            ([], 0.1, [], []),
        ):
            self.assertEqual(reactor.result(spool._claims.run(found, *asked)), wanted)

    def test_late(self) -> None:
        """That a sender was told of a delay takes nothing out of the hand that delivers."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        self.queued(spool, reactor)
        (work,) = reactor.result(spool.claim(9, {}, 9))
        (one,) = work.addressees
        late = attrs.evolve(one, action="delayed")
        notice = attrs.evolve(work, addressees=(late,))
        reactor.result(spool.record(notice, {late: DelayNotified()}))
        self.assertTrue(spool._isOurs(work))

    def outcomeSeen(
        self, spool: PostgresqlSpool, reactor: FrozenReactor, hold: threading.Event
    ) -> None:
        """
        An outcome is said; who claims then finds it.
        """
        claim = spool.backOff("b", 5.0) or spool.claim(9, {}, 9)
        reactor.advance0()
        self.assertNoResult(claim)
        hold.set()
        self.assertEqual(reactor.result(claim), [])
        hold.clear()


class LargeTests(StoreCase):
    """
    Contents that do not fit into a row.
    """

    def test_elsewhere(self) -> None:
        """A large message of a dead server is delivered by another one, whole."""
        reactor = self.anew()
        one, other = self.opened(reactor, self.mktemp()), self.opened(reactor, self.mktemp(), "b")
        envelope, content = makeEnvelope(), b"Subject: x\r\n\r\n" + b"0123456789abcde\n" * 150_000
        writer = one.newBody(envelope.transaction)
        writer.write(content)
        message = reactor.result(writer.finish())
        reactor.result(one.stage(envelope, message, makeAddressees("a@b.example")))
        statement = f"SELECT count(*), sum(length(body)) FROM {reactor.schema}.pieces"
        self.assertEqual(self.server.ask(statement), [(3, len(content))])
        self.server.ask(f"UPDATE {reactor.schema}.owners SET seen = '-infinity' WHERE pid > 0")
        reactor.result(other._claims.run(lambda db: beat(db, other.owned.id)))
        reactor.result(other._claims.run(bury))
        (work,) = reactor.result(other.claim(9, {}, 9))
        self.assertEqual(work.message.fields(), [("Subject", "x")])
        reactor.result(other.check(work))
        with work.message.open() as file:
            self.assertEqual(file.read(), content)
        reactor.result(other.record(work, {work.addressees[0]: Remove()}))
        self.assertEqual(reactor.result(other.waiting()), (0, 0))
        self.assertEqual(self.server.ask(statement), [(0, None)])
        self.assertFalse(os.path.exists(work.message.path))

    def waiting(self, spool: PostgresqlSpool, *recipients: str) -> str:
        """
        A large message waits, due, with nothing of it on this machine.

        @return: where its content would be.
        """
        reactor: Any = spool.owned._beating.clock
        envelope = makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        writer.write(b"0123456789abcde\n" * 150_000)
        message = reactor.result(writer.finish())
        work = reactor.result(spool.stage(envelope, message, makeAddressees(*recipients)))
        later = {one: Reschedule(str(one.recipient), 0.0, 1000.0, 0.0) for one in work.addressees}
        spool.release(work, later)
        while os.path.exists(message.path):
            reactor.result(spool.waiting())
        return message.path

    def test_together(self) -> None:
        """A content that is delivered to two destinations at once is fetched once, whole."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        self.waiting(spool, "a@b.example", "a@c.example")
        works = reactor.result(spool.claim(9, {}, 9))
        self.assertEqual(len(works), 2)
        fetched: list[int] = []
        get = contents.get

        def counted(db: Any, number: int, seq: int) -> bytes | None:
            fetched.append(seq)
            return get(db, number, seq)

        with unittest.mock.patch.object(contents, "get", counted):
            checks = [spool.check(work) for work in works]
            for check in checks:
                reactor.result(check)
        self.assertEqual(fetched, [0, 1, 2, 3])

    def test_brokenOff(self) -> None:
        """A content that could not be fetched to its end is fetched again, and is whole."""
        self.patch(order, "LEASES_SECONDS", 0.0)
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        self.waiting(spool, "a@b.example")
        (work,) = reactor.result(spool.claim(9, {}, 9))
        append = contents.append

        def full(path: str, content: bytes) -> None:
            append(path, content)
            raise OSError(28, "No space left on device")

        broken = unittest.mock.patch.object(contents, "append", full)
        with broken, self.assertRaises(OSError):
            reactor.result(spool.check(work))
        self.server.ask(f"UPDATE {reactor.schema}.recipients SET due = '-infinity'")  # its lease
        (work,) = reactor.result(spool.claim(9, {}, 9))
        reactor.result(spool.check(work))

    def test_leftOver(self) -> None:
        """Of a large message that could not be taken nothing stays in the database."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        envelope = makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        writer.write(b"0123456789abcde\n" * 150_000)
        message = reactor.result(writer.finish())
        put = contents.put

        def full(db: Any, number: int, seq: int, piece: bytes, owner: int) -> None:
            put(db, number, seq, piece, owner)
            if seq:
                db.execute("SELECT 1 / 0")

        broken = unittest.mock.patch.object(contents, "put", full)
        with broken, self.assertRaises(SpoolError):
            reactor.result(spool.stage(envelope, message, makeAddressees("a@b.example")))
        reactor.result(spool._bodies.alone(lambda db: None))
        statement = f"SELECT count(*) FROM {reactor.schema}.pieces"
        self.assertEqual(self.server.ask(statement), [(0,)])
        reactor.result(spool._bodies.alone(put, 7, 0, b"x", spool.owned.id))
        reactor.result(spool._keepUp())
        self.assertEqual(self.server.ask(statement), [(0,)])

    def test_maybeThere(self) -> None:
        """The pieces of what may come to be there stay until it is known."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        envelope = makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        writer.write(b"0123456789abcde\n" * 150_000)
        message = reactor.result(writer.finish())

        def lost(db: Any, batch: Any) -> None:
            self.server.ask("SELECT pg_terminate_backend(%s, 5000)", db.info.backend_pid)
            db.execute("SELECT 1")

        broken = unittest.mock.patch.object(spool_, "write", lost)
        with broken, self.assertRaises(OutcomeUnknown):
            reactor.result(spool.stage(envelope, message, makeAddressees("a@b.example")))
        reactor.result(spool._bodies.alone(lambda db: None))
        statement = f"SELECT count(*) FROM {reactor.schema}.pieces"
        self.assertEqual(self.server.ask(statement), [(3,)])
        while not spool.isThere:
            reactor.advance0()
        self.assertEqual(reactor.result(spool.waiting()), (0, 0))
        reactor.result(spool._keepUp())
        self.assertEqual(self.server.ask(statement), [(0,)])

    def test_damaged(self) -> None:
        """A content that is not what was stored is not delivered: the message is set aside."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        envelope = makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        writer.write(b"x" * 300_000)
        message = reactor.result(writer.finish())
        work = reactor.result(spool.stage(envelope, message, makeAddressees("a@b.example")))
        self.assertTrue(os.path.exists(message.path))
        spool.release(work, {work.addressees[0]: Reschedule("", 0.0, 1000.0, 0.0)})
        reactor.result(spool.waiting())
        reactor.result(spool.waiting())
        self.assertFalse(os.path.exists(message.path))  # it waits where all can have it
        self.server.ask(f"UPDATE {reactor.schema}.pieces SET body = 'y'")
        (work,) = reactor.result(spool.claim(9, {}, 9))
        with self.assertRaisesRegex(SpoolError, "has 1 octets, not 300000"):
            reactor.result(spool.check(work))
        self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])
        status = self.server.ask(f"SELECT status FROM {reactor.schema}.recipients")
        self.assertEqual(status, [(DAMAGED,)])

    def test_disowned(self) -> None:
        """A server that others think dead takes nothing in, and delivers nothing it had."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        writer = spool.newBody(1)
        writer.write(b"x\r\n")
        message = reactor.result(writer.finish())
        work = reactor.result(spool.stage(makeEnvelope(), message, makeAddressees("a@b.example")))
        self.assertIsNone(spool.check(work))
        self.server.ask(f"DELETE FROM {reactor.schema}.owners")
        with self.assertRaises(SpoolError):
            reactor.result(spool.stage(makeEnvelope(), message, makeAddressees("a@b.example")))
        self.assertEqual(reactor.result(spool.waiting()), (1, 1))
        before = spool.owner
        reactor.advance(6.0)
        reactor.advance(1.0)
        self.assertNotEqual(spool.owner, before)
        with self.assertRaisesRegex(SpoolError, "another process"):
            reactor.result(spool.check(work))
        reactor.result(spool.stage(makeEnvelope(), message, makeAddressees("a@b.example")))


class StoppedTests(StoreCase):
    """
    A process that is stopped.
    """

    def test_within(self) -> None:
        """
        It is found dead, also where that was in the middle of a transaction which needs it
        alive: the server does not wait for it for ever.
        """
        reactor = self.anew()
        stopped = self.opened(reactor, self.mktemp(), "mx1", seconds=0.5)
        other = self.opened(reactor, self.mktemp(), "mx2")
        before, goesOn = int(stopped.owner), threading.Event()
        self.addCleanup(goesOn.set)

        def isStopped(db: Any) -> None:
            self.assertTrue(lives(db, before))
            goesOn.wait(PATIENCE)

        claimed = stopped._claims.run(isStopped)
        failures: list[Failure] = []
        claimed.addErrback(failures.append)
        update = f"UPDATE {reactor.schema}.owners SET seen = '-infinity' WHERE id = %s"
        self.server.ask(update, before)
        ends = time.monotonic() + 20
        dead: list[Any] = []
        while not dead and time.monotonic() < ends:
            dead = reactor.result(other._claims.run(bury))
        self.assertEqual(dead, [(before, "mx1", 0)])
        goesOn.set()
        while not failures:
            reactor.advance0()
        self.assertTrue(failures[0].check(OutcomeUnknown))


class WokenTests(StoreCase):
    """
    A process that was thought dead, and has not found it out yet.
    """

    def test_claims(self) -> None:
        """It has nothing handed out: that would be the dead one's, and nobody's for ever."""
        reactor = self.anew()
        spool, other = (self.opened(reactor, self.mktemp(), name) for name in ("mx1", "mx2"))
        writer = other.newBody((envelope := makeEnvelope()).transaction)
        writer.write(b"Subject: x\r\n\r\n")
        message = reactor.result(writer.finish())
        work = reactor.result(other.stage(envelope, message, makeAddressees("a@b.example")))
        other.release(work, {work.addressees[0]: Reschedule("b", 0.0, 1000.0, 0.0)})
        reactor.result(other.waiting())
        update = f"UPDATE {reactor.schema}.owners SET seen = '-infinity' WHERE id = %s"
        self.server.ask(update, spool.owned.id)
        reactor.result(other._claims.run(bury))
        self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])
        (work,) = reactor.result(other.claim(9, {}, 9))
        reactor.result(other.record(work, {work.addressees[0]: Remove()}))
        self.assertEqual(reactor.result(other.waiting()), (0, 0))

    def test_nothingLeft(self) -> None:
        """
        When it finds it out, it has nothing: what it had staged is no sender's any longer,
        but leased as all else is, to whoever claims it.
        """
        self.patch(order, "LEASES_SECONDS", 0.0)
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        writer = spool.newBody((envelope := makeEnvelope()).transaction)
        writer.write(b"Subject: x\r\n\r\n")
        message = reactor.result(writer.finish())
        reactor.result(spool.stage(envelope, message, makeAddressees("a@b.example")))
        self.assertEqual(spool.owned.staged(), 1)
        self.server.ask(f"UPDATE {reactor.schema}.owners SET seen = '-infinity'")
        self.assertEqual(len(reactor.result(spool._claims.run(bury))), 1)
        reactor.advance(6.0)
        reactor.advance(1.0)
        self.assertEqual(spool.owned.staged(), 0)
        for _ in range(2):
            self.assertEqual(len(reactor.result(spool.claim(9, {}, 9))), 1)
            # its lease ends
            self.server.ask(f"UPDATE {reactor.schema}.recipients SET due = '-infinity'")

    def test_held(self) -> None:
        """What is held stays as it is when its owner has died, whoever is named with it."""
        reactor = self.anew()
        spool, other = (self.opened(reactor, self.mktemp(), name) for name in ("mx1", "mx2"))
        writer = other.newBody((envelope := makeEnvelope()).transaction)
        writer.write(b"Subject: x\r\n\r\n")
        message = reactor.result(writer.finish())
        reactor.result(other.stage(envelope, message, makeAddressees("a@b.example", "c@b.example")))
        held = "SET status = 2, due = '2027-01-01' WHERE seq = 1"
        self.server.ask(f"UPDATE {reactor.schema}.recipients {held}")
        update = f"UPDATE {reactor.schema}.owners SET seen = '-infinity' WHERE id = %s"
        self.server.ask(update, other.owned.id)
        self.assertEqual(len(reactor.result(spool._claims.run(bury))), 1)
        found = self.server.ask(
            f"SELECT seq, status, due > '2026-12-31' FROM {reactor.schema}.recipients ORDER BY 1"
        )
        self.assertEqual(found, [(0, 0, False), (1, 2, True)])

    def test_others(self) -> None:
        """A message of which another one has a recipient stays when the rest leaves."""
        reactor = self.anew()
        spool, other = (self.opened(reactor, self.mktemp(), name) for name in ("mx1", "mx2"))
        writer = spool.newBody((envelope := makeEnvelope()).transaction)
        writer.write(b"Subject: x\r\n\r\n")
        message = reactor.result(writer.finish())
        addressees = makeAddressees("a@b.example", "c@b.example")
        work = reactor.result(spool.stage(envelope, message, addressees))
        update = f"UPDATE {reactor.schema}.recipients SET owner = %s WHERE seq = 1"
        self.server.ask(update, other.owned.id)
        reactor.result(spool.record(work, dict.fromkeys(work.addressees, Remove())))
        self.assertEqual(reactor.result(spool.waiting()), (1, 1))

    def test_notice(self) -> None:
        """Whoever writes a notice has it in hand."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        works = []
        for name in ("a", "b"):
            writer = spool.newBody((envelope := makeEnvelope()).transaction)
            writer.write(b"Subject: x\r\n\r\n")
            message = reactor.result(writer.finish())
            works.append((envelope, message, makeAddressees(f"{name}@b.example")))
        work = reactor.result(spool.stage(*works[0]))
        (notice,) = reactor.result(spool.record(work, {work.addressees[0]: Remove()}, works[1:]))
        self.assertIsNone(spool.check(notice))

    def test_rolledBack(self) -> None:
        """What fails in a transaction has done nothing, whatever it failed of."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())

        def fails(db: Any) -> None:
            db.execute("INSERT INTO info VALUES ('x', 'y')")
            raise SpoolError("not like that")

        self.assertRaises(SpoolError, reactor.result, spool._writes.run(fails))
        found = self.server.ask(f"SELECT name FROM {reactor.schema}.info WHERE name = 'x'")
        self.assertEqual(found, [])


class LostClaimTests(StoreCase):
    """
    A claim that was committed, and whose answer was not heard.
    """

    def test_again(self) -> None:
        """The next claim has what it leased, and not what this process has in hand."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        for name in ("a", "b"):
            writer = spool.newBody((envelope := makeEnvelope()).transaction)
            writer.write(b"Subject: x\r\n\r\n")
            message = reactor.result(writer.finish())
            addressees = makeAddressees(f"{name}@b.example")
            work = reactor.result(spool.stage(envelope, message, addressees))
            spool.release(work, {work.addressees[0]: Reschedule(name, 0.0, 1000.0, 0.0)})
        reactor.result(spool.waiting())
        works = reactor.result(spool.claim(9, {}, 9))
        self.assertEqual(len(works), 2)
        lost, leaves = works[0].envelope.transaction, works[1]
        self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])
        spool._held.forget(lost)

        def unheard(ledger: Any) -> Any:
            raise OutcomeUnknown("it was not heard")

        self.assertRaises(OutcomeUnknown, reactor.result, spool._leased(unheard))
        spool.abandon(leaves)
        self.assertEqual(spool._batches.leaving, {leaves.envelope.transaction})
        (found,) = reactor.result(spool.claim(9, {}, 9))
        self.assertEqual(found.envelope.transaction, lost)
        self.assertEqual(spool._batches.leaving, set())
        self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])

    def test_notFetched(self) -> None:
        """What is not delivered since its content could not be had is claimed again."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        writer = spool.newBody((envelope := makeEnvelope()).transaction)
        writer.write(b"x" * 300_000 + b"\r\n")
        message = reactor.result(writer.finish())
        work = reactor.result(spool.stage(envelope, message, makeAddressees("a@b.example")))
        spool.release(work, {work.addressees[0]: Reschedule("b", 0.0, 1000.0, 0.0)})
        reactor.result(spool.waiting())
        for error in (StoreAway("it is lost"), OutcomeUnknown("it is lost")):
            (work,) = reactor.result(spool.claim(9, {}, 9))
            self.assertEqual(reactor.result(spool.claim(9, {}, 9)), [])
            with unittest.mock.patch.object(spool.large, "fetched", side_effect=error):
                self.assertRaises(type(error), reactor.result, spool.check(work))
        (work,) = reactor.result(spool.claim(9, {}, 9))
        reactor.result(spool.check(work))


class LostNoticeTests(StoreCase):
    """
    What is cut off between a recipient's outcome and the notice about it.
    """

    def setUp(self) -> None:
        super().setUp()
        self.reactor = self.anew()
        self.spool = self.opened(self.reactor, self.mktemp())
        writer = self.spool.newBody((envelope := makeEnvelope()).transaction)
        writer.write(b"Subject: x\r\n\r\n")
        self.message = self.reactor.result(writer.finish())
        self.number = envelope.transaction
        staged = self.spool.stage(envelope, self.message, makeAddressees("a@b.example"))
        work = self.reactor.result(staged)
        self.spool.release(work, {})
        ended = NotifyThenRemove("failed", Reply(550, "5.1.1", "gone"))
        self.reactor.result(self.spool.record(work, {work.addressees[0]: ended}))

    def tell(self, work: Work) -> Deferred[list[Work]]:
        """
        The sender is told.
        """
        notice = makeEnvelope(""), self.message, makeAddressees("s@c.example")
        return self.spool.record(work, {work.addressees[0]: Remove()}, [notice])

    def isTold(self) -> None:
        """
        It is to be told at once, and then nothing is left but the notice.
        """
        (work,) = self.reactor.result(self.spool.notices(9))
        self.assertEqual(work.envelope.transaction, self.number)
        (notice,) = self.reactor.result(self.tell(work))
        self.assertEqual(self.reactor.result(self.spool.notices(9)), [])
        self.assertEqual(self.reactor.result(self.spool.claim(9, {}, 9)), [])
        self.reactor.result(self.spool.record(notice, {notice.addressees[0]: Remove()}))
        self.assertEqual(self.reactor.result(self.spool.waiting()), (0, 0))

    def test_notAsked(self) -> None:
        """The database was away when it was to be told."""

        def away(ledger: Any) -> Any:
            raise StoreAway("the connection is lost")

        self.assertRaises(StoreAway, self.reactor.result, self.spool._leased(away))
        self.isTold()

    def test_notHeard(self) -> None:
        """It was leased for that, and the answer not heard."""
        self.assertEqual(len(self.reactor.result(self.spool.notices(1, self.number))), 1)
        self.spool._held.forget(self.number)
        self.spool._isBack(True)
        self.isTold()

    def failsWith(self, error: Exception, work: Work) -> None:
        """
        The notice about a message cannot be written.
        """
        with unittest.mock.patch.object(spool_, "Outcomes", side_effect=error):
            expected = type(error) if isinstance(error, SpoolError) else SpoolError
            self.assertRaises(expected, self.reactor.result, self.tell(work))

    def test_notWritten(self) -> None:
        """The notice could not be written."""
        for error in (StoreAway("it is lost"), OutcomeUnknown("it is lost")):
            (work,) = self.reactor.result(self.spool.notices(1, self.number))
            self.assertEqual(self.reactor.result(self.spool.notices(9)), [])
            self.failsWith(error, work)
            self.spool._isBack(True)
        self.isTold()

    def test_noRoom(self) -> None:
        """The database had no room for the notice: that is tried again after a while."""
        (work,) = self.reactor.result(self.spool.notices(1, self.number))
        full = psycopg.errors.DiskFull("No space left on device")
        self.failsWith(full, work)
        self.assertEqual(self.reactor.result(self.spool.notices(9)), [])
        self.reactor.advance(AGAIN_SECONDS)
        self.isTold()

    def test_refused(self) -> None:
        """The database refuses the notice: that is not tried again for as long as a lease."""
        (work,) = self.reactor.result(self.spool.notices(1, self.number))
        refused = psycopg.errors.CheckViolation("no")
        self.failsWith(refused, work)
        self.spool._isBack(True)
        self.assertEqual(self.reactor.result(self.spool.notices(9)), [])
        self.reactor.advance(AGAIN_SECONDS)
        self.assertEqual(self.reactor.result(self.spool.notices(9)), [])

    def test_written(self) -> None:
        """It was written, and that was not heard: it is delivered at once, and none else."""
        (work,) = self.reactor.result(self.spool.notices(1, self.number))
        run = self.spool._writes.run

        def unheard(*asked: Any) -> Any:
            return run(*asked).addCallback(lambda _: Failure(OutcomeUnknown("it is lost")))

        with unittest.mock.patch.object(self.spool._writes, "run", unheard):
            self.assertRaises(OutcomeUnknown, self.reactor.result, self.tell(work))
        self.assertEqual(self.reactor.result(self.spool.claim(9, {}, 9)), [])
        self.spool._isBack(True)
        (notice,) = self.reactor.result(self.spool.claim(9, {}, 9))
        self.assertNotEqual(notice.envelope.transaction, self.number)
        self.assertEqual(self.reactor.result(self.spool.notices(9)), [])


class UnknownTests(StoreCase):
    """
    Commits whose answer is not heard.
    """

    def test_forgotten(self) -> None:
        """What was committed without its sender knowing is gone when the database is back."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        writer = spool.newBody(1)
        writer.write(b"x\r\n")
        message = reactor.result(writer.finish())
        written = spool_.write

        def unheard(db: Any, batch: Any) -> None:
            written(db, batch)
            self.assertEqual(self.server.ask(f"SELECT count(*) FROM {schema}.messages"), [(1,)])
            pid = db.info.backend_pid
            self.server.ask("SELECT pg_terminate_backend(%s, 5000)", pid)
            db.execute("SELECT 1")

        schema = reactor.schema
        with unittest.mock.patch.object(spool_, "write", unheard):
            staged = spool.stage(makeEnvelope(), message, makeAddressees("a@b.example"))
            with self.assertRaises(OutcomeUnknown):
                reactor.result(staged)
        self.assertFalse(spool.isThere)
        while not spool.isThere:
            reactor.advance0()
        self.assertEqual(reactor.result(spool.waiting()), (0, 0))

    def test_later(self) -> None:
        """What the server would have committed after the wire was cut is forgotten, too."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        writer = spool.newBody(1)
        writer.write(b"x\r\n")
        message = reactor.result(writer.finish())
        spool.owned._beating.stop()
        busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND state = 'active'"
        with psycopg.connect(self.server.conninfo) as locking:
            locking.execute(f"SELECT FROM {reactor.schema}.owners FOR UPDATE")
            staged = spool.stage(makeEnvelope(), message, makeAddressees("a@b.example"))
            failures: list[Failure] = []
            staged.addErrback(failures.append)
            while not failures:
                reactor.advance0()
            self.assertTrue(failures[0].check(OutcomeUnknown))
            while self.server.ask(f"{busy} AND wait_event_type = 'Lock'", "%emptied AS%") == [(0,)]:
                reactor.advance0()
        while self.server.ask(busy, "%added AS%") != [(0,)]:
            reactor.advance0()
        self.assertEqual(reactor.result(spool.waiting()), (0, 0))


class AwayTests(StoreCase):
    """
    A database that is away when a process starts.
    """

    def spool(self) -> PostgresqlSpool:
        self.reactor = reactor = self.anew()
        access = Access(f"host=127.0.0.1 port={freePort()} user=mail", None, reactor.schema)
        me = Identity("mx1", 0, "1", 20.0)
        return PostgresqlSpool(access, me, self.mktemp(), reactor, inThread)

    def test_waits(self) -> None:
        """
        A spool that may wait does: what comes, and has come, fails at once, and so does the
        wait when it is ended.
        """
        spool, waits = self.spool(), []
        spool.beginning.waits = lambda: waits.append(True)
        writer = spool.newBody(1)
        writer.write(b"x\r\n")
        opened = spool.open()
        message = self.reactor.result(writer.finish())
        asked = makeEnvelope(), message, makeAddressees("a@b.example")
        spool.note("name", "value", 60.0)
        staged = spool.stage(*asked)
        self.assertRaises(StoreAway, self.reactor.result, staged)
        self.failureResultOf(spool.stage(*asked), StoreAway)
        self.reactor.advance0()
        self.assertEqual((waits, spool.isThere), ([True], False))
        self.assertNoResult(opened)
        spool.giveUp()
        self.assertRaises(StoreAway, self.reactor.result, opened)

    def test_command(self) -> None:
        """A command does not wait."""
        opened = self.spool().open()
        self.assertRaises(StoreAway, self.reactor.result, opened)


class LostTests(StoreCase):
    """
    Connections that are lost while nothing is asked of them.
    """

    def test_heart(self) -> None:
        """The heart notices it, for all of them: no mail has to."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        doubted: list[bool] = []
        spool.doubted = lambda: doubted.append(True)
        for one in spool._connections:
            pid = reactor.result(one.alone(lambda db: db.info.backend_pid))
            self.server.ask("SELECT pg_terminate_backend(%s, 5000)", pid)
        self.assertTrue(spool.isThere)
        super(FrozenReactor, reactor).advance(spool._me.lease / 4)
        lost = False
        for _ in range(20):
            lost = lost or len(spool._presence._lost) == len(spool._connections)
            super(FrozenReactor, reactor).advance(0)
            with contextlib.suppress(queue.Empty):
                function, args = reactor.fromThread.get(timeout=0.1)
                function(*args)
        self.assertTrue(lost)
        self.assertEqual(doubted, [True])
        while not (spool.isThere and spool._presence.isThere):
            reactor.advance0()


class LockTests(StoreCase):
    """
    Two servers that want the same at the same instant.
    """

    def setUp(self) -> None:
        super().setUp()
        self.reactor = self.anew()
        self.spool = self.opened(self.reactor, self.mktemp())
        writer = self.spool.newBody(1)
        writer.write(b"x\r\n")
        self.message = self.reactor.result(writer.finish())
        self.other = psycopg.connect(
            self.server.conninfo, options=f"-c search_path={self.reactor.schema}"
        )
        self.addCleanup(self.other.close)

    def due(self, *recipients: str) -> int:
        """
        @return: the number of a message that is due for all of them.
        """
        envelope = makeEnvelope()
        staged = self.spool.stage(envelope, self.message, makeAddressees(*recipients))
        work = self.reactor.result(staged)
        later = {one: Reschedule("d", 0.0, 1000.0, 0.0) for one in work.addressees}
        self.spool.release(work, later)
        self.reactor.result(self.spool.waiting())
        return envelope.transaction

    def waits(self, d: Deferred[Any]) -> Any:
        """
        It waits for what the other has, until that commits.

        @return: what it fires with then.
        """
        found: list[Any] = []
        d.addBoth(found.append)
        busy = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND application_name LIKE 'deferrals %%'"
            " AND pg_blocking_pids(pid) @> ARRAY[%s::integer]"
        )
        while self.server.ask(busy, self.other.info.backend_pid) == [(0,)]:
            self.assertEqual(found, [])
            self.reactor.advance0()
        self.other.commit()
        while not found:
            self.reactor.advance0()
        return found[0]

    def test_claimed(self) -> None:
        """What another one is about to claim is left to it, and the rest is claimed at once."""
        first, second = self.due("a@b.example"), self.due("c@b.example")
        self.other.execute("SELECT FROM recipients WHERE message = %s FOR UPDATE", (first,))
        (work,) = self.reactor.result(self.spool.claim(9, {}, 9))
        self.assertEqual(work.envelope.transaction, second)

    def test_shared(self) -> None:
        """Of a message that it has one recipient of, too: only that one."""
        number = self.due("a@b.example", "c@b.example")
        self.other.execute("SELECT FROM recipients WHERE seq = 1 FOR UPDATE")
        (work,) = self.reactor.result(self.spool.claim(9, {}, 9))
        self.assertEqual(work.envelope.transaction, number)
        self.assertEqual([one.seq for one in work.addressees], [0])

    def test_destination(self) -> None:
        """A destination that another one looks at is left to it."""
        self.due("a@b.example")
        self.other.execute("SELECT FROM destinations FOR UPDATE")
        self.assertEqual(self.reactor.result(self.spool.claim(9, {}, 9)), [])

    def test_dead(self) -> None:
        """Of two that find a dead owner one buries it, and the other does not wait."""
        self.server.ask(f"UPDATE {self.reactor.schema}.owners SET seen = '-infinity'")
        self.other.execute("SELECT FROM owners FOR UPDATE")
        self.assertEqual(self.reactor.result(self.spool._claims.run(bury)), [])

    def test_changed(self) -> None:
        """Whoever changes a recipient finds what another one has made of it before."""
        number = self.due("a@b.example")
        self.other.execute("UPDATE recipients SET attempts = 7")
        (row,) = self.waits(self.spool.change(lambda ledger: ledger.rows(number)))
        self.assertEqual(row.attempts, 7)

    def test_lastOnes(self) -> None:
        """Of two that record the last recipients of a message one finds that it is empty."""
        number = self.due("a@b.example")
        self.other.execute("SELECT FROM messages FOR UPDATE")
        self.waits(self.spool.change(lambda ledger: ledger.since(number)))

    def test_buriedMeanwhile(self) -> None:
        """What comes in while its owner is buried does not come in."""
        self.spool.owned._beating.stop()
        self.other.execute("DELETE FROM owners")
        staged = self.spool.stage(makeEnvelope(), self.message, makeAddressees("a@b.example"))
        failure = self.waits(staged)
        self.assertIsInstance(failure, Failure)
        self.assertEqual(self.reactor.result(self.spool.waiting()), (0, 0))


class UpkeepTests(StoreCase):
    """
    What is done to the tables now and then.
    """

    def test_all(self) -> None:
        """
        The history has a partition for each day, and old ones are dropped; messages and
        pieces that nothing belongs to are removed, and no others.
        """
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        writer = spool.newBody(1)
        writer.write(b"x\r\n")
        message = reactor.result(writer.finish())
        reactor.result(spool.stage(makeEnvelope(), message, makeAddressees("a@b.example")))
        schema = reactor.schema
        self.server.ask(
            f"INSERT INTO {schema}.messages SELECT n, since, since, envelope, size, digest, body"
            f" FROM {schema}.messages, generate_series(1, 2) AS n"
        )
        self.server.ask(f"INSERT INTO {schema}.pieces VALUES (7, 0, -1, 'x'), (8, 0, 1, 'x')")
        spool.large.coming.add(8)  # that one is on its way in
        self.server.ask(
            f"INSERT INTO {schema}.history (message, seq, at, event)"
            " SELECT 1, 0, '2026-01-01'::timestamptz + n * interval '1 day', 'retry'"
            " FROM generate_series(-30, 0) AS n"
        )
        self.assertTrue(reactor.result(spool._bodies.run(keepUp)))
        self.assertEqual(reactor.result(spool.waiting()), (3, 1))  # it may be coming in
        for _ in range(3):
            reactor.advance(86400.0)
            self.assertTrue(reactor.result(spool._bodies.run(keepUp)))
        self.assertEqual(reactor.result(spool.waiting()), (1, 1))
        self.assertEqual(self.server.ask(f"SELECT message FROM {schema}.pieces"), [(8,)])
        parts = self.parts(schema)
        self.assertEqual(parts, [f"history_2026010{day}" for day in range(2, 7)])
        found = self.server.ask(f"SELECT min(at)::date::text FROM {schema}.history")
        self.assertEqual(found, [("2025-12-21",)])
        reactor.advance(20 * 86400.0)
        reactor.result(spool._bodies.run(keepUp))
        self.assertEqual(self.parts(schema), ["history_20260125", "history_20260126"])

    def test_behindOthers(self) -> None:
        """A message without recipients is found behind any number of others."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        with psycopg.connect(
            self.server.conninfo, options=f"-c search_path={reactor.schema}"
        ) as db:
            db.execute(
                "INSERT INTO messages SELECT i, '2025-01-01', '2025-01-01', 'e', 1, '', ''"
                " FROM generate_series(1, 2000) AS i"
            )
            db.execute(
                "INSERT INTO recipients (message, seq, status, due, delivery, recipient)"
                " SELECT id, 0, 2, since, '', '' FROM messages WHERE id < 2000"
            )
        self.assertTrue(reactor.result(spool._bodies.run(keepUp)))
        self.assertEqual(reactor.result(spool.waiting()), (1999, 1999))

    def parts(self, schema: str) -> list[str]:
        found = self.server.ask(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename ~ '[0-9]$'"
            " ORDER BY 1",
            schema,
        )
        return [name for (name,) in found]

    def test_planned(self) -> None:
        """What it costs does not grow with what the messages contain."""
        schema = self.anew().schema
        with contextlib.closing(opened(Access(self.server.conninfo, None, schema), "test")) as db:
            upgrade(db, schema)
            db.execute(
                "INSERT INTO messages SELECT i, now(), now(), repeat('e', 4000), 1, '', ''"
                " FROM generate_series(1, 3000) AS i"
            )
            db.execute(
                "INSERT INTO recipients (message, seq, status, due, delivery, recipient)"
                " SELECT id, 0, 0, now(), '', '' FROM messages"
            )
            db.execute("VACUUM ANALYZE messages, recipients")
            plan = "\n".join(row[0] for row in db.execute(f"EXPLAIN {upkeep._EMPTIED}"))
            self.assertNotIn("Seq Scan on messages", plan)


class SameStoreTests(StoreCase):
    """
    The random sequences of L{tests.operations} end in the same state as in all stores.
    """

    def test_same(self) -> None:
        """What the spool in memory does, the one in PostgreSQL does."""
        from tests.spool.test_rules import memoryStore

        self.patch(order, "LEASES_SECONDS", 0.0)
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        # what is compared is not whether it is synced
        reactor.result(spool._writes.alone(_execute, "SET synchronous_commit = off"))
        for number in range(SEQUENCES):
            wanted = RandomSequence(memoryStore(), number).run()
            found = RandomSequence(self.store(spool, reactor), number).run()
            for step, (one, other) in enumerate(zip(wanted, found, strict=True)):
                self.assertEqual(one, other, (number, step))
            spool._staged.clear()
            for table in ("messages", "recipients", "destinations"):
                reactor.result(spool._writes.alone(_execute, f"DELETE FROM {table}"))

    def store(self, spool: PostgresqlSpool, reactor: FrozenReactor) -> Store:
        def operate(command: str, keys: Any) -> tuple[int, int]:
            def apply(db: Any) -> tuple[int, int]:
                changes = Changes(spool._ledger(db))
                return changes.make(command, keys), changes.active

            found: tuple[int, int] = reactor.wait(spool._writes.run(apply))
            return found

        def rows() -> list[QueueRow]:
            select = f"SELECT {SELECTED} FROM recipients"
            found = reactor.wait(spool._writes.run(lambda db: db.execute(select).fetchall()))
            return [queueRow(columns) for columns in found]

        began = reactor.wait(spool._writes.run(lambda db: spool._ledger(db).now))
        return Store(spool, reactor.result, reactor.advance, operate, rows, began)
