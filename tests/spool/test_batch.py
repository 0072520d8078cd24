"""
What one turn of the reactor asks of the spool.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.model.status import Status
from deferrals.spool.batch import (
    AGAIN_SECONDS,
    RELEASE_SECONDS,
    BatchWriter,
    WriteBatch,
)
from deferrals.spool.rows import RELEASED, STAGED
from deferrals.spool.sqlite import diskspace
from deferrals.spool.sqlite.writing import apply, write
from tests.databases import DatabaseCase, insert


class WriteBatchTests(DatabaseCase):
    """
    L{WriteBatch}.
    """

    def test_empty(self) -> None:
        """A batch is true when there is something to write."""
        self.assertFalse(WriteBatch())
        for batch in (
            WriteBatch(inserts=[insert("a@b.example")]),
            WriteBatch(released={1: None}),
            WriteBatch(removed={1: None}),
            WriteBatch(notes={"a": None}),
        ):
            self.assertTrue(batch)

    def test_parts(self) -> None:
        """Each part is one message, or one note; together they are the batch."""
        batch = WriteBatch(
            inserts=[insert("a@b.example"), insert("a@b.example")],
            released={1: None, 2: None},
            removed={3: "file", 4: None},
            notes={"a": None, "b": ("1", 2.0)},
        )
        parts, whole = list(batch.parts()), WriteBatch()
        self.assertEqual(len(parts), 8)
        for part in parts:
            self.assertEqual(len(list(part.parts())), 1)
            whole.add(part)
            whole.inserts += part.inserts
        self.assertEqual(whole.inserts, batch.inserts)
        self.assertEqual(whole.released, batch.released)
        self.assertEqual(whole.removed, batch.removed)
        self.assertEqual(whole.notes, batch.notes)


class BatchWriterTests(DatabaseCase):
    """
    L{BatchWriter}, on a database that does what is asked of it when it is told
    to.
    """

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.asked: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.lack = ""
        self.patch(diskspace, "lack", lambda directory: self.lack)
        self.written: list[WriteBatch] = []
        self.status = Status()
        self.writer = BatchWriter(self.write, self.clock, self.written.append, self.status)

    def write(self, batch: WriteBatch) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.asked.append((lambda: write(self.db, batch, "spool"), done))
        return done

    def work(self, *, fails: bool = False, error: SpoolError | None = None) -> None:
        """
        Do the next thing that is asked, or fail at it.
        """
        function, done = self.asked.pop(0)
        if fails:
            done.errback(error or SpoolError("no space left"))
            return
        try:
            self.db.execute("BEGIN")
            done.callback(function())
        except (SpoolError, sqlite3.Error):
            failure = Failure()
            self.db.execute("ROLLBACK")
            done.errback(failure)
        else:
            self.db.execute("COMMIT")

    def note(self, value: str) -> None:
        self.writer.next().notes["x"] = (value, 100.0)
        self.clock.advance(0)

    def noted(self) -> list[Any]:
        return [value for (value,) in self.all("SELECT value FROM notes")]

    def test_turn(self) -> None:
        """What comes in one turn is written once, after it."""
        first, second = insert("a@b.example"), insert("c@d.example")
        self.writer.next().inserts.append(first)
        self.writer.next().inserts.append(second)
        self.assertEqual(self.asked, [])
        self.clock.advance(0)
        self.assertEqual(len(self.asked), 1)
        self.assertNoResult(first.done)
        self.work()
        self.assertIs(self.successResultOf(first.done), first.work)
        self.assertIs(self.successResultOf(second.done), second.work)
        self.assertEqual([batch.inserts for batch in self.written], [[first, second]])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_released(self) -> None:
        """What leaves at once is not written as released before; what stays is, once."""
        gone, kept = self.add("a@b.example", state=STAGED), self.add("c@d.example", state=STAGED)
        for number in (gone, kept):
            self.writer.release(number)
        self.writer.remove(gone, None)
        self.clock.advance(0)
        self.work()
        self.assertEqual(self.written[0].released, {})
        self.clock.advance(RELEASE_SECONDS)
        self.clock.advance(0)
        self.work()
        self.assertEqual(self.written[1].released, {kept: None})
        self.assertEqual(self.all("SELECT id, state FROM messages"), [(kept, RELEASED)])
        self.assertEqual((self.asked, self.clock.getDelayedCalls()), ([], []))

    def test_releasedAtClose(self) -> None:
        """At the end, what stays is written as released."""
        number = self.add("a@b.example", state=STAGED)
        self.writer.release(number)
        self.writer.close()
        self.work()
        self.assertEqual(self.all("SELECT state FROM messages"), [(RELEASED,)])

    def test_counted(self) -> None:
        """Of what was written it is counted how long it took, and of how many messages."""
        for one in (insert("a@b.example"), insert("c@d.example"), insert("e@f.example")):
            self.writer.next().inserts.append(one)
        self.clock.advance(0)
        self.clock.advance(0.02)
        self.work()
        (seconds,) = self.status.measured("commit seconds").values()
        (messages,) = self.status.measured("commit messages").values()
        self.assertEqual((sum(seconds.counts), seconds.total), (1, 0.02))
        self.assertEqual((messages.counts[:4], messages.total), ([0, 0, 1, 0], 3))
        failing = insert("g@h.example")
        self.writer.next().inserts.append(failing)
        self.clock.advance(0)
        self.work(fails=True)
        self.failureResultOf(failing.done, SpoolError)
        self.assertEqual(sum(seconds.counts), 1)

    def test_alone(self) -> None:
        """A message that cannot be staged fails for its caller, and takes no other with it."""
        good, bad = insert("a@b.example"), insert("c@d.example")
        apply(WriteBatch(inserts=[bad]), self.db)
        self.writer.next().inserts += [good, bad]
        self.writer.flush()
        for _ in range(3):
            self.work()
        self.assertIs(self.successResultOf(good.done), good.work)
        self.failureResultOf(bad.done, sqlite3.IntegrityError)
        self.assertEqual(self.asked, [])

    def test_noSpace(self) -> None:
        """Where no new message can be taken, what leaves the spool still can."""
        kept = insert("a@b.example")
        apply(WriteBatch(inserts=[kept]), self.db)
        self.lack = "no space left"
        new = insert("c@d.example")
        batch = self.writer.next()
        batch.inserts.append(new)
        batch.removed[kept.number] = None
        self.writer.flush()
        for _ in range(3):
            self.work()
        self.failureResultOf(new.done, SpoolError)
        self.assertEqual(self.all("SELECT id FROM messages"), [])

    def test_away(self) -> None:
        """
        While the database is away a message fails for its sender; what leaves is written
        when it is back, and no message is tried by itself.
        """
        number = self.add("a@b.example")
        new = insert("c@d.example")
        batch = self.writer.next()
        batch.inserts.append(new)
        batch.removed[number] = None
        self.writer.flush()
        self.work(fails=True, error=StoreAway("away"))
        self.failureResultOf(new.done, StoreAway)
        self.assertEqual(self.asked, [])
        self.writer.retry()
        self.work()
        self.assertEqual(self.all("SELECT id FROM messages"), [])
        self.assertEqual(self.asked, [])

    def test_unknown(self) -> None:
        """A message that may have been written is forgotten first thing afterwards."""
        new, other = insert("c@d.example"), insert("c@d.example")
        apply(WriteBatch(inserts=[new]), self.db)  # it was
        self.writer.next().inserts += [new, other]
        self.writer.flush()
        self.work(fails=True, error=OutcomeUnknown("lost"))
        for one in (new, other):
            self.failureResultOf(one.done, OutcomeUnknown)
        self.writer.retry()
        self.work()
        self.assertEqual(self.all("SELECT id FROM messages"), [])
        self.assertEqual(list(self.written[-1].removed), [new.number, other.number])

    def test_again(self) -> None:
        """What no caller waits for is written again, until it is."""
        number = self.add("a@b.example")
        self.writer.next().removed[number] = None
        self.clock.advance(0)
        for _ in range(3):
            self.work(fails=True)
            self.assertEqual(self.asked, [])
            self.clock.advance(AGAIN_SECONDS)
        self.work()
        self.assertEqual(self.all("SELECT id FROM messages"), [])
        self.assertEqual([list(batch.removed) for batch in self.written], [[number]])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.writer.retry()
        self.assertEqual(self.asked, [])

    def test_newest(self) -> None:
        """A note that could not be written never comes after a newer one of its name."""
        for failing in ((True, False), (True, True), (False, True)):
            self.note("old")
            self.note("new")
            for fails in failing:
                self.work(fails=fails)
            self.clock.advance(AGAIN_SECONDS)
            while self.asked:
                self.work()
            self.assertEqual(self.noted(), ["new"], failing)
            self.writer.next().notes["x"] = None
            self.writer.flush()
            self.work()
            self.assertEqual(self.noted(), [])

    def test_newestUnderway(self) -> None:
        """Nor where the newer one is under way while the older is written again."""
        self.note("old")
        self.work(fails=True)
        self.note("new")
        self.writer.retry()
        while self.asked:
            self.work()
        self.assertEqual(self.noted(), ["new"])

    def test_close(self) -> None:
        """At the end all is written at once, once: what fails then is given up."""
        number = self.add("a@b.example")
        self.writer.next().removed[number] = None
        self.clock.advance(0)
        self.work(fails=True)
        self.writer.next().notes["x"] = ("last", 100.0)
        self.writer.close()
        self.assertEqual(len(self.asked), 2)
        self.work()
        self.work(fails=True)
        self.assertEqual(self.all("SELECT id FROM messages"), [])
        self.clock.advance(AGAIN_SECONDS)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.asked, [])
