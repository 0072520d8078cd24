"""
Deliveries to other servers, against servers without sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.delivery import Addressee
from deferrals.smtp.client.pool import NextHops
from deferrals.stages.delivery.lmtp import LMTPDelivery, LMTPSettings
from deferrals.stages.delivery.smtp import SMTPDelivery, SMTPSettings
from deferrals.testing import (
    FakeServices,
    makeEnvelope,
    makeMessage,
)
from tests.peer import EHLO, Network, Peer

HOP = "tcp:hop.example:25"
BODY = b"Subject: x\r\n\r\n.dot\r\n"


class RemoteCase(SynchronousTestCase):
    """
    A delivery, and one server.
    """

    keywords: tuple[str, ...] = EHLO
    lmtp = False

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.network = Network(self.clock)
        self.peer = self.network.peers[HOP] = Peer(*self.keywords, lmtp=self.lmtp)
        self.services = FakeServices("/etc", self.clock)
        self.services.connect = self.network.connect  # type: ignore[method-assign]
        self.services.nextHops = NextHops(
            self.clock, "mx.example.net", self.network.connect, maybeDeferred
        )

    def makeStage(self, **settings: Any) -> Any:
        if self.lmtp:
            return LMTPDelivery(LMTPSettings(endpoint=HOP, **settings), self.services)
        return SMTPDelivery(SMTPSettings(endpoint=HOP, **settings), self.services)

    def successResultOf(self, deferred: Any) -> Any:
        self.network.run()
        return super().successResultOf(deferred)

    def settle(self) -> None:
        self.network.run()

    def start(
        self,
        addressees: Sequence[Addressee],
        message: Any = None,
        envelope: Any = None,
        stage: Any = None,
    ) -> Deferred[Any]:
        message = message or makeMessage(BODY)
        d: Deferred[Any] = maybeDeferred(
            (stage or self.makeStage()).deliver, message, envelope or makeEnvelope(), addressees
        )
        self.network.run()
        return d

    def outcomes(self, addressees: Sequence[Addressee], **more: Any) -> list[Any]:
        found = self.successResultOf(self.start(addressees, **more))
        self.assertEqual(set(found), set(addressees))
        return [found[addressee] for addressee in addressees]
