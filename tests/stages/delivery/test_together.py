"""
Copies that are written together: what is shared, and what is each one's own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals import durable
from deferrals.model.delivery import Addressee
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.verdict import Delivered, Outcome, Retry
from deferrals.stages.delivery.copies import unreported
from deferrals.stages.delivery.file import FileDelivery
from deferrals.stages.delivery.mailboxfiles import R451_NOT_WRITTEN, newFile
from deferrals.stages.delivery.maildir import MaildirDelivery
from deferrals.stages.delivery.together import (
    HANDS,
    MANY,
    PATIENCE_SECONDS,
    THREADS,
    CopyWriter,
    NewCopy,
)
from deferrals.testing import makeAddressees, makeEnvelope

#: When threads that do not meet give up, in seconds.
MEETING_SECONDS = 20.0

_S = TypeVar("_S", FileDelivery, MaildirDelivery)


def halting(stage: _S) -> _S:
    """
    @return: a delivery that writes C{b@example.net} for ever.
    """
    clock = Clock()

    def inThread(run: Callable[[], None]) -> Deferred[None]:
        (job,) = run.__self__.jobs  # type: ignore[attr-defined]
        return Deferred() if str(job.addressee) == "b@example.net" else execute(run)

    stage._writer = CopyWriter(inThread, clock, copies=1)  # type: ignore[arg-type]
    return stage


class TogetherTests(SynchronousTestCase):
    """
    L{CopyWriter}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = os.path.abspath(self.mktemp())
        os.makedirs(self.directory)
        self.threads: list[Callable[[], None]] = []
        self.writer = CopyWriter(self.inThread, self.clock)  # type: ignore[arg-type]
        self.envelope = makeEnvelope()

    def inThread(self, run: Callable[[], None]) -> Deferred[None]:
        done: Deferred[None] = Deferred()

        def begin() -> None:
            execute(run).chainDeferred(done)

        self.threads.append(begin)
        return done

    def run_(self, number: int = 0) -> None:
        """
        Let a thread come to its end.
        """
        self.threads.pop(number)()

    def prepare(self, addressee: Addressee) -> NewCopy | Outcome:
        box = os.path.join(self.directory, addressee.recipient.address.domain or "")
        os.makedirs(box, exist_ok=True)
        name = str(addressee)
        file = newFile(os.path.join(box, f".{name}"), box, lambda more: name + more)
        return NewCopy(file, [b"hello"])

    def deliver(self, *names: str, prepare: Any = None, report: Any = unreported) -> Any:
        people = makeAddressees(*names)
        prepare = prepare or self.prepare
        return self.writer.deliver(self.envelope, 5, people, prepare, report)

    def outcomes(self, d: Deferred[dict[Addressee, Outcome]]) -> list[Outcome]:
        return list(self.successResultOf(d).values())

    def busy(self) -> None:
        """
        Let a thread have something to write.
        """
        self.deliver("busy@busy.example")

    def test_shared(self) -> None:
        """
        What comes while threads are busy is one batch: each copy is synced before any
        has its name, and each directory once, before an outcome is known.
        """
        self.busy()
        boxes = [self.deliver(f"a{n}@x.example", f"b{n}@y.example") for n in range(3)]
        self.assertEqual(len(self.threads), 1)
        self.run_()
        calls: list[str] = []
        known: list[int] = []

        def note(module: Any, name: str) -> None:
            function = getattr(module, name)

            def call(*args: Any) -> Any:
                calls.append(name)
                known.append(sum(d.called for d in boxes))
                return function(*args)

            self.patch(module, name, call)

        note(os, "fsync")
        note(os, "link")
        self.run_()
        self.assertEqual(calls, ["fsync"] * 6 + ["link"] * 6 + ["fsync"] * 2)
        self.assertEqual(set(known), {0})
        for d in boxes:
            self.assertEqual(self.outcomes(d), [Delivered(), Delivered()])
        names = sorted(os.listdir(os.path.join(self.directory, "x.example")))
        self.assertEqual(names, [f"a{n}@x.example" for n in range(3)])

    def test_threads(self) -> None:
        """A second thread is begun where many wait, and no third."""
        for number in range(3 * MANY):
            self.deliver(f"{number}@x.example")
            self.assertEqual(len(self.threads), 1 if number < MANY else THREADS)
        self.run_()
        self.assertEqual(len(self.threads), THREADS)

    def test_sideBySide(self) -> None:
        """
        Syncs do not wait for one another: several threads are in them at once, all of
        those of the contents before any copy has its name, and those of the directories.
        """
        meeting = threading.Barrier(HANDS)
        fsync, link = os.fsync, os.link
        calls: list[str] = []

        def met(fd: int) -> None:
            meeting.wait(MEETING_SECONDS)
            fsync(fd)
            calls.append("sync")

        def named(*args: str) -> None:
            calls.append("name")
            link(*args)

        d = self.deliver(*(f"a@{n}.example" for n in range(HANDS)))
        for n in range(HANDS):
            os.makedirs(os.path.join(self.directory, f"{n}.example"))
        self.patch(os, "fsync", met)
        self.patch(os, "link", named)
        self.run_()
        self.assertEqual(calls, ["sync"] * HANDS + ["name"] * HANDS + ["sync"] * HANDS)
        self.assertEqual(self.outcomes(d), [Delivered()] * HANDS)

    def test_syncFails(self) -> None:
        """Where a sync fails, or raises, wherever that is, it is that copy's own."""
        fsync = os.fsync

        def failing(fd: int) -> None:
            path = os.readlink(f"/proc/self/fd/{fd}")
            if os.path.basename(path) in (".disk@x.example", ".disk@y.example"):
                raise OSError("the disk")
            if "raises" in path:
                raise ValueError("on purpose")
            fsync(fd)

        self.patch(os, "fsync", failing)
        names = ("a@x", "disk@x", "b@x", "raises@x", "disk@y", "c@y", "d@y")
        d = self.deliver(*(f"{name}.example" for name in names))
        with capturedLogs() as logged:
            self.run_()
        good, bad = Delivered(), Retry(R451_NOT_WRITTEN)
        raised = Retry(R451_LOCAL_ERROR)
        self.assertEqual(self.outcomes(d), [good, bad, good, raised, bad, good, good])
        found = sorted(os.listdir(os.path.join(self.directory, "y.example")))
        self.assertEqual(found, ["c@y.example", "d@y.example"])
        errors = [one["error"] for one in logged if one["log_level"] is LogLevel.error]
        self.assertEqual(errors, ["ValueError: on purpose"])

    def test_noHelp(self) -> None:
        """Where no more threads can be had, one does it all."""

        def submit(*args: object) -> None:
            raise RuntimeError("can't start new thread")

        self.patch(ThreadPoolExecutor, "submit", submit)
        d = self.deliver(*(f"a@{n}.example" for n in range(3)))
        self.run_()
        self.assertEqual(self.outcomes(d), [Delivered()] * 3)

    def test_helpersStuck(self) -> None:
        """
        Threads that are stuck are asked for nothing more, which would be kept for them;
        those that come back help again.
        """
        going = threading.Event()
        helpers = self.writer._helpers
        stuck = [
            helpers.ask(lambda: self.assertTrue(going.wait(MEETING_SECONDS))) for _ in range(HANDS)
        ]
        self.assertNotIn(None, stuck)
        self.assertIsNone(helpers.ask(lambda: None))
        d = self.deliver(*(f"a@{n}.example" for n in range(HANDS)))
        self.run_()
        self.assertEqual(self.outcomes(d), [Delivered()] * HANDS)
        going.set()
        helpers._threads.shutdown()
        free = [helpers._free.acquire(blocking=False) for _ in range(HANDS + 1)]
        self.assertEqual(free, [True] * HANDS + [False])

    def test_stuckSync(self) -> None:
        """
        A sync that does not come back keeps its own copy alone, whichever thread it is
        in; the copies whose syncs have ended are delivered meanwhile.
        """
        fsync = os.fsync
        hanging, going = threading.Event(), threading.Event()
        others: list[Any] = []

        def slow(fd: int) -> None:
            if "hung" in os.readlink(f"/proc/self/fd/{fd}"):
                hanging.set()
                going.wait(MEETING_SECONDS)
            fsync(fd)

        self.patch(os, "fsync", slow)
        hung = self.deliver("hung@x.example", "a@x.example")
        others += [self.deliver(f"{n}@x.example") for n in range(3)]
        begin = self.threads.pop()
        thread = threading.Thread(target=begin)
        thread.start()
        self.assertTrue(hanging.wait(MEETING_SECONDS))
        while len(self.threads) < 1:
            self.clock.advance(PATIENCE_SECONDS)
        self.run_()
        names = sorted(os.listdir(os.path.join(self.directory, "x.example")))
        self.assertNotIn("hung@x.example", names)
        for d in others:
            self.assertEqual(self.outcomes(d), [Delivered()])
        going.set()
        thread.join()
        self.assertEqual(self.outcomes(hung), [Delivered()] * 2)

    def test_ended(self) -> None:
        """What the end of a batch makes room for is one batch."""
        first = self.deliver("a@x.example")
        more: list[Any] = []
        first.addCallback(lambda _: more.extend(self.deliver(f"{n}@x.example") for n in range(5)))
        self.run_()
        self.assertEqual(len(self.threads), 1)
        self.run_()
        self.assertEqual([self.outcomes(d) for d in more], [[Delivered()]] * 5)

    def test_apart(self) -> None:
        """What goes wrong with one copy is its own; nothing half-written is left."""

        def prepare(addressee: Addressee) -> NewCopy | Outcome:
            if str(addressee) == "raises@x.example":
                raise ValueError("on purpose")
            if str(addressee) == "fails@x.example":
                raise OSError("the disk")
            if str(addressee) == "full@x.example":
                return Retry(R451_LOCAL_ERROR)
            copy = self.prepare(addressee)
            assert isinstance(copy, NewCopy)
            if str(addressee) == "half@x.example":
                return NewCopy(copy.file, self.half())
            return copy

        names = ("good", "raises", "fails", "full", "half")
        d = self.deliver(*(f"{name}@x.example" for name in names), prepare=prepare)
        with capturedLogs() as logged:
            self.run_()
        known = self.outcomes(d)
        wanted = [
            Delivered(),
            Retry(R451_LOCAL_ERROR),
            Retry(R451_NOT_WRITTEN),
            Retry(R451_LOCAL_ERROR),
            Retry(R451_NOT_WRITTEN),
        ]
        self.assertEqual(known, wanted)
        self.assertEqual(os.listdir(os.path.join(self.directory, "x.example")), ["good@x.example"])
        errors = [one["error"] for one in logged if one["log_level"] is LogLevel.error]
        self.assertEqual(len(errors), 1)
        self.assertIn("ValueError", errors[0])

    def half(self) -> Any:
        yield b"half"
        raise OSError("the disk")

    def test_directory(self) -> None:
        """Where a directory cannot be synced, its copies are to be tried again, and no others."""
        sync = durable.sync

        def failing(path: str) -> None:
            if path.endswith("x.example"):
                raise OSError("the disk")
            sync(path)

        self.patch(durable, "sync", failing)
        d = self.deliver("a@x.example", "b@y.example")
        self.run_()
        self.assertEqual(self.outcomes(d), [Retry(R451_NOT_WRITTEN), Delivered()])

    def test_again(self) -> None:
        """A copy that an earlier try has written is delivered, and counted once."""
        counted: list[int] = []

        def prepare(addressee: Addressee) -> NewCopy:
            copy = self.prepare(addressee)
            assert isinstance(copy, NewCopy)
            return NewCopy(copy.file, copy.chunks, counted.append)

        for _ in "12":
            d = self.deliver("a@x.example", prepare=prepare)
            self.run_()
            self.assertEqual(self.outcomes(d), [Delivered()])
        self.assertEqual(counted, [5])

    def test_reported(self) -> None:
        """Outcomes are reported that are known before the message's others."""
        self.writer = CopyWriter(self.inThread, self.clock, copies=1)  # type: ignore[arg-type]
        reported: list[str] = []
        d = self.deliver(
            "a@x.example",
            "b@x.example",
            "c@x.example",
            report=lambda addressee, outcome: reported.append(str(addressee)),
        )
        self.run_(1)
        self.assertEqual(reported, ["b@x.example"])
        self.assertNoResult(d)
        self.run_()
        self.run_()
        self.assertEqual(self.outcomes(d), [Delivered()] * 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self) -> None:
        """What is cancelled is written to its end where that was begun, or not at all."""
        self.busy()
        d = self.deliver("a@x.example")
        other = self.deliver("b@x.example")
        d.cancel()
        self.failureResultOf(d, CancelledError)
        for _ in "12":
            self.run_()
        self.assertEqual(self.outcomes(other), [Delivered()])
        self.assertEqual(os.listdir(os.path.join(self.directory, "x.example")), ["b@x.example"])

    def test_noThread(self) -> None:
        """Where no thread takes them, they are to be tried again."""
        d = self.deliver("a@x.example")
        self.assertEqual(len(self.threads), 1)
        self.patch(CopyWriter, "_begin", lambda _: None)
        (batch,) = self.writer._batches
        self.patch(batch, "run", None)
        self.writer._failed(Failure(OSError("no thread")), batch)
        self.writer._ended(None, batch)
        self.assertEqual(self.outcomes(d), [Retry(R451_LOCAL_ERROR)])

    def test_stuck(self) -> None:
        """
        A mailbox whose disk does not answer keeps its own copy, and no other: not those
        of its batch that were written before or are still to be written.
        """
        self.busy()
        others = [self.deliver("before@x.example")]
        hung = self.deliver("hung@x.example", prepare=self.hang)
        others.append(self.deliver("after@x.example"))
        self.run_()
        self.run_()
        for d in others:
            self.assertEqual(self.outcomes(d), [Delivered()])
        self.assertEqual(self.outcomes(hung), [Delivered()])
        names = sorted(os.listdir(os.path.join(self.directory, "x.example")))
        self.assertEqual(names, ["after@x.example", "before@x.example", "hung@x.example"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def hang(self, addressee: Addressee) -> NewCopy | Outcome:
        """
        The thread is here for a long time: meanwhile another one is begun, and ends.
        """
        self.assertEqual(self.threads, [])
        self.clock.advance(PATIENCE_SECONDS)
        self.clock.advance(PATIENCE_SECONDS)
        self.run_()
        found = sorted(os.listdir(os.path.join(self.directory, "x.example")))
        self.assertEqual(found, ["after@x.example", "before@x.example"])
        return self.prepare(addressee)
