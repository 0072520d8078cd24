"""
Copies for mailboxes, written together: what has come while threads are busy is handed
to the next one at once, and the disk is waited for once for many.

Each copy is on the disk before it has its name, and has that durably before its outcome
is known: all are written, each is synced, each gets its name, and each directory is
synced once.  What goes wrong with one is its own.

A mailbox may be on a disk that does not answer.  A batch that makes no way for
L{PATIENCE_SECONDS} keeps the copy that it is at; another thread goes on with the others.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from deferrals import durable
from deferrals.deferreds import InThread, errorText
from deferrals.logger import Logger
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope
from deferrals.model.reply import R451_LOCAL_ERROR
from deferrals.model.verdict import Delivered, Details, Outcome, Retry
from deferrals.stages.delivery.copies import Report
from deferrals.stages.delivery.mailboxfiles import cannotWrite

_log = Logger(namespace="deferrals.delivery")

#: So many copies are in a batch, and so many octets of messages, but for the first one.
COPIES, OCTETS = 64, 4 << 20

#: So many batches are being written; and so many with those that make no way.  A second
#: one is begun where so many copies wait for the end of the first.
THREADS, MOST_THREADS, MANY = 2, 8, 16

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
        _log.failure(
            "{transaction}: delivering to {recipients}",
            failure,
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


_STEPS = (_CopyOnItsWay.write, _CopyOnItsWay.settle, _CopyOnItsWay.name)


class _CopyBatch:
    """
    Copies that are written by one thread.
    """

    def __init__(self, jobs: Iterable[_CopyOnItsWay]) -> None:
        self.jobs = dict.fromkeys(jobs)
        self._current: Sequence[_CopyOnItsWay] = ()
        self._lock = threading.Lock()
        self._way = self._seen = 0

    def run(self) -> None:
        """
        Write them (in a thread).
        """
        for number, step in enumerate(_STEPS):
            for job in list(self.jobs):
                if job.steps == number and self._isAt([job]):
                    job.take(step)
        directories: dict[str, list[_CopyOnItsWay]] = {}
        for job in self.jobs:
            if job.outcome is None and job.directory is not None:
                directories.setdefault(job.directory, []).append(job)
        for directory, jobs in directories.items():
            if self._isAt(jobs):
                self._sync(directory)
        self._isAt(())

    def _isAt(self, jobs: Sequence[_CopyOnItsWay]) -> bool:
        """
        Go on to some of the copies.

        @return: whether any of them is still this batch's.
        """
        with self._lock:
            self._way += 1
            self._current = [job for job in jobs if job in self.jobs] if jobs else ()
            return bool(self._current)

    def _sync(self, directory: str) -> None:
        try:
            durable.sync(directory)
            outcome: Outcome = Delivered()
        except OSError as error:
            outcome = cannotWrite(error)
        for job in self._current:
            job.outcome = outcome

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
            left = [job for job in self.jobs if job not in self._current]
            self.jobs = dict.fromkeys(self._current)
            return left


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
            batch = _CopyBatch(self._next())
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
