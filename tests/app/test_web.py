"""
The port of C{[web]}.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IPushProducer
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer

from deferrals.app.web import PER_SECOND, WebPort, checkWeb
from deferrals.config.tables import Config
from deferrals.errors import ConfigError, ListenError
from deferrals.server import MailServer
from tests.configs import LISTEN, ConfigCase
from tests.server.test_stages import Box, Says


class WebPortTests(ConfigCase):
    """
    L{WebPort}.
    """

    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        server = MailServer(self.reactor, hostname="mx.test", envelope=Says(None), delivery=Box())
        self.web = WebPort(self.reactor, server)

    def config(self, port: int = 0, more: str = "") -> Config:
        if not port:
            return self.load(LISTEN)
        return self.load(f'{LISTEN}[web]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n{more}')

    def change(self, config: Config) -> None:
        async def changed() -> None:
            await self.web.prepare(config)
            await self.web.commit()

        self.successResultOf(Deferred.fromCoroutine(changed()))

    def port(self) -> int | None:
        address = self.web.address
        return address.port if isinstance(address, IPv4Address) else None

    def test_off(self) -> None:
        """Without the table there is none."""
        self.web.openNow(self.config())
        self.assertIsNone(self.web.address)
        self.assertEqual(self.reactor.tcpServers, [])

    def test_changes(self) -> None:
        """Another port takes the place of the former; none closes it."""
        self.web.openNow(self.config(8025))
        self.assertEqual(self.port(), 8025)
        self.change(self.config(8026))
        self.assertEqual(self.port(), 8026)
        self.change(self.config(8026, 'hosts = ["a.example"]\n'))
        self.assertEqual(len(self.reactor.tcpServers), 2)
        self.change(self.config())
        self.assertIsNone(self.web.address)

    def test_cannot(self) -> None:
        """A port that cannot be had leaves the former one as it is."""
        self.web.openNow(self.config(8025))

        def refuse(*args: object, **kwargs: object) -> None:
            raise CannotListenError("127.0.0.1", 8026, OSError("in use"))

        self.patch(self.reactor, "listenTCP", refuse)
        d = Deferred.fromCoroutine(self.web.prepare(self.config(8026)))
        self.failureResultOf(d, ListenError)
        self.successResultOf(Deferred.fromCoroutine(self.web.undo()))
        self.assertEqual(self.port(), 8025)

    def test_flood(self) -> None:
        """Within a second not more than so many are taken; the others wait, and have their turn."""
        self.web.openNow(self.config(8025))
        ((_, front, *_),) = self.reactor.tcpServers
        paused: list[bool] = []

        @implementer(IPushProducer)
        class Port:
            def pauseProducing(self) -> None:
                paused.append(True)

            def resumeProducing(self) -> None:
                paused.append(False)

            def stopProducing(self) -> None:
                """Not called."""

        front.port = Port()
        for _ in range(PER_SECOND - 1):
            front.buildProtocol(None)
        self.assertEqual(paused, [])
        front.buildProtocol(None)
        self.assertEqual(paused, [True])
        self.reactor.advance(1)
        self.assertEqual(paused, [True, False])
        front.buildProtocol(None)
        self.reactor.advance(1)
        self.assertEqual(paused, [True, False])
        front.buildProtocol(None)
        front.stopFactory()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_start(self) -> None:
        """At a start, the caller is told at once."""
        error = CannotListenError("127.0.0.1", 8025, OSError("taken"))
        self.patch(self.reactor, "listenTCP", Mock(side_effect=error))
        self.assertRaises(ListenError, self.web.openNow, self.config(8025))

    def test_files(self) -> None:
        """What is named has to be there."""
        more = 'token_file = "no-such"\nusers = "no-such"\ncertificate = "no-such"\n'
        error = self.assertRaises(ConfigError, checkWeb, self.config(8025, more), self.reactor)
        keys = [key for key, _ in error.problems]
        self.assertEqual(keys, ["web.certificate", "web.token_file", "web.users"])

    def test_elsewhere(self) -> None:
        """Elsewhere than on loopback it is refused without what guards it."""
        (problem,) = self.problems(f'{LISTEN}[web]\nendpoint = "tcp:8025"\n')
        self.assertTrue(
            problem.startswith("web.endpoint: expected loopback, or users and"), problem
        )
