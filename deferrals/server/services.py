"""
What the server offers to its stages.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorThreads, IResolver, IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from deferrals.interfaces import IMessage, IServices
from deferrals.model.envelope import Envelope
from deferrals.model.status import Status
from deferrals.server.hostnames import Hostnames
from deferrals.server.limits import SharedLimits
from deferrals.server.network import makeResolver, reachable
from deferrals.server.notes import Notes
from deferrals.smtp.client.pool import NextHops
from deferrals.stages.foreign import view
from deferrals.tls import clientEndpoint

_T = TypeVar("_T")
_P = ParamSpec("_P")


@implementer(IServices)
@attrs.frozen(eq=False)
class Services:
    """
    What the server lends to its stages.

    @ivar stateDir: where stages keep what they have to.
    @ivar baseDir: where relative paths start.
    @ivar dns: the DNS servers to ask; none, for those of the system.
    """

    reactor: Any  # Twisted's type for the global reactor says only a part of it
    hostname: str = attrs.field(kw_only=True)
    stateDir: str = attrs.field(default=".", kw_only=True)
    baseDir: str = attrs.field(default=".", kw_only=True)
    dns: tuple[tuple[str, int], ...] = attrs.field(default=(), kw_only=True)
    status: Status = attrs.field(factory=Status, init=False)
    hostnames: Hostnames = attrs.field(init=False)
    notes: Notes = attrs.field(init=False)
    nextHops: NextHops = attrs.field(init=False)
    limits: SharedLimits = attrs.field(init=False)
    _listening: list[Callable[[], Iterable[tuple[str, int]]]] = attrs.field(
        factory=list, init=False
    )
    _resolvers: dict[tuple[tuple[str, int], ...], IResolver] = attrs.field(init=False, factory=dict)
    _common: dict[Hashable, Any] = attrs.field(factory=dict, init=False)

    @hostnames.default
    def _makeHostnames(self) -> Hostnames:
        return Hostnames(self.resolver, self.reactor)

    @notes.default
    def _makeNotes(self) -> Notes:
        return Notes(self.reactor)

    @nextHops.default
    def _makeNextHops(self) -> NextHops:
        return NextHops(self.reactor, self.hostname, self.connect, self.inThread, self.notes)

    @limits.default
    def _makeLimits(self) -> SharedLimits:
        return SharedLimits(self.reactor)

    def __attrs_post_init__(self) -> None:
        self.status.show("next hops", self.nextHops.describe)

    def addListening(self, sockets: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """
        Let L{listensOn} know of a server's addresses and ports.
        """
        self._listening.append(sockets)

    def common(self, key: Hashable, build: Callable[[], _T]) -> _T:
        if key not in self._common:
            self._common[key] = build()
        found: _T = self._common[key]
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

    def view(self, message: IMessage, envelope: Envelope) -> IMessage:
        return view(message, envelope, self.hostname)

    def listensOn(self, address: str, port: int) -> bool:
        sockets = [one for sockets in self._listening for one in sockets()]
        return reachable(sockets, address, port)
