"""
Ports that open together, and close together.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.model.listener import ListenerSettings
from deferrals.server.listeners import Listeners, describe, serverEndpoint


@implementer(IListeningPort)
class Port:
    """
    A port that is open until it is told to stop.
    """

    def __init__(self, address: Any) -> None:
        self.address = address
        self.isOpen = True

    def startListening(self) -> None:
        """It has."""

    def getHost(self) -> Any:
        return self.address

    def stopListening(self) -> None:
        self.isOpen = False


@implementer(IStreamServerEndpoint)
class Endpoint:
    """
    Answers what it is told to.
    """

    def __init__(self, result: Any) -> None:
        self.result = result

    def listen(self, protocolFactory: Any) -> Any:
        return self.result if isinstance(self.result, Deferred) else succeed(self.result)


TAKEN = CannotListenError("127.0.0.1", 25, OSError("taken"))


class ListenersTests(SynchronousTestCase):
    """
    L{Listeners}.
    """

    def setUp(self) -> None:
        self.backends: list[ListenerSettings] = []
        self.listeners = Listeners(Clock(), lambda s: self.backends.append(s))  # type: ignore[arg-type, return-value]

    def add(self, result: Any, name: str = "one") -> Any:
        return self.listeners.add(Endpoint(result), ListenerSettings(name=name))

    def port(self, number: int) -> Port:
        return Port(IPv4Address("TCP", "127.0.0.1", number))

    def test_open(self) -> None:
        """All listen, and are found under their names; one that has no port of ours does not."""
        self.add(self.port(25))
        self.add(Port(UNIXAddress("/run/smtp")), "two")
        self.listeners.add(None, ListenerSettings(name="factory"))
        self.successResultOf(Deferred.fromCoroutine(self.listeners.open()))
        self.assertEqual(list(self.listeners.addresses), ["one", "two"])
        self.assertEqual(self.listeners.sockets, [("127.0.0.1", 25)])

    def test_sameName(self) -> None:
        """Two of one name are two."""
        self.add(self.port(25))
        self.add(self.port(26))
        self.listeners.openNow()
        self.assertEqual(len(self.listeners.addresses), 2)

    def test_together(self) -> None:
        """If one cannot listen, none does."""
        port = self.port(25)
        self.add(port)
        self.add(fail(TAKEN), "two")
        self.failureResultOf(Deferred.fromCoroutine(self.listeners.open()), CannotListenError)
        self.assertFalse(port.isOpen)
        self.assertEqual(self.listeners.addresses, {})

    def test_now(self) -> None:
        """A caller that cannot wait has what is known at once raised; later is for the log."""
        self.add(fail(TAKEN))
        self.assertRaises(CannotListenError, self.listeners.openNow)
        slow: Deferred[Any] = Deferred()
        self.listeners = Listeners(Clock(), lambda s: None)  # type: ignore[arg-type, return-value]
        self.add(slow)
        self.listeners.openNow()
        slow.errback(TAKEN)
        self.assertEqual(len(self.flushLoggedErrors(CannotListenError)), 1)

    def test_refresh(self) -> None:
        """Other stages reach the sessions of all listeners."""
        self.add(self.port(25))
        before = len(self.backends)
        self.listeners.refresh()
        self.assertEqual(len(self.backends), before + 1)

    def test_describe(self) -> None:
        """An address as one writes it."""
        for address, wanted in (
            (IPv4Address("TCP", "127.0.0.1", 25), "127.0.0.1:25"),
            (IPv6Address("TCP", "::1", 25), "[::1]:25"),
            (UNIXAddress("/run/smtp"), "/run/smtp"),
        ):
            self.assertEqual(describe(address), wanted)

    def test_endpoint(self) -> None:
        """What is no endpoint is an error; haproxy: in front of one is ours."""
        self.assertRaises(ValueError, serverEndpoint, Clock(), "nothing:1")
        plain = serverEndpoint(Clock(), "haproxy:tcp:25")
        self.assertEqual(type(plain), type(serverEndpoint(Clock(), "tcp:25")))
