"""
What all workers know (L{INotes}): each has all notes in its memory, so what is asked
is found at once.

What is noted goes to the parent, which gives out its version, and decides alone
whether it is still what its writer has read.  The parent lets all workers have it, in
the same order, and then tells the one that has put it.  A worker that is silent is not
waited for: what it does not know costs a sender one more attempt, as after a crash.

The worker that has put a note keeps it in its spool.  When a worker starts, it tells
the parent what it has kept, and gets all that the others have; of two notes under one
key the newer counts.  The parent has nothing on a disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from cachetools import LRUCache
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from deferrals.deferreds import errorText, together
from deferrals.errors import Changed
from deferrals.interfaces import ISpool
from deferrals.logger import Logger
from deferrals.model.json import JSON
from deferrals.server.notes import Noted, Notes, placeOf
from deferrals.workers.line import WorkerLine

_log = Logger(namespace="deferrals.workers")

_T = TypeVar("_T")

#: A worker that has not been heard for so long is not waited for, in seconds.
SILENT_SECONDS = 1.0

#: A note that is not known to all by then has not been put, in seconds.
PUT_SECONDS = 2.0

#: How long a worker that starts waits for what the others have noted, in seconds.
JOIN_SECONDS = 30.0

#: So many notes go over the line at once.
PIECE = 200

#: So many notes that were forgotten are remembered: a worker that was away may have
#: kept them.
FORGOTTEN = 20_000


class NotesRegister:
    """
    The parent's: all notes, and who is to know them.

    @param clock: what time it is.
    @param most: how many notes each kind may have.
    """

    def __init__(self, clock: IReactorTime, most: Mapping[str, int] | None = None) -> None:
        self._notes = Notes(clock, most, -1, self._dropped)
        self._lines: dict[int, WorkerLine] = {}
        self._forgotten: LRUCache[tuple[str, str, str], int] = LRUCache(FORGOTTEN)

    def attach(self, worker: int, line: WorkerLine) -> None:
        """
        A worker begins: from now on it hears of all that is noted.
        """
        self._lines[worker] = line
        line.handle("notes.mine", partial(self._loaded, worker))
        line.handle("notes.rest", partial(self._tellAll, worker))
        line.handle("notes.put", partial(self._put, worker))
        line.handle("notes.forget", partial(self._forget, worker))

    def detach(self, worker: int) -> None:
        """
        A worker has ended.
        """
        self._lines.pop(worker, None)

    # A worker starts.

    def _loaded(self, worker: int, found: list[tuple[str, str]]) -> None:
        """
        A worker has these in its spool; perhaps some that have been forgotten since.
        """
        for name, text in found:
            read = placeOf((name, text, worker))
            if read is not None and self._forgotten.get(read[0], -1) >= read[1]:
                self._lines[worker].tell("notes.drop", *read[0])
            elif read is not None and self._notes.take((name, text, worker)):
                self._tellOthers(worker, "notes.take", [[name, text, worker]])
                self._notes.shrink(read[0][0])

    async def _tellAll(self, worker: int) -> None:
        """
        Let a worker have all that there is.
        """
        line = self._lines[worker]
        for places in _pieces(self._notes.names(), PIECE):
            # One that was forgotten meanwhile must not come behind the word that says so.
            found = [self._notes.noted(*place) for place in places]
            await line.ask("notes.take", [list(noted) for noted in found if noted is not None])

    # A worker notes something.

    async def _put(
        self,
        worker: int,
        kind: str,
        group: str,
        key: str,
        value: JSON,
        seconds: float,
        was: int | None,
    ) -> JSON:
        try:
            version = self._notes.decide(worker, kind, group, key, value, seconds, was)
        except Changed as changed:
            return [False, changed.version, changed.value]
        noted = self._notes.noted(kind, group, key)
        if noted is not None:
            await self._relay(worker, "notes.take", [list(noted)])
        return [True, version, None]

    async def _forget(self, worker: int, kind: str, group: str, key: str) -> None:
        self._forgotten[kind, group, key] = self._notes.latest
        await self._notes.forget(kind, group, key)
        await self._relay(worker, "notes.drop", kind, group, key)

    def _dropped(self, kind: str, group: str, key: str) -> None:
        """
        There was no room for a note.
        """
        self._forgotten[kind, group, key] = self._notes.latest
        for line in self._lines.values():
            line.tell("notes.drop", kind, group, key)

    def _relay(self, worker: int, word: str, *args: JSON) -> Deferred[list[None]]:
        """
        Let all know, and C{worker} first: what it hears on its line is in order.

        @return: a Deferred that fires when all others know it that are not silent.
        """
        line = self._lines.get(worker)
        if line is not None:
            line.tell(word, *args)
        waiting = self._tellOthers(worker, word, *args)
        return together(waiting)

    def _tellOthers(self, worker: int, word: str, *args: JSON) -> list[Deferred[None]]:
        waiting = []
        for other, line in self._lines.items():
            if other == worker:
                continue
            if line.silentSeconds > SILENT_SECONDS:
                line.tell(word, *args)
            else:
                d = line.ask(word, *args, seconds=SILENT_SECONDS)
                waiting.append(d.addCallbacks(lambda _: None, partial(_notHeard, other)))
        return waiting


def _notHeard(worker: int, failure: Failure) -> None:
    """
    It learns of it when it turns again, or from its successor's start.
    """
    _log.debug("worker {worker}: {error}", worker=worker, error=errorText(failure))


class WorkerNotes(Notes):
    """
    A worker's.

    @param clock: what time it is.
    @param worker: its number.
    @param line: leads to the parent.
    @param most: how many notes each kind may have.
    """

    def __init__(
        self,
        clock: IReactorTime,
        worker: int,
        line: WorkerLine,
        most: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(clock, most, worker)
        self._line = line
        line.handle("notes.take", self._takeAll)
        line.handle("notes.drop", self.drop)

    def load(self, spool: ISpool) -> Deferred[None]:
        """
        The same; and know what the others have noted.
        """
        return Deferred.fromCoroutine(self._join(spool)).addErrback(_notJoined)

    async def _join(self, spool: ISpool) -> None:
        await super().load(spool)
        await self._tell()
        await self._line.ask("notes.rest", seconds=JOIN_SECONDS)

    async def _tell(self) -> None:
        """
        Let the others know what is kept here.
        """
        mine = [noted for place in self.names() if (noted := self.noted(*place)) is not None]
        for piece in _pieces([one for one in mine if one[2] == self._worker], PIECE):
            await self._line.ask("notes.mine", [one[:2] for one in piece])

    async def adopted(self, name: str, text: str) -> None:
        await self._line.ask("notes.mine", [(name, text)])

    def _takeAll(self, found: list[Noted]) -> None:
        for noted in found:
            self.take(noted)

    def put(
        self,
        kind: str,
        group: str,
        key: str,
        value: JSON,
        seconds: float,
        was: int | None = None,
    ) -> Deferred[int]:
        asked = ("notes.put", kind, group, key, value, seconds, was)
        return self._line.ask(*asked, seconds=PUT_SECONDS).addCallback(_version)

    def forget(self, kind: str, group: str, key: str) -> Deferred[None]:
        d = self._line.ask("notes.forget", kind, group, key, seconds=PUT_SECONDS)
        return d.addCallback(lambda _: None)


def _version(answer: JSON) -> int:
    """
    @raise Changed: it is not what its writer has read.
    """
    assert isinstance(answer, list)
    isPut, version, value = answer
    assert isinstance(version, int | None)
    if not isPut or version is None:
        raise Changed(value, version)
    return version


def _notJoined(failure: Failure) -> None:
    """
    The worker runs all the same: what it does not know costs a sender an attempt.
    """
    _log.error("what others have noted is not known: {error}", error=errorText(failure))


def _pieces(found: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (found[start : start + size] for start in range(0, len(found), size))
