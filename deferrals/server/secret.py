"""
Octets that only this server knows, all its processes, and knows again after a restart.
"""

from __future__ import annotations

import secrets

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from deferrals.interfaces import ISpool
from deferrals.logger import Logger
from deferrals.server.notes import Notes

_log = Logger(namespace="deferrals")

#: Where it is among the notes.
KIND, _GROUP, _KEY = "secret", "server", "octets"

#: The name that it had in a spool before there were several processes.
_NAME = "secret"

_OCTETS = 32
_SECONDS = 10 * 365 * 86400.0


class Secret:
    """
    @param spool: may have one that was made before.
    @param notes: keep it: all processes have the newest.
    """

    def __init__(self, spool: ISpool, notes: Notes) -> None:
        self._spool = spool
        self._notes = notes
        self._made: bytes | None = None
        self._waiting: list[Deferred[bytes]] = []

    def get(self) -> Deferred[bytes]:
        """
        @return: a Deferred that fires once it is known.
        """
        value = self._noted() or self._made
        if value is not None:
            return succeed(value)
        d: Deferred[bytes] = Deferred(lambda d: self._waiting.remove(d))
        self._waiting.append(d)
        return d

    def _noted(self) -> bytes | None:
        for _, value, _ in self._notes.find(KIND, _GROUP):
            found = _octets(value) if isinstance(value, str) else b""
            if len(found) == _OCTETS:
                return found
        return None

    def load(self) -> Deferred[None]:
        """
        Make it, where no process has noted one.  The notes are loaded.

        @return: a Deferred; it never fails.
        """
        return Deferred.fromCoroutine(self._load()).addErrback(_notNoted)

    async def _load(self) -> None:
        if self._noted() is None:
            notes: dict[str, str] = await self._spool.notes().addErrback(_notRead)
            before = _octets(notes.get(_NAME, ""))
            self._made = before if len(before) == _OCTETS else secrets.token_bytes(_OCTETS)
        waiting, self._waiting = self._waiting, []
        for d in waiting:
            d.callback(self._noted() or self._made or b"")
        if self._made is not None:
            await self._notes.put(KIND, _GROUP, _KEY, self._made.hex(), _SECONDS)


def _octets(text: str) -> bytes:
    """
    @return: nothing, where it is none.
    """
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _notRead(failure: Failure) -> dict[str, str]:
    """
    The server runs all the same: what strangers are told is new.
    """
    _log.error("the server's secret cannot be read: {error}", error=failure.getErrorMessage())
    return {}


def _notNoted(failure: Failure) -> None:
    _log.error("the server's secret is not noted: {error}", error=failure.getErrorMessage())
