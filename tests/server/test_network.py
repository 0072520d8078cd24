"""
Which addresses are ours, and which can be reached.
"""

from __future__ import annotations

import resource
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.names import dns
from twisted.trial.unittest import SynchronousTestCase

from deferrals.server.network import isLocal, makeResolver, reachable


class ResolverTests(SynchronousTestCase):
    """
    L{makeResolver}.
    """

    def test_scarce(self) -> None:
        """A question does not take one of the last descriptors, and fails at once."""
        self.patch(resource, "getrlimit", lambda _: (1000, 1000))
        ports: list[Port] = []

        class Reactor(MemoryReactorClock):
            number = 0

            def listenUDP(self, port: Any, protocol: Any, *args: Any, **named: Any) -> Any:
                ports.append(Port(self.number, protocol))
                protocol.makeConnection(ports[-1])
                return ports[-1]

        reactor = Reactor()
        resolver = makeResolver(reactor, [("192.0.2.53", 53)])
        for number, isAsked in ((874, True), (875, False), (999, False)):
            reactor.number = number
            self.assertEqual(ports, [])
            d = resolver.query(dns.Query(b"x%d.example" % number, dns.A))
            self.assertEqual(len(ports.pop().sent), isAsked)
            if isAsked:
                self.assertNoResult(d)
                d.addErrback(lambda failure: None)
            else:
                self.failureResultOf(d)


class Port:
    """
    A socket for datagrams, whose descriptor has a number.
    """

    def __init__(self, number: int, protocol: Any) -> None:
        self.fileno = lambda: number
        self.protocol = protocol
        self.sent: list[bytes] = []

    def write(self, data: bytes, address: Any) -> None:
        self.sent.append(data)

    def stopListening(self) -> None:
        self.protocol.doStop()


class NetworkTests(SynchronousTestCase):
    """
    Which addresses are our own.
    """

    def test_reachable(self) -> None:
        """A listener's address; all of this machine's, where it listens everywhere."""
        listening = [("0.0.0.0", 25), ("192.0.2.1", 2525)]
        self.assertTrue(reachable(listening, "127.0.0.1", 25))
        self.assertFalse(reachable(listening, "127.0.0.1", 2525))
        self.assertTrue(reachable(listening, "192.0.2.1", 2525))
        self.assertFalse(reachable(listening, "192.0.2.77", 25))
        self.assertTrue(isLocal("127.0.0.1"))
        self.assertFalse(isLocal("192.0.2.77"))
