"""
What a worker listens on.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorFDSet, IReactorSocket
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.workers.inherited import LACKING_SECONDS, PER_TURN, InheritedEndpoint, SharedPort


@implementer(IReactorSocket, IReactorFDSet)
class Reactor(Clock):
    """
    Adopts, and reads, what a test says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.adopted: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> str:
        os.fstat(descriptor)
        self.adopted.append(("port", family, factory))
        return "a port"

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        assert not os.get_blocking(descriptor)
        self.adopted.append(("connection", family, factory))


class InheritedTests(SynchronousTestCase):
    """
    L{InheritedEndpoint} and L{SharedPort}.
    """

    def setUp(self) -> None:
        self.reactor: Any = Reactor()
        self.factory = ServerFactory()
        self.factory.noisy = False

    def unix(self) -> tuple[str, socket.socket]:
        path = f"@{os.getpid()}-{id(self)}".replace("@", "\0")
        own = socket.socket(socket.AF_UNIX)
        self.addCleanup(own.close)
        own.bind(path)
        own.listen()
        return path, own

    def test_tcp(self) -> None:
        """A TCP socket is Twisted's to serve, with the backlog that it was opened with."""
        own = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(own.close)
        endpoint = InheritedEndpoint(self.reactor, own, 7)
        self.assertEqual(self.successResultOf(endpoint.listen(self.factory)), "a port")
        self.assertEqual(self.reactor.adopted, [("port", socket.AF_INET, self.factory)])
        endpoint.close()
        self.failureResultOf(endpoint.listen(self.factory), CannotListenError)

    def test_unix(self) -> None:
        """A Unix socket is served, and stays what it is when it is not served any longer."""
        path, own = self.unix()
        port: Any = self.successResultOf(
            InheritedEndpoint(self.reactor, own, 7).listen(self.factory)
        )
        self.assertEqual(port.getHost(), UNIXAddress(path.encode()))
        self.assertEqual(self.reactor.readers, {port})
        for _ in range(2):
            client = socket.socket(socket.AF_UNIX)
            self.addCleanup(client.close)
            client.connect(path)
        port.doRead()
        self.assertEqual(self.reactor.adopted, [("connection", socket.AF_UNIX, self.factory)] * 2)
        self.successResultOf(port.stopListening())
        self.successResultOf(port.stopListening())
        self.assertEqual(self.reactor.readers, set())
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(path)  # another process has it

    def test_lacking(self) -> None:
        """Without descriptors it is not tried in each turn of the reactor."""

        class Full:
            def accept(self) -> None:
                raise OSError(errno.EMFILE, "too many open files")

        own: Any = Full()
        port = SharedPort(self.reactor, own, self.factory)
        self.reactor.addReader(port)
        port.doRead()
        self.assertEqual(self.reactor.readers, set())
        self.reactor.advance(LACKING_SECONDS)
        self.assertEqual(self.reactor.readers, {port})

    def test_turn(self) -> None:
        """A crowd is taken in several turns."""

        class Crowd:
            taken = 0

            def accept(self) -> Any:
                self.taken += 1
                one, other = socket.socketpair()
                other.close()
                return one, ""

        own: Any = Crowd()
        SharedPort(self.reactor, own, self.factory).doRead()
        self.assertEqual(own.taken, PER_TURN)
