"""
Notes that several machines share: in a database, beside those that are this machine's
own.

What several machines' clients may bring to any of them is shared: a sender turns to the
second machine a millisecond after the first has refused it for now.  What a machine has
found out of the servers that it sends to is its own, since it is asked for at each
delivery, and another machine's network may be another.

Look-ups that come while one is under way are one statement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import attrs
from cachetools import LRUCache
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import OutcomeUnknown, StoreAway
from deferrals.interfaces import INotes
from deferrals.interfaces.message import MaybeAwaitable
from deferrals.logger import Logger
from deferrals.model.json import JSON
from deferrals.server.notes import MAX_OCTETS, MOST
from deferrals.spool.postgresql import notes
from deferrals.spool.postgresql.connection import StoreConnection
from deferrals.spool.postgresql.notes import Stored

_log = Logger(namespace="deferrals")

#: The kinds that are a machine's own.
OWN = frozenset({"backoff", "downgrade", "secret"})

#: What is too much goes so often, in seconds; and after so many puts.
TRIM_SECONDS, TRIM_PUTS = 60.0, 500

#: So many groups that were put here are known while the database is away.
KNOWN = 10_000


#: Key, value and version.
Found: TypeAlias = tuple[str, JSON, int]


@attrs.frozen
class _OwnNote:
    """
    What was put here.

    @ivar text: its value: each reader has one of its own.
    @ivar expires: by the clock of timers.
    """

    text: str
    version: int
    expires: float


@implementer(INotes)
class SharedNotes:
    """
    @param own: those of this machine.
    @param connection: what is committed there need not be on a disk: it is visible.
    @param most: how many notes each kind may have.
    """

    def __init__(
        self,
        own: INotes,
        connection: StoreConnection,
        clock: IReactorTime,
        most: Mapping[str, int] = MOST,
    ) -> None:
        self._own = own
        self._connection = connection
        self._clock = clock
        self._most = most
        self._asked: dict[bytes, list[Deferred[Sequence[Found]]]] = {}
        self._isAsking = False
        self._puts = 0
        self._trimming = LoopingCall(self._trim)
        self._trimming.clock = clock
        self._known: LRUCache[tuple[str, str], dict[str, _OwnNote]] = LRUCache(KNOWN)

    def start(self) -> None:
        """
        Keep what there is within its bounds.
        """
        self._trimming.start(TRIM_SECONDS, now=False)

    def stop(self) -> None:
        """
        The connection is about to be closed.
        """
        if self._trimming.running:
            self._trimming.stop()

    def find(self, kind: str, group: str) -> MaybeAwaitable[Sequence[Found]]:
        """
        See L{INotes.find}.  While the database is away what was put here is found.
        """
        if kind in OWN:
            return self._own.find(kind, group)
        done: Deferred[Sequence[Found]] = Deferred()
        if not self._asked and not self._isAsking:
            self._clock.callLater(0, self._ask)
        self._asked.setdefault(notes.placeOf(kind, group), []).append(done)
        return done.addErrback(self._recalled, kind, group)

    def _ask(self) -> None:
        asked, self._asked = self._asked, {}
        self._isAsking = bool(asked)
        if asked:
            d = self._connection.alone(notes.find, [*asked])
            d.addBoth(self._answered, asked)

    def _answered(
        self,
        found: dict[bytes, list[Stored]] | Failure,
        asked: dict[bytes, list[Deferred[Sequence[Found]]]],
    ) -> None:
        self._ask()  # what has come meanwhile need not wait until these are told
        for place, waiting in asked.items():
            for one in waiting:
                one.callback(found if isinstance(found, Failure) else _read(found[place]))

    def _recalled(self, failure: Failure, kind: str, group: str) -> Sequence[Found]:
        failure.trap(StoreAway, OutcomeUnknown)
        now = self._clock.seconds()
        known = self._known.get((kind, group), {})
        found = [(key, one.text, one.version) for key, one in known.items() if now < one.expires]
        if not found:
            raise StoreAway(failure.getErrorMessage())
        return _read(sorted(found, key=lambda one: one[2]))

    def put(
        self,
        kind: str,
        group: str,
        key: str,
        value: JSON,
        seconds: float,
        was: int | None = None,
    ) -> Deferred[int]:
        """
        See L{INotes.put}.
        """
        if kind in OWN:
            return self._own.put(kind, group, key, value, seconds, was)
        self._puts += 1
        if self._puts % TRIM_PUTS == 0:
            self._trim()
        d = self._connection.alone(notes.put, (kind, group, key), value, seconds, was)
        text, expires = json.dumps(value), self._clock.seconds() + seconds

        def written(version: int) -> int:
            self._known.setdefault((kind, group), {})[key] = _OwnNote(text, version, expires)
            return version

        return d.addCallback(written)

    def forget(self, kind: str, group: str, key: str) -> Deferred[None]:
        """
        See L{INotes.forget}.
        """
        if kind in OWN:
            return self._own.forget(kind, group, key)
        self._known.get((kind, group), {}).pop(key, None)
        return self._connection.alone(notes.forget, kind, group, key)

    def _trim(self) -> None:
        d = self._connection.run(notes.trim, self._most, MAX_OCTETS)
        d.addErrback(_notTrimmed)


def _read(found: Sequence[Stored]) -> list[Found]:
    return [(key, json.loads(text), version) for key, text, version in found]


def _notTrimmed(failure: Failure) -> None:
    """
    It is done the next time; that the database is away was logged.
    """
    if not failure.check(StoreAway, OutcomeUnknown):
        _log.error("notes are not trimmed: {error}", error=failure.getErrorMessage())
