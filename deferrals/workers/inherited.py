"""
What a worker listens on: sockets that its parent has opened, and keeps.
"""

from __future__ import annotations

import errno
import os
import socket

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IProtocolFactory,
    IReactorFDSet,
    IReactorSocket,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import ServerFactory
from zope.interface import implementer

from deferrals.interfaces import IReactor

#: So many connections are taken in one turn of the reactor.
PER_TURN = 50

#: Where the process has no descriptors left, it is tried again after so long.
LACKING_SECONDS = 0.5


@implementer(IListeningPort)
class SharedPort(FileDescriptor):
    """
    A Unix socket that is another process's, too.  Twisted's own port would change the
    mode of its name, and take it away at the end.
    """

    def __init__(self, reactor: IReactor, own: socket.socket, factory: ServerFactory) -> None:
        self._readers = IReactorFDSet(reactor)
        FileDescriptor.__init__(self, self._readers)
        self._clock = reactor
        self._socket = own
        self._factory = factory
        self._again: IDelayedCall | None = None

    def fileno(self) -> int:
        """
        See C{IFileDescriptor}.
        """
        return self._socket.fileno()

    def getHost(self) -> IAddress:
        """
        See C{IListeningPort}.
        """
        return UNIXAddress(os.fsencode(self._socket.getsockname()))

    def startListening(self) -> None:
        """
        See C{IListeningPort}.
        """
        self._factory.doStart()
        self.connected = True
        self._readers.addReader(self)

    def doRead(self) -> None:
        """
        See C{IReadDescriptor}.
        """
        for _ in range(PER_TURN):
            try:
                connection, _address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                return self._lacking(error)
            with connection:
                connection.setblocking(False)
                adopt = IReactorSocket(self._clock).adoptStreamConnection
                adopt(connection.fileno(), socket.AF_UNIX, self._factory)

    def _lacking(self, error: OSError) -> None:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            self._readers.removeReader(self)
            self._again = self._clock.callLater(LACKING_SECONDS, self._readers.addReader, self)

    def stopListening(self) -> Deferred[None]:
        """
        See C{IListeningPort}.
        """
        if self._again is not None and self._again.active():
            self._again.cancel()
        if self.connected:
            self._readers.removeReader(self)
            self.connected = False
            self._socket.close()
            self._factory.doStop()
        return succeed(None)


@implementer(IStreamServerEndpoint)
class InheritedEndpoint:
    """
    One of them: it listens once.

    @param own: a descriptor, which is this process's now.
    @param backlog: how many connections may wait there.
    """

    def __init__(self, reactor: IReactor, own: socket.socket, backlog: int) -> None:
        self._reactor = reactor
        self._socket = own
        self._backlog = backlog

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        See C{IStreamServerEndpoint}.
        """
        assert isinstance(protocolFactory, ServerFactory)
        own = self._socket
        try:
            own.setblocking(False)
            if own.family == socket.AF_UNIX:
                shared = SharedPort(self._reactor, own.dup(), protocolFactory)
                shared.startListening()
                return succeed(shared)
            adopt = IReactorSocket(self._reactor).adoptStreamPort
            port = adopt(own.fileno(), own.family, protocolFactory)
            own.listen(self._backlog)  # Twisted has said its own
        except OSError as error:
            return fail(CannotListenError(None, None, error))
        return succeed(port)

    def close(self) -> None:
        """
        It is not needed any longer.
        """
        self._socket.close()
