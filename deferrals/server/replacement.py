"""
Other listeners in place of those that a server has: all of them, or nothing
changes.

The new ones listen before any of the former is closed.  Where one of these stands
in the way (the same port on another interface), it steps aside first, and can come
back.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from deferrals.errors import ListenError
from deferrals.logger import Logger
from deferrals.model.listener import ListenerSettings
from deferrals.server.listeners import ListenerPort, Listeners

_log = Logger(namespace="deferrals")


class Replacement:
    """
    @param listeners: those of a server.
    @param wanted: what they are to be, by endpoint.
    """

    def __init__(self, listeners: Listeners, wanted: Mapping[str, ListenerSettings]) -> None:
        self._listeners = listeners
        self._wanted = wanted
        self._leaving = [one for name, one in listeners.named.items() if name not in wanted]
        self._aside: list[ListenerPort] = []
        self._opened: dict[str, ListenerPort] = {}

    async def prepare(self) -> None:
        """
        Listen where that is new.

        @raise ListenError: it cannot be; everything is as it was.
        """
        known = self._listeners.named
        for name, settings in self._wanted.items():
            if name not in known:
                listener = self._listeners.made(name, settings)
                try:
                    await self._open(listener)
                except CannotListenError as error:
                    await self.undo()
                    raise ListenError(name, str(error)) from None
                except BaseException:
                    await self.undo()
                    raise
                self._opened[name] = listener

    async def _open(self, listener: ListenerPort) -> None:
        try:
            await listener.listen()
        except CannotListenError as error:
            inTheWay = [one for one in self._leaving if _place(one.port) == error.port]
            if not inTheWay:
                raise
            for one in inTheWay:
                await _stepAside(one)
                self._aside.append(one)
            await listener.listen()

    async def undo(self) -> None:
        """
        The former ones listen again, and no others.
        """
        for listener in self._opened.values():
            await listener.close()
        self._opened.clear()
        for listener in self._aside:
            try:
                await _comeBack(listener)
            except Exception as error:
                name = listener.factory.settings.name
                _log.critical("no longer listening on {name}: {error}", name=name, error=str(error))
        self._aside.clear()

    async def commit(self, graceSeconds: float) -> None:
        """
        The former ones take no more connections; their sessions end.
        """
        for name, settings in self._wanted.items():
            if name in self._opened:
                self._listeners.named[name] = self._opened[name]
            else:
                self._listeners.named[name].factory.settings = settings
        for listener in self._leaving:
            name = listener.factory.settings.name
            del self._listeners.named[name]
            listener.factory.shutdown(graceSeconds)
            await listener.close()
            _log.info("no longer listening on {endpoint}", endpoint=name)
        self._listeners.refresh()


def _place(port: IListeningPort | None) -> int | str | None:
    """
    What only one can have: a port's number, a socket's path.
    """
    address = None if port is None else port.getHost()
    if isinstance(address, IPv4Address | IPv6Address):
        return address.port
    return os.fsdecode(address.name or "") if isinstance(address, UNIXAddress) else None


async def _stepAside(listener: ListenerPort) -> None:
    """
    Let another one listen there.  A TCP socket keeps its place: it only listens no
    longer, so it can come back although the process may bind no low ports any more.
    """
    port = listener.port
    if isinstance(port, tcp.Port) and not isinstance(port, unix.Port):
        port.doRead()  # who has connected already
        port.stopReading()
        port.socket.shutdown(socket.SHUT_RD)
    else:
        await listener.close()


async def _comeBack(listener: ListenerPort) -> None:
    port = listener.port
    if port is None:
        await listener.listen()
    elif isinstance(port, tcp.Port):
        port.socket.listen(port.backlog)
        port.startReading()
