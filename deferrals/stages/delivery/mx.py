"""
Delivery to the mail servers of the recipients' domains, as DNS names them.

Each domain goes its own way.  Where to is in L{deferrals.stages.delivery.route},
what is tried again in L{deferrals.stages.delivery.remote}.  TLS is with
whatever server answers: unsigned DNS cannot say which one that should be.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import quoteStringArgument
from zope.interface import implementer

from deferrals.interfaces import (
    IAskableDelivery,
    IForeseeingDelivery,
    IMessage,
    IOnwardDelivery,
    IReportingDelivery,
    IServices,
)
from deferrals.model.delivery import Addressee
from deferrals.model.envelope import Envelope, Recipient
from deferrals.model.networks import dnsServers
from deferrals.model.outgoing import Hop
from deferrals.model.reply import Reply
from deferrals.model.sending import R550_NO_REQUIRETLS
from deferrals.model.settings import checked, positive
from deferrals.model.verdict import Failed, Retry
from deferrals.stages.delivery.copies import Report, ReportingDelivery, deliverApart
from deferrals.stages.delivery.remote import (
    FORMS,
    ConnectionSettings,
    Outcomes,
    RemoteDelivery,
    forms,
)
from deferrals.stages.delivery.route import NoRoute, Router, Target
from deferrals.stages.lookups import Names

#: Nothing in the outside world has its mail server at one of these.
_NEVER = (
    *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"),
    *("::/127", "fe80::/10", "ff00::/8"),
)


def _port(value: int) -> None:
    if not 0 < value < 65536:
        raise ValueError("a port, 1 to 65535")


def networks(values: Sequence[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """
    @raise ValueError: one of them is no network.
    """
    try:
        return tuple(map(ipaddress.ip_network, values))
    except ValueError:
        raise ValueError("networks such as 192.0.2.0/24") from None


def _spelling(name: str) -> str:
    """
    A name or an address as DNS has it.
    """
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower().rstrip(".")


@attrs.frozen(kw_only=True)
class MXSettings(ConnectionSettings):
    """
    @ivar port: where mail servers listen.
    @ivar tls: C{"none"}; C{"opportunistic"}, where it can be had;
        C{"required"}, TLS or nothing.
    @ivar dns: the DNS servers that are asked, each perhaps with C{:PORT}; by
        default those of the whole configuration.
    @ivar ipv6: whether mail servers are tried at their IPv6 addresses, too.
    @ivar own: names and addresses by which others reach this server, beside
        its C{hostname} and the addresses where it listens: a public address
        that is translated, another member of a cluster.
    @ivar never: networks to which no mail is sent, whatever DNS says.
    @ivar hosts: how many addresses of a domain's servers are tried in one
        attempt.
    @ivar ask: the extensions that give each recipient an answer, as far as a
        server offers them.
    @ivar chunking: whether to use BDAT where it is offered.
    @ivar max_hops: a message with more Received fields is in a loop, 554 5.4.6.
    """

    port: int = attrs.field(default=25, validator=checked(_port))
    tls: Literal["none", "opportunistic", "required"] = "opportunistic"
    dns: tuple[str, ...] = attrs.field(default=(), validator=checked(dnsServers))
    ipv6: bool = True
    own: tuple[str, ...] = ()
    never: tuple[str, ...] = attrs.field(default=_NEVER, validator=checked(networks))
    hosts: int = attrs.field(default=10, validator=checked(positive))
    ask: tuple[str, ...] = attrs.field(default=tuple(FORMS), validator=checked(forms))
    chunking: bool = True
    max_hops: int = attrs.field(default=30, validator=checked(positive))


@implementer(IAskableDelivery, IForeseeingDelivery, IOnwardDelivery, IReportingDelivery)
class MXDelivery(ReportingDelivery):
    """
    See the module.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: MXSettings, services: IServices) -> None:
        self._settings = settings
        self._services = services
        self._own = {services.hostname.lower(), *map(_spelling, settings.own)}
        self._never = networks(settings.never)
        servers = dnsServers(settings.dns)
        self._router = Router(
            Names(lambda: services.resolver(servers), services.reactor),
            random.SystemRandom().shuffle,
            self._isOurs,
            self._mayReach,
            settings.hosts,
            settings.ipv6,
        )
        self._remote = RemoteDelivery(services, settings.max_hops, "relayed")

    def _isOurs(self, name: str) -> bool:
        if name in self._own:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._services.listensOn(name, self._settings.port)

    def _mayReach(self, address: str) -> bool:
        found = ipaddress.ip_address(address)
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return not any(found.version == net.version and found in net for net in self._never)

    def destination(self, recipient: Recipient) -> str:
        return f"mx {self._domain(recipient)}"

    def _domain(self, recipient: Recipient) -> str:
        return recipient.address.domain or self._services.hostname

    def refusal(self, envelope: Envelope, recipient: Recipient) -> Reply | None:
        if envelope.parameters.requireTLS:
            # RFC 8689 §4.2.1: what unsigned DNS says proves nothing.
            return R550_NO_REQUIRETLS
        domain = self._domain(recipient)
        return self._router.refusal(domain) if domain.startswith("[") else None

    def deliverReporting(
        self,
        message: IMessage,
        envelope: Envelope,
        recipients: Sequence[Addressee],
        report: Report,
    ) -> Deferred[Outcomes]:
        if envelope.parameters.requireTLS:
            return succeed(dict.fromkeys(recipients, Failed(R550_NO_REQUIRETLS)))
        domains: dict[str, list[Addressee]] = {}
        for addressee in recipients:
            domains.setdefault(self._domain(addressee.recipient), []).append(addressee)

        async def toDomain(group: Sequence[Addressee], heard: Report) -> Outcomes:
            hops = await self.hops(group[0].recipient)
            if isinstance(hops, Failed | Retry):
                return dict.fromkeys(group, hops)
            return await self._remote.deliver(message, envelope, group, hops, heard)

        return deliverApart(envelope, list(domains.values()), toDomain, report)

    async def hops(self, recipient: Recipient) -> Sequence[Hop] | Failed | Retry:
        try:
            targets = await self._router.route(self._domain(recipient))
        except NoRoute as error:
            return error.outcome
        return [self._hop(target) for target in targets]

    def _hop(self, target: Target) -> Hop:
        settings = self._settings
        host = quoteStringArgument(target.address)
        hop = Hop(
            f"tcp:host={host}:port={settings.port}:timeout=30",
            f"{target.name} [{target.address}]:{settings.port}",
            target.name,
            isPublic=True,
            forms=forms(settings.ask),
            security=settings.tls,
            chunking=settings.chunking,
            notOurselves=True,
        )
        return settings.limiting(hop)
