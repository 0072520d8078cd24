"""
Delivery into a mail store over LMTP (RFC 2033).

All recipients of a message go over one session, and each one's reply is its
outcome: 2xx delivered, 4xx retried, 5xx failed.  Only parameters that the store
has offered are sent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import attrs
from zope.interface import implementer

from deferrals.interfaces import IDeliveryStage
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.outgoing import Hop, Security, Timeouts
from deferrals.model.settings import checked, positive
from deferrals.stages.delivery.remote import (
    ConnectionSettings,
    RemoteDelivery,
    checkEndpoint,
    hostOf,
    isLoopback,
)


@attrs.frozen(kw_only=True)
class LMTPSettings(ConnectionSettings):
    """
    @ivar endpoint: a Twisted client endpoint string:
        C{unix:/run/dovecot/lmtp}, C{tcp:127.0.0.1:24}.
    @ivar tls: C{"none"}, C{"opportunistic"}, C{"required"} or C{"verified"}.
    @ivar tls_name: what the certificate must say; the endpoint's host.
    @ivar tls_ca: a file of certificates (PEM) that are trusted; those that the
        system trusts.
    @ivar recipients: in one transaction; more make another one.
    """

    endpoint: str
    tls: Security = "none"
    tls_name: str | None = None
    tls_ca: str | None = None
    recipients: int = attrs.field(default=1000, validator=checked(positive))


@implementer(IDeliveryStage)
class LMTPDelivery:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: LMTPSettings, services: Any) -> None:
        endpoint = checkEndpoint(services, settings.endpoint)
        ca = settings.tls_ca
        self._hop = Hop(
            endpoint,
            endpoint,
            settings.tls_name or hostOf(endpoint),
            lmtp=True,
            forms=(),
            security=settings.tls,
            ca=None if ca is None else os.path.join(services.baseDir, ca),
            connections=settings.connections,
            messages=settings.messages,
            recipients=settings.recipients,
            idleSeconds=settings.idle_timeout,
            timeouts=Timeouts(settings.timeout),
        )
        private = endpoint.startswith("unix:") or isLoopback(hostOf(endpoint))
        self._handover = RemoteDelivery(services, None, "delivered", private)

    def destination(self, recipient: Recipient) -> str:
        """
        See L{IDeliveryStage.destination}.
        """
        return f"lmtp {self._hop.endpoint}"

    def deliver(self, message: Any, envelope: Envelope, recipients: Sequence[Addressee]) -> Any:
        """
        See L{IDeliveryStage.deliver}.
        """
        return self._handover.deliver(message, envelope, recipients, [self._hop])
