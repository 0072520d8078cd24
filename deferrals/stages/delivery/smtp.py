"""
Delivery to one SMTP server: a smarthost, or the real server behind this one.

What it does and does not do again is in L{deferrals.stages.delivery.remote};
the connections are L{INextHops<deferrals.interfaces.INextHops>}'.
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
    FORMS,
    Outcomes,
    RemoteDelivery,
    forms,
    hopTo,
)
from deferrals.tls import isTLS


@attrs.frozen(kw_only=True)
class SMTPSettings(LoginSettings):
    """
    @ivar endpoint: a Twisted client endpoint string: C{tcp:host:25};
        C{tls:host:465} for TLS from the start.
    @ivar tls: behind C{tcp:}: C{"none"}; C{"opportunistic"}, where it can be
        had, with whatever server answers; C{"required"}, TLS or nothing;
        C{"verified"}, and with a certificate of this name.  By default
        C{"verified"} with a C{user}, otherwise C{"opportunistic"}.
    @ivar tls_name: what the certificate must say; the endpoint's host.
    @ivar tls_ca: a file of certificates (PEM) that are trusted; those that the
        system trusts.
    @ivar ask: the extensions that give each recipient an answer, as far as the
        server offers them.
    @ivar chunking: whether to use BDAT where it is offered.
    @ivar max_hops: a message with more Received fields is in a loop, 554 5.4.6.
    """

    endpoint: str
    tls: Security | None = None
    tls_name: str | None = None
    tls_ca: str | None = None
    ask: tuple[str, ...] = attrs.field(default=tuple(FORMS), validator=checked(forms))
    chunking: bool = True
    max_hops: int = attrs.field(default=30, validator=checked(positive))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        private = isTLS(self.endpoint) or self.endpoint.startswith("unix:")
        if self.user is not None and not private and self.security in ("none", "opportunistic"):
            raise BadSetting("tls", '"required" or "verified", since there is a password')
        if self.security == "verified" and self.endpoint[:4].lower() == "ssl:":
            raise BadSetting("endpoint", '"tls:…", since "ssl:" does not verify the server')

    @property
    def security(self) -> Security:
        """
        C{tls} with its default.
        """
        return self.tls or ("opportunistic" if self.user is None else "verified")


@implementer(IAskableDelivery, IForeseeingMessageDelivery, IOnwardDelivery, IReportingDelivery)
class SMTPDelivery(OneHopDelivery):
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: SMTPSettings, services: IServices) -> None:
        hop = hopTo(
            services, settings.endpoint, settings.security, settings.tls_name, settings.tls_ca
        )
        if hop.security == "verified" and not hop.host:
            raise ValueError("tls_name, the name in the server's certificate")
        hop = attrs.evolve(
            settings.limiting(hop),
            forms=forms(settings.ask),
            login=settings.login(services.baseDir),
            chunking=settings.chunking,
        )
        super().__init__(hop, RemoteDelivery(services, settings.max_hops, "relayed"))

    def destination(self, recipient: Recipient) -> str:
        return f"smtp {self._hop.name}"

    def refusal(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        hop = self._hop
        isNever = not hop.host or hop.endpoint[:4].lower() == "ssl:"
        if envelope.parameters.requireTLS and isNever:
            return R550_NO_REQUIRETLS
        return self._remote.refusal(hop, envelope, recipient)

    def deliverReporting(
        self,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Report,
    ) -> Deferred[Outcomes]:
        hop = self._hop
        if envelope.parameters.requireTLS:  # RFC 8689 §4.2.1
            hop = attrs.evolve(hop, security="verified")
        delivering = self._remote.deliver(message, envelope, recipients, [hop], report)
        return Deferred.fromCoroutine(delivering)
