"""
What one turn of the reactor asks of the spool, written together.

A busy server stages and finishes dozens of messages per turn.  Their rows go
into one transaction: its cost, and that of handing the interpreter from thread to
thread around it, is paid once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from deferrals.errors import OutcomeUnknown, StoreAway
from deferrals.interfaces import Work
from deferrals.logger import Logger
from deferrals.model.events import happened
from deferrals.model.status import Status
from deferrals.spool.message import ownMessage

_log = Logger(namespace="deferrals.spool")

#: What could not be written, and no caller waits for, is tried again after so
#: long.
AGAIN_SECONDS = 5.0

#: What is released and delivered right now is written as released after so long: most of
#: it has left by then, and a process that dies releases what is only staged, too.
RELEASE_SECONDS = 0.5

#: What a column holds.
Value = str | bytes | int | float | None

#: What is noted: a value, and when it expires; C{None} where it is forgotten.
Note = tuple[str, float] | None


@attrs.define(eq=False)
class Insert:
    """
    A message to be staged.

    @ivar message: its row in C{messages}.
    @ivar body: its octets, unless they are in a file.
    @ivar recipients: its rows in C{recipients}.
    @ivar work: what C{done} fires with.
    """

    message: tuple[Value, ...]
    body: bytes | None
    recipients: list[tuple[Value, ...]]
    work: Work
    done: Deferred[Work] = attrs.field(factory=Deferred)

    @property
    def number(self) -> int:
        """The message's number."""
        return self.work.envelope.transaction


@attrs.define(eq=False)
class WriteBatch:
    """
    @ivar inserts: messages to be staged.
    @ivar released: numbers of messages that became ours.
    @ivar removed: numbers of messages that are delivered to all, or abandoned,
        with the files of their bodies, which are removed afterwards.
    @ivar notes: what is noted, by name.
    """

    inserts: list[Insert] = attrs.field(factory=list)
    released: dict[int, None] = attrs.field(factory=dict)
    removed: dict[int, str | None] = attrs.field(factory=dict)
    notes: dict[str, Note] = attrs.field(factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inserts or self.released or self.removed or self.notes)

    @property
    def messages(self) -> int:
        """How many it is about."""
        return len(self.inserts) + len(self.released) + len(self.removed)

    def parts(self) -> Iterator[WriteBatch]:
        """
        The same, each message by itself: so that one that cannot be written
        does not take the others with it.
        """
        for insert in self.inserts:
            yield WriteBatch(inserts=[insert])
        for number in self.released:
            yield WriteBatch(released={number: None})
        for number, path in self.removed.items():
            yield WriteBatch(removed={number: path})
        for name, note in self.notes.items():
            yield WriteBatch(notes={name: note})

    def add(self, other: WriteBatch) -> None:
        """
        Take over what another batch could not write.
        """
        self.released.update(other.released)
        self.removed.update(other.removed)
        self.notes.update(other.notes)


class BatchWriter:
    """
    Collects what a turn of the reactor asks for, and writes it at its end.

    A message that cannot be staged fails for its caller.  What no caller waits
    for (released, removed, noted) is written again until it is: what is
    delivered must not come back, what is released must not be abandoned.

    @param apply: writes a batch in one transaction; its Deferred fires when that is
        durable.
    @param clock: timers.
    @param written: called with each batch that is durable.
    @param status: where commits are counted.
    @ivar leaving: numbers of messages whose removal is not durable yet.
    """

    def __init__(
        self,
        apply: Callable[[WriteBatch], Deferred[None]],
        clock: IReactorTime,
        written: Callable[[WriteBatch], None],
        status: Status,
    ) -> None:
        self._status = status
        self._apply = apply
        self._clock = clock
        self._onWritten = written
        self._next = WriteBatch()
        self._unwritten = WriteBatch()
        self._notes: dict[str, Note] = {}  # the newest, of those that are not durable
        self._again: IDelayedCall | None = None
        self._released: dict[int, None] = {}  # to be written as such some time
        self._releasing: IDelayedCall | None = None
        self._closed = False
        self.leaving: set[int] = set()

    def next(self) -> WriteBatch:
        """
        The batch that is collected, about to be added to.
        """
        if not self._next:
            self._clock.callLater(0, self.flush)
        return self._next

    def release(self, number: int) -> None:
        """
        A message has become ours, and is delivered right now.
        """
        self._released[number] = None
        if self._releasing is None:
            self._releasing = self._clock.callLater(RELEASE_SECONDS, self._release)

    def _release(self) -> None:
        self._releasing = None
        if self._released:
            self.next().released.update(self._released)
            self._released.clear()

    def settle(self, number: int) -> None:
        """
        A message stays: that it has become ours is written in this turn.
        """
        if number in self._released:
            del self._released[number]
            self.next().released[number] = None

    def remove(self, number: int, path: str | None) -> None:
        """
        A message leaves, with all that belongs to it.

        @param path: the file of its body.
        """
        self._released.pop(number, None)
        batch = self.next()
        batch.released.pop(number, None)
        batch.removed[number] = path
        self.leaving.add(number)

    def flush(self) -> None:
        """
        Write what has been collected.
        """
        batch, self._next = self._next, WriteBatch()
        self._notes.update(batch.notes)
        if batch:
            self._write(batch)

    def retry(self) -> None:
        """
        Write what could not be written.  Of a note only the newest value is:
        an older one would come after it.
        """
        batch, self._unwritten = self._unwritten, WriteBatch()
        batch.notes = {name: self._notes[name] for name in batch.notes if name in self._notes}
        if batch:
            self._write(batch)

    def close(self) -> None:
        """
        Write everything, for the last time: what cannot be written now is given
        up.
        """
        self._closed = True
        if self._again is not None and self._again.active():
            self._again.cancel()
            self.retry()
        if self._releasing is not None:
            self._releasing.cancel()
            self._release()
        self.flush()

    def _write(self, batch: WriteBatch) -> None:
        began = self._clock.seconds()
        d = self._apply(batch)
        d.addCallbacks(
            lambda _: self._written(batch, began), self._notWritten, errbackArgs=(batch,)
        )

    def _written(self, batch: WriteBatch, began: float) -> None:
        seconds = self._clock.seconds() - began
        happened(self._status, "commit", {"messages": batch.messages, "seconds": seconds})
        self.leaving.difference_update(batch.removed)
        self._onWritten(batch)
        for name, note in batch.notes.items():
            if self._notes.get(name) is note:
                self._notes.pop(name, None)
        for insert in batch.inserts:
            insert.done.callback(insert.work)

    def _notWritten(self, failure: Failure, batch: WriteBatch) -> None:
        if failure.check(OutcomeUnknown, StoreAway):
            return self._isAway(failure, batch)
        parts = list(batch.parts())
        if len(parts) > 1:
            for part in parts:
                self._write(part)
        elif batch.inserts:
            batch.inserts[0].done.errback(failure)
        elif self._closed:
            _log.error("{error}", error=failure.getErrorMessage())
        else:
            self._keep(batch, failure)

    def _isAway(self, failure: Failure, batch: WriteBatch) -> None:
        """
        No part of a batch can be written.  A message of which it is not known whether it
        was is forgotten as soon as that is possible: its sender is told to try again.
        """
        inserts, batch.inserts = batch.inserts, []
        if failure.check(OutcomeUnknown):
            batch.removed.update((one.number, ownMessage(one.work.message).path) for one in inserts)
            self.leaving.update(one.number for one in inserts)
        if batch and not self._closed:
            self._keep(batch, failure)
        for insert in inserts:
            insert.done.errback(failure)

    def _keep(self, batch: WriteBatch, failure: Failure) -> None:
        """
        Write something again later.
        """
        self._unwritten.add(batch)
        for name, note in batch.notes.items():
            self._notes.setdefault(name, note)
        if self._again is None or not self._again.active():
            if not failure.check(StoreAway):  # that was logged
                _log.error("{error}", error=failure.getErrorMessage())
            self._again = self._clock.callLater(AGAIN_SECONDS, self.retry)
