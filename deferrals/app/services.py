"""
What the server offers to its stages.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, ParamSpec, TypeVar

import attrs
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IResolver, IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from deferrals.app.network import makeResolver, reachable
from deferrals.interfaces import IReactor, IServices
from deferrals.model.status import Status
from deferrals.smtp.client.pool import NextHops

_T = TypeVar("_T")
_P = ParamSpec("_P")


@implementer(IServices)
@attrs.frozen(eq=False)
class Services:
    """
    See L{IServices}.

    @ivar dns: the DNS servers to ask; none, for those of the system.
    @ivar listening: the addresses and ports where this server listens now.
    """

    reactor: IReactor
    hostname: str
    stateDir: str
    baseDir: str
    status: Status = attrs.field(factory=Status)
    dns: tuple[tuple[str, int], ...] = ()
    listening: Callable[[], Iterable[tuple[str, int]]] = tuple
    nextHops: NextHops = attrs.field(init=False)
    _resolvers: dict[tuple[tuple[str, int], ...], IResolver] = attrs.field(init=False, factory=dict)
    _common: dict[Hashable, Any] = attrs.field(factory=dict, init=False)

    @nextHops.default
    def _makeNextHops(self) -> NextHops:
        return NextHops(self.reactor, self.hostname, self.connect, self.inThread)

    def common(self, key: Hashable, build: Callable[[], _T]) -> _T:
        """
        See L{IServices.common}.
        """
        if key not in self._common:
            self._common[key] = build()
        found: _T = self._common[key]
        return found

    def inThread(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]:
        """
        See L{IServices.inThread}.
        """
        pool = self.reactor.getThreadPool()
        return deferToThreadPool(self.reactor, pool, function, *args, **kwargs)

    def connect(self, endpoint: str) -> IStreamClientEndpoint:
        """
        See L{IServices.connect}.
        """
        found: IStreamClientEndpoint = endpoints.clientFromString(self.reactor, endpoint)
        return found

    def resolver(self, servers: tuple[tuple[str, int], ...] = ()) -> IResolver:
        """
        See L{IServices.resolver}.
        """
        servers = servers or self.dns
        if servers not in self._resolvers:
            self._resolvers[servers] = makeResolver(self.reactor, servers)
        return self._resolvers[servers]

    def listensOn(self, address: str, port: int) -> bool:
        """
        See L{IServices.listensOn}.
        """
        return reachable(self.listening(), address, port)
