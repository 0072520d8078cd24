"""
Real sessions in the place of the model server: the same senders talk to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT, Refuse
from deferrals.smtp.server.session import Session
from tests.harness import Bench, Transport
from tests.mixed.world import Client, Connection, Message, Server

VERDICTS = {
    "A": ACCEPT,
    "R": Refuse(Reply(550, "5.7.1", "no")),
    "T": Refuse(Reply(450, "4.7.1", "not now")),
}


@attrs.define
class Sessions(Server):
    """
    C{procedure} is not asked: the bench has its own.

    @ivar text: the message that comes next: Exim sends it before it has read what
        the RCPTs are answered.
    @ivar open: connections that have not ended.
    """

    bench: Bench = attrs.field(factory=Bench)
    text: Message = Message("", "")
    open: list[Spoken] = attrs.field(factory=list)

    def connect(self, client: Client) -> Connection:
        """A session."""
        connection = Spoken(self, client)
        self.open.append(connection)
        return connection

    def at(self, now: float) -> None:
        """It is later; all connections of before have been closed."""
        while self.open:
            self.open.pop().close()
        self.bench.clock.advance(now - self.now)
        self.now = now


class Spoken(Connection):
    """
    A session that is spoken to in lines.
    """

    def __init__(self, server: Sessions, client: Client) -> None:
        super().__init__(server, client)
        self._server = server
        self._transport = Transport(client.address)
        bench = server.bench
        self._session = Session(bench.settings, bench.backend, bench.clock)
        self._session.makeConnection(self._transport)
        self._isOpen, self._bdat, self._early = True, False, ""
        self._say("EHLO client.example")

    def _say(self, *lines: str) -> list[str]:
        """
        @return: the last line of each reply.
        """
        self._transport.clear()
        self._session.dataReceived("".join(line + "\r\n" for line in lines).encode())
        self._server.bench.turns()
        said = self._transport.value().decode().split("\r\n")[:-1]
        return [line for line in said if line[3:4] != "-"]

    def close(self) -> None:
        """The connection is lost."""
        if self._isOpen:
            self._isOpen = False
            self._session.connectionLost(Failure(ConnectionDone()))

    def mail(
        self,
        path: str = "friend@honest.example",
        size: int | None = None,
        bdat: bool = False,
        received: bool = False,
    ) -> None:
        """MAIL FROM."""
        self._bdat, self._received = bdat, received
        self._named: list[tuple[str, bool]] = []
        self._say(f"MAIL FROM:<{path}>" + ("" if size is None else f" SIZE={size}"))

    def rcpt(self, piece: Sequence[str]) -> list[bool]:
        """RCPTs in one piece; with BDAT, the message comes with them."""
        lines = [f"RCPT TO:<{key}>" for key in piece]
        if self._bdat:
            self._judge(self._server.text, piece)
            text = "\r\n".join(self._lines(self._server.text))
            lines.append(f"BDAT {len(text) + 2} LAST\r\n{text}")
        replies = self._say(*lines)
        self._early = replies[-1]
        answers = [reply.startswith("250") for reply in replies[: len(piece)]]
        self._named += zip(piece, answers, strict=True)
        return answers

    def data(self, message: Message) -> int:
        """The data."""
        isIn = [key for key, isIn in self._named if isIn]
        self._judge(message, isIn)
        if not self._bdat:
            self._early = self._say("DATA", *self._lines(message), ".")[-1]
        bench, server = self._server.bench, self._server
        for key, _, how in (name.partition(":") for name in bench.released):
            if how:
                server.filed.append(key)
            else:
                server.copies[key, message] += 1
        bench.released.clear()
        return {"2": 250, "4": 451, "5": 550}[self._early[0]]

    def _lines(self, message: Message) -> list[str]:
        ident = f"Message-ID: {message.ident}\r\nDate: Sun, 29 Nov 2026 09:00:00 +0000"
        lines = [ident] if message.ident else []
        if self._received:
            lines.insert(0, "Received: from a by b with smtp (Exim 4.96)")
        return [*lines, "Subject: x", "", message.digest]

    def _judge(self, message: Message, keys: Sequence[str]) -> None:
        """What recipients will say."""
        server = self._server
        server.bench.content.asked.clear()
        verdicts: dict[str, Any] = server.bench.content.verdicts
        for key in keys:
            verdicts[key] = VERDICTS[server.judge(key, message, server.now)]
            server.bench.content.cohorts[key] = server.cohort(key)

    def end(self, how: str) -> None:
        """RSET, QUIT or a close where data was due."""
        if how != "close":
            self._say(how.upper())
        if how != "rset":
            self.close()
