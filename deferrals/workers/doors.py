"""
Where a server of several processes listens: the parent opens it all, once, while it may
bind low ports, and keeps it.

Each worker has a TCP socket of its own, and the system deals connections out to them
(SO_REUSEPORT); Unix sockets, and those of a service manager, are shared by all.  A
worker that dies leaves its socket behind, with all that waits there; while it is away
the parent answers there 421, so that no client hangs.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Sequence

import attrs
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IFileDescriptor,
    IListeningPort,
    IPushProducer,
    IReactorSocket,
    IReactorUNIX,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

from deferrals.deferreds import knownNow
from deferrals.errors import ListenError
from deferrals.interfaces import IReactor
from deferrals.logger import Logger
from deferrals.model.reply import R421_NO_WORKER
from deferrals.server.listeners import PROXIED
from deferrals.workers.orphans import OrphanedWorkers

_log = Logger(namespace="deferrals.workers")

#: So long a client has to read that it is to come again.
LEAVING_SECONDS = 5.0

#: So many are told so at once; others find the connection closed.
MOST_LEAVING = 500

#: Twisted's own, where an endpoint does not say.
_BACKLOG = 50


class _Leave(Protocol):
    """
    One client that is to come again.
    """

    transport: ITCPTransport

    def __init__(self, standIn: StandIn) -> None:
        self._standIn = standIn
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """
        See C{Protocol.connectionMade}.
        """
        leaving = self._standIn.leaving
        leaving.add(self)
        if len(leaving) > MOST_LEAVING:
            return self.transport.abortConnection()
        if self._standIn.isClear:
            reply = R421_NO_WORKER
            text = f"{reply.code} {reply.enhanced} {reply.text}\r\n"
            self.transport.write(text.encode("ascii"))
        self.transport.loseWriteConnection()  # what it has sent would make a reset of it
        clock = self._standIn.reactor
        self._timer = clock.callLater(LEAVING_SECONDS, self.transport.abortConnection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See C{Protocol.connectionLost}.
        """
        self._standIn.leaving.discard(self)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class StandIn(ServerFactory):
    """
    Answers in place of a worker that is away.

    @ivar isClear: whether its clients can read before TLS.
    @ivar leaving: the clients that are being told.
    """

    noisy = False

    def __init__(self, reactor: IReactor, isClear: bool) -> None:
        self.reactor = reactor
        self.isClear = isClear
        self.leaving: set[_Leave] = set()

    def buildProtocol(self, addr: IAddress | None) -> _Leave:
        """
        See C{Factory}.
        """
        return _Leave(self)


class _Opening:
    """
    What an endpoint is given as its reactor: it opens as often as there are workers, and
    reads from nothing.

    @ivar ports: what it has opened.
    @ivar backlog: how many connections may wait in each.
    """

    def __init__(self, reactor: IReactor, count: int) -> None:
        self._reactor = reactor
        self._count = count
        self.ports: list[IListeningPort] = []
        self.backlog = _BACKLOG

    def listenTCP(
        self, port: int, factory: StandIn, backlog: int = _BACKLOG, interface: str = ""
    ) -> IListeningPort:
        """See C{IReactorTCP.listenTCP}."""
        self.backlog = backlog
        try:
            sockets = _bound(port, interface, self._count)
        except OSError as error:
            raise CannotListenError(interface, port, error) from None
        for one in sockets:
            with one:
                adopt = IReactorSocket(self._reactor).adoptStreamPort
                self._keep(adopt(one.fileno(), one.family, factory))
                one.listen(backlog)
        return self.ports[0]

    def listenUNIX(
        self,
        address: str,
        factory: StandIn,
        backlog: int = _BACKLOG,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> IListeningPort:
        """See C{IReactorUNIX.listenUNIX}."""
        self.backlog = backlog
        listen = IReactorUNIX(self._reactor).listenUNIX
        return self._keep(listen(address, factory, backlog, mode, wantPID))

    def adoptStreamPort(
        self, fd: int, family: socket.AddressFamily, factory: StandIn
    ) -> IListeningPort:
        """See C{IReactorSocket.adoptStreamPort}."""
        return self._keep(IReactorSocket(self._reactor).adoptStreamPort(fd, family, factory))

    def _keep(self, port: IListeningPort) -> IListeningPort:
        IPushProducer(port).pauseProducing()
        self.ports.append(port)
        return port


def _bound(port: int, interface: str, count: int) -> list[socket.socket]:
    """
    @return: sockets for one place, among which the system chooses.
    @raise OSError: it cannot be had: another program has it.
    """
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV | socket.AI_PASSIVE
    place = socket.getaddrinfo(interface or None, port, family, socket.SOCK_STREAM, flags=flags)[0][
        4
    ]
    with _socket(family) as probe:  # without it, another server of ours would share it, too
        try:
            probe.bind(place)
            probe.listen()
        except OSError as error:
            if _isStrangers(family, place):
                raise _StrangersError(*error.args) from None
            raise
        place = probe.getsockname()
    found: list[socket.socket] = []
    try:
        for _ in range(count):
            found.append(_socket(family))
            found[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            found[-1].bind(place)
    except OSError:
        for one in found:
            one.close()
        raise
    return found


class _StrangersError(OSError):
    """
    A program has the place that is no worker.
    """


def _isStrangers(family: int, place: tuple[str | int | bytes, ...]) -> bool:
    """
    @param place: it is taken, as C{socket.getaddrinfo} has it.
    @return: whether that is by a program that does not share it with its like.
    """
    with _socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            probe.bind(place)
        except OSError:
            return True
    return False


def _socket(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setblocking(False)
    return made


@attrs.frozen(eq=False)
class Door:
    """
    One endpoint.

    @ivar ports: one for each worker, or one that all share.
    @ivar backlog: how many connections may wait in each.
    """

    ports: list[IListeningPort]
    backlog: int

    def descriptor(self, worker: int) -> int:
        """
        What a worker is given.
        """
        fileno: int = IFileDescriptor(self.ports[worker % len(self.ports)]).fileno()
        return fileno

    def letIn(self, away: Sequence[bool]) -> None:
        """
        Answer where no worker does.

        @param away: whether each worker is.
        """
        for number, port in enumerate(self.ports):
            producer = IPushProducer(port)
            if away[number] if len(self.ports) > 1 else all(away):
                producer.resumeProducing()
            else:
                producer.pauseProducing()


class Doors:
    """
    All of them, by the descriptions of their endpoints.

    @param count: how many workers there are.
    """

    def __init__(self, reactor: IReactor, count: int) -> None:
        self._reactor = reactor
        self._count = count
        self._away = [False] * count
        self._open: dict[str, Door] = {}

    @property
    def addresses(self) -> list[IAddress]:
        """
        Where they are.
        """
        return [door.ports[0].getHost() for door in self._open.values()]

    def open(self, clear: dict[str, bool]) -> list[str]:
        """
        Open those that are not open yet: all, or none.

        @param clear: all that there are to be: whether clients can read before TLS.
        @return: the new ones.
        @raise ListenError: one cannot be had.
        """
        made: list[str] = []
        for name, isClear in clear.items():
            if name in self._open:
                continue
            opening = _Opening(self._reactor, self._count)
            endpoint = serverFromString(opening, name.removeprefix(PROXIED))
            factory = StandIn(self._reactor, isClear)
            try:
                knownNow(_listening(endpoint, factory), _later)
            except (CannotListenError, OSError) as error:
                self.close(made)
                raise ListenError(name, str(error)) from error
            self._open[name] = door = Door(opening.ports, opening.backlog)
            door.letIn(self._away)
            made.append(name)
        return made

    def openAtStart(self, clear: dict[str, bool], orphans: OrphanedWorkers) -> None:
        """
        Likewise, before the reactor runs.

        @param orphans: those who may have a port, and give it up.
        """
        for name, isClear in clear.items():  # what is open is not closed before it runs
            while name not in self._open:
                try:
                    self.open({name: isClear})
                except ListenError as error:
                    if not _isOrphaned(error):
                        raise
                    orphans.wait(error)

    def close(self, names: Iterable[str] | None = None) -> None:
        """
        Listen there no longer.

        @param names: by default all.
        """
        for name in list(self._open if names is None else names):
            if name in self._open:  # a stop may have been before a reload that is undone
                for port in self._open.pop(name).ports:
                    port.stopListening()

    def missing(self, names: Iterable[str]) -> list[str]:
        """
        @return: those that are open, and not among these.
        """
        return [name for name in self._open if name not in set(names)]

    def of(self, worker: int, names: Iterable[str] | None = None) -> list[tuple[str, int, int]]:
        """
        @param names: by default all.
        @return: what a worker is given: names, backlogs, descriptors.
        """
        doors = ((name, self._open[name]) for name in (self._open if names is None else names))
        return [(name, door.backlog, door.descriptor(worker)) for name, door in doors]

    def isAway(self, worker: int, isAway: bool) -> None:
        """
        A worker is there, or away.
        """
        self._away[worker] = isAway
        for door in self._open.values():
            door.letIn(self._away)


def _isOrphaned(error: ListenError) -> bool:
    """
    Whether workers may have the port whose parent was killed.
    """
    cause = error.__cause__
    why = cause.socketError if isinstance(cause, CannotListenError) else cause
    isTaken = isinstance(why, OSError) and why.errno == errno.EADDRINUSE
    return isTaken and not isinstance(why, _StrangersError)


async def _listening(endpoint: IStreamServerEndpoint, factory: StandIn) -> None:
    await endpoint.listen(factory)


def _later(failure: Failure) -> None:
    _log.failure("cannot listen", failure)
