"""
The start of a queue whose database may be away: after a power cut the machines are there
before it.

Whoever is told so (L{Beginning.waits}) waits for it; others, such as commands, fail.  What
is wrong with a database that is there ends the start; later, when it was waited for already,
that is said, and tried again: the operator may mend it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from deferrals.errors import OutcomeUnknown, SpoolError, StoreAway
from deferrals.logger import Logger

_log = Logger(namespace="deferrals.spool")

_T = TypeVar("_T")

#: What could not be begun is begun again so much later, in seconds.
AGAIN_SECONDS = 1.0


class StoreOpening(Protocol):
    """
    See L{StoreConnection<deferrals.spool.postgresql.connection.StoreConnection>}.
    """

    def open(self) -> Deferred[None]:
        """Make it now."""

    def there(self) -> Deferred[None]:
        """It is there, sooner or later."""

    def close(self) -> Deferred[None]:
        """No more."""


class Beginning:
    """
    See the module.

    @param connections: all that are needed, in their order.
    @param clock: timers.
    @ivar waits: is told once that the database is waited for; C{None}, where it is not.
    @ivar isWaiting: whether it was waited for.
    """

    def __init__(self, connections: Sequence[StoreOpening], clock: IReactorTime) -> None:
        self._connections = connections
        self._clock = clock
        self.waits: Callable[[], object] | None = None
        self.isWaiting = self._isOver = False
        self._begun: set[StoreOpening] = set()
        self._pause: Deferred[None] | None = None
        self._wrong = ""

    async def whole(self, begin: Callable[[], Awaitable[None]]) -> None:
        """
        Begin something that needs the database, again and again until it has begun.

        @param begin: does; it asks for L{connections} first.
        @raise SpoolError: it cannot begin, and is not waited for.
        """
        while not await self._hasBegun(begin):
            self._pause = deferLater(self._clock, AGAIN_SECONDS)
            with contextlib.suppress(CancelledError):
                await self._pause

    async def _hasBegun(self, begin: Callable[[], Awaitable[None]]) -> bool:
        try:
            await begin()
        except SpoolError as error:
            isAway = isinstance(error, StoreAway | OutcomeUnknown)
            if self.waits is None or self._isOver or not (isAway or self.isWaiting):
                raise
            if not (isAway or str(error) == self._wrong):  # what is away was logged
                self._wrong = str(error)
                _log.error("the queue cannot be used: {error}", error=self._wrong)
            self._wait(self.waits)
            return False
        return True

    def _wait(self, waits: Callable[[], object]) -> None:
        if not self.isWaiting:
            self.isWaiting = True
            waits()

    async def connections(self) -> None:
        """
        All of them are there.

        @raise SpoolError: one is not.
        """
        for one in self._connections:
            if self._isOver:
                raise StoreAway("it is not waited for")
            if one in self._begun:
                await one.there()
            else:
                self._begun.add(one)
                await one.open()

    async def asked(self, ask: Callable[[], Deferred[_T]]) -> _T:
        """
        Ask what has to be known at the start.

        @param ask: asks the first of the connections.
        """
        while True:
            try:
                return await ask()
            except (StoreAway, OutcomeUnknown):
                if self.waits is None or self._isOver:
                    raise
                self._wait(self.waits)
            self._pause = self._connections[0].there()
            with contextlib.suppress(CancelledError):
                await self._pause

    def end(self, isBegun: bool = False) -> None:
        """
        The server stops: what has not begun fails.

        @param isBegun: whether the connections are needed all the same.
        """
        self._isOver = True
        if self._pause is not None:
            self._pause.cancel()
        for one in () if isBegun else self._connections:
            one.close().addErrback(lambda _: None)  # the wait for it fails, which says it
