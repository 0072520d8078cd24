"""
Delivery into a mail store over LMTP (RFC 2033).

All recipients of a message go over one session, and each one's reply is its
outcome: 2xx delivered, 4xx retried, 5xx failed.  Only parameters that the store
has offered are sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from deferrals.interfaces import IForeseeingDelivery, IMessage, IOnwardDelivery, IServices
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.outgoing import Security
from deferrals.model.reply import Reply
from deferrals.model.sending import R550_NO_REQUIRETLS
from deferrals.model.settings import checked, positive
from deferrals.stages.delivery.remote import (
    ConnectionSettings,
    Outcomes,
    RemoteDelivery,
    hopTo,
    hostOf,
    isLoopback,
)
from deferrals.tls import isTLS


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


@implementer(IForeseeingDelivery, IOnwardDelivery)
class LMTPDelivery:
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: LMTPSettings, services: IServices) -> None:
        endpoint = settings.endpoint
        hop = hopTo(services, endpoint, settings.tls, settings.tls_name, settings.tls_ca)
        self._hop = attrs.evolve(settings.limiting(hop), lmtp=True, forms=())
        private = endpoint.startswith("unix:") or isLoopback(hostOf(endpoint))
        self._remote = RemoteDelivery(services, None, "delivered", private)
        verifies = self._hop.security == "verified" or isTLS(endpoint)
        self._isProtected = private or verifies

    def destination(self, recipient: Recipient) -> str:
        return f"lmtp {self._hop.name}"

    def refusal(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        isNever = envelope.parameters.requireTLS and not self._isProtected
        return R550_NO_REQUIRETLS if isNever else None

    def deliver(
        self, message: IMessage, envelope: Envelope, recipients: Sequence[Addressee]
    ) -> Deferred[Outcomes]:
        delivering = self._remote.deliver(message, envelope, recipients, [self._hop])
        return Deferred.fromCoroutine(delivering)
