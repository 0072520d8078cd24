"""
Where a server listens: its ports, and the sessions that come from each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import attrs
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure

from deferrals.logger import Logger
from deferrals.model.listener import ListenerSettings
from deferrals.smtp.server.session import SessionFactory
from deferrals.smtp.server.settings import Backend

_log = Logger(namespace="deferrals")

PROXIED = "haproxy:"


def serverEndpoint(reactor: IReactorTime, text: str) -> IStreamServerEndpoint:
    """
    Twisted's server endpoint of this description.  C{haproxy:} in front of it
    is ours to deal with: Twisted's own wrapper would greet before the header.

    @raise ValueError: it is none.
    """
    endpoint: IStreamServerEndpoint = serverFromString(reactor, text.removeprefix(PROXIED))
    return endpoint


def describe(address: IAddress) -> str:
    """
    An address as one writes it: C{127.0.0.1:2525}, C{[::1]:2525}, a path.
    """
    if isinstance(address, UNIXAddress):
        return os.fsdecode(address.name or "")
    if not isinstance(address, IPv4Address | IPv6Address):
        return str(address)
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


@attrs.define(eq=False)
class ListenerPort:
    """
    @ivar endpoint: where it listens; C{None} for a port that is not ours.
    @ivar factory: makes its sessions.
    @ivar port: there while it listens.
    """

    endpoint: IStreamServerEndpoint | None
    factory: SessionFactory
    port: IListeningPort | None = None

    def listen(self) -> Deferred[None]:
        """
        @return: a Deferred that fails with C{CannotListenError}.
        """
        assert self.endpoint is not None
        return maybeDeferred(self.endpoint.listen, self.factory).addCallback(self._listening)

    def _listening(self, port: IListeningPort) -> None:
        self.port = port
        _log.info(
            "listening on {address} for {protocol}",
            address=describe(port.getHost()),
            protocol=self.factory.settings.protocol,
        )

    def close(self) -> Deferred[object]:
        """
        Take no more connections.
        """
        port, self.port = self.port, None
        return maybeDeferred(lambda: None if port is None else port.stopListening())


class Listeners:
    """
    All listeners of a server, by their names.

    @param backend: what stands behind the sessions of a listener with these
        settings, now.
    """

    def __init__(
        self, reactor: IReactorTime, backend: Callable[[ListenerSettings], Backend]
    ) -> None:
        self._reactor = reactor
        self._backend = backend
        self._listeners: dict[str, ListenerPort] = {}

    @property
    def addresses(self) -> dict[str, IAddress]:
        """
        Where they listen, by name.
        """
        found = self._listeners.items()
        return {name: one.port.getHost() for name, one in found if one.port is not None}

    @property
    def sockets(self) -> list[tuple[str, int]]:
        """
        The IP addresses and ports among them.
        """
        found = self.addresses.values()
        return [(one.host, one.port) for one in found if isinstance(one, IPv4Address | IPv6Address)]

    @property
    def settings(self) -> list[ListenerSettings]:
        """
        What each of them offers.
        """
        return [one.factory.settings for one in self._listeners.values()]

    def add(
        self, endpoint: IStreamServerEndpoint | None, settings: ListenerSettings
    ) -> ListenerPort:
        """
        One more; it does not listen yet.
        """
        factory = SessionFactory(settings, self._backend(settings), self._reactor)
        name = settings.name
        while name in self._listeners:
            name += "'"
        listener = self._listeners[name] = ListenerPort(endpoint, factory)
        return listener

    async def open(self) -> None:
        """
        Listen wherever that is not so yet.

        @raise CannotListenError: a port cannot be had.  No port stays open
            then.
        """
        for listener in self._closed():
            try:
                await listener.listen()
            except BaseException as error:
                name = listener.factory.settings.name
                _log.error("cannot listen on {endpoint}: {error}", endpoint=name, error=str(error))
                await self.close()
                raise

    def openNow(self) -> None:
        """
        The same, for a caller that cannot wait: it raises what is known at
        once, and what comes later goes to the log.
        """
        failures: list[Failure] = []
        hasReturned = False

        def failed(failure: Failure) -> None:
            if hasReturned:
                _log.failure("cannot listen", failure=failure)
            failures.append(failure)

        Deferred.fromCoroutine(self.open()).addErrback(failed)
        hasReturned = True
        if failures:
            failures[0].raiseException()

    def _closed(self) -> list[ListenerPort]:
        found = self._listeners.values()
        return [one for one in found if one.port is None and one.endpoint is not None]

    async def close(self) -> None:
        """
        Take no more connections.
        """
        for listener in self._listeners.values():
            await listener.close()

    async def shutdown(self, graceSeconds: float) -> None:
        """
        Let sessions end.
        """
        factories = [one.factory for one in self._listeners.values()]
        await gatherResults([factory.shutdown(graceSeconds) for factory in factories])

    def refresh(self) -> None:
        """
        There is another backend for transactions from now on.
        """
        for listener in self._listeners.values():
            listener.factory.backend = self._backend(listener.factory.settings)

    def change(self, wanted: Mapping[str, ListenerSettings], graceSeconds: float) -> None:
        """
        Listen on these endpoints, with these settings, and on no others.

        @param wanted: settings by endpoint, whose name is that endpoint.
        """
        for name in set(self._listeners) - set(wanted):
            listener = self._listeners.pop(name)
            listener.factory.shutdown(graceSeconds)
            listener.close()
            _log.info("no longer listening on {endpoint}", endpoint=name)
        for name, settings in wanted.items():
            known = self._listeners.get(name)
            if known is None:
                added = self.add(serverEndpoint(self._reactor, name), settings)
                added.listen().addErrback(self._failed, name)
            else:
                known.factory.settings = settings
        self.refresh()

    def _failed(self, failure: Failure, name: str) -> None:
        self._listeners.pop(name, None)
        _log.error(
            "cannot listen on {endpoint}: {error}", endpoint=name, error=failure.getErrorMessage()
        )
