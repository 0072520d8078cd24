"""
The spool in SQLite against the contract, and what it does beside it.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import unittest.mock
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import Overtaken, SpoolError
from deferrals.model.disposition import KEEP_SECONDS, LEASE_SECONDS, DelayNotified, Remove
from deferrals.model.ids import parseId
from deferrals.spool.message import MEMORY_OCTETS, PART, ownMessage
from deferrals.spool.rows import DAMAGED
from deferrals.spool.sqlite import diskspace, repair, upkeep
from deferrals.spool.sqlite.spool import SqliteSpool
from deferrals.testing import SpoolContract, makeAddressees, makeEnvelope
from tests.reactors import PumpedReactor
from tests.requirements import requirement

STATUS = "SELECT status FROM recipients"


#: What writes a batch.
WRITE = "deferrals.spool.sqlite.spool.write"


class SqliteSpoolTests(SpoolContract, SynchronousTestCase):
    """
    L{SqliteSpool}, with a real disk and a clock that stands still.
    """

    def makeSpool(self) -> SqliteSpool:
        self.clock = self.reactor = PumpedReactor()
        self.directory = os.path.join(self.mktemp(), "spool")
        return self.opened()

    def opened(self) -> SqliteSpool:
        spool = SqliteSpool(self.directory, self.reactor, self.inThread)
        self.assertIsNone(self.reactor.wait(spool.open()))
        self.addCleanup(lambda: spool.closed or self.reactor.wait(spool.close()))
        return spool

    def inThread(self, function: Any, *args: Any) -> Deferred[Any]:
        d: Deferred[Any] = Deferred()
        try:
            d.callback(function(*args))
        except Exception:
            d.errback()
        return d

    def test_umask(self) -> None:
        """With a umask that takes nothing away, no other user can read anything."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        top = self.directory = os.path.join(self.mktemp(), "state", "spool")
        self.clock = self.reactor = PumpedReactor()
        spool = self.opened()
        writer = spool.newBody(7)
        writer.write(b"x" * (MEMORY_OCTETS + 1))
        self.resultOf(writer.finish())
        found = [(where, name) for where, _, names in os.walk(top) for name in [".", *names]]
        self.assertGreater(len(found), 4)
        for where, name in [*found, (os.path.dirname(top), ".")]:
            mode = os.stat(os.path.join(where, name)).st_mode
            self.assertFalse(mode & 0o077, (where, name, oct(mode)))

    def reopen(self, spool: SqliteSpool) -> SqliteSpool:
        self.reactor.wait(spool.close())
        return self.opened()

    def resultOf(self, d: Deferred[Any]) -> Any:
        return self.reactor.wait(d)

    def test_modes(self) -> None:
        """No other user of the system may look into the spool."""
        self.makeSpool()
        self.assertEqual(os.stat(self.directory).st_mode & 0o777, 0o700)

    def test_locked(self) -> None:
        """Two processes do not share one spool."""
        self.makeSpool()
        second = SqliteSpool(self.directory, self.reactor, self.inThread)
        failure = self.reactor.wait(second.open())
        self.assertIn("in use by another process", failure.getErrorMessage())

    def test_otherVersion(self) -> None:
        """A spool of another format is left alone."""
        spool = self.makeSpool()
        self.reactor.wait(spool.close())
        with sqlite3.connect(os.path.join(self.directory, "spool.sqlite")) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        again = SqliteSpool(self.directory, self.reactor, self.inThread)
        failure = self.reactor.wait(again.open())
        self.assertIn("format 99", failure.getErrorMessage())
        self.assertTrue(again.closed)

    def test_unwritable(self) -> None:
        """A directory that cannot be made is an error that says so."""
        self.reactor = PumpedReactor()
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("a file")
        spool = SqliteSpool(os.path.join(path, "spool"), self.reactor, self.inThread)
        failure = self.reactor.wait(spool.open())
        failure.trap(SpoolError)

    def test_large(self) -> None:
        """A large body is a file, gone with its message; a small one is none."""
        spool, envelope = self.makeSpool(), makeEnvelope()
        content = b"x" * MEMORY_OCTETS + b"\r\n"
        message = self.body(spool, envelope, content[:100], content[100:])
        self.assertIsNone(message.body)
        work = self.resultOf(spool.stage(envelope, message, makeAddressees("a@b.example")))
        spool.release(work, {})
        with work.message.open() as file:
            self.assertEqual(file.read(), content)
        self.assertEqual(len(os.listdir(os.path.join(self.directory, "bodies"))), 1)
        self.resultOf(spool.record(work, {work.addressees[0]: Remove()}))
        self.resultOf(spool.waiting())
        self.assertEqual(os.listdir(os.path.join(self.directory, "bodies")), [])

    def test_largeAborted(self) -> None:
        """The file of a message that was not wanted is removed."""
        spool = self.makeSpool()
        writer = spool.newBody(1)
        writer.write(b"x" * (MEMORY_OCTETS + 1))
        self.resultOf(writer.finish())
        writer.abort()
        writer.abort()
        self.assertEqual(os.listdir(os.path.join(self.directory, "bodies")), [])

    def test_sameNumberLarge(self) -> None:
        """The content of a message is never replaced by another's, nor removed with it."""
        spool, envelope = self.makeSpool(), makeEnvelope()
        first = self.body(spool, envelope, b"x" * MEMORY_OCTETS + b"\r\n")
        work = self.resultOf(spool.stage(envelope, first, makeAddressees("a@b.example")))
        writer = spool.newBody(envelope.transaction)
        writer.write(b"y" * MEMORY_OCTETS + b"\r\n")
        second = self.resultOf(writer.finish())
        failure = self.resultOf(spool.stage(envelope, second, makeAddressees("c@d.example")))
        failure.trap(SpoolError)
        writer.abort()
        self.resultOf(spool.stage(envelope, first, makeAddressees("c@d.example"))).trap(SpoolError)
        with work.message.open() as file:
            self.assertEqual(file.read(1), b"x")
        names = os.listdir(os.path.join(self.directory, "bodies"))
        self.assertEqual(names, [envelope.id])

    def test_notStaged(self) -> None:
        """Of a large message that could not be staged nothing stays; of a notice neither."""
        spool, envelope = self.makeSpool(), makeEnvelope()
        message = self.body(spool, envelope, b"x" * MEMORY_OCTETS + b"\r\n")
        self.patch(diskspace, "lack", lambda directory: "full")
        failure = self.resultOf(spool.stage(envelope, message, makeAddressees("a@b.example")))
        failure.trap(SpoolError)
        self.assertEqual(os.listdir(os.path.join(self.directory, "bodies")), [])

    def test_overtaken(self) -> None:
        """A large notice that is not true any longer leaves nothing behind."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@b.example")
        self.resultOf(spool.record(work, {work.addressees[0]: Remove()}))
        self.resultOf(spool.waiting())
        envelope = makeEnvelope()
        message = self.body(spool, envelope, b"x" * MEMORY_OCTETS + b"\r\n")
        notice = (envelope, message, makeAddressees("s@c.example"))
        done = spool.record(work, {work.addressees[0]: DelayNotified()}, [notice])
        self.resultOf(done).trap(Overtaken)
        self.assertEqual(os.listdir(os.path.join(self.directory, "bodies")), [])

    def test_partDelivered(self) -> None:
        """A part of a message that is delivered does not take the rest with it."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@b.example", "c@b.example")
        part = attrs.evolve(work, addressees=work.addressees[:1], whole=False)
        self.resultOf(spool.record(part, {part.addressees[0]: Remove()}))
        self.assertEqual(self.resultOf(spool.waiting()), (1, 1))

    def test_noOutcome(self) -> None:
        """A recipient of which nothing was said stays."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@b.example", "c@b.example")
        self.resultOf(spool.record(work, {work.addressees[0]: Remove()}))
        self.assertEqual(self.resultOf(spool.waiting()), (1, 1))

    def deliveredWithNotice(self, size: int) -> list[str]:
        """
        Record a delivery together with a notice of so many octets.

        @return: the files of contents, with the notice's called C{notice}.
        """
        spool = self.makeSpool()
        work = self.owned(spool, "a@b.example")
        envelope = makeEnvelope()
        notice = (envelope, self.body(spool, envelope, b"x" * size), makeAddressees("s@c.test"))
        (told,) = self.resultOf(spool.record(work, {work.addressees[0]: Remove()}, [notice]))
        self.assertEqual(told.envelope, envelope)
        self.assertFalse(str(ownMessage(told.message).path).endswith(PART))
        self.assertEqual(self.resultOf(spool.waiting()), (1, 1))
        self.assertNotIn(envelope.transaction, spool._incoming)
        names = os.listdir(os.path.join(self.directory, "bodies"))
        return ["notice" if name == envelope.id else name for name in names]

    def test_deliveredWithNotice(self) -> None:
        """A notice of a delivery is there, too, and is not coming in any longer."""
        self.assertEqual(self.deliveredWithNotice(10), [])

    def test_deliveredWithLargeNotice(self) -> None:
        """A large one has its file."""
        self.assertEqual(self.deliveredWithNotice(MEMORY_OCTETS + 1), ["notice"])

    def test_largeWithRest(self) -> None:
        """A large content stays as long as a recipient waits for it, and then goes."""
        spool, envelope = self.makeSpool(), makeEnvelope()
        message = self.body(spool, envelope, b"x" * MEMORY_OCTETS + b"\r\n")
        addressees = makeAddressees("a@b.example", "c@b.example")
        work = self.resultOf(spool.stage(envelope, message, addressees))
        spool.release(work, {})
        for addressee, left in zip(work.addressees, ([envelope.id], []), strict=True):
            part = attrs.evolve(work, addressees=(addressee,), whole=False)
            self.resultOf(spool.record(part, {addressee: Remove()}))
            self.assertEqual(os.listdir(os.path.join(self.directory, "bodies")), left)

    def test_damagedLarge(self) -> None:
        """A content that is not what came in is not delivered, and set aside with its message."""
        spool, envelope = self.makeSpool(), makeEnvelope()
        message = self.body(spool, envelope, b"x" * MEMORY_OCTETS + b"\r\n")
        work = self.resultOf(spool.stage(envelope, message, makeAddressees("a@b.example")))
        self.assertNotIn(envelope.transaction, spool._incoming)
        spool.release(work, {})
        self.resultOf(spool.record(work, {work.addressees[0]: self.waits(seconds=0.0)}))
        with open(spool.store.files.body(envelope.transaction), "r+b") as file:
            file.write(b"y")
        (again,) = self.claimed(spool)
        checked = spool.check(again)
        assert checked is not None
        self.resultOf(checked).trap(SpoolError)
        self.assertEqual(os.listdir(os.path.join(self.directory, "bodies")), [])
        self.assertEqual(os.listdir(os.path.join(self.directory, "damaged")), [envelope.id])
        status = self.resultOf(spool.store.run(lambda db: db.execute(STATUS).fetchall()))
        self.assertEqual(status, [(DAMAGED,)])

    def test_incomingEnds(self) -> None:
        """What has its row is not coming in any longer."""
        spool = self.makeSpool()
        work = self.staged(spool, "a@b.example")
        self.assertNotIn(work.envelope.transaction, spool._incoming)

    def test_incomingFromTheBegin(self) -> None:
        """A content is coming in from its begin until it has its row, or is not wanted."""
        spool = self.makeSpool()
        writer = spool.newBody(7)
        self.assertIn(7, spool._incoming)
        writer.abort()
        self.assertNotIn(7, spool._incoming)

    def test_renewedByOwner(self) -> None:
        """A lease that is another one's by now is not renewed."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@b.example")
        sql = "UPDATE recipients SET owner = 'another', due = 7"
        self.resultOf(spool.store.run(lambda db: db.execute(sql).rowcount))
        spool.renew([work])
        due = self.resultOf(
            spool.store.run(lambda db: db.execute("SELECT due FROM recipients").fetchall())
        )
        self.assertEqual(due, [(7.0,)])

    def test_claimWritesAgain(self) -> None:
        """What could not be written is written before more is handed out."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@b.example")
        self.resultOf(spool.waiting())
        with unittest.mock.patch(WRITE, side_effect=SpoolError("full")):
            spool.abandon(work)
            self.assertEqual(self.resultOf(spool.waiting()), (1, 1))
        self.claimed(spool)
        self.assertEqual(self.resultOf(spool.waiting()), (0, 0))

    def test_claimAfterDelivered(self) -> None:
        """What has just been delivered is not handed out again, though its lease is over."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@b.example")
        self.resultOf(spool.waiting())
        self.clock.advance(LEASE_SECONDS + 1)
        self.resultOf(spool.record(work, {work.addressees[0]: Remove()}))
        self.assertEqual(self.claimed(spool), [])

    def test_recordAfterDelivered(self) -> None:
        """No notice is stored about what was delivered just before."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@b.example")
        self.resultOf(spool.waiting())
        self.resultOf(spool.record(work, {work.addressees[0]: Remove()}))
        envelope = makeEnvelope()
        notice = (envelope, self.body(spool, envelope, b"x\r\n"), makeAddressees("s@c.example"))
        done = spool.record(work, {work.addressees[0]: DelayNotified()}, [notice])
        self.resultOf(done).trap(Overtaken)
        self.assertEqual(self.resultOf(spool.waiting()), (0, 0))

    def test_writtenAtTheEnd(self) -> None:
        """What could not be written is tried once more at the end: it is not delivered again."""
        spool = self.makeSpool()
        work = self.owned(spool, "a@b.example")
        self.resultOf(spool.waiting())
        with unittest.mock.patch(WRITE, side_effect=SpoolError("full")):
            self.resultOf(spool.record(work, {work.addressees[0]: Remove()}))
            self.assertEqual(self.resultOf(spool.waiting()), (1, 1))
        self.assertEqual(self.claimed(self.reopen(spool)), [])

    def test_sameNumber(self) -> None:
        """A message that cannot be inserted fails alone, with a SpoolError."""
        spool = self.makeSpool()
        work = self.staged(spool, "a@b.example")
        failure = self.resultOf(
            spool.stage(work.envelope, work.message, makeAddressees("c@d.example"))
        )
        failure.trap(SpoolError)
        self.assertEqual(self.resultOf(spool.waiting()), (1, 1))

    def restarted(self, wall: float, seconds: float = 0.0) -> SqliteSpool:
        """
        The next process, at another time of day.
        """
        self.reactor.advance(seconds)
        spool = SqliteSpool(self.directory, self.reactor, self.inThread, lambda: wall)
        self.assertIsNone(self.reactor.wait(spool.open()))
        self.addCleanup(lambda: spool.closed or self.reactor.wait(spool.close()))
        return spool

    def test_identity(self) -> None:
        """Its number stays the same in the next process, and messages that wait keep it."""
        spool = self.makeSpool()
        before = spool.identity
        envelope = attrs.evolve(makeEnvelope(), spool=before)
        message = self.body(spool, envelope, b"Subject: x\r\n\r\n")
        self.resultOf(spool.stage(envelope, message, makeAddressees("a@b.example")))
        self.reactor.wait(spool.close())
        after = self.restarted(1e9)
        self.assertEqual(after.identity, before)
        (work,) = self.claimed(after)
        self.assertEqual(work.envelope.uniqueId, envelope.uniqueId)

    def test_clockSet(self) -> None:
        """A clock that is set, by hours or years, expires nothing early and holds up nothing."""
        spool = self.makeSpool()
        self.reactor.wait(spool.close())
        for jump in (0.0, 7200.0, -7200.0, 1e9, -1e9):
            spool = self.restarted(2e9)
            work = self.queued(spool, "a@b.example", expireSeconds=86400.0, seconds=600.0)
            self.reactor.wait(spool.close())
            spool = self.restarted(2e9 + jump)
            (again,) = self.claimed(spool)  # tried again at the start
            self.assertLessEqual(again.ageSeconds, 3600.0)
            self.resultOf(spool.record(again, {again.addressees[0]: self.waits(seconds=600.0)}))
            self.assertEqual(self.resultOf(spool.notices(10)), [])
            self.reactor.advance(601)
            (again,) = self.claimed(spool)
            self.assertEqual(again.envelope, work.envelope)
            self.resultOf(spool.record(again, {again.addressees[0]: Remove()}))
            self.reactor.wait(spool.close())

    def test_clockAtTheEnd(self) -> None:
        """The next process goes on from the end of the one before, wherever its clock stands."""
        before = self.makeSpool()
        self.reactor.wait(before.close())
        spool = self.restarted(2e9)
        began = spool.store.clock.now()
        self.reactor.advance(30)
        self.reactor.wait(spool.close())
        self.assertEqual(self.restarted(2e9).store.clock.now(), began + 30)

    def test_expiresWhileDown(self) -> None:
        """Short breaks count, so that what is given up after days is given up after days."""
        spool = self.makeSpool()
        self.reactor.wait(spool.close())
        wall = 2e9
        spool = self.restarted(wall)
        self.queued(spool, "a@b.example", expireSeconds=10000.0, seconds=50000.0)
        for _ in range(3):
            self.reactor.wait(spool.close())
            wall += 3599.0
            spool = self.restarted(wall)
        works = self.resultOf(spool.notices(10))
        self.assertEqual([a.action for work in works for a in work.addressees], ["expired"])

    def test_plans(self) -> None:
        """What is due is found by an index, whatever else waits: nothing is read whole."""
        spool = self.makeSpool()
        asked: list[str] = []

        def traced(db: sqlite3.Connection, callback: Any) -> None:
            db.set_trace_callback(callback)

        self.queued(spool, "a@b.example", seconds=1.0, warnSeconds=1.0)
        self.clock.advance(2)
        self.resultOf(spool.store.run(traced, asked.append))
        self.claimed(spool)
        self.resultOf(spool.notices(10))
        self.resultOf(spool.store.run(traced, None))
        ours = ("SELECT", "UPDATE recipients")
        selects = [sql for sql in asked if sql.startswith(ours) and "COUNT(*)" not in sql]
        self.assertGreater(len(selects), 5)

        def plan(db: sqlite3.Connection, sql: str) -> str:
            return str([row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}")])

        for sql in selects:
            found = self.resultOf(spool.store.run(plan, sql))
            self.assertNotIn("SCAN", found, sql)
            self.assertNotIn("TEMP B-TREE", found, sql)
            if "message = " in sql:
                self.assertIn("PRIMARY KEY (message=?", found, sql)

    def test_trimmed(self) -> None:
        """Of too many notes those that expire first go; the history is kept short."""
        spool = self.makeSpool()
        self.patch(upkeep, "NOTES_ROWS", 3)
        self.patch(upkeep, "HISTORY_ROWS", 2)
        for number in range(6):
            spool.note(str(number), "x", 100.0 + number)
        for _ in range(4):
            self.queued(spool, "a@b.example")
        self.assertFalse(self.resultOf(spool.store.run(upkeep.trimNotes, spool.store.clock.now())))
        self.assertFalse(self.resultOf(spool.store.run(upkeep.trimHistory)))
        self.assertEqual(sorted(self.resultOf(spool.notes())), ["3", "4", "5"])
        count = self.resultOf(
            spool.store.run(lambda db: db.execute("SELECT COUNT(*) FROM history").fetchone()[0])
        )
        self.assertEqual(count, 2)

    def test_beforeOpen(self) -> None:
        """Mail that comes before the spool is open waits, and is not taken for a dead process's."""
        spool = self.makeSpool()
        self.owned(spool, "a@b.example")
        self.reactor.wait(spool.close())
        spool = SqliteSpool(self.directory, self.reactor, self.inThread)
        envelope = makeEnvelope()
        message = self.body(spool, envelope, b"x\r\n")
        staged = spool.stage(envelope, message, makeAddressees("c@d.example"))
        opened = spool.open()
        self.assertNoResult(staged)
        self.reactor.wait(opened)
        self.addCleanup(lambda: self.reactor.wait(spool.close()))
        work = self.reactor.wait(staged)
        spool.release(work, {})
        (other,) = self.claimed(spool)
        self.assertEqual(str(other.addressees[0]), "a@b.example")

    def large(self, spool: SqliteSpool, address: str) -> str:
        """
        @return: the file of a message that is ours.
        """
        envelope = makeEnvelope()
        message = self.body(spool, envelope, b"x" * MEMORY_OCTETS, b"\r\n")
        work = self.resultOf(spool.stage(envelope, message, makeAddressees(address)))
        spool.release(work, {})
        return str(message.path)

    def test_unreadable(self) -> None:
        """A row that cannot be read is named twice: when it is found, and when it is given up."""
        spool = self.makeSpool()
        self.queued(spool, "a@b.example", seconds=1.0)
        self.resultOf(
            spool.store.run(lambda db: db.execute("UPDATE recipients SET recipient = '?'") and None)
        )
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)

        def said() -> int:
            return sum(one.get("event") == "damaged" for one in events)

        self.clock.advance(2)
        self.assertEqual(self.claimed(spool), [])
        self.assertEqual(said(), 1)
        for _ in range(5):
            self.clock.advance(KEEP_SECONDS + 1)
            self.assertEqual(self.resultOf(spool.notices(10)), [])
        self.assertEqual(said(), 2)
        self.assertEqual(self.resultOf(spool.waiting()), (1, 1))

    def test_noDescriptors(self) -> None:
        """A content that cannot be read now (no more files may be open) is not damaged."""
        spool = self.makeSpool()
        self.large(spool, "a@b.example")
        for where in ("claim", "check"):
            spool = self.reopen(spool)
            (work,) = self.claimed(spool) if where == "check" else (None,)
            full = OSError(errno.EMFILE, "Too many open files")

            def opening(*args: Any, full: OSError = full, **more: Any) -> Any:
                raise full

            with unittest.mock.patch("builtins.open", opening):
                if work is None:
                    self.assertEqual(self.claimed(spool), [])
                else:
                    check = spool.check(work)
                    assert check is not None
                    failure = self.resultOf(check)
                    self.assertIn("Too many open files", failure.getErrorMessage())
            self.clock.advance(LEASE_SECONDS + 1)
            (again,) = self.claimed(spool)
            check = spool.check(again)
            assert check is not None
            self.assertIsNone(self.resultOf(check))

    def test_noDatabase(self) -> None:
        """
        A database that is not there at a start: large contents are kept for
        when it is put back.
        """
        spool = self.makeSpool()
        path = self.large(spool, "a@b.example")
        self.reactor.wait(spool.close())
        os.rename(spool.store.files.database, f"{spool.store.files.database}.away")
        spool = self.opened()
        self.resultOf(spool.waiting())
        aside = os.path.join(self.directory, "damaged", os.path.basename(path))
        self.assertTrue(os.path.exists(aside))
        self.reactor.wait(spool.close())
        os.rename(f"{spool.store.files.database}.away", spool.store.files.database)
        os.rename(aside, path)
        os.unlink(spool.store.files.mark)  # otherwise it would not fit
        (work,) = self.claimed(self.opened())
        self.assertEqual(work.message.size, MEMORY_OCTETS + 2)

    def test_halfSalvaged(self) -> None:
        """The content of a message of which nothing else can be read is kept."""
        spool = self.makeSpool()
        paths = [self.large(spool, f"{name}@b.example") for name in "abcd"]
        self.reactor.wait(spool.close())
        numbers = [parseId(os.path.basename(path)) for path in paths]
        with sqlite3.connect(spool.store.files.database) as db:
            db.execute("DELETE FROM messages WHERE id = ?", (numbers[0],))
            db.execute("DELETE FROM recipients WHERE message IN (?, ?)", (numbers[1], numbers[3]))
        db.close()
        aside = os.path.join(self.directory, "damaged")
        text = repair.salvage(spool.store.files, 0.0, {numbers[3]})
        self.assertIn("1 contents", text)
        self.assertIn(f"2 without their recipients: {os.path.basename(paths[1])}", text)
        found = [os.path.exists(path) for path in paths]
        self.assertEqual(found, [False, True, True, True])
        self.assertIn(os.path.basename(paths[0]), os.listdir(aside))

    def test_afterClose(self) -> None:
        """A closed spool takes nothing."""
        spool = self.makeSpool()
        self.reactor.wait(spool.close())
        envelope = makeEnvelope()
        message = self.body(spool, envelope, b"x\r\n")
        failure = self.resultOf(spool.stage(envelope, message, makeAddressees("a@b.example")))
        failure.trap(SpoolError)


class CrashTests(SynchronousTestCase):
    """
    A process that dies.
    """

    PROGRAM = """
import os, sys
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from deferrals.spool.sqlite.spool import SqliteSpool
from deferrals.testing import makeAddressees, makeEnvelope
spool = SqliteSpool(sys.argv[1], reactor, deferToThread)
def begin(_):
    envelope = makeEnvelope()
    writer = spool.newBody(envelope.transaction)
    writer.write(b"Subject: x\\r\\n\\r\\n" + b"x" * int(sys.argv[2]) + b"\\r\\n")
    d = writer.finish()
    d.addCallback(lambda message: spool.stage(envelope, message, makeAddressees("a@b.example")))
    d.addCallback(lambda work: os._exit(7))
spool.open().addCallback(begin)
reactor.run()
"""

    @requirement("D-23")
    def test_staged(self) -> None:
        """What was durable before the process died is there afterwards, whole."""
        for size in (10, MEMORY_OCTETS + 10):
            directory = self.mktemp()
            status = subprocess.run(
                [sys.executable, "-c", self.PROGRAM, directory, str(size)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                timeout=60,
                check=False,
            ).returncode
            self.assertEqual(status, 7)
            clock = PumpedReactor()
            clock.advance(2e9)
            spool = SqliteSpool(directory, clock, SqliteSpoolTests.inThread.__get__(self))
            clock.wait(spool.open())
            (work,) = clock.wait(spool.claim(10, {}, 10))
            with work.message.open() as file:
                self.assertEqual(len(file.read()), work.message.size)
            clock.wait(spool.close())
