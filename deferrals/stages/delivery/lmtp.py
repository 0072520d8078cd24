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

from deferrals.interfaces import (
    IAskableDelivery,
    IForeseeingMessageDelivery,
    IMessage,
    IOnwardDelivery,
    IReportingDelivery,
    IServices,
)
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.outgoing import Security
from deferrals.model.reply import Reply
from deferrals.model.sending import R550_NO_REQUIRETLS
from deferrals.model.settings import BadSetting, checked, positive
from deferrals.stages.delivery.copies import Report
from deferrals.stages.delivery.onehop import LoginSettings, OneHopDelivery
from deferrals.stages.delivery.remote import (
    Outcomes,
    RemoteDelivery,
    hopTo,
    hostOf,
    isLoopback,
)
from deferrals.tls import isTLS


@attrs.frozen(kw_only=True)
class LMTPSettings(LoginSettings):
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

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        isSafe = self.isHere or isTLS(self.endpoint) or self.tls in ("required", "verified")
        if self.user is not None and not isSafe:
            raise BadSetting("tls", '"required" or "verified", since there is a password')

    @property
    def isHere(self) -> bool:
        """
        Whether the store is on this machine.
        """
        return self.endpoint.startswith("unix:") or isLoopback(hostOf(self.endpoint))


@implementer(IAskableDelivery, IForeseeingMessageDelivery, IOnwardDelivery, IReportingDelivery)
class LMTPDelivery(OneHopDelivery):
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: LMTPSettings, services: IServices) -> None:
        endpoint = settings.endpoint
        hop = hopTo(services, endpoint, settings.tls, settings.tls_name, settings.tls_ca)
        login = settings.login(services.baseDir)
        super().__init__(
            attrs.evolve(settings.limiting(hop), lmtp=True, forms=(), login=login),
            RemoteDelivery(services, None, "delivered", settings.isHere),
        )
        verifies = self._hop.security == "verified" or isTLS(endpoint)
        self._isProtected = settings.isHere or verifies

    def destination(self, recipient: Recipient) -> str:
        return f"lmtp {self._hop.name}"

    def refusal(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        isNever = envelope.parameters.requireTLS and not self._isProtected
        if isNever:
            return R550_NO_REQUIRETLS
        return self._remote.refusal(self._hop, envelope, recipient)

    def deliverReporting(
        self,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Report,
    ) -> Deferred[Outcomes]:
        delivering = self._remote.deliver(message, envelope, recipients, [self._hop], report)
        return Deferred.fromCoroutine(delivering)
