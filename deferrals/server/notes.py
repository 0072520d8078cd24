"""
Small facts that outlive a restart (L{INotes}): in memory, so that they are found
at once, and in the spool's notes, so that they are found after a restart.  A
crash may cost the newest.

Of several processes each has the notes of all in its memory, and in its spool those
that it has put itself: it is their I{keeper}.  Of two notes under one key the one with
the higher version counts.
"""

from __future__ import annotations

import heapq
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.deferreds import timeOfDay
from deferrals.errors import Changed
from deferrals.interfaces import INotes, ISpool
from deferrals.logger import Logger
from deferrals.model.json import JSON

_log = Logger(namespace="deferrals")

#: How many notes a kind may have; and octets, all of its notes together.
MOST = {
    **{"mixed": 10_000, "downgrade": 10_000, "backoff": 10_000, "alias": 10_000, "secret": 1},
    "admission": 100_000,
}
MAX_OCTETS = 32 * 1024 * 1024


#: A note between processes: its name and text, as a spool has them, and its keeper.
Noted: TypeAlias = tuple[str, str, int]


@attrs.frozen
class _Note:
    """
    @ivar text: as the spool has it: of what it says, C{version} and C{expires}.
        The objects would take several times as much memory.
    @ivar octets: what it costs.
    @ivar expires: in seconds since the epoch.
    @ivar keeper: the number of the process in whose spool it is.
    """

    text: str
    version: int
    octets: int
    expires: float
    keeper: int

    @property
    def value(self) -> JSON:
        """What it says: each caller has one of its own."""
        value: JSON = json.loads(self.text)[0]
        return value


@attrs.define(eq=False)
class _Kind:
    """
    The notes of one kind, by group and key; for each owner, its notes in the
    order in which they were put.
    """

    most: int
    groups: dict[str, dict[str, _Note]] = attrs.field(factory=dict)
    owners: dict[str, OrderedDict[tuple[str, str], None]] = attrs.field(factory=dict)
    number: int = 0
    octets: int = 0

    def get(self, group: str, key: str) -> _Note | None:
        return self.groups.get(group, {}).get(key)

    def add(self, group: str, key: str, note: _Note) -> None:
        self.remove(group, key)
        self.groups.setdefault(group, {})[key] = note
        self.owners.setdefault(_owner(group), OrderedDict())[group, key] = None
        self.number += 1
        self.octets += note.octets

    def remove(self, group: str, key: str) -> bool:
        """
        @return: whether there was such a note.
        """
        notes = self.groups.get(group, {})
        note = notes.pop(key, None)
        if note is None:
            return False
        if not notes:
            del self.groups[group]
        owner = _owner(group)
        del self.owners[owner][group, key]
        if not self.owners[owner]:
            del self.owners[owner]
        self.number -= 1
        self.octets -= note.octets
        return True

    @property
    def isOver(self) -> bool:
        return self.number > self.most or self.octets > MAX_OCTETS

    def surplus(self) -> list[tuple[str, str]]:
        """
        What goes first: the oldest notes of the owners that have most.  A
        hundredth of all at once: to find it takes a look at each owner.
        """
        found = []
        owners = self.owners.values()
        heap = [(-len(notes), number, iter(notes)) for number, notes in enumerate(owners)]
        heapq.heapify(heap)
        for _ in range(max(1, self.number // 100)):
            size, number, notes = heap[0]
            found.append(next(notes))
            heapq.heapreplace(heap, (size + 1, number, notes))
        return found


def _owner(group: str) -> str:
    return group.partition(" ")[0]


@implementer(INotes)
class Notes:
    """
    See the module.

    @param clock: what time it is.
    @param most: how many notes each kind may have.
    @param worker: the number of this process.
    @param surplus: is told the kind, group and key of what goes for want of room.
    """

    def __init__(
        self,
        clock: IReactorTime,
        most: Mapping[str, int] | None = None,
        worker: int = 0,
        surplus: Callable[[str, str, str], object] = lambda *_: None,
    ) -> None:
        self._clock = clock
        self._kinds = {kind: _Kind(number) for kind, number in (most or MOST).items()}
        self._worker = worker
        self._surplus = surplus
        self._watchers: dict[str, list[Callable[[str, str, JSON], object]]] = {}
        self._spool: ISpool | None = None
        self.latest = 0  #: The highest version that has been seen.

    def load(self, spool: ISpool) -> Deferred[None]:
        """
        Keep the notes in this spool from now on, beginning with those that it
        has.

        @return: a Deferred; it never fails.
        """
        self._spool = spool
        return spool.notes().addCallback(self._loaded).addErrback(_notLoaded)

    def adopt(self, spool: ISpool) -> Deferred[None]:
        """
        Have what another spool has noted, whose process there is no longer.

        @return: a Deferred; it never fails.
        """
        return Deferred.fromCoroutine(self._adopt(spool)).addErrback(_notLoaded)

    async def _adopt(self, spool: ISpool) -> None:
        for name, text in (await spool.notes()).items():
            if placeOf((name, text, self._worker)) is not None:
                if self.take((name, text, self._worker)):
                    await self.adopted(name, text)
                spool.forget(name)

    async def adopted(self, name: str, text: str) -> None:
        """
        This process keeps another note: others may have to know.
        """

    def _loaded(self, notes: Mapping[str, str]) -> None:
        found = [one for one in (_read(*item, self._worker) for item in notes.items()) if one]
        for (kind, group, key), note in sorted(found, key=lambda one: one[1].version):
            if self._isNew(kind, group, key, note):
                self._kinds[kind].add(group, key, note)
                self.latest = max(self.latest, note.version)

    def _isNew(self, kind: str, group: str, key: str, note: _Note) -> bool:
        if kind not in self._kinds:
            return False
        before = self._kinds[kind].get(group, key)
        return before is None or before.version < note.version

    def _next(self) -> int:
        """
        A version above all that there are, and by the time of day, so that it is above
        those of other processes' spools, too, which may not have been read.
        """
        self.latest = max(self.latest + 1, int(timeOfDay(self._clock) * 1e6))
        return self.latest

    def find(self, kind: str, group: str) -> Sequence[tuple[str, JSON, int]]:
        notes = self._kinds[kind].groups.get(group)
        if not notes:
            return []
        now = timeOfDay(self._clock)
        for key in [key for key, note in notes.items() if note.expires <= now]:
            self._kinds[kind].remove(group, key)
        found = [(key, note.value, note.version) for key, note in notes.items()]
        return sorted(found, key=lambda one: one[2])

    def put(
        self,
        kind: str,
        group: str,
        key: str,
        value: JSON,
        seconds: float,
        was: int | None = None,
    ) -> Deferred[int]:
        try:
            return succeed(self.decide(self._worker, kind, group, key, value, seconds, was))
        except Changed:
            return fail()

    def decide(
        self,
        keeper: int,
        kind: str,
        group: str,
        key: str,
        value: JSON,
        seconds: float,
        was: int | None,
    ) -> int:
        """
        See L{INotes.put<deferrals.interfaces.INotes.put>}: here it is decided what its
        version is, and whether it may be.

        @param keeper: the process that keeps it.
        @raise Changed: it has another version than C{was}.
        """
        now = timeOfDay(self._clock)
        before = self._kinds[kind].get(group, key)
        if before is not None and before.expires <= now:
            before = None
        if was is not None and was != (0 if before is None else before.version):
            raise Changed() if before is None else Changed(before.value, before.version)
        version = self._next()
        expires = now + seconds
        text = json.dumps([value, version, expires])
        octets = len(text) + len(_name(kind, group, key))
        self._set(kind, group, key, _Note(text, version, octets, expires, keeper))
        self.shrink(kind)
        return version

    def _set(self, kind: str, group: str, key: str, note: _Note) -> None:
        before = self._kinds[kind].get(group, key)
        self._kinds[kind].add(group, key, note)
        if self._spool is None:
            return
        name = _name(kind, group, key)
        if note.keeper == self._worker:
            self._spool.note(name, note.text, note.expires - timeOfDay(self._clock))
        elif before is not None and before.keeper == self._worker:
            self._spool.forget(name)

    def shrink(self, kind: str) -> None:
        """
        Let go of what is too much of a kind.
        """
        notes = self._kinds[kind]
        while notes.isOver:
            for one in notes.surplus():
                self._remove(kind, *one)
                self._surplus(kind, *one)

    def forget(self, kind: str, group: str, key: str) -> Deferred[None]:
        self._remove(kind, group, key)
        return succeed(None)

    def _remove(self, kind: str, group: str, key: str) -> None:
        note = self._kinds[kind].get(group, key)
        if note is None:
            return
        self._kinds[kind].remove(group, key)
        if self._spool is not None and note.keeper == self._worker:
            self._spool.forget(_name(kind, group, key))

    # What other processes have noted.

    def watch(self, kind: str, heard: Callable[[str, str, JSON], object]) -> None:
        """
        @param heard: is called with group, key and value of what another process has
            noted; C{None} where it has forgotten it.
        """
        self._watchers.setdefault(kind, []).append(heard)

    def _heard(self, kind: str, group: str, key: str, value: JSON) -> None:
        for heard in self._watchers.get(kind, ()):
            heard(group, key, value)

    def drop(self, kind: str, group: str, key: str) -> None:
        """
        A process has forgotten a note.
        """
        self._remove(kind, group, key)
        self._heard(kind, group, key, None)

    def take(self, noted: Noted) -> bool:
        """
        Have a note that another process has put; or this one, before it ended.

        @return: whether it is newer than what is here.
        """
        read = _read(*noted)
        if read is None or not self._isNew(*read[0], read[1]):
            return False
        (kind, group, key), note = read
        self.latest = max(self.latest, note.version)
        self._set(kind, group, key, note)
        if note.keeper != self._worker:
            self._heard(kind, group, key, note.value)
        return True

    def names(self) -> list[tuple[str, str, str]]:
        """
        Kind, group and key of all that there are.
        """
        return [
            (kind, group, key)
            for kind, notes in self._kinds.items()
            for group, found in notes.groups.items()
            for key in found
        ]

    def noted(self, kind: str, group: str, key: str) -> Noted | None:
        """
        @return: what L{take} takes.
        """
        note = self._kinds[kind].get(group, key)
        return None if note is None else (_name(kind, group, key), note.text, note.keeper)


def _name(kind: str, group: str, key: str) -> str:
    return json.dumps([kind, group, key])


def placeOf(noted: Noted) -> tuple[tuple[str, str, str], int] | None:
    """
    @return: kind, group and key, and the version; C{None} for what is no note.
    """
    read = _read(*noted)
    return None if read is None else (read[0], read[1].version)


def _read(name: str, text: str, keeper: int) -> tuple[tuple[str, str, str], _Note] | None:
    """
    @return: C{None} for what was not noted here.
    """
    try:
        kind, group, key = json.loads(name)
        _, version, expires = json.loads(text)
        octets = len(text) + len(name)
        note = _Note(text, int(version), octets, float(expires), keeper)
        return (str(kind), str(group), str(key)), note
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def _notLoaded(failure: Failure) -> None:
    """
    The server runs all the same: a message that is not remembered costs its
    sender one more attempt.
    """
    _log.error("the notes cannot be read: {error}", error=failure.getErrorMessage())
