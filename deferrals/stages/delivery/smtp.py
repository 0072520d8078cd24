"""
Delivery to one SMTP server: a smarthost, or the real server behind this one.

What it does and does not do again is in L{deferrals.stages.delivery.remote};
the connections are L{INextHops<deferrals.interfaces.INextHops>}'.
"""

from __future__ import annotations

import os
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
from deferrals.model.outgoing import Hop, Login, Security
from deferrals.model.reply import Reply
from deferrals.model.sending import R550_NO_REQUIRETLS
from deferrals.model.settings import BadSetting, checked, positive
from deferrals.stages.delivery.copies import Report, ReportingDelivery
from deferrals.stages.delivery.remote import (
    FORMS,
    ConnectionSettings,
    Outcomes,
    RemoteDelivery,
    forms,
    hopTo,
)
from deferrals.tls import isTLS


@attrs.frozen(kw_only=True)
class SMTPSettings(ConnectionSettings):
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
    @ivar user: authenticate as this user (SCRAM-SHA-256, PLAIN or LOGIN,
        whichever is offered first).
    @ivar password: the password.
    @ivar password_file: a file whose first line is the password.
    @ivar ask: the extensions that give each recipient an answer, as far as the
        server offers them.
    @ivar chunking: whether to use BDAT where it is offered.
    @ivar max_hops: a message with more Received fields is in a loop, 554 5.4.6.
    """

    endpoint: str
    tls: Security | None = None
    tls_name: str | None = None
    tls_ca: str | None = None
    user: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    password_file: str | None = None
    ask: tuple[str, ...] = attrs.field(default=tuple(FORMS), validator=checked(forms))
    chunking: bool = True
    max_hops: int = attrs.field(default=30, validator=checked(positive))

    def __attrs_post_init__(self) -> None:
        passwords = [one for one in (self.password, self.password_file) if one is not None]
        if len(passwords) != (0 if self.user is None else 1):
            raise BadSetting("user", "either a user with password or password_file, or none")
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
class SMTPDelivery(ReportingDelivery):
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
        login = None
        if settings.user is not None:
            path = settings.password_file
            path = None if path is None else os.path.join(services.baseDir, path)
            login = Login(settings.user, settings.password, path)
        self._hop = attrs.evolve(
            settings.limiting(hop),
            forms=forms(settings.ask),
            login=login,
            chunking=settings.chunking,
        )
        self._remote = RemoteDelivery(services, settings.max_hops, "relayed")

    def destination(self, recipient: Recipient) -> str:
        return f"smtp {self._hop.name}"

    def hops(self, recipient: Recipient) -> Sequence[Hop]:
        return [self._hop]

    def refusal(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        hop = self._hop
        isNever = not hop.host or hop.endpoint[:4].lower() == "ssl:"
        if envelope.parameters.requireTLS and isNever:
            return R550_NO_REQUIRETLS
        return self._remote.refusal(hop, envelope, recipient)

    async def refusalOf(
        self, message: IMessage, envelope: Envelope, recipient: Recipient
    ) -> Reply | None:
        return await self._remote.refusalOf(self._hop, message, envelope, recipient)

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
