"""
What all listeners share for mixed mail.
"""

from __future__ import annotations

from collections.abc import Callable

from deferrals.model.address import Mailbox
from deferrals.model.listener import ListenerSettings
from deferrals.server.services import Services
from deferrals.smtp.server.mixed import MixedPolicy


class MixedPolicies:
    """
    @param services: have the notes, and SPF.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

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
            notes=self._services.notes,
            quarantine=quarantine,
            reachable=reachable,
            proved=self._services.spf.proved,
            inThread=self._services.inThread,
            status=self._services.status,
            clock=self._services.reactor,
        )
