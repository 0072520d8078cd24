"""
Stock C{twisted.mail}: its ESMTP, and a Maildir that syncs what it has taken.

    python -m benchmarks.stock PORT DIRECTORY
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ServerFactory
from twisted.mail import smtp
from zope.interface import implementer

from benchmarks.durable import Maildir


@implementer(smtp.IMessage)
class _Message:
    def __init__(self, maildir: Maildir) -> None:
        self._maildir = maildir
        self._lines: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        self._lines.append(line)

    def eomReceived(self) -> Deferred[Any]:
        self._maildir.store(b"\r\n".join(self._lines) + b"\r\n")
        return succeed(None)

    def connectionLost(self) -> None:
        pass


@implementer(smtp.IMessageDelivery)
class _Delivery:
    def __init__(self, maildir: Maildir) -> None:
        self._maildir = maildir

    def receivedHeader(self, helo: Any, origin: Any, recipients: Any) -> bytes:
        return b"Received: from " + helo[0] + b" by mx.bench.test"

    def validateFrom(self, helo: Any, origin: Any) -> Any:
        return origin

    def validateTo(self, user: Any) -> Any:
        return lambda: _Message(self._maildir)


def main(port: int, directory: str) -> None:
    delivery = _Delivery(Maildir(directory))

    class Factory(ServerFactory):
        noisy = False

        def buildProtocol(self, addr: Any) -> Any:
            protocol = smtp.ESMTP()
            protocol.noisy = False
            protocol.delivery = delivery
            protocol.factory = self
            return protocol

    reactor.listenTCP(port, Factory(), 1000, "127.0.0.1")  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
