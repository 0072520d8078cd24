"""
Extensions that a server offers and that do not work there: the client remembers
them, and does without for a while (D-26).

A problem is a connection that breaks, or a protocol that is broken, where the
extension was used; or a server that refuses the very parameter or command that it
has offered.  Three in a row are excessive; what would cost the message is one problem
too many.  A message that gets its answers clears the record.

What is done without is kept in the server's notes, so that it is known after a
restart.  The problems that lead to it are not: a server has all its chances then.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from cachetools import LRUCache
from twisted.internet.interfaces import IReactorTime

from deferrals.deferreds import asDeferred, timeOfDay
from deferrals.interfaces import INotes
from deferrals.logger import Logger
from deferrals.model.json import JSON

_log = Logger(namespace="deferrals.hops")

#: So many problems in a row are excessive.
MAX_PROBLEMS = 3

#: How long a server is spared then, in seconds.
SPARED_SECONDS = 86400.0

#: How many servers are remembered; the ones that were met last.
MAX_SERVERS = 10_000

#: The kind of the notes.
KIND = "downgrade"

#: So much of a reason is kept.
_REASON_LETTERS = 300


@attrs.define
class _Downgrade:
    """
    @ivar problems: in a row.
    @ivar until: the server is spared until then, in seconds since the epoch.
    @ivar reason: the last problem.
    """

    problems: int = 0
    until: float = 0.0
    reason: str = ""

    def isOn(self, now: float) -> bool:
        """
        Whether the server is spared now.  A time that is further away than any can be
        was written by a clock that was wrong.
        """
        return now < self.until <= now + SPARED_SECONDS


class Downgrades:
    """
    What is remembered of all servers.

    @param clock: tells the time.
    @param notes: keep it; C{None} where the process forgets it.
    """

    def __init__(self, clock: IReactorTime, notes: INotes | None = None) -> None:
        self._clock = clock
        self._notes = notes
        self._servers: LRUCache[str, dict[str, _Downgrade]] = LRUCache(MAX_SERVERS)

    async def without(self, server: str) -> frozenset[str]:
        """
        The keywords of the extensions that are not to be used with a server now.
        """
        now = timeOfDay(self._clock)
        if self._notes is not None:
            found: Sequence[tuple[str, JSON, int]]
            found = await asDeferred(self._notes.find, KIND, server)
            for keyword, value, _ in found:  # another process may have noted it just now
                self._learn(server, keyword, _downgrade(value), now)
        known = self._servers.get(server, {})
        return frozenset(word for word, record in known.items() if record.isOn(now))

    def _learn(self, server: str, keyword: str, noted: _Downgrade, now: float) -> None:
        known = self._servers.setdefault(server, {})
        if noted.isOn(now) and not known.get(keyword, noted).isOn(now):
            known[keyword] = noted
        known.setdefault(keyword, noted)

    def problem(self, server: str, keyword: str, reason: str, *, isExcessive: bool = False) -> bool:
        """
        Something went wrong under an extension.

        @param isExcessive: whether one such problem is one too many.
        @return: whether the server is done without it from now on.
        """
        now = timeOfDay(self._clock)
        record = self._servers.setdefault(server, {}).setdefault(keyword, _Downgrade())
        if record.isOn(now):
            return False  # it had begun before
        if record.until:
            record.problems, record.until = 0, 0.0  # it starts anew, with all its chances
        record.problems += 1
        record.reason = reason[:_REASON_LETTERS]
        if record.problems < MAX_PROBLEMS and not isExcessive:
            return False
        record.until = now + SPARED_SECONDS  # D-26
        self._keep(server, keyword, record)
        return True

    def _keep(self, server: str, keyword: str, record: _Downgrade) -> None:
        if self._notes is not None:
            value: JSON = {"until": record.until, "reason": record.reason}
            noted = self._notes.put(KIND, server, keyword, value, SPARED_SECONDS)
            noted.addErrback(
                lambda failure: _log.warn(
                    "{server}: not noted: {error}", server=server, error=failure.getErrorMessage()
                )
            )

    def success(self, server: str, keyword: str) -> None:
        """
        It went well.
        """
        self._servers.get(server, {}).pop(keyword, None)

    def describe(self) -> list[dict[str, object]]:
        """
        For the status: which servers are used without which extension.
        """
        now = timeOfDay(self._clock)
        return [
            {
                "server": server,
                "without": keyword,
                "seconds": round(record.until - now),
                "reason": record.reason,
            }
            for server, known in self._servers.items()
            for keyword, record in known.items()
            if record.isOn(now)
        ]


def _downgrade(value: JSON) -> _Downgrade:
    """
    What a note says; one that is none is forgotten with its time.
    """
    if not isinstance(value, dict):
        return _Downgrade()
    until, reason = value.get("until"), value.get("reason")
    if not isinstance(until, int | float):
        return _Downgrade()
    return _Downgrade(MAX_PROBLEMS, float(until), str(reason)[:_REASON_LETTERS])
