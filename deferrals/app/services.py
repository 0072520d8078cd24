"""
What the server offers to its stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from deferrals.app.network import makeResolver, reachable
from deferrals.interfaces import IServices
from deferrals.model.status import Status
from deferrals.smtp.client.pool import NextHops

_log = Logger(namespace="deferrals")


@implementer(IServices)
@attrs.frozen(eq=False)
class Services:
    """
    See L{IServices}.
    """

    reactor: Any
    hostname: str
    stateDir: str
    baseDir: str
    status: Status = attrs.field(factory=Status)
    dns: tuple[tuple[str, int], ...] = ()
    listening: Callable[[], Iterable[tuple[str, int]]] = tuple
    nextHops: NextHops = attrs.field(init=False)
    _resolvers: dict[Any, Any] = attrs.field(init=False, factory=dict)
    _common: dict[Any, Any] = attrs.field(factory=dict, init=False)

    @nextHops.default
    def _makeNextHops(self) -> NextHops:
        return NextHops(self.reactor, self.hostname, self.connect, self.inThread)

    def common(self, key: Any, build: Callable[[], Any]) -> Any:
        """
        See L{IServices.common}.
        """
        if key not in self._common:
            self._common[key] = build()
        return self._common[key]

    def inThread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """
        See L{IServices.inThread}.
        """
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), function, *args)

    def connect(self, endpoint: str) -> Any:
        """
        See L{IServices.connect}.
        """
        return endpoints.clientFromString(self.reactor, endpoint)

    def resolver(self, servers: tuple[tuple[str, int], ...] = ()) -> Any:
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
