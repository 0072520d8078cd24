"""
What the server offers to its stages.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorThreads, IResolver, IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from deferrals.interfaces import (
    IDeliveryStage,
    ILimits,
    IMessage,
    INotes,
    IServices,
    ITable,
)
from deferrals.model.address import Mailbox
from deferrals.model.authentication import Authentication
from deferrals.model.envelope import Envelope
from deferrals.model.status import Status
from deferrals.server.admissions import Admissions
from deferrals.server.authentication import Authentications
from deferrals.server.dnsnames import DNSNames
from deferrals.server.hostnames import Hostnames
from deferrals.server.limits import SharedLimits
from deferrals.server.network import makeResolver, reachable
from deferrals.server.notes import Notes
from deferrals.server.proving import Prover
from deferrals.server.sealing import Sealer
from deferrals.server.signing import Signer
from deferrals.server.spf import SPF
from deferrals.server.tables import Tables
from deferrals.smtp.client.pool import NextHops
from deferrals.stages.foreign import view
from deferrals.tls import clientEndpoint

_T = TypeVar("_T")
_P = ParamSpec("_P")


class Current(Protocol):
    """
    The stages that a server has now.
    """

    def delivery(self, name: str) -> IDeliveryStage | None:
        """See L{IServices.delivery<deferrals.interfaces.IServices.delivery>}."""

    def reversePath(self, sender: Mailbox) -> Mailbox:
        """See L{IServices.reversePath<deferrals.interfaces.IServices.reversePath>}."""


@implementer(IServices)
@attrs.frozen(eq=False)
class Services:
    """
    What the server lends to its stages.

    @ivar stateDir: where stages keep what they have to.
    @ivar baseDir: where relative paths start.
    @ivar dns: the DNS servers to ask; none, for those of the system.
    @ivar ownNotes: those that are in its own spool; where no others share any, these
        are all.
    @ivar ownLimits: what this machine counts; where no others share any, these are all.
    @ivar tables: what L{table} finds.
    @ivar names: what is asked of DNS because of what strangers say.
    @ivar spf: asks them whether clients may use their reverse-paths.
    @ivar prover: finds out what messages prove of their senders.
    @ivar admissions: senders that recipients have let in.
    """

    reactor: Any  # Twisted's type for the global reactor says only a part of it
    hostname: str = attrs.field(kw_only=True)
    stateDir: str = attrs.field(default=".", kw_only=True)
    baseDir: str = attrs.field(default=".", kw_only=True)
    dns: tuple[tuple[str, int], ...] = attrs.field(default=(), kw_only=True)
    status: Status = attrs.field(factory=Status, init=False)
    ownNotes: Notes = attrs.field(kw_only=True)
    notes: INotes = attrs.field(kw_only=True)
    nextHops: NextHops = attrs.field(init=False)
    ownLimits: SharedLimits = attrs.field(kw_only=True)
    limits: ILimits = attrs.field(kw_only=True)
    names: DNSNames = attrs.field(init=False)
    spf: SPF = attrs.field(init=False)
    hostnames: Hostnames = attrs.field(init=False)
    signer: Signer = attrs.field(init=False)
    authentications: Authentications = attrs.field(init=False)
    sealer: Sealer = attrs.field(init=False)
    prover: Prover = attrs.field(init=False)
    admissions: Admissions = attrs.field(init=False)
    tables: Tables = attrs.field(factory=Tables, init=False)
    _listening: list[Callable[[], Iterable[tuple[str, int]]]] = attrs.field(
        factory=list, init=False
    )
    _current: list[Current] = attrs.field(factory=list, init=False)
    _resolvers: dict[tuple[tuple[str, int], ...], IResolver] = attrs.field(init=False, factory=dict)
    _common: dict[Hashable, Any] = attrs.field(factory=dict, init=False)

    @names.default
    def _makeNames(self) -> DNSNames:
        return DNSNames(self.resolver, self.reactor)

    @spf.default
    def _makeSPF(self) -> SPF:
        return SPF(self.names, self.reactor)

    @hostnames.default
    def _makeHostnames(self) -> Hostnames:
        return Hostnames(self.names, self.reactor)

    @ownNotes.default
    def _makeNotes(self) -> Notes:
        return Notes(self.reactor)

    @notes.default
    def _onlyOwnNotes(self) -> INotes:
        return self.ownNotes

    @nextHops.default
    def _makeNextHops(self) -> NextHops:
        return NextHops(self.reactor, self.hostname, self.connect, self.inThread, self.notes)

    @ownLimits.default
    def _makeLimits(self) -> SharedLimits:
        return SharedLimits(self.reactor)

    @limits.default
    def _onlyOwnLimits(self) -> ILimits:
        return self.ownLimits

    @signer.default
    def _makeSigner(self) -> Signer:
        return Signer(self.inThread, self.hostname, self.status)

    @authentications.default
    def _makeAuthentications(self) -> Authentications:
        return Authentications(self.inThread, self.names, self.spf, self.reactor, self.status)

    @sealer.default
    def _makeSealer(self) -> Sealer:
        return Sealer(self.inThread, self.authentications, self.hostname, self.status)

    @prover.default
    def _makeProver(self) -> Prover:
        return Prover(self.spf, self.authentication)

    @admissions.default
    def _makeAdmissions(self) -> Admissions:
        return Admissions(self.notes, self.reactor, self.prover, self.status)

    def __attrs_post_init__(self) -> None:
        self.status.show("next hops", self.nextHops.describe)

    def addListening(self, sockets: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """
        Let L{listensOn} know of a server's addresses and ports.
        """
        self._listening.append(sockets)

    def addCurrent(self, current: Current) -> None:
        """
        Let L{delivery} and L{reversePath} know of the server's stages.

        @raise ValueError: they are those of another server.
        """
        if self._current:
            raise ValueError("another server has these services: each needs its own")
        self._current.append(current)

    def common(self, key: Hashable, build: Callable[[], _T]) -> _T:
        if key not in self._common:
            with self.status.collecting() as parts:
                self._common[key] = build(), parts
        found: _T
        found, parts = self._common[key]
        for part, describe in parts.items():
            self.status.show(part, describe)  # whoever uses it shows it
        return found

    def inThread(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]:
        if not IReactorThreads.providedBy(self.reactor):  # a test's clock
            return maybeDeferred(function, *args, **kwargs)
        pool = self.reactor.getThreadPool()
        return deferToThreadPool(self.reactor, pool, function, *args, **kwargs)

    def connect(self, endpoint: str) -> IStreamClientEndpoint:
        return clientEndpoint(self.reactor, endpoint)

    def resolver(self, servers: tuple[tuple[str, int], ...] = ()) -> IResolver:
        servers = servers or self.dns
        if servers not in self._resolvers:
            self._resolvers[servers] = makeResolver(self.reactor, servers)
        return self._resolvers[servers]

    def table(self, name: str) -> ITable:
        return self.tables.named(name)

    def view(self, message: IMessage, envelope: Envelope) -> IMessage:
        return view(message, envelope, self.hostname)

    def authentication(self, message: IMessage, envelope: Envelope) -> Deferred[Authentication]:
        return self.authentications.ofMessage(message, envelope)

    def delivery(self, name: str) -> IDeliveryStage | None:
        return self._current[0].delivery(name) if self._current else None

    def reversePath(self, sender: Mailbox) -> Mailbox:
        return self._current[0].reversePath(sender) if self._current else sender

    def listensOn(self, address: str, port: int) -> bool:
        sockets = [one for sockets in self._listening for one in sockets()]
        return reachable(sockets, address, port)
