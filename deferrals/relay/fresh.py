"""
Fresh mail that waits for its turn in memory.

What has just become ours need not be put into the queue, claimed and read back, if
there is no room for its delivery at this moment.  It stays leased, and its content
stays where it is: at most L{MESSAGES}, and L{OCTETS} of contents.  One kind of mail
(L{Attempt.kind<deferrals.relay.attempts.Attempt.kind>}) never takes more than three
quarters of what it finds free.  What has waited for L{WAIT_SECONDS} goes into the
queue, where operators see it and senders are told that it is late; and so does what
finds no room here.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import TypeVar

from deferrals.relay.attempts import Attempt
from deferrals.relay.destinations import KIND_TIMES

_K = TypeVar("_K", bound=Hashable)

#: So many messages wait in memory at most, and so many octets of their contents.
MESSAGES, OCTETS = 4000, 32 << 20

#: So long at most, and as long again until it is looked for: less than a lease lasts.
WAIT_SECONDS = 60.0

#: What a content that is in a file takes in memory.
FILE_OCTETS = 256 << 10

#: So many destinations are asked about when there is room again; and as many of those
#: that are on this machine.
ASKED = 20


class FreshMail:
    """
    @param messages: how many there may be.
    @param octets: how many octets of content.
    """

    def __init__(self, messages: int = MESSAGES, octets: int = OCTETS) -> None:
        self._messages, self._octets = messages, octets
        self._lines: dict[Hashable, deque[Attempt]] = {}
        self._local: dict[Hashable, None] = {}
        self._numbers: Counter[int] = Counter()
        self._keys: set[tuple[int, int]] = set()
        self._kinds: Counter[Hashable] = Counter()

    def __contains__(self, key: object) -> bool:
        """
        Whether a recipient is here, by the number of its message and its own.
        """
        return key in self._keys

    def __bool__(self) -> bool:
        """
        Whether there is any.
        """
        return bool(self._lines)

    def isWaiting(self, attempt: Attempt) -> bool:
        """
        Whether others wait that come before it.
        """
        return attempt.line in self._lines

    def keep(self, attempt: Attempt) -> bool:
        """
        @return: whether there was room for it.
        """
        octets = _octetsOf(attempt)
        if self._kinds[attempt.kind] >= KIND_TIMES * self._messages or octets > self._octets:
            return False
        self._kinds[attempt.kind] += 1
        self._messages -= 1
        self._octets -= octets
        self._numbers[attempt.number] += 1
        self._keys |= attempt.keys
        self._lines.setdefault(attempt.line, deque()).append(attempt)
        if attempt.isLocal:
            self._local[attempt.line] = None
        return True

    def ready(self, mayBegin: Callable[[Attempt], bool], first: Hashable) -> Iterator[Attempt]:
        """
        @param mayBegin: whether an attempt may begin; then it has.
        @param first: the line in which one has ended.
        @return: those that begin now, and leave.
        """
        if first in self._lines:
            yield from self._readyOf(first, mayBegin)
        asked = (list(itertools.islice(lines, ASKED)) for lines in (self._local, self._lines))
        for name in dict.fromkeys(itertools.chain(*asked)):
            if name != first:
                yield from self._readyOf(name, mayBegin)

    @property
    def isAskedInPart(self) -> bool:
        """
        Whether L{ready} does not ask for all that waits.
        """
        return len(self._lines) > ASKED

    def _readyOf(self, name: Hashable, mayBegin: Callable[[Attempt], bool]) -> Iterator[Attempt]:
        line = self._lines[name]
        while line and mayBegin(line[0]):
            yield self._leave(line)
        self._lines[name] = self._lines.pop(name)  # behind all others
        if name in self._local:
            self._local[name] = self._local.pop(name)
        self._closeIfEmpty(name)

    def late(self, began: float) -> Iterator[Attempt]:
        """
        @param began: a time.
        @return: those that have waited since then, or for longer; they leave.
        """
        for name, line in list(self._lines.items()):
            while line and line[0].began <= began:
                yield self._leave(line)
            self._closeIfEmpty(name)

    def of(self, numbers: Collection[int]) -> Iterator[Attempt]:
        """
        @param numbers: those of messages.
        @return: what waits of these; it leaves.
        """
        if not self._numbers.keys() & numbers:
            return
        for name, line in list(self._lines.items()):
            meant = [attempt for attempt in line if attempt.number in numbers]
            for attempt in meant:
                line.remove(attempt)
                yield self._left(attempt)
            self._closeIfEmpty(name)

    def _closeIfEmpty(self, name: Hashable) -> None:
        if not self._lines[name]:
            del self._lines[name]
            self._local.pop(name, None)

    def _leave(self, line: deque[Attempt]) -> Attempt:
        return self._left(line.popleft())

    def _left(self, attempt: Attempt) -> Attempt:
        self._messages += 1
        self._octets += _octetsOf(attempt)
        _takeOne(self._numbers, attempt.number)
        self._keys -= attempt.keys
        _takeOne(self._kinds, attempt.kind)
        return attempt


def _takeOne(counts: Counter[_K], key: _K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def _octetsOf(attempt: Attempt) -> int:
    message = attempt.work.message
    return message.size if message.inMemory else min(message.size, FILE_OCTETS)
