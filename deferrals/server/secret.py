"""
Octets that only this server knows, and knows again after a restart.
"""

from __future__ import annotations

import secrets

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from deferrals.interfaces import ISpool
from deferrals.logger import Logger

_log = Logger(namespace="deferrals")

#: The name of the note.
_NAME = "secret"

_OCTETS = 32
_SECONDS = 10 * 365 * 86400.0


class Secret:
    """
    @param spool: keeps it.
    """

    def __init__(self, spool: ISpool) -> None:
        self._spool = spool
        self._value: bytes | None = None
        self._waiting: list[Deferred[bytes]] = []

    def get(self) -> Deferred[bytes]:
        """
        @return: a Deferred that fires once it is known.
        """
        if self._value is not None:
            return succeed(self._value)
        d: Deferred[bytes] = Deferred(lambda d: self._waiting.remove(d))
        self._waiting.append(d)
        return d

    def load(self) -> Deferred[None]:
        """
        Read it, or make it.

        @return: a Deferred; it never fails.
        """
        d: Deferred[dict[str, str]] = self._spool.notes()
        return d.addCallback(self._read).addErrback(self._notRead).addCallback(self._known)

    def _read(self, notes: dict[str, str]) -> bytes:
        value = bytes.fromhex(notes.get(_NAME, ""))
        if len(value) != _OCTETS:
            value = secrets.token_bytes(_OCTETS)
            self._spool.note(_NAME, value.hex(), _SECONDS)
        return value

    def _notRead(self, failure: Failure) -> bytes:
        """
        The server runs all the same: what strangers are told is new.
        """
        _log.error("the server's secret cannot be read: {error}", error=failure.getErrorMessage())
        return secrets.token_bytes(_OCTETS)

    def _known(self, value: bytes) -> None:
        self._value = value
        waiting, self._waiting = self._waiting, []
        for d in waiting:
            d.callback(value)
