"""
HTTP requests of stages: where they connect to.
"""

from __future__ import annotations

from typing import Any
from unittest import skipIf

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from deferrals.errors import StageError
from deferrals.stages.web import WebClient, fromJSON, webClient
from deferrals.testing import FakeServices


class ClientTests(SynchronousTestCase):
    """
    L{WebClient}.
    """

    def test_shared(self) -> None:
        """Stages that want as many connections have the same client."""
        services = FakeServices()
        self.assertIs(webClient(services, 3), webClient(services, 3))
        self.assertIsNot(webClient(services, 3), webClient(services, 4))

    @skipIf(
        not IReactorPluggableNameResolver.implementedBy(MemoryReactorClock),
        "the test reactor of this version of Twisted resolves no names",
    )
    def test_quiet(self) -> None:
        """A connection makes no line of log of its own, with TLS or without."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for url, port in (("http://127.0.0.1:81/", 81), ("https://127.0.0.1/", 443)):
            reactor = MemoryReactorClock()
            client = WebClient(reactor, 1)
            Deferred.fromCoroutine(client.request("GET", url, Headers())).addErrback(lambda _: None)
            ((host, found, factory, *_),) = reactor.tcpClients
            self.assertEqual((host, found), ("127.0.0.1", port))
            factory.doStart()
            factory.doStop()
        self.assertEqual([event for event in events if "actory" in (event["log_format"] or "")], [])


class JSONTests(SynchronousTestCase):
    """
    L{fromJSON}.
    """

    def test_read(self) -> None:
        """Octets that are no UTF-8 are replaced; another status, or no JSON, is no answer."""
        self.assertEqual(fromJSON(200, b'["a\xff"]'), ["a\ufffd"])
        self.assertRaises(StageError, fromJSON, 500, b"[]")
        self.assertRaises(StageError, fromJSON, 200, b"[")
