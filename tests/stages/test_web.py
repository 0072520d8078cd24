"""
HTTP requests of stages: where they connect to.
"""

from __future__ import annotations

import ast
import gzip
import pathlib
import re
from collections.abc import Callable
from typing import Any
from unittest import skipIf

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource

import deferrals
from deferrals.errors import StageError
from deferrals.model.verdict import Failed, Refuse
from deferrals.stages import web
from deferrals.stages.content.http import HTTPSettings, HTTPStage
from deferrals.stages.content.rspamd import RspamdSettings, RspamdStage
from deferrals.stages.delivery.http import HTTPDelivery, HTTPDeliverySettings
from deferrals.stages.envelope.users import UsersSettings, UsersStage
from deferrals.stages.remote import AboutMessage, TooLarge
from deferrals.stages.web import WebClient, fromJSON, httpURL, shownURL, webClient
from deferrals.testing import (
    FakeServices,
    makeAddressees,
    makeEnvelope,
    makeMessage,
)
from tests.source import nodes, parsed

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


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


class Transport(StringTransport):
    """
    One that is gone at once when it is to be.
    """

    def abortConnection(self) -> None:
        if not self.disconnected:
            self.disconnected = True
            self.connection.connectionLost(Failure(ConnectionAborted()))

    loseConnection = abortConnection


@skipIf(
    not IReactorPluggableNameResolver.implementedBy(MemoryReactorClock),
    "the test reactor of this version of Twisted resolves no names",
)
class BoundTests(SynchronousTestCase):
    """
    What a service that means ill, or is broken, may say.
    """

    def ask(self, *said: bytes, size: int = 1000) -> tuple[Any, Transport]:
        """
        @return: a Deferred of the answer, and the connection.
        """
        reactor = MemoryReactorClock()
        client = WebClient(reactor, 1)
        d = Deferred.fromCoroutine(client.request("POST", "http://127.0.0.1:81/x?y=z", Headers()))
        transport = Transport()
        transport.connection = reactor.tcpClients[0][2].buildProtocol(None)
        transport.disconnected = False
        transport.connection.makeConnection(transport)
        self.assertTrue(transport.value().startswith(b"POST /x?y=z HTTP/1.1\r\n"))
        data = b"".join(said)
        for start in range(0, len(data), size):
            if not transport.disconnected:
                transport.connection.dataReceived(data[start : start + size])
        self.reactor, self.client = reactor, client
        return d, transport

    def test_answer(self) -> None:
        """An answer, with others on the way."""
        d, _ = self.ask(b"HTTP/1.1 100 Continue\r\n\r\n" * 3, ANSWER, b"x" * 100_000)
        self.assertEqual(self.successResultOf(d), (200, b"x" * 100_000))

    def test_endless(self) -> None:
        """One without end loses the connection, soon, and is not asked for again."""
        for said in (
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000,
            b"HTTP/1.1 200 OK\r\n" + (b"a: " + b"b" * 1000 + b"\r\n") * 1000,
            b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 500_000,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 21_000,
        ):
            d, transport = self.ask(said)
            self.failureResultOf(d, StageError)
            self.assertTrue(transport.disconnected)
            self.assertEqual(len(self.reactor.tcpClients), 1)

    def test_noRedirect(self) -> None:
        """Where else to ask is not followed, whoever says so."""
        head = b"HTTP/1.1 303 See Other\r\nLocation: http://127.0.0.1:81/\r\n"
        d, _ = self.ask(head, b"Content-Length: 0\r\n\r\n")
        self.assertEqual(self.successResultOf(d), (303, b""))

    def test_notUnpacked(self) -> None:
        """What is packed is not asked for, and is no answer."""
        packed = gzip.compress(b"x" * 10_000_000)
        said = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        d, transport = self.ask(said % len(packed), packed)
        self.assertNotIn(b"gzip", transport.value())
        self.failureResultOf(d, StageError)

    def test_identity(self) -> None:
        """What says that it is not packed is an answer."""
        for value, isRead in (
            (b"identity", True),
            (b" Identity ", True),
            (b"", True),
            (b"identity, gzip", False),
            (b"identity\r\nContent-Encoding: br", False),
        ):
            said = (
                b"HTTP/1.1 200 OK\r\nContent-Encoding: "
                + value
                + b"\r\nContent-Length: 2\r\n\r\nok"
            )
            d, _ = self.ask(said)
            if isRead:
                self.assertEqual(self.successResultOf(d), (200, b"ok"), value)
            else:
                self.failureResultOf(d, StageError)

    def test_noCookies(self) -> None:
        """What a service sets is not sent with the next message."""
        cookie = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"
        d, transport = self.ask(cookie)
        self.assertEqual(self.successResultOf(d), (200, b""))
        transport.clear()
        d = Deferred.fromCoroutine(self.client.request("POST", "http://127.0.0.1:81/", Headers()))
        self.assertEqual(transport.value().count(b"POST"), 1)
        self.assertNotIn(b"ookie", transport.value())
        transport.connection.dataReceived(cookie)
        self.assertEqual(self.successResultOf(d), (200, b""))


@skipIf(
    not IReactorPluggableNameResolver.implementedBy(MemoryReactorClock),
    "the test reactor of this version of Twisted resolves no names",
)
class URLTests(SynchronousTestCase):
    """
    L{httpURL}: what it lets pass can be asked.
    """

    def test_good(self) -> None:
        """Addresses of both kinds, names, and those of containers.  (This reactor's
        names, and addresses, are all 127.0.0.1.)"""
        for url, host, port in (
            ("http://[::1]:11333/x", "127.0.0.1", 11333),
            ("http://127.0.0.1", "127.0.0.1", 80),
            ("http://my_service:8080/x?y#z", "my_service", 8080),
        ):
            httpURL(url)
            reactor = MemoryReactorClock()
            d = Deferred.fromCoroutine(WebClient(reactor, 1).request("GET", url, Headers()))
            self.assertEqual(reactor.tcpClients[0][:2], (host, port), url)
            self.assertNoResult(d)
        for url in (
            "https://[::1]/",
            "https://a.example/",
            "https://my_service/",
            "http://{domain}/",
        ):
            httpURL(url)

    def test_bad(self) -> None:
        """What could never be asked is told at the start."""
        for url in (
            *("", "ftp://a/", "http://", "http:///x", "http://a b/", "http://\xfc/", "http://a/\n"),
            *("http://[::1", "http://[::g]/", "http://a:99999/", "http://a:x/", "http://u:p@a/"),
            *("http://:80/", "http://a:0/"),
        ):
            self.assertRaises(ValueError, httpURL, url)


class Elsewhere(Resource):
    """
    A service that has moved, it says; there, everything is taken.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.status = 302
        self.paths: list[bytes] = []

    def render(self, request: Any) -> bytes:
        self.paths.append(request.path)
        if request.path == b"/there":
            return b'{"default": {"accept": true}, "action": "no action", "score": 0}'
        request.setResponseCode(self.status)
        request.setHeader("Location", "http://127.0.0.1:1/there?token=SECRET")
        return b""


class RedirectTests(SynchronousTestCase):
    """
    All that ask a web service: a redirection is followed by none of them (D1).
    """

    def setUp(self) -> None:
        self.service, self.services = Elsewhere(), FakeServices()
        agent = RequestTraversalAgent(self.service)
        self.flush = agent.flush
        self.patch(web, "makeAgent", lambda reactor, connections: agent)

    def result(self, answer: Any) -> Any:
        for _ in range(10):
            self.services.reactor.advance(0.1)
            self.flush()
        return self.successResultOf(answer)

    def users(self) -> dict[str, Callable[[], Any]]:
        """
        What each makes of an answer.
        """
        url, services = "http://127.0.0.1:1/here", self.services
        people = makeAddressees("a@x.example")
        recipient = people[0].recipient
        content = [
            HTTPStage(HTTPSettings(url), services),
            RspamdStage(RspamdSettings(url=url), services),
        ]
        table = UsersStage(UsersSettings(url=url + "/{address}"), services)
        delivery = HTTPDelivery(HTTPDeliverySettings(url), services)
        judged = {
            type(stage).__name__: lambda stage=stage: stage.judge(
                makeMessage(), makeEnvelope(), [recipient]
            )
            for stage in content
        }
        return {
            **judged,
            "users": lambda: table.judgeRecipient(makeEnvelope(), recipient),
            "delivery": lambda: delivery.deliver(makeMessage(), makeEnvelope(), people).addCallback(
                lambda found: found[people[0]]
            ),
        }

    def test_none(self) -> None:
        """Whatever it is called, and whoever asks: it is a failure."""
        for status in (300, 301, 302, 303, 305, 307, 308):
            self.setUp()
            self.service.status = status
            for name, ask in self.users().items():
                found = self.result(ask())
                self.assertIsInstance(found, Refuse | Failed, (name, status))
                self.assertNotIn("SECRET", str(found.reply))
            self.assertEqual(len(self.service.paths), 4)
            self.assertNotIn(b"/there", self.service.paths)

    def test_onePlace(self) -> None:
        """There is one way to the web in the package."""
        found = []
        for path in pathlib.Path(deferrals.__file__).parent.rglob("*.py"):
            tree = parsed(path.read_text(encoding="utf-8"))
            for node in nodes(tree, ast.Import, ast.ImportFrom):
                modules = [getattr(node, "module", ""), *(alias.name for alias in node.names)]
                if any(alias.name == "url2pathname" for alias in node.names):
                    continue  # is no request
                if any(_WEB.match(module) for module in modules):
                    found.append(path.name)
        self.assertEqual(set(found), {"web.py"})


#: What can ask the web.
_WEB = re.compile(r"treq|twisted\.web\.client|urllib\.request|http\.client|requests|httpx|aiohttp")


class ShownTests(SynchronousTestCase):
    """
    L{shownURL}.
    """

    def test_secrets(self) -> None:
        """What may be secret of a URL is neither in logs nor in names of destinations."""
        for url, shown in (
            ("http://127.0.0.1:81/x?token=secret", "http://127.0.0.1:81/x"),
            ("https://me:secret@a.example", "https://a.example"),
            ("http://a.example/{user}?q={address}#secret", "http://a.example/{user}"),
            ("http://[::1]:81/", "http://[::1]:81/"),
            ("unix:/run/a?b@c", "unix:/run/a?b@c"),
        ):
            self.assertEqual(shownURL(url), shown)

    def test_stages(self) -> None:
        """No stage shows more."""
        services = FakeServices()
        url = "http://127.0.0.1/x?token=secret"
        RspamdStage(RspamdSettings(url=url), services)
        HTTPStage(HTTPSettings(url), services)
        delivery = HTTPDelivery(HTTPDeliverySettings(url), services)
        UsersStage(UsersSettings(url=url + "&of={address}"), services)
        recipient = makeAddressees("a@b.example")[0].recipient
        parts = str(services.status.parts())
        self.assertEqual(parts.count("127.0.0.1/x"), 3)
        self.assertNotIn("secret", delivery.destination(recipient) + parts)


class JSONTests(SynchronousTestCase):
    """
    L{fromJSON}.
    """

    def test_read(self) -> None:
        """Octets that are no UTF-8 are replaced; another status, or no JSON, is no answer."""
        self.assertEqual(fromJSON(200, b'["a\xff"]'), ["a\ufffd"])
        self.assertRaises(StageError, fromJSON, 500, b"[]")
        self.assertRaises(StageError, fromJSON, 200, b"[")

    def test_twice(self) -> None:
        """A key that is repeated, at whatever depth, makes no answer."""
        for body in (b'{"a": 1, "a": 1}', b'[{"b": {"a": 1, "\\u0061": 2}}]'):
            with self.assertRaisesRegex(StageError, "the key 'a' twice"):
                fromJSON(200, body)
        self.assertEqual(fromJSON(200, b'{"a": {"a": 1}}'), {"a": {"a": 1}})

    def test_aboutMessage(self) -> None:
        """Some statuses are about the message, and not about the service."""
        for status, error in ((413, TooLarge), (422, AboutMessage), (400, AboutMessage)):
            self.assertRaises(error, fromJSON, status, b"{}")
        for status in (404, 429, 500, 503, 204):
            with self.assertRaises(StageError) as raised:
                fromJSON(status, b"{}")
            self.assertNotIsInstance(raised.exception, AboutMessage)
