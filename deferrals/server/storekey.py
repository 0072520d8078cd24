"""
What links are signed with where several machines share a database: the key is made there
once, and kept in memory from then on.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from deferrals.errors import SpoolError, StoreAway
from deferrals.logger import Logger
from deferrals.model.link import KEY_OCTETS
from deferrals.spool.postgresql.digests import linkKey
from deferrals.spool.postgresql.refusals import Transacting

_log = Logger(namespace="deferrals.refusals")

#: How often it is asked for until it is known, in seconds.
RETRY_SECONDS = 5.0


class StoreKey:
    """
    @param database: where it is.
    @param known: is called once it is known, or not wanted any longer.
    """

    def __init__(
        self, database: Transacting, clock: IReactorTime, known: Callable[[], object] = lambda: None
    ) -> None:
        self._database = database
        self._clock = clock
        self._told = known
        self._key: bytes | None = None
        self._again: IDelayedCall | None = None
        self._isAsked = self._isOver = False

    def get(self) -> bytes:
        """
        See L{LinkKey.get<deferrals.server.linkkey.LinkKey.get>}.  It does not wait.

        @raise StoreAway: it is not known yet.
        """
        if self._key is None:
            self.start()
            raise StoreAway("what links are signed with is not known yet")
        return self._key

    async def known(self) -> None:
        """
        Wait until it is.

        @raise SpoolError: it cannot be asked for now.
        """
        if self._key is None:
            self._answered(await self._fetch())

    def start(self) -> None:
        """
        Ask for it, until it is known.
        """
        if not self._isAsked and not self._isOver:
            self._isAsked = True
            self._ask()

    def stop(self) -> None:
        """
        No more.
        """
        if self._key is None and not self._isOver:
            self._told()
        self._isOver = True
        if self._again is not None and self._again.active():
            self._again.cancel()

    def _ask(self) -> None:
        self._fetch().addCallback(self._answered).addErrback(self._failed)

    def _fetch(self) -> Deferred[str]:
        made = secrets.token_hex(KEY_OCTETS)
        return self._database.run(lambda db: linkKey(db, made))

    def _answered(self, text: str) -> None:
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != KEY_OCTETS:  # what it is instead is said nowhere
            raise SpoolError(f"link_key in info: expected {2 * KEY_OCTETS} hexadecimal digits")
        self._key = key
        self._told()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(StoreAway):  # that was logged
            _log.error("links cannot be signed: {error}", error=failure.getErrorMessage())
        if not self._isOver:
            self._again = self._clock.callLater(RETRY_SECONDS, self._ask)
