"""
Copies for mailboxes, written together: what has come while threads are busy is handed
to the next one at once, and the disk is waited for once for many.

Each copy is on the disk before it has its name, and has that durably before its outcome
is known: all are written, each is synced, each gets its name, and each directory is
synced once.  What goes wrong with one is its own.  Syncs are asked for side by side,
by L{HANDS} threads: a disk that is asked for several at once writes them together, and
one after the other each would wait for it to be flushed.

A mailbox may be on a disk that does not answer.  A batch that makes no way for
L{PATIENCE_SECONDS} keeps the copy that it is at; another thread goes on with the others.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from deferrals import durable
from deferrals.deferreds import errorText
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.verdict import Delivered, Details, Outcome, Retry
from deferrals.stages.delivery.copies import Report
from deferrals.stages.delivery.mailboxfiles import cannotWrite
from deferrals.threads import InThread

_log = Logger(namespace="deferrals.delivery")

#: So many copies are in a batch, and so many octets of messages, but for the first one.
COPIES, OCTETS = 64, 4 << 20

#: So many batches are being written; and so many with those that make no way.  A second
#: one is begun where another whole batch waits: two threads that write spend more on
#: waiting for the interpreter than they save.
THREADS, MOST_THREADS, MANY = 2, 8, COPIES

#: So many threads ask the disk for the syncs of a batch.
HANDS = 4

#: When a batch makes no way, in seconds.
PATIENCE_SECONDS = 2.0


@attrs.frozen
class NewCopy:
    """
    A copy that can be written.

    @ivar chunks: its octets.
    @ivar written: called with its size when it is there; not if it was there already.
    """

    file: durable.NewFile
    chunks: Iterable[bytes]
    written: Callable[[int], None] = lambda size: None


#: Makes a recipient's copy, in a thread; or says why there is none.
Prepare: TypeAlias = Callable[[Addressee], NewCopy | Outcome]


class _MessageCopies:
    """
    The copies of one message.

    @ivar isLeft: whether they are not waited for any longer.
    """

    def __init__(
        self, envelope: Envelope, recipients: Sequence[Addressee], prepare: Prepare, report: Report
    ) -> None:
        self._envelope = envelope
        self._report = report
        self._open = len(recipients)
        self._outcomes: dict[Addressee, Outcome] = {}
        self.prepare = prepare
        self.isLeft = False
        self.done: Deferred[dict[Addressee, Outcome]] = Deferred(self._left)

    def _left(self, _: Deferred[dict[Addressee, Outcome]]) -> None:
        self.isLeft = True

    def heard(self, addressee: Addressee, said: Outcome | Failure) -> None:
        """
        A copy is there, or is not.
        """
        self._open -= 1
        if self.isLeft:
            return
        outcome = self._failed(addressee, said) if isinstance(said, Failure) else said
        self._outcomes[addressee] = outcome
        if not self._open:
            self.done.callback(self._outcomes)

    def _failed(self, addressee: Addressee, failure: Failure) -> Outcome:
        _log.raised(
            failure,
            "{transaction}: {stage} to {recipients} failed: {error}",
            stage="delivering",
            transaction=self._envelope.id,
            recipients=str(addressee),
        )
        return Retry(R451_LOCAL_ERROR, details=Details(errorText(failure)))

    def tell(self) -> None:
        """
        What is known is known before the rest.
        """
        if self._open and not self.isLeft:
            for addressee, outcome in self._outcomes.items():
                self._report(addressee, outcome)


@attrs.define(eq=False)
class _CopyOnItsWay:
    """
    One copy on its way.

    @ivar octets: those of the message.
    @ivar steps: how many of the L{STEPS} it has taken.
    @ivar directory: what is to be synced for its name.
    @ivar outcome: what became of it, once that is known.
    """

    group: _MessageCopies
    addressee: Addressee
    octets: int
    steps: int = 0
    directory: str | None = None
    outcome: Outcome | Failure | None = None
    _copy: NewCopy | None = None

    def write(self) -> None:
        """The content."""
        if self.group.isLeft:
            raise CancelledError
        prepared = self.group.prepare(self.addressee)
        if not isinstance(prepared, NewCopy):
            self.outcome = prepared
            return
        self._copy = prepared
        prepared.file.write(prepared.chunks)

    def settle(self) -> None:
        """The content is durable."""
        if self._copy is not None:
            self._copy.file.settle()

    def name(self) -> None:
        """The name; the other one goes."""
        if self._copy is not None:
            self.directory = self._copy.file.name()
            if self.directory is not None:
                self._copy.written(self._copy.file.size)
            self._copy.file.close()

    def take(self, step: Callable[[_CopyOnItsWay], None]) -> None:
        """
        Take a step; what goes wrong is the outcome.
        """
        self.steps += 1
        if self.outcome is None:
            try:
                step(self)
            except OSError as error:
                self._fail(cannotWrite(error))
            except BaseException:
                self._fail(Failure())

    def _fail(self, outcome: Outcome | Failure) -> None:
        self.outcome = outcome
        if self._copy is not None:
            self._copy.file.close()


#: The steps, and how many threads take each: those that wait for the disk do so together.
_STEPS = ((_CopyOnItsWay.write, 1), (_CopyOnItsWay.settle, HANDS), (_CopyOnItsWay.name, 1))

#: Copies with which something is done at once: one, or all that are new in a directory.
_Group: TypeAlias = Sequence[_CopyOnItsWay]


class _Helpers:
    """
    Threads that help with syncs, as many as there are: none is waited for that is stuck.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(HANDS, "deferrals-sync")
        self._free = threading.Semaphore(HANDS)

    def ask(self, work: Callable[[], None]) -> Future[None] | None:
        """
        @return: what becomes of the work; C{None} where no thread is free.
        """
        if not self._free.acquire(blocking=False):
            return None
        try:
            helping = self._threads.submit(work)
        except RuntimeError:  # no thread can be started
            self._free.release()
            return None
        helping.add_done_callback(lambda _: self._free.release())
        return helping


class _CopyBatch:
    """
    Copies that are written by one thread, and synced by several.

    @param helpers: threads that help with the syncs.
    @ivar jobs: the copies that are this batch's.
    @ivar _current: those that each thread is at.
    """

    def __init__(self, jobs: Iterable[_CopyOnItsWay], helpers: _Helpers) -> None:
        self.jobs = dict.fromkeys(jobs)
        self._helpers = helpers
        self._current: dict[int, _Group] = {}
        self._lock = threading.Lock()
        self._way = self._seen = 0

    def run(self) -> None:
        """
        Write them (in a thread).
        """
        for number, (step, hands) in enumerate(_STEPS):
            groups = [[job] for job in self.jobs if job.steps == number]
            self._each(groups, functools.partial(_take, step), hands)
        directories: dict[str, list[_CopyOnItsWay]] = {}
        for job in self.jobs:
            if job.outcome is None and job.directory is not None:
                directories.setdefault(job.directory, []).append(job)
        self._each(directories.values(), _sync, HANDS)

    def _each(
        self, groups: Iterable[_Group], function: Callable[[_Group], None], hands: int
    ) -> None:
        """
        Do something with each of several groups of copies, with so many threads at most;
        where there are no others, this one does it all.
        """
        waiting = deque(groups)
        work = functools.partial(self._work, waiting, function)
        others = [self._helpers.ask(work) for _ in range(min(hands, len(waiting)) - 1)]
        work()
        for other in others:
            if other is not None and not other.cancel():
                other.result()

    def _work(self, waiting: deque[_Group], function: Callable[[_Group], None]) -> None:
        """
        What one thread does: as much as there is, of what is still this batch's.
        """
        thread = threading.get_ident()
        while True:
            with self._lock:
                self._way += 1
                if not waiting:
                    self._current.pop(thread, None)
                    return
                group = [job for job in waiting.popleft() if job in self.jobs]
                self._current[thread] = group
            if group:
                function(group)

    def isStuck(self) -> bool:
        """
        Whether it has made no way since this was last asked.
        """
        seen, self._seen = self._seen, self._way
        return seen == self._way

    def leave(self) -> list[_CopyOnItsWay]:
        """
        @return: the copies that it is not at; they are not its own any longer.
        """
        with self._lock:
            current = {job for group in self._current.values() for job in group}
            left = [job for job in self.jobs if job not in current]
            self.jobs = {job: None for job in self.jobs if job in current}
            return left


def _take(step: Callable[[_CopyOnItsWay], None], jobs: _Group) -> None:
    for job in jobs:
        job.take(step)


def _sync(jobs: _Group) -> None:
    """
    The names of copies are durable that are in one directory.
    """
    directory = jobs[0].directory
    assert directory is not None
    try:
        durable.sync(directory)
        outcome: Outcome = Delivered()
    except OSError as error:
        outcome = cannotWrite(error)
    for job in jobs:
        job.outcome = outcome


class CopyWriter:
    """
    Writes copies together, whichever messages they are of.

    @param inThread: runs a function outside the reactor thread.
    @param clock: timers.
    @param copies: so many are in a batch.
    """

    def __init__(self, inThread: InThread, clock: IReactorTime, copies: int = COPIES) -> None:
        self._inThread = inThread
        self._clock = clock
        self._copies = copies
        self._waiting: deque[_CopyOnItsWay] = deque()
        self._batches: list[_CopyBatch] = []
        self._stuck: list[_CopyBatch] = []
        self._watching: IDelayedCall | None = None
        self._helpers = _Helpers()

    def deliver(
        self,
        envelope: Envelope,
        octets: int,
        recipients: Sequence[Addressee],
        prepare: Prepare,
        report: Report,
    ) -> Deferred[dict[Addressee, Outcome]]:
        """
        @param octets: those of the message.
        @param report: is told of outcomes that are known before the others.
        @return: a Deferred of all outcomes, which fails only when it is cancelled: what
            is being written is written to its end, and no other copy is begun.
        """
        group = _MessageCopies(envelope, recipients, prepare, report)
        self._waiting.extend(_CopyOnItsWay(group, one, octets) for one in recipients)
        self._begin()
        return group.done

    def _begin(self) -> None:
        while self._waiting and self._isFree():
            batch = _CopyBatch(self._next(), self._helpers)
            self._batches.append(batch)
            self._inThread(batch.run).addErrback(self._failed, batch).addCallback(
                self._ended, batch
            )
        if self._batches and self._watching is None:
            self._watching = self._clock.callLater(PATIENCE_SECONDS, self._watch)

    def _isFree(self) -> bool:
        """
        Whether the next batch may begin.
        """
        busy = len(self._batches)
        if busy >= THREADS or busy + len(self._stuck) >= MOST_THREADS:
            return False
        return not busy or len(self._waiting) >= min(MANY, self._copies)

    def _next(self) -> list[_CopyOnItsWay]:
        jobs = [self._waiting.popleft()]
        octets = jobs[0].octets
        while self._waiting and len(jobs) < self._copies:
            octets += self._waiting[0].octets
            if octets > OCTETS:
                break
            jobs.append(self._waiting.popleft())
        return jobs

    def _failed(self, failure: Failure, batch: _CopyBatch) -> None:
        for job in batch.jobs:
            job.outcome = failure

    def _ended(self, _: None, batch: _CopyBatch) -> None:
        for job in batch.jobs:
            job.group.heard(job.addressee, Delivered() if job.outcome is None else job.outcome)
        for group in {job.group for job in batch.jobs}:
            group.tell()
        # Not before: what this makes room for is one batch.
        (self._stuck if batch in self._stuck else self._batches).remove(batch)
        self._begin()
        if not self._batches and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def _watch(self) -> None:
        """
        Copies do not wait for what a thread does not get done.
        """
        self._watching = None
        for batch in [one for one in self._batches if one.isStuck()]:
            self._batches.remove(batch)
            self._stuck.append(batch)
            self._waiting.extendleft(reversed(batch.leave()))
        self._begin()
