"""
What all listeners share for mixed mail, and what outlives a restart.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from deferrals.deferreds import timeOfDay
from deferrals.interfaces import ISpool
from deferrals.logger import Logger
from deferrals.model.address import Mailbox
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import Memory, Remembered
from deferrals.server.services import Services
from deferrals.server.spf import SPF
from deferrals.smtp.server.mixed import MixedPolicy

_log = Logger(namespace="deferrals")

#: What names of notes begin with.
_PREFIX = "mixed "


class MixedPolicies:
    """
    @param spool: keeps the notes.
    """

    def __init__(self, services: Services, spool: ISpool) -> None:
        self._services = services
        self._spool = spool
        self._memory = Memory(self._save)
        self._spf = SPF(services.resolver, services.reactor)

    def forListener(
        self,
        settings: ListenerSettings,
        quarantine: Callable[[str], str | None],
        reachable: Callable[[Mailbox], bool],
    ) -> MixedPolicy:
        """
        What one listener does with mixed mail.

        @param quarantine: the name of a policy's quarantine delivery.
        @param reachable: whether notices for a sender have a way to go.
        """
        return MixedPolicy(
            choice=settings.mixedChoice,
            fallback=settings.mixed_fallback,
            retryLimit=settings.retry_limit,
            memory=self._memory,
            quarantine=quarantine,
            reachable=reachable,
            mayNotify=self._spf.passes,
            inThread=self._services.inThread,
            status=self._services.status,
        )

    def load(self) -> Deferred[None]:
        """
        Remember what was remembered before the restart.

        @return: a Deferred; it never fails.
        """
        return self._spool.notes().addCallback(self._loaded).addErrback(self._notLoaded)

    def _notLoaded(self, failure: Failure) -> None:
        """
        The server runs all the same: a message that is not remembered costs its
        sender one more attempt.
        """
        _log.error(
            "what is remembered of mixed mail cannot be read: {error}",
            error=failure.getErrorMessage(),
        )

    def _loaded(self, notes: dict[str, str]) -> None:
        found = []
        for name, value in notes.items():
            if not name.startswith(_PREFIX):
                continue
            try:
                remembered = Remembered.fromJSON(json.loads(value))
            except (ValueError, KeyError, TypeError):
                _log.failure("a note on mixed mail cannot be read")
            else:
                found.append((remembered.created, name.removeprefix(_PREFIX), remembered))
        for _, fingerprint, remembered in sorted(found, key=lambda one: one[0]):
            self._memory.load(fingerprint, remembered)

    def _save(self, fingerprint: str, remembered: Remembered | None) -> None:
        if remembered is None:
            self._spool.forget(_PREFIX + fingerprint)
            return
        seconds = remembered.expires - timeOfDay(self._services.reactor)
        self._spool.note(_PREFIX + fingerprint, json.dumps(remembered.toJSON()), seconds)
