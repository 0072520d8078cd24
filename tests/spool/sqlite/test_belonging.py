"""
Whether what lies in a spool's directory belongs together.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import SpoolError
from deferrals.interfaces import Work
from deferrals.spool.message import MEMORY_OCTETS, PART, Message
from deferrals.spool.sqlite import housekeeping
from deferrals.spool.sqlite.backup import backUp
from deferrals.spool.sqlite.belonging import judge
from deferrals.spool.sqlite.database import connect
from deferrals.spool.sqlite.files import SpoolFiles
from deferrals.spool.sqlite.pages import readLog
from deferrals.spool.sqlite.queue import SqliteQueue
from deferrals.spool.sqlite.spool import SqliteSpool
from deferrals.testing import makeAddressees, makeEnvelope
from tests.reactors import PumpedReactor


class SpoolCase(SynchronousTestCase):
    """
    A spool, and directories as a process that was killed leaves them.
    """

    def setUp(self) -> None:
        self.reactor = PumpedReactor()
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)
        self.spool = self.opened(os.path.abspath(self.mktemp()))

    def opened(self, directory: str) -> SqliteSpool:
        spool = SqliteSpool(directory, self.reactor, self.inThread)
        self.assertIsNone(self.reactor.wait(spool.open()))
        self.addCleanup(lambda: spool.closed or self.reactor.wait(spool.close()))
        return spool

    def inThread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        d: Deferred[Any] = Deferred()
        try:
            d.callback(function(*args))
        except Exception:
            d.errback()
        return d

    def staged(self, spool: SqliteSpool | None = None, size: int = 10) -> Work:
        spool = spool or self.spool
        envelope = makeEnvelope()
        writer = spool.newBody(envelope.transaction)
        writer.write(b"x" * size + b"\r\n")
        message = self.reactor.wait(writer.finish())
        work: Work = self.reactor.wait(
            spool.stage(envelope, message, makeAddressees("a@b.example"))
        )
        return work

    def killed(self) -> SpoolFiles:
        """
        @return: what a process that is killed now leaves.
        """
        files = SpoolFiles(os.path.abspath(self.mktemp()))
        with contextlib.nullcontext() if self.spool.closed else self.still():
            shutil.copytree(self.spool.store.files.directory, files.directory)
        return files

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """
        The database's thread writes nothing meanwhile: what is copied is of one moment.
        """
        here, goOn = threading.Event(), threading.Event()

        def wait(db: sqlite3.Connection) -> None:
            here.set()
            goOn.wait()

        self.spool.store.run(wait)
        try:
            self.assertTrue(here.wait(30))
            yield
        finally:
            goOn.set()

    def queue(self) -> SqliteQueue:
        return SqliteQueue(self.spool.store, self.inThread)

    def ids(self, files: SpoolFiles) -> set[str]:
        """
        Open the spool: which messages has it?
        """
        spool = self.opened(files.directory)
        found = self.reactor.wait(
            spool.store.run(lambda db: db.execute("SELECT id FROM messages").fetchall())
        )
        self.rounds(spool)
        self.reactor.wait(spool.close())
        return {number for (number,) in found}

    def rounds(self, spool: SqliteSpool | None = None) -> None:
        """
        Housekeeping comes to its end: each of its steps waits for the thread of its own
        spool, which no other one's says anything of.
        """
        for _ in range(10):
            self.reactor.wait((spool or self.spool).waiting())
            self.reactor.advance(housekeeping.PAUSE_SECONDS)

    def alarms(self) -> list[str]:
        """
        What was said, as it is written.
        """
        return [
            event["log_format"].format_map(event)
            for event in self.events
            if event.get("log_level") in (LogLevel.critical, LogLevel.error)
        ]

    def alarm(self, words: str) -> None:
        """
        That was said, and nothing else.
        """
        (said,) = self.alarms()
        self.assertIn(words, said)


class BelongingTests(SpoolCase):
    """
    Such directories, with something changed.
    """

    def test_databaseMissed(self) -> None:
        """A directory that has had a database misses it, though nothing else is left."""
        files = self.spool.store.files
        self.reactor.wait(self.spool.close())
        os.unlink(files.database)
        self.spool = self.opened(files.directory)
        self.alarm("is missing")

    def test_databaseUnseen(self) -> None:
        """One that cannot be looked at now is not missing: nothing is begun anew."""
        self.staged(size=2 * MEMORY_OCTETS)
        files = self.spool.store.files
        self.reactor.wait(self.spool.close())
        os.rename(files.database, f"{files.database}.away")
        os.symlink(files.database, files.database)  # ELOOP
        spool = SqliteSpool(files.directory, self.reactor, self.inThread)
        self.assertIsInstance(self.reactor.wait(spool.open()).value, SpoolError)
        self.assertEqual(files.namesAside(), [])
        os.rename(f"{files.database}.away", files.database)
        self.spool = self.opened(files.directory)
        self.assertEqual(self.alarms(), [])

    def test_logAlone(self) -> None:
        """A log without anything else may have had mail in it."""
        files = SpoolFiles(os.path.abspath(self.mktemp()))
        files.make()
        with open(files.log, "wb") as file:
            file.write(b"x" * 100)
        judge(files, 0.0, ())
        self.alarm("is missing")
        self.assertFalse(os.path.exists(files.log))

    def test_incoming(self) -> None:
        """What is coming in stays where it is."""
        files = SpoolFiles(os.path.abspath(self.mktemp()))
        files.make()
        for number in (7, 8):
            with open(files.body(number), "wb") as file:
                file.write(b"x")
        judge(files, 0.0, {7})
        self.assertEqual(files.bodyNumbers(), [7])
        self.alarm("with 1 contents")

    def test_killed(self) -> None:
        """Whenever a process is killed, what it leaves fits."""
        works, kept = [], []
        for number in range(8):
            works.append(self.staged(size=MEMORY_OCTETS if number % 2 else 10))
            kept.append((self.killed(), {work.envelope.transaction for work in works}))
            if number % 3 == 2:
                self.spool.abandon(works.pop(0))
                self.reactor.wait(self.spool.waiting())
                self.reactor.advance(housekeeping.EVERY_SECONDS)
                self.rounds()
        for files, numbers in kept:
            self.assertEqual(self.ids(files), numbers)
            self.assertEqual(files.namesAside(), [])
        self.assertEqual(self.alarms(), [])

    def test_closed(self) -> None:
        """So does what one that was closed leaves; again and again."""
        self.staged()
        self.reactor.wait(self.spool.close())
        for _ in range(3):
            self.spool = self.opened(self.spool.store.files.directory)
            self.assertEqual(self.reactor.wait(self.spool.waiting()), (1, 1))
            self.reactor.wait(self.spool.close())
        self.spool = self.opened(self.spool.store.files.directory)
        self.assertEqual(self.alarms(), [])

    def test_leaving(self) -> None:
        """The file of a message that had left is removed, whenever the process died."""
        work = self.staged(size=MEMORY_OCTETS)
        path = self.spool.store.files.body(work.envelope.transaction)
        self.reactor.wait(self.spool._housekeeping.stop())  # it would remove it, too
        self.patch(self.spool, "_removeFile", lambda path: None)
        self.spool.abandon(work)
        self.reactor.wait(self.spool.waiting())
        self.assertTrue(os.path.exists(path))
        files = self.killed()
        self.assertEqual(self.ids(files), set())
        self.assertEqual((files.bodyNumbers(), files.namesAside()), ([], []))
        self.assertEqual(self.alarms(), [])

    def test_unfinished(self) -> None:
        """Content that was coming in never was ours."""
        files = self.killed()
        with open(f"{files.body(7)}{PART}", "w") as file:
            file.write("x")
        self.assertEqual(self.ids(files), set())
        self.assertEqual((files.unfinished(), files.namesAside()), ([], []))
        self.assertEqual(self.alarms(), [])

    def test_beforeRow(self) -> None:
        """A process that is killed before a content's row leaves nothing to be done."""
        self.patch(self.spool, "_insert", lambda insert: insert.done)
        envelope = makeEnvelope()
        writer = self.spool.newBody(envelope.transaction)
        writer.write(b"x" * MEMORY_OCTETS + b"\r\n")
        message = self.reactor.wait(writer.finish())
        staging = self.spool.stage(envelope, message, makeAddressees("a@b.example"))
        self.addCleanup(staging.addErrback, lambda _: None)
        files = self.killed()
        self.assertEqual(files.unfinished(), [envelope.transaction])
        unsure = self.killed()
        self.assertEqual(self.ids(files), set())
        self.assertEqual((files.unfinished(), files.namesAside()), ([], []))
        self.assertEqual(self.alarms(), [])
        # But where rows may be missing it is kept.
        os.unlink(unsure.mark)
        self.ids(unsure)
        self.assertEqual(unsure.namesAside(), [envelope.id])

    def test_afterRow(self) -> None:
        """
        A process that is killed between a content's row and its name leaves nothing
        to be done: the content is read by either name, and gets its own.
        """
        self.patch(Message, "giveName", lambda message: None)
        work = self.staged(size=MEMORY_OCTETS)
        files, number = self.killed(), work.envelope.transaction
        self.assertEqual((files.unfinished(), files.bodyNumbers()), ([number], []))
        copy = SpoolFiles(os.path.abspath(self.mktemp()))
        self.assertEqual(backUp(files, copy.directory), 1)
        self.assertEqual(copy.bodyNumbers(), [number])
        spool = self.opened(files.directory)
        problems, _, _ = self.reactor.wait(SqliteQueue(spool.store, self.inThread).inspect(None))
        self.assertEqual(problems, [])
        (claimed,) = self.reactor.wait(spool.claim(1, {}, 1))
        self.assertTrue(claimed.message.isIntact())
        self.rounds(spool)
        self.assertEqual((files.unfinished(), files.bodyNumbers()), ([], [number]))
        self.assertTrue(claimed.message.isIntact())
        self.reactor.wait(spool.close())
        self.assertEqual((self.alarms(), files.namesAside()), ([], []))

    def test_unknownContent(self) -> None:
        """Content that no message has may have been acknowledged: it is set aside."""
        files = self.killed()
        with open(files.body(7), "w") as file:
            file.write("x")
        self.ids(files)
        self.assertEqual(files.namesAside(), [os.path.basename(files.body(7))])
        self.alarm("no message has the content of")

    def lost(self, files: SpoolFiles, words: str, *names: str) -> None:
        """
        A database did not fit: a new one is begun, and all else is aside.
        """
        self.assertEqual(self.ids(files), set())
        self.alarm(words)
        name = next(one for one in files.namesAside() if one.startswith("spool-"))
        self.assertLessEqual(set(names), set(os.listdir(os.path.join(files.damaged, name))))

    def test_empty(self) -> None:
        """A database of 0 octets."""
        large = self.staged(size=MEMORY_OCTETS)
        files = self.killed()
        os.truncate(files.database, 0)
        self.lost(files, "is of 0 octets", "spool.sqlite", "spool.sqlite-wal", "mark")
        self.assertIn(os.path.basename(files.body(large.envelope.transaction)), files.namesAside())

    def test_missing(self) -> None:
        """A database that is not there."""
        self.staged()
        files = self.killed()
        os.unlink(files.database)
        self.lost(files, "is missing", "spool.sqlite-wal")

    def test_missingAll(self) -> None:
        """Nothing but contents is there."""
        large = self.staged(size=MEMORY_OCTETS)
        files = self.killed()
        for path in (files.database, files.log, files.mark):
            os.unlink(path)
        self.lost(files, "is missing")
        self.assertIn(os.path.basename(files.body(large.envelope.transaction)), files.namesAside())

    def test_older(self) -> None:
        """An older copy of the database."""
        self.staged()
        self.reactor.wait(self.spool.close())
        older = self.killed()
        self.spool = self.opened(self.spool.store.files.directory)
        self.staged(size=MEMORY_OCTETS)
        files = self.killed()
        os.unlink(files.log)
        shutil.copy(older.database, files.database)
        # Its log is missing, too; what matters is that the database is older.
        self.lost(files, "is older than the directory", "spool.sqlite")

    def test_olderByLess(self) -> None:
        """A copy that was made since the last start, and put back after the end."""
        self.rounds()  # the first one is over
        older = self.killed()
        connect(older.database).close()
        self.staged()
        self.reactor.wait(self.spool.close())
        files = self.killed()
        shutil.copy(older.database, files.database)
        self.lost(files, "is older than the directory", "spool.sqlite")

    def test_olderWithLog(self) -> None:
        """An older copy, with its log."""
        self.staged()
        older = self.killed()
        self.reactor.wait(self.spool.close())
        self.spool = self.opened(self.spool.store.files.directory)
        self.staged()
        files = self.killed()
        for one, other in ((older.database, files.database), (older.log, files.log)):
            shutil.copy(one, other)
        self.ids(files)
        self.assertTrue(self.alarms())
        names = [name for name in files.namesAside() if name.startswith(("spool-", "log-"))]
        self.assertTrue(names)

    def test_another(self) -> None:
        """The database of another spool."""
        self.staged()
        files = self.killed()
        other = self.opened(os.path.abspath(self.mktemp()))
        self.staged(other)
        self.reactor.wait(other.close())
        os.unlink(files.log)
        shutil.copy(other.store.files.database, files.database)
        self.lost(files, "that of another spool", "spool.sqlite")

    def test_noLog(self) -> None:
        """A log that is missing is said; what the database has goes on."""
        first = self.staged()
        self.reactor.advance(housekeeping.EVERY_SECONDS)
        self.rounds()
        large = self.staged(size=MEMORY_OCTETS)
        files = self.killed()
        os.unlink(files.log)
        self.assertEqual(self.ids(files), {first.envelope.transaction})
        self.assertIn("the write-ahead log of", self.alarms()[0])
        name = os.path.basename(files.body(large.envelope.transaction))
        self.assertEqual(files.namesAside(), [name])

    def test_foreignLog(self) -> None:
        """Another one's log is set aside, and not applied."""
        first = self.staged()
        self.reactor.advance(housekeeping.EVERY_SECONDS)
        self.rounds()
        other = self.opened(os.path.abspath(self.mktemp()))
        self.staged(other)
        files = self.killed()
        shutil.copy(other.store.files.log, files.log)
        self.assertEqual(self.ids(files), {first.envelope.transaction})
        self.assertIn("is not the database's", self.alarms()[0])
        (name,) = files.namesAside()
        self.assertIn("spool.sqlite-wal", os.listdir(os.path.join(files.damaged, name)))

    def test_logOfClosed(self) -> None:
        """A log beside a database that was closed is another one's."""
        first = self.staged()
        log = self.killed().log
        self.reactor.wait(self.spool.close())
        files = self.killed()
        shutil.copy(log, files.log)
        self.assertEqual(self.ids(files), {first.envelope.transaction})
        self.alarm("the database was closed")

    def test_damagedLog(self) -> None:
        """What is lost behind a damaged frame is said, and a copy of the log is kept."""
        first = self.staged()
        for _ in range(4):
            self.staged()
        files = self.killed()
        log = readLog(files.log)
        assert log is not None
        ends = [number for number, frame in enumerate(log.frames) if frame.ends]
        with open(files.log, "r+b") as file:
            file.seek(log.frames[ends[-4] + 1].offset)
            file.write(b"damage")
        self.assertIn(first.envelope.transaction, self.ids(files))
        self.alarm("damaged in the middle")
        (name,) = files.namesAside()
        self.assertIn("spool.sqlite-wal", os.listdir(os.path.join(files.damaged, name)))

    def test_unnamed(self) -> None:
        """Where rows are lost, content is kept though it has not got its name."""
        self.reactor.advance(housekeeping.EVERY_SECONDS)
        self.rounds()
        self.patch(Message, "giveName", lambda message: None)
        large = self.staged(size=MEMORY_OCTETS)
        for _ in range(2):
            self.staged()
        for isMissing in (True, False):
            files = self.killed()
            log = readLog(files.log)
            assert log is not None
            starts = [0, *(n + 1 for n, frame in enumerate(log.frames) if frame.ends)]
            if isMissing:
                os.unlink(files.log)
            else:
                with open(files.log, "r+b") as file:
                    file.seek(log.frames[starts[-4]].offset)
                    file.write(b"damage")
            self.assertNotIn(large.envelope.transaction, self.ids(files))
            self.assertIn(large.envelope.id, files.namesAside())

    def test_incomingUnnamed(self) -> None:
        """What is coming in stays, even where rows may be missing."""
        files = self.killed()
        for number in (7, 8):
            with open(files.part(number), "wb") as file:
                file.write(b"x")
        os.unlink(files.mark)
        judge(files, 0.0, {7})
        self.assertEqual(files.unfinished(), [7])
        self.assertEqual(files.namesAside(), [os.path.basename(files.body(8))])

    def test_beginningOfLog(self) -> None:
        """
        Of a log whose beginning is damaged SQLite takes nothing, and writes over it: a
        copy is kept, and what is in it can be taken back.
        """
        self.reactor.advance(housekeeping.EVERY_SECONDS)
        self.rounds()
        works = [self.staged() for _ in range(3)]
        ids = sorted(work.envelope.id for work in works)
        for damage in (b"\xff" * 32, b"\xff" * 4, b"\0" * 20 + b"salt", b"\0" * 5000):
            files = self.killed()
            with open(files.log, "r+b") as file:
                file.seek(damage.rfind(b"\0") + 1 if damage.endswith(b"salt") else 0)
                file.write(damage.lstrip(b"\0") or damage)
            del self.events[:]
            spool = self.opened(files.directory)
            self.assertIn("is damaged at its beginning", self.alarms()[0])
            (name,) = files.namesAside()
            done = self.reactor.wait(
                SqliteQueue(spool.store, self.inThread).rescue("restore", name)
            )
            self.assertEqual(sorted(done["restored"]), ids)
            self.reactor.wait(spool.close())

    def test_garbageLog(self) -> None:
        """A log of which nothing can be read is kept, too."""
        self.reactor.wait(self.spool.close())
        files = self.killed()
        with open(files.log, "wb") as file:
            file.write(b"\0" * 9000)
        self.ids(files)
        self.alarm("damaged: it cannot be read")
        self.assertEqual(len(files.namesAside()), 1)

    def test_tables(self) -> None:
        """A database whose tables are not those that there should be is mended, too."""
        numbers = {self.staged().envelope.transaction for _ in range(3)}
        for damage in (
            "PRAGMA user_version = 0",
            "PRAGMA user_version = 1",
            "PRAGMA user_version = 3",
            "DELETE FROM info",
            "DROP TABLE destinations",
            "DROP TABLE leaving; CREATE TABLE leaving (x)",
        ):
            files = self.killed()
            db = connect(files.database)
            db.executescript(damage)
            db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
            db.close()
            os.unlink(files.mark)
            del self.events[:]
            self.assertEqual(self.ids(files), numbers, damage)
            self.assertIn("3 messages were carried over", "; ".join(self.alarms()))
            (name,) = files.namesAside()
            self.assertIn("spool.sqlite", os.listdir(os.path.join(files.damaged, name)))
            events = [event for event in self.events if event.get("event") == "set-aside"]
            self.assertEqual(len(events), 1)

    def test_died(self) -> None:
        """What a process had set aside when it died is said by the next one."""
        work = self.staged()
        self.reactor.wait(self.spool.close())
        files = self.killed()
        shutil.copy(files.database, f"{files.database}.whole")
        self.assertEqual(self.ids(files), {work.envelope.transaction})
        self.alarm("all that could be read has been carried over")
        self.assertEqual(len(files.namesAside()), 1)

    def test_nowhere(self) -> None:
        """Where nothing can be set aside the spool is not opened, and is let go of."""
        self.staged()
        files = self.killed()
        os.truncate(files.database, 0)
        with open(files.damaged, "w"):
            pass  # no directory can be made there
        spool = SqliteSpool(files.directory, self.reactor, self.inThread)
        failure = self.reactor.wait(spool.open())
        failure.trap(SpoolError)
        self.assertTrue(spool.closed)
        os.unlink(files.damaged)
        self.assertEqual(self.ids(files), set())

    def test_noMark(self) -> None:
        """A spool without a mark is one of an older version: nothing is said."""
        work = self.staged()
        files = self.killed()
        os.unlink(files.mark)
        self.assertEqual(self.ids(files), {work.envelope.transaction})
        self.assertEqual(self.alarms(), [])
        self.assertTrue(os.path.exists(files.mark))

    def test_quiet(self) -> None:
        """A database that was looked at with other programs is still ours."""
        work = self.staged()
        files = self.killed()
        db = sqlite3.connect(f"file:{files.database}?mode=ro", uri=True)
        db.execute("SELECT * FROM messages").fetchall()
        db.close()
        self.assertEqual(self.ids(files), {work.envelope.transaction})
        self.assertEqual(self.alarms(), [])
