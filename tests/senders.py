"""
Models of senders, as they behave towards a server that answers each recipient:
what they name in a transaction, what they make of the replies, what they come
back with.  They talk to real sessions.

The behaviours are those that were measured with the real programs (see
C{docs/senders}): Postfix and OpenSMTPD keep a 452 apart from what is said about
the message; Exim without PRDR takes a refusal of the message for that of every
recipient which it named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from deferrals.model.envelope import Form
from deferrals.smtp.server.session import Session
from tests.harness import Bench, Transport


class Connection:
    """
    A session, spoken to line by line or in pieces.
    """

    def __init__(self, bench: Bench) -> None:
        self.transport = Transport()
        self.session = Session(bench.settings, bench.backend, bench.clock)
        self.session.makeConnection(self.transport)
        self.said()
        self.say(["LHLO s.example" if bench.settings.protocol == "lmtp" else "EHLO s.example"])

    def said(self) -> list[str]:
        said = self.transport.value().decode()
        self.transport.clear()
        return [line for line in said.split("\r\n")[:-1] if line[3:4] != "-"]

    def say(self, lines: Iterable[str]) -> list[str]:
        """
        @return: the last line of each reply.
        """
        self.session.dataReceived("".join(line + "\r\n" for line in lines).encode())
        return self.said()

    def close(self) -> None:
        self.session.connectionLost(Failure(ConnectionDone()))


@attrs.define
class Sender:
    """
    One message's way.

    @ivar bench: the server.
    @ivar recipients: to whom.
    @ivar form: what it speaks.
    @ivar pipelined: whether the envelope goes out in one piece.
    @ivar keepsApart: whether a refusal of the message leaves those alone who
        were told 452 (Exim without PRDR does not).
    @ivar again: whether those who were told 452 come at once in the next
        transaction of the connection.
    @ivar address: the return path at the n-th attempt.
    @ivar messageId: the message's; who brings another one says so.
    @ivar told: final answers, by recipient.
    """

    bench: Bench
    recipients: list[str]
    form: Form = Form.PLAIN
    pipelined: bool = True
    keepsApart: bool = True
    again: bool = False
    address: Callable[[int], str] = lambda attempt: "sender@example.com"
    messageId: str = "<1@example.com>"
    told: dict[str, str] = attrs.field(factory=dict)
    transactions: int = 0
    finished: dict[str, float] = attrs.field(factory=dict)

    @property
    def pending(self) -> list[str]:
        """
        Who has no final answer yet.
        """
        return [recipient for recipient in self.recipients if recipient not in self.told]

    def attempt(self, number: int) -> None:
        """
        One delivery attempt: a connection, and as many transactions as this
        sender makes on it.
        """
        connection = Connection(self.bench)
        wanted = self.pending
        while wanted:
            before = len(self.told)
            left = self._transaction(connection, wanted, self.address(number))
            again = self.again and len(self.told) > before
            wanted = left if again else []
        connection.close()

    def _transaction(self, connection: Connection, wanted: list[str], address: str) -> list[str]:
        """
        @return: who was told 452 while the message was taken.
        """
        self.transactions += 1
        parameter = f" {self.form.name}" if self.form in (Form.DEFERRALS, Form.PRDR) else ""
        envelope = [f"MAIL FROM:<{address}>{parameter}", *[f"RCPT TO:<{r}>" for r in wanted]]
        if self.pipelined:
            replies = connection.say([*envelope, "DATA"])
        else:
            replies = [reply for line in [*envelope, "DATA"] for reply in connection.say([line])]
        named = dict(zip(wanted, replies[1:], strict=False))
        for recipient, reply in named.items():
            if reply[0] == "5":
                self._tell(recipient, reply)
        listed = [r for r, reply in named.items() if reply[:3] in ("250", "352")]
        away = [r for r, reply in named.items() if reply[0] == "4"]
        if not listed:
            return []
        return self._data(connection, named, listed, away)

    def _data(
        self, connection: Connection, named: dict[str, str], listed: list[str], away: list[str]
    ) -> list[str]:
        replies = connection.say([f"Message-ID: {self.messageId}", "", "text", "."])
        if self.form is Form.LMTP:
            for recipient, reply in zip(listed, replies, strict=True):
                self._tell(recipient, reply)
            return []
        if replies[0][:3] == "353":
            asked = [r for r in listed if self.form is Form.PRDR or named[r][:3] == "352"]
            for recipient, reply in zip(asked, replies[1:-1], strict=True):
                self._tell(recipient, reply)
            for recipient in set(listed) - set(asked):
                self._tell(recipient, replies[-1])
            return []
        final = replies[-1]
        if final[0] == "4":
            return []
        for recipient in listed:
            self._tell(recipient, final)
        if final[0] == "5" and not self.keepsApart:
            for recipient in away:
                self._tell(recipient, final)
            return []
        return away

    def _tell(self, recipient: str, reply: str) -> None:
        if reply[0] in "25" and recipient not in self.told:
            self.told[recipient] = reply
            self.finished[recipient] = self.bench.clock.seconds()


def run(sender: Sender, waits: Iterable[float]) -> None:
    """
    Let a sender come, and come again after each of these seconds, until all
    its recipients have an answer.
    """
    sender.attempt(0)
    for number, seconds in enumerate(waits, 1):
        if not sender.pending:
            return
        sender.bench.clock.advance(seconds)
        sender.attempt(number)


def decide(bench: Bench, verdicts: dict[str, Any], cohorts: dict[str, Any]) -> None:
    """
    Tell a bench what recipients will say, and whose answers belong together.
    """
    bench.content.verdicts.update(verdicts)
    bench.content.cohorts.update(cohorts)
