"""
Small facts that outlive a restart (L{INotes}): in memory, so that they are found
at once, and in the spool's notes, so that they are found after a restart.  A
crash may cost the newest.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence

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
MOST = {"mixed": 10_000, "downgrade": 10_000, "backoff": 10_000}
MAX_OCTETS = 32 * 1024 * 1024


@attrs.frozen
class _Note:
    """
    @ivar text: as the spool has it: of what it says, C{version} and C{expires}.
        The objects would take several times as much memory.
    @ivar octets: what it costs.
    @ivar expires: in seconds since the epoch.
    """

    text: str
    version: int
    octets: int
    expires: float

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
    """

    def __init__(self, clock: IReactorTime, most: Mapping[str, int] | None = None) -> None:
        self._clock = clock
        self._kinds = {kind: _Kind(number) for kind, number in (most or MOST).items()}
        self._versions = itertools.count(1)
        self._spool: ISpool | None = None

    def load(self, spool: ISpool) -> Deferred[None]:
        """
        Keep the notes in this spool from now on, beginning with those that it
        has.

        @return: a Deferred; it never fails.
        """
        self._spool = spool
        return spool.notes().addCallback(self._loaded).addErrback(_notLoaded)

    def _loaded(self, notes: Mapping[str, str]) -> None:
        found = [one for one in map(_read, notes.items()) if one is not None]
        for name, note in sorted(found, key=lambda one: one[1].version):
            kind, group, key = name
            if kind in self._kinds and self._kinds[kind].get(group, key) is None:
                self._kinds[kind].add(group, key, note)
        last = max((note.version for _, note in found), default=0)
        self._versions = itertools.count(max(last + 1, next(self._versions)))

    def find(self, kind: str, group: str) -> Sequence[tuple[str, JSON, int]]:
        notes = self._kinds[kind].groups.get(group)
        if not notes:
            return []
        now = timeOfDay(self._clock)
        for key in [key for key, note in notes.items() if note.expires <= now]:
            self._kinds[kind].remove(group, key)
        return [(key, note.value, note.version) for key, note in notes.items()]

    def put(
        self,
        kind: str,
        group: str,
        key: str,
        value: JSON,
        seconds: float,
        was: int | None = None,
    ) -> Deferred[int]:
        notes = self._kinds[kind]
        before = notes.get(group, key)
        if was is not None and (before is None or before.version != was):
            return fail(Changed() if before is None else Changed(before.value, before.version))
        version = next(self._versions)
        expires = timeOfDay(self._clock) + seconds
        text = json.dumps([value, version, expires])
        name = _name(kind, group, key)
        note = _Note(text, version, len(text) + len(name), expires)
        notes.add(group, key, note)
        if self._spool is not None:
            self._spool.note(name, text, seconds)
        while notes.isOver:
            for one in notes.surplus():
                self._remove(kind, *one)
        return succeed(version)

    def forget(self, kind: str, group: str, key: str) -> Deferred[None]:
        self._remove(kind, group, key)
        return succeed(None)

    def _remove(self, kind: str, group: str, key: str) -> None:
        if self._kinds[kind].remove(group, key) and self._spool is not None:
            self._spool.forget(_name(kind, group, key))


def _name(kind: str, group: str, key: str) -> str:
    return json.dumps([kind, group, key])


def _read(item: tuple[str, str]) -> tuple[tuple[str, str, str], _Note] | None:
    """
    @return: C{None} for what was not noted here.
    """
    name, text = item
    try:
        kind, group, key = json.loads(name)
        _, version, expires = json.loads(text)
        note = _Note(text, int(version), len(text) + len(name), float(expires))
        return (str(kind), str(group), str(key)), note
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None


def _notLoaded(failure: Failure) -> None:
    """
    The server runs all the same: a message that is not remembered costs its
    sender one more attempt.
    """
    _log.error("the notes cannot be read: {error}", error=failure.getErrorMessage())
