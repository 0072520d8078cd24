"""
A pool of connections to servers without sockets.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.outgoing import Heard, Hop, Outgoing, Sent
from deferrals.smtp.client.pool import NextHops
from tests.peer import Network, Peer

BODY = b"Subject: x\r\n\r\n.dot\r\n"


def outgoing(*recipients: str, sender: str = "a@example.com", **more: Any) -> Outgoing:
    return Outgoing(sender, recipients, len(BODY), lambda: iter([BODY]), **more)


def codes(sent: Sent) -> list[int]:
    return [answer.reply.code for answer in sent.answers]


class HopsCase(SynchronousTestCase):
    """
    A network without sockets, and a way to it.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000_000)
        self.network = Network(self.clock)
        self.peer = self.network.peers["hop"] = Peer()
        self.hops = NextHops(self.clock, "mx.example.net", self.network.connect, maybeDeferred)

    def hop(self, **settings: Any) -> Hop:
        return Hop("hop", "hop:25", "hop.example", **settings)

    def start(self, hop: Hop, message: Outgoing, heard: Heard | None = None) -> Deferred[Any]:
        d = self.hops.send(hop, message, heard)
        self.network.run()
        return d

    def sent(self, hop: Hop, message: Outgoing) -> Sent:
        result: Sent = self.successResultOf(self.start(hop, message))
        return result

    def mails(self) -> list[str]:
        return [line for line in self.peer.commands if line.startswith("MAIL")]

    def rcpts(self) -> list[str]:
        """
        Who was named, transaction by transaction.
        """
        found = []
        for line in self.peer.commands:
            if line.startswith("MAIL"):
                found.append("")
            elif line.startswith("RCPT"):
                found[-1] += line.partition("<")[2].partition("@")[0]
        return found
