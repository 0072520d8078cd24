"""
What the parent opens, and who answers there.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import (
    IFileDescriptor,
    IPushProducer,
    IReactorSocket,
    IReactorUNIX,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import ListenError
from deferrals.workers.doors import LEAVING_SECONDS, MOST_LEAVING, Doors, StandIn


@implementer(IPushProducer, IFileDescriptor)
class Port:
    """
    A port that is read from, or not.
    """

    def __init__(self, own: socket.socket, factory: Any) -> None:
        self.own = own
        self.factory = factory
        self.isReading = True

    def fileno(self) -> int:
        return self.own.fileno()

    def getHost(self) -> Any:
        name = self.own.getsockname()
        return UNIXAddress(name) if isinstance(name, str) else IPv4Address("TCP", *name)

    def pauseProducing(self) -> None:
        self.isReading = False

    def resumeProducing(self) -> None:
        self.isReading = True

    def stopProducing(self) -> None:
        """Nothing."""

    def connectionLost(self, reason: Any) -> None:
        """Nothing."""

    def stopListening(self) -> None:
        self.own.close()


@implementer(IReactorSocket, IReactorUNIX)
class Reactor(Clock):
    """
    Real sockets, from which nothing is read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[Port] = []

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> Port:
        self.ports.append(Port(socket.socket(fileno=os.dup(descriptor)), factory))
        return self.ports[-1]

    def listenUNIX(
        self, address: str, factory: Any, backlog: int, mode: int, wantPID: bool
    ) -> Port:
        own = socket.socket(socket.AF_UNIX)
        own.bind(address)
        self.ports.append(Port(own, factory))
        return self.ports[-1]


LOOPBACK = "tcp:0:interface=127.0.0.1"


class DoorsTests(SynchronousTestCase):
    """
    L{Doors}.
    """

    def setUp(self) -> None:
        self.reactor: Any = Reactor()
        self.doors = Doors(self.reactor, 3)
        self.addCleanup(self.doors.close)

    def reading(self) -> list[bool]:
        return [port.isReading for port in self.reactor.ports]

    def test_tcp(self) -> None:
        """Each worker has a socket of its own in the same place, which the system deals out."""
        self.assertEqual(self.doors.open({f"haproxy:{LOOPBACK}": True}), [f"haproxy:{LOOPBACK}"])
        sockets = [port.own for port in self.reactor.ports]
        self.assertEqual(len({one.getsockname() for one in sockets}), 1)
        for one in sockets:
            self.assertEqual(one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT), 1)
            self.assertEqual(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 1)
        self.assertEqual(self.reading(), [False] * 3)
        given = [self.doors.of(worker) for worker in range(3)]
        self.assertEqual([one[0][2] for one in given], [one.fileno() for one in sockets])
        self.assertEqual(given[0][0][:2], (f"haproxy:{LOOPBACK}", 50))
        self.assertEqual(len(self.doors.addresses), 1)

    def test_closedBefore(self) -> None:
        """What a stop has closed is closed once more by the reload that it interrupts."""
        opened = self.doors.open({LOOPBACK: True})
        self.doors.close()
        self.doors.close(opened)
        self.assertEqual(self.doors.addresses, [])

    def test_shared(self) -> None:
        """A Unix socket, and a service manager's, is one for all."""
        name = f"\0{os.getpid()}-{id(self)}"
        own = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(own.close)
        self.patch(os, "environ", {})
        self.doors.open({f"unix:{name}:backlog=9": True})
        self.assertEqual(len(self.reactor.ports), 1)
        self.assertEqual([self.doors.of(one)[0][1] for one in range(3)], [9] * 3)
        self.assertEqual(len({self.doors.of(one)[0][2] for one in range(3)}), 1)

    def test_taken(self) -> None:
        """A place that another program has, a server of ours or not, cannot be had; nor others."""
        other = Doors(self.reactor, 2)
        self.addCleanup(other.close)
        other.open({LOOPBACK: True})
        taken = f"tcp:{other.addresses[0].port}:interface=127.0.0.1"  # type: ignore[attr-defined]
        with self.assertRaisesRegex(ListenError, "cannot listen on tcp:.*in use"):
            self.doors.open({LOOPBACK: True, taken: True})
        self.assertEqual(self.doors.addresses, [])
        with self.assertRaises(ListenError):
            self.doors.open({"tcp:25:interface=192.0.2.1": True})

    def test_orphans(self) -> None:
        """A place that the workers of a parent that was killed have is waited for."""
        other = socket.create_server(("127.0.0.1", 0), reuse_port=True)
        self.addCleanup(other.close)
        taken = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        waits: list[ListenError] = []

        class Waiting:
            def wait(self, error: ListenError) -> None:
                waits.append(error)
                if len(waits) == 3:
                    other.close()

        orphans: Any = Waiting()
        self.doors.openAtStart({LOOPBACK: True, taken: True}, orphans)
        self.assertEqual((len(waits), len(self.doors.addresses)), (3, 2))
        self.assertEqual({one.endpoint for one in waits}, {taken})
        with self.assertRaises(ListenError):  # this is no one's
            self.doors.openAtStart({"tcp:25:interface=192.0.2.1": True}, orphans)
        stranger = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(stranger.close)
        with self.assertRaisesRegex(ListenError, "in use"):  # this is another program's
            taken = f"tcp:{stranger.getsockname()[1]}:interface=127.0.0.1"
            self.doors.openAtStart({taken: True}, orphans)
        self.assertEqual(len(waits), 3)

    def test_half(self) -> None:
        """Where one of the sockets cannot be had, none stays."""
        made: list[Any] = []

        class Second(socket.socket):
            def __init__(self, *args: Any, **more: Any) -> None:
                super().__init__(*args, **more)
                made.append(self)

            def bind(self, place: Any) -> None:
                if len(made) == 3:
                    raise OSError(98, "in use")
                super().bind(place)

        self.patch(socket, "socket", Second)
        with self.assertRaises(ListenError):
            self.doors.open({LOOPBACK: True})
        self.assertEqual([one.fileno() for one in made], [-1] * 3)

    def test_reload(self) -> None:
        """What is open stays; what is new is opened, what is not there any longer closed."""
        self.doors.open({LOOPBACK: True})
        more = "tcp:port=0:interface=127.0.0.1:backlog=3"
        self.assertEqual(self.doors.open({LOOPBACK: True, more: False}), [more])
        self.assertEqual([name for name, _, _ in self.doors.of(0, [more])], [more])
        self.assertEqual(self.doors.missing([more]), [LOOPBACK])
        self.doors.close([LOOPBACK])
        self.assertEqual([name for name, _, _ in self.doors.of(0)], [more])
        self.assertEqual(self.doors.of(0)[0][1], 3)

    def test_away(self) -> None:
        """The parent answers at the socket of a worker that is away; at a shared one, for all."""
        self.doors.open({LOOPBACK: True, f"unix:\0{os.getpid()}+{id(self)}": True})
        self.doors.isAway(1, True)
        self.assertEqual(self.reading(), [False, True, False, False])
        for worker in (0, 2):
            self.doors.isAway(worker, True)
        self.assertEqual(self.reading(), [True, True, True, True])
        self.doors.open({"tcp:port=0:interface=127.0.0.1": True})  # while they are away
        self.assertEqual(self.reading()[4:], [True, True, True])
        self.doors.isAway(1, False)
        self.assertEqual(self.reading()[:4], [True, False, True, False])


class Transport(StringTransport):
    """
    A client's.
    """

    isHalf = False

    def loseWriteConnection(self) -> None:
        self.isHalf = True


class StandInTests(SynchronousTestCase):
    """
    L{StandIn}.
    """

    def setUp(self) -> None:
        self.clock: Any = Clock()

    def client(self, factory: StandIn) -> Any:
        transport = Transport()
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(transport)
        return protocol, transport

    def test_told(self) -> None:
        """A client is told to come again, and has a while to read it."""
        factory = StandIn(self.clock, True)
        protocol, transport = self.client(factory)
        self.assertEqual(transport.value()[:10], b"421 4.3.2 ")
        self.assertEqual(transport.value()[-2:], b"\r\n")
        self.assertTrue(transport.isHalf)
        protocol.connectionLost()
        self.assertEqual((self.clock.getDelayedCalls(), factory.leaving), ([], set()))

    def test_stays(self) -> None:
        """One that does not go is cut off."""
        _, transport = self.client(StandIn(self.clock, True))
        self.clock.advance(LEAVING_SECONDS)
        self.assertTrue(transport.disconnecting or transport.disconnected)

    def test_tls(self) -> None:
        """Who waits for TLS from the first octet is told nothing that would be none."""
        _, transport = self.client(StandIn(self.clock, False))
        self.assertEqual((transport.value(), transport.isHalf), (b"", True))

    def test_crowd(self) -> None:
        """Of a crowd, the last find the connection closed."""
        factory = StandIn(self.clock, True)
        for _ in range(MOST_LEAVING):
            self.client(factory)
        _, transport = self.client(factory)
        self.assertEqual(transport.value(), b"")
        self.assertTrue(transport.disconnecting or transport.disconnected)
