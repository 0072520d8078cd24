"""
Where a server listens: its ports, and the sessions that come from each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import attrs
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure

from deferrals.deferreds import knownNow
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
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, text.removeprefix(PROXIED))
    except Exception as error:  # it raises what its parsers happen to
        examples = "tcp:25, tcp:25:interface=192.0.2.1 or unix:/run/lmtp"
        more = f" ({error})" if isinstance(error, OSError) else ""
        raise ValueError(f"a server endpoint such as {examples}, not {text!r}{more}") from None
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
        opened = maybeDeferred(self.endpoint.listen, self.factory)
        return opened.addCallbacks(self._listening, self._failed)

    def _failed(self, failure: Failure) -> Failure:
        """
        A Unix socket's own trouble (its directory, its lock) is not Twisted's, and
        its path is no text there.
        """
        error = failure.value
        if isinstance(error, CannotListenError) and isinstance(error.port, bytes):
            place = os.fsdecode(error.port)
            return Failure(CannotListenError(error.interface, place, error.socketError))
        if isinstance(error, OSError):
            return Failure(CannotListenError(None, self.factory.settings.name, error))
        return failure

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
    All listeners of a server.

    @ivar named: each by its name; changed by L{deferrals.server.replacement} as well.
    @ivar endpoint: makes a server endpoint of its description; one process of several
        has those that were opened for it.
    @param backend: what stands behind the sessions of a listener with these
        settings, now.
    """

    def __init__(
        self, reactor: IReactorTime, backend: Callable[[ListenerSettings], Backend]
    ) -> None:
        self._reactor = reactor
        self._backend = backend
        self.endpoint: Callable[[str], IStreamServerEndpoint] = partial(serverEndpoint, reactor)
        self.named: dict[str, ListenerPort] = {}

    @property
    def addresses(self) -> dict[str, IAddress]:
        """
        Where they listen, by name.
        """
        found = self.named.items()
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
        return [one.factory.settings for one in self.named.values()]

    def add(
        self, endpoint: IStreamServerEndpoint | None, settings: ListenerSettings
    ) -> ListenerPort:
        """
        One more; it does not listen yet.
        """
        name = settings.name
        while name in self.named:
            name += "'"
        listener = self.named[name] = self._made(endpoint, settings)
        return listener

    def made(self, description: str, settings: ListenerSettings) -> ListenerPort:
        """
        @param description: of an endpoint.
        @return: what is none of them yet.
        """
        return self._made(self.endpoint(description), settings)

    def _made(
        self, endpoint: IStreamServerEndpoint | None, settings: ListenerSettings
    ) -> ListenerPort:
        factory = SessionFactory(settings, self._backend(settings), self._reactor)
        return ListenerPort(endpoint, factory)

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
        knownNow(self.open(), lambda failure: _log.failure("cannot listen", failure=failure))

    def _closed(self) -> list[ListenerPort]:
        found = self.named.values()
        return [one for one in found if one.port is None and one.endpoint is not None]

    async def close(self) -> None:
        """
        Take no more connections.
        """
        for listener in self.named.values():
            await listener.close()

    async def shutdown(self, graceSeconds: float) -> None:
        """
        Let sessions end.
        """
        factories = [one.factory for one in self.named.values()]
        await gatherResults([factory.shutdown(graceSeconds) for factory in factories])

    def refresh(self) -> None:
        """
        There is another backend for transactions from now on.
        """
        for listener in self.named.values():
            listener.factory.backend = self._backend(listener.factory.settings)
