"""
Contents in a directory that all machines share, with a real PostgreSQL.
"""

from __future__ import annotations

import os
import shutil
import unittest.mock
from collections.abc import Sequence
from typing import Any

from deferrals.errors import OutcomeUnknown, SpoolError
from deferrals.model.disposition import Remove, Reschedule
from deferrals.spool import message as message_
from deferrals.spool.postgresql import contents, order
from deferrals.spool.postgresql import spool as spool_
from deferrals.spool.postgresql.connection import Access
from deferrals.spool.postgresql.directory import MARKER, Directory
from deferrals.spool.postgresql.owners import Identity, beat, bury
from deferrals.spool.postgresql.queue import PostgresqlQueue
from deferrals.spool.postgresql.spool import PostgresqlSpool
from deferrals.spool.rows import DAMAGED
from deferrals.testing import makeAddressees, makeEnvelope
from tests.integration import test_store
from tests.integration.test_store import FrozenReactor, StoreCase, inThread

CONTENT = b"Subject: x\r\n\r\n" + b"0123456789abcde\n" * 150_000


class BodiesCase(StoreCase):
    """
    @ivar bodies: the directory.
    """

    def setUp(self) -> None:
        super().setUp()
        self.bodies: str | None = os.path.abspath(self.mktemp())
        os.mkdir(self.bodies)

    def begun(
        self, reactor: FrozenReactor, directory: str, machine: str = "mx1"
    ) -> PostgresqlSpool:
        """
        A spool that is about to be opened.
        """
        access = Access(self.server.conninfo, None, reactor.schema)
        me = Identity(machine, 0, "1", 20.0)
        bodies = None if self.bodies is None else Directory(self.bodies)
        spool = PostgresqlSpool(access, me, directory, reactor, inThread, bodies=bodies)
        reactor.freeze(spool)
        return spool

    def opened(
        self, reactor: FrozenReactor, directory: str, machine: str = "mx1"
    ) -> PostgresqlSpool:
        spool = self.begun(reactor, directory, machine)
        self.assertIsNone(reactor.wait(spool.open()))
        self.addCleanup(self.shut, spool)
        return spool

    def reactorOf(self, spool: PostgresqlSpool) -> Any:
        return spool.owned._beating.clock

    def received(self, spool: PostgresqlSpool, content: bytes = CONTENT) -> tuple[Any, Any]:
        """
        @return: an envelope, and a content that was received.
        """
        envelope = makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        writer.write(content)
        return envelope, self.reactorOf(spool).result(writer.finish())

    def large(self, spool: PostgresqlSpool, content: bytes = CONTENT) -> Any:
        envelope, message = self.received(spool, content)
        staging = spool.stage(envelope, message, makeAddressees("a@b.example"))
        return self.reactorOf(spool).result(staging)

    def settle(self, spool: PostgresqlSpool) -> None:
        """
        What was asked of the directory is done.
        """
        reactor = self.reactorOf(spool)
        for _ in range(3):
            reactor.wait(spool.waiting())
            if spool.large.directory is not None:
                reactor.wait(spool.large.directory.ask(0, int))

    def files(self) -> list[str]:
        """
        What is in the directory.
        """
        found = []
        for path, _, names in os.walk(self.bodies or ""):
            found += [os.path.relpath(os.path.join(path, name), self.bodies) for name in names]
        return sorted(set(found) - {MARKER})

    def dead(self, spool: PostgresqlSpool, *living: PostgresqlSpool) -> None:
        """
        An owner has died; its process says nothing.
        """
        reactor = self.reactorOf(spool)
        spool.owned._beating.stop()
        update = f"UPDATE {reactor.schema}.owners SET seen = '-infinity' WHERE id = %s"
        self.server.ask(update, spool.owned.id)
        for one in living:
            reactor.result(one._claims.run(lambda db, one=one: beat(db, one.owned.id)))
            reactor.result(one._claims.run(bury))


class BodiesContractTests(BodiesCase, test_store.PostgresqlSpoolTests):
    """
    L{PostgresqlSpool}, with all contents in a directory.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(message_, "MEMORY_OCTETS", 1)

    def makeSpool(self) -> PostgresqlSpool:
        """
        A queue has a directory of its own.
        """
        self.bodies = os.path.abspath(self.mktemp())
        os.mkdir(self.bodies)
        return super().makeSpool()

    def test_message(self) -> None:
        """How a large content begins is known from more than its first line."""
        self.patch(message_, "MEMORY_OCTETS", 256 * 1024)
        super().test_message()

    def test_claimed(self) -> None:
        """A large content is here when it was checked, and not before."""
        self.patch(message_, "MEMORY_OCTETS", 256 * 1024)
        super().test_claimed()


class BodiesTests(BodiesCase):
    """
    Large contents.
    """

    def test_elsewhere(self) -> None:
        """
        A large message of a dead server is delivered by another one, whole; its file is
        removed behind it, and none of it was in the database but its beginning.
        """
        reactor = self.anew()
        one, other = self.opened(reactor, self.mktemp()), self.opened(reactor, self.mktemp(), "b")
        work = self.large(one)
        (name,) = self.files()
        self.assertEqual(name.partition("/")[0], one.owner)
        pieces = f"SELECT seq, owner::text, body FROM {reactor.schema}.pieces"
        self.assertEqual(self.server.ask(pieces), [(-1, one.owner, CONTENT[:14])])
        small = self.large(one, b"small\r\n")
        one.abandon(small)
        self.settle(one)
        self.dead(one, other)
        (work,) = reactor.result(other.claim(9, {}, 9))
        self.assertEqual(work.message.fields(), [("Subject", "x")])
        reactor.result(other.check(work))
        with work.message.open() as file:
            self.assertEqual(file.read(), CONTENT)
        reactor.result(other.record(work, {work.addressees[0]: Remove()}))
        self.settle(other)
        self.assertEqual((self.files(), self.server.ask(pieces)), ([], []))
        self.assertEqual(reactor.result(other.waiting()), (0, 0))

    def test_both(self) -> None:
        """What was in pieces before a directory was named is delivered, as what is in it."""
        reactor, directory, bodies = self.anew(), self.mktemp(), self.bodies
        self.bodies = None
        first = self.opened(reactor, directory)
        self.large(first)
        self.shut(first)
        self.bodies = bodies
        spool = self.opened(reactor, directory)
        self.large(spool)
        self.assertEqual(len(self.files()), 1)
        self.dead(spool)
        other = self.opened(reactor, self.mktemp(), "b")
        works = reactor.result(other.claim(9, {}, 9))
        self.assertEqual(len(works), 2)
        for work in works:
            reactor.result(other.check(work))
            with work.message.open() as file:
                self.assertEqual(file.read(), CONTENT)

    def test_refused(self) -> None:
        """
        A server does not start without the directory that has contents, with another one,
        or with an empty one in its place.
        """
        reactor, bodies = self.anew(), self.bodies or ""
        spool = self.opened(reactor, self.mktemp())
        self.large(spool)
        other = os.path.abspath(self.mktemp())
        os.mkdir(other)
        foreign = os.path.abspath(self.mktemp())
        shutil.copytree(bodies, foreign)
        with open(os.path.join(foreign, MARKER), "w") as file:
            file.write("q one\n")
        for path, why in (
            (None, "contents of this queue are in a directory: spool.bodies has to name it"),
            (other, "has no file queue: .* is not mounted"),
            (foreign, "is another queue's"),
            (os.path.join(other, "missing"), "cannot be used: No such file"),
        ):
            self.bodies = path
            with self.assertRaisesRegex(SpoolError, why):
                reactor.result(self.begun(reactor, self.mktemp(), "b").open())
        self.assertEqual(os.listdir(other), [])

    def test_emptied(self) -> None:
        """When no content is in the directory any longer, a server starts without it."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        spool.abandon(self.large(spool))
        self.settle(spool)
        self.bodies = None
        other = self.opened(reactor, self.mktemp(), "b")
        self.large(other)
        # the first one has it still: what it takes is its own to deliver
        self.large(spool)
        self.dead(spool, other)
        (work,) = reactor.result(other.claim(9, {}, 9))
        with self.assertRaisesRegex(SpoolError, "spool.bodies has to name it"):
            reactor.result(other.check(work))
        status = self.server.ask(f"SELECT DISTINCT status FROM {reactor.schema}.recipients")
        self.assertEqual(status, [(1,)])  # it is not damaged: another one delivers it

    def test_away(self) -> None:
        """
        While the directory is away large mail is refused for now, and small mail is taken;
        what has its content there waits, and is no damaged one.
        """
        self.patch(order, "LEASES_SECONDS", 0.0)
        reactor, bodies = self.anew(), self.bodies or ""
        spool = self.opened(reactor, self.mktemp())
        work = self.large(spool)
        spool.release(work, {work.addressees[0]: Reschedule("", 0.0, 1000.0, 0.0)})
        self.settle(spool)
        os.rename(bodies, f"{bodies}.away")
        os.mkdir(bodies)
        envelope, message = self.received(spool)
        with self.assertRaisesRegex(SpoolError, "has no file queue"):
            reactor.result(spool.stage(envelope, message, makeAddressees("a@b.example")))
        self.flushLoggedErrors()
        self.large(spool, b"small\r\n")
        (work,) = reactor.result(spool.claim(9, {}, 9))
        with self.assertRaisesRegex(SpoolError, "has no file queue"):
            reactor.result(spool.check(work))
        self.assertEqual((self.files(), spool.isThere), ([], True))
        os.rmdir(bodies)
        os.rename(f"{bodies}.away", bodies)
        self.server.ask(f"UPDATE {reactor.schema}.recipients SET due = '-infinity'")  # its lease
        (work,) = reactor.result(spool.claim(9, {}, 9))
        reactor.result(spool.check(work))
        self.large(spool)
        count = f"SELECT count(*) FROM {reactor.schema}.recipients WHERE status = {DAMAGED}"
        self.assertEqual(self.server.ask(count), [(0,)])

    def test_damaged(self) -> None:
        """A content that is missing, or not what was stored, is set aside, and found by check."""
        reactor, bodies = self.anew(), self.bodies or ""
        spool = self.opened(reactor, self.mktemp())
        queue = PostgresqlQueue(spool, reactor.seconds)
        for harm, why, checked in (
            (os.unlink, "its content is missing", "its content is missing"),
            (_truncate, "has 5 octets", "its content is not what was stored"),
            (_change, "is not what was stored", ""),
        ):
            work = self.large(spool)
            spool.release(work, {work.addressees[0]: Reschedule("", 0.0, 1000.0, 0.0)})
            self.settle(spool)
            (name,) = self.files()
            harm(os.path.join(bodies, name))
            found, count, _ = reactor.result(queue.inspect(None))
            problems = [one["problem"] for one in found]
            self.assertEqual((problems, count), ([checked] if checked else [], 1))
            (work,) = reactor.result(spool.claim(9, {}, 9))
            with self.assertRaisesRegex(SpoolError, why):
                reactor.result(spool.check(work))
            self.flushLoggedErrors()
            status = self.server.ask(f"SELECT status FROM {reactor.schema}.recipients")
            self.assertEqual(status, [(DAMAGED,)])
            reactor.result(queue.change("remove", _all(), None))
            self.settle(spool)
            self.assertEqual(self.files(), [])

    def test_unheard(self) -> None:
        """
        A message whose commit was not heard keeps its file until it was forgotten: whoever
        has it meanwhile has all of it.
        """
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        envelope, message = self.received(spool)
        written = spool_.write

        def unheard(db: Any, batch: Any) -> None:
            written(db, batch)
            pid = db.info.backend_pid
            self.server.ask("SELECT pg_terminate_backend(%s, 5000)", pid)
            db.execute("SELECT 1")

        with unittest.mock.patch.object(spool_, "write", unheard):
            staged = spool.stage(envelope, message, makeAddressees("a@b.example"))
            with self.assertRaises(OutcomeUnknown):
                reactor.result(staged)
        self.assertEqual((len(self.files()), len(spool.large.coming)), (1, 1))
        while not spool.isThere:
            reactor.advance0()
        self.settle(spool)
        self.assertEqual(self.files(), [])
        self.assertEqual((reactor.result(spool.waiting()), spool.large.coming), ((0, 0), set()))

    def test_shown(self) -> None:
        """What an operator has read does not stay on this machine."""
        reactor, directory = self.anew(), self.mktemp()
        spool = self.opened(reactor, directory)
        work = self.large(spool)
        for seconds, isThere in ((50.0, True), (50.0, True), (0.0, True), (61.0, False)):
            found = reactor.result(_contentOf(spool, work.envelope.transaction))
            with found.open() as file:
                self.assertEqual(file.read(), CONTENT)
            reactor.advance(seconds)
            self.assertEqual(os.path.exists(found.path), isThere)
        self.settle(spool)


class SweepTests(BodiesCase):
    """
    What is in the directory, and has no message.
    """

    def test_sweep(self) -> None:
        """
        A file without a message goes when its owner is dead, or says that none is coming:
        not before that, however old it is, and never one that has a message.
        """
        reactor, bodies = self.anew(), self.bodies or ""
        one, other, dead = (self.opened(reactor, self.mktemp(), name) for name in ("a", "b", "c"))
        kept = [self.large(one), self.large(dead)]
        left = {spool: self.lost(spool, range(1, 3)) for spool in (one, other, dead)}
        for path, _, names in os.walk(bodies):
            for name in names:
                os.utime(os.path.join(path, name), (0, 0))
        one.large.coming.add(1)
        for spool in (one, other):
            reactor.result(spool._keepUp())
            self.settle(spool)
        coming, gone = left[one]
        self.assertFalse(set(self.files()) & {gone, *left[other]})
        self.assertLess({coming, *left[dead]}, set(self.files()))
        self.assertEqual(len(self.files()), 5)
        self.dead(dead, one, other)
        reactor.result(other._keepUp())
        self.settle(other)
        self.assertEqual(len(self.files()), 3)
        self.assertIn(coming, self.files())
        # that of the dead one has a message still; when it has left, nothing stays
        works = reactor.result(other.claim(9, {}, 9))
        self.assertEqual(
            [work.envelope.transaction for work in works], [kept[1].envelope.transaction]
        )
        reactor.result(other.record(works[0], {works[0].addressees[0]: Remove()}))
        self.settle(other)
        reactor.result(other._keepUp())
        self.assertEqual(sorted(os.listdir(bodies)), sorted([MARKER, one.owner, other.owner]))

    def lost(self, spool: PostgresqlSpool, numbers: Sequence[int]) -> list[str]:
        """
        Files that a process would leave.
        """
        found = []
        for number in numbers:
            name = Directory(self.bodies or "").name(spool.owned.id, number)
            os.makedirs(os.path.dirname(name), exist_ok=True)
            path = f"{name}.part" if number % 2 else name
            with open(path, "w"):
                pass
            found.append(os.path.relpath(path, self.bodies))
        return found

    def test_refusedInsert(self) -> None:
        """Of a message that could not be taken no file stays."""
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        for table in ("pieces", "messages"):
            self.server.ask(f"ALTER TABLE {reactor.schema}.{table} ADD CONSTRAINT no CHECK (false)")
            envelope, message = self.received(spool)
            with self.assertRaises(SpoolError):
                reactor.result(spool.stage(envelope, message, makeAddressees("a@b.example")))
            self.settle(spool)
            self.assertEqual((self.files(), spool.large.coming), ([], set()))
            self.server.ask(f"ALTER TABLE {reactor.schema}.{table} DROP CONSTRAINT no")


class WokenTests(BodiesCase):
    """
    A process that was thought dead between a content and the row of its message.
    """

    def woken(self) -> None:
        """
        Its contents are gone with what it was: the message is not taken.
        """
        reactor = self.anew()
        spool = self.opened(reactor, self.mktemp())
        envelope, message = self.received(spool)
        put = contents.put

        def slow(db: Any, number: int, seq: int, body: bytes, owner: int) -> None:
            put(db, number, seq, body, owner)
            if seq in (contents.FILE, 2):
                ended = f"UPDATE {reactor.schema}.owners SET seen = '-infinity'"
                self.server.ask(ended)
                bury(db)
                spool.owned.row = enrolled

        from deferrals.spool.postgresql.owners import enroll

        me = Identity("mx1", 0, "1", 20.0)
        enrolled = reactor.result(spool._claims.run(enroll, me))
        self.server.ask(
            f"UPDATE {reactor.schema}.owners SET lease = 1e9 WHERE id = %s", enrolled.id
        )
        with unittest.mock.patch.object(contents, "put", slow), self.assertRaises(SpoolError):
            reactor.result(spool.stage(envelope, message, makeAddressees("a@b.example")))
        self.assertEqual(reactor.result(spool.waiting()), (0, 0))

    def test_file(self) -> None:
        """With the directory."""
        self.woken()

    def test_pieces(self) -> None:
        """With pieces."""
        self.bodies = None
        self.woken()


def _truncate(path: str) -> None:
    os.truncate(path, 5)


def _change(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"x")


def _all() -> Any:
    from deferrals.model.selection import Selection

    return Selection()


def _contentOf(spool: PostgresqlSpool, number: int) -> Any:
    from twisted.internet.defer import Deferred

    return Deferred.fromCoroutine(spool.contentOf(number))
