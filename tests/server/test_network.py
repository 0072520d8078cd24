"""
Which addresses are ours, and which can be reached.
"""

from __future__ import annotations

import errno
import resource
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import TimeoutError
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSServerError
from twisted.trial.unittest import SynchronousTestCase

from deferrals.server import network
from deferrals.server.network import DNS_SECONDS, isLocal, makeResolver, reachable


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
            test = self

            def listenUDP(self, port: Any, protocol: Any, *args: Any, **named: Any) -> Any:
                ports.append(Port(self.number, protocol))
                self.test.assertFalse(protocol.noisy)  # clients cause many
                protocol.makeConnection(ports[-1])
                return ports[-1]

        reactor = Reactor()
        resolver = makeResolver(reactor, [("192.0.2.53", 53)])
        self.assertFalse(resolver.factory.noisy)
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


class UnreachableTests(SynchronousTestCase):
    """
    Servers that cannot be sent to, or cannot answer.
    """

    def setUp(self) -> None:
        self.sent: list[str] = []
        self.unreachable = {"192.0.2.1"}
        self.reactor: Any = MemoryReactorClock()
        self.reactor.listenUDP = self.listen

    def listen(self, number: int, protocol: Any, interface: str, *args: Any) -> Any:
        if interface == "::":
            raise CannotListenError(interface, number, OSError(errno.EAFNOSUPPORT, "no IPv6"))
        port = Port(5, protocol)
        self.patch(port, "write", lambda data, address: self.write(port, data, address))
        protocol.makeConnection(port)
        return port

    def write(self, port: Any, data: bytes, address: tuple[str, int]) -> None:
        self.sent.append(address[0])
        if address[0] in self.unreachable:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        port.sent.append(data)
        self.last = port, address

    def answer(self, code: int = 0) -> None:
        """
        The server that was asked last answers.
        """
        port, address = self.last
        message = dns.Message()
        message.fromStr(port.sent[-1])
        message.answer, message.rCode = 1, code
        message.answers = [dns.RRHeader(b"x.example", dns.A, payload=dns.Record_A("192.0.2.9"))]
        port.protocol.datagramReceived(message.toStr(), address)

    def ask(self, *servers: str, name: bytes = b"x.example") -> Any:
        self.resolver = makeResolver(self.reactor, [(server, 53) for server in servers])
        return self.resolver.query(dns.Query(name, dns.A))

    def test_passedOver(self) -> None:
        """One without a route, or of a family that is not there: the next one is asked at once."""
        d = self.ask("2001:db8::1", "192.0.2.1", "192.0.2.2")
        self.assertEqual(self.sent, ["192.0.2.1", "192.0.2.2"])
        self.answer()
        self.assertEqual(len(self.successResultOf(d)[0]), 1)

    def test_notAgain(self) -> None:
        """Of one that is silent the next one is asked ; one without a route stays out."""
        d = self.ask("192.0.2.1", "192.0.2.2", "192.0.2.3")
        self.reactor.advance(2)
        self.assertEqual(self.sent, ["192.0.2.1", "192.0.2.2", "192.0.2.3"])
        self.reactor.advance(2)
        self.assertEqual(self.sent[3:], ["192.0.2.2"])
        self.answer()
        self.successResultOf(d)

    def test_none(self) -> None:
        """Where none can be reached it fails, at once, and the next question is asked anew."""
        for _ in range(2):
            d = self.ask("192.0.2.1")
            self.failureResultOf(d, OSError)
            self.failureResultOf(self.resolver.query(dns.Query(b"x.example", dns.A)), OSError)

    def test_unable(self) -> None:
        """A server that cannot answer is no reason not to ask the next one."""
        d = self.ask("192.0.2.2", "192.0.2.3")
        self.answer(dns.EREFUSED)
        self.assertEqual(self.sent, ["192.0.2.2", "192.0.2.3"])
        self.answer()
        self.successResultOf(d)
        self.assertEqual(self.resolver.pickServer(), ("192.0.2.3", 53))

    def test_allUnable(self) -> None:
        """Where all of them say so, that is the answer; a name that is not there is one at once."""
        d = self.ask("192.0.2.2", "192.0.2.3")
        self.answer(dns.ESERVER)
        self.answer(dns.ESERVER)
        self.failureResultOf(d, DNSServerError)
        self.sent.clear()
        d = self.ask("192.0.2.2", "192.0.2.3")
        self.answer(dns.ENAME)
        self.failureResultOf(d, DNSNameError)
        self.assertEqual(self.sent, ["192.0.2.2"])

    def test_silent(self) -> None:
        """After the last time the question has failed."""
        d = self.ask("192.0.2.2")
        for seconds in DNS_SECONDS:
            self.assertNoResult(d)
            self.reactor.advance(seconds)
        self.failureResultOf(d, TimeoutError)
        self.assertEqual(len(self.sent), len(DNS_SECONDS))

    def test_garbage(self) -> None:
        """Lines that name no server are passed over, and said."""
        said: list[str] = []
        self.patch(network, "_log", SimpleNamespace(warn=lambda _, line: said.append(line)))
        resolver = makeResolver(self.reactor, [("192.0.2.2", 53)])
        resolver.parseConfig(
            [
                *(b"nameserver\n", b"nameserver ns.example\n", b"nameserver \xff\n"),
                *(b"nameserver 192.0.2.7\n", b"nameserver fe80::1%eth0 # here\n", b"\n"),
                b"nameservers 192.0.2.8\n",
            ]
        )
        self.assertEqual(resolver.dynServers, [("192.0.2.7", 53), ("fe80::1%eth0", 53)])
        self.assertEqual(said, ["nameserver", "nameserver ns.example", "nameserver \ufffd"])


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
