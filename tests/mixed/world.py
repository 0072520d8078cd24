"""
A server without sockets, for models of senders: it answers RCPT, judges the
data, counts copies, and checks at each answer that it is exact.  What it
decides comes from a L{Procedure}, which can be exchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

import attrs

#: What a recipient says of the data: accepts, refuses for good, refuses for now.
Verdict = str


@attrs.frozen
class Client:
    """
    A host that sends.

    @ivar spf: the domain for which SPF passes; empty for none.
    @ivar user: its login; empty for none.
    """

    address: str = "192.0.2.1"
    spf: str = ""
    user: str = ""


@attrs.frozen
class Message:
    """
    One text.

    @ivar ident: Message-ID and Date; empty where it has none.
    @ivar digest: its body.
    @ivar size: in octets.
    """

    ident: str
    digest: str
    size: int = 2000


@attrs.define
class Transaction:
    """
    One transaction, as far as it has come.

    @ivar size: as MAIL declared it.
    @ivar exim: whether the client behaves as one that takes a refusal of the
        message for that of all it named: BDAT together with the RCPTs, or
        recipients that were sent away in the transaction before.
    @ivar received: whether the topmost trace field says Exim.
    @ivar named: whether each recipient that was named is in.
    @ivar memory: the procedure's.
    """

    client: Client
    path: str
    size: int | None
    exim: bool
    received: bool
    lot: int
    now: float
    named: dict[str, bool] = attrs.field(factory=dict)
    memory: object = None

    @property
    def isIn(self) -> list[str]:
        """Those that are in."""
        return [key for key, isIn in self.named.items() if isIn]

    @property
    def away(self) -> list[str]:
        """Those that were sent away."""
        return [key for key, isIn in self.named.items() if not isIn]


@attrs.frozen
class Answer:
    """
    The reply to the data.

    @ivar code: 250, 451 or 550.
    @ivar served: who gets a copy.
    @ivar filed: who refuses, and is filed or told to the sender by a DSN.
    """

    code: int
    served: Sequence[str] = ()
    filed: Sequence[str] = ()


class Procedure(Protocol):
    """
    What is decided, and what is remembered for it.
    """

    def begin(self, transaction: Transaction) -> None:
        """MAIL."""

    def admit(
        self, transaction: Transaction, piece: Sequence[tuple[str, Hashable]]
    ) -> Sequence[bool]:
        """RCPTs that came in one piece, each with its cohort: 250 or 452."""

    def conclude(
        self, transaction: Transaction, message: Message, verdicts: Mapping[str, Verdict]
    ) -> Answer:
        """The data."""

    def gaveUp(self, transaction: Transaction, how: str) -> None:
        """RSET, QUIT or a close, without data."""


class Wrong(AssertionError):
    """An answer that is not exact."""


@attrs.define
class Server:
    """
    @ivar judge: what a recipient says of a message at a time.
    @ivar cohort: whose answers belong together.
    @ivar copies: how many of a message each recipient has.
    @ivar taken: of these, how many look the same.
    @ivar log: what was said, by path: for comparing dialogues.
    @ivar filed: who was filed or told by DSN.
    """

    procedure: Procedure
    judge: Callable[[str, Message, float], Verdict]
    cohort: Callable[[str], Hashable] = lambda key: key
    exact: bool = True
    now: float = 1000.0
    lot: Callable[[], int] = lambda: 0
    copies: Counter[tuple[str, Message]] = attrs.field(factory=Counter)
    filed: list[str] = attrs.field(factory=list)
    log: list[tuple[object, ...]] = attrs.field(factory=list)
    answers: int = 0

    def connect(self, client: Client) -> Connection:
        """A connection."""
        return Connection(self, client)


@attrs.define
class Connection:
    """
    A client's connection.

    @ivar before: who was sent away in the transaction before.
    """

    server: Server
    client: Client
    before: frozenset[str] = frozenset()
    transaction: Transaction | None = None

    def mail(
        self,
        path: str = "friend@honest.example",
        size: int | None = None,
        bdat: bool = False,
        received: bool = False,
    ) -> None:
        """MAIL FROM."""
        server = self.server
        self.transaction = Transaction(
            self.client, path, size, bdat, received, server.lot(), server.now
        )
        server.procedure.begin(self.transaction)

    def rcpt(self, piece: Sequence[str]) -> list[bool]:
        """RCPTs in one piece."""
        transaction = self._transaction()
        if self.before.intersection(piece):
            transaction.exim = True
        asked = [(key, self.server.cohort(key)) for key in piece]
        answers = list(self.server.procedure.admit(transaction, asked))
        transaction.named.update(zip(piece, answers, strict=True))
        self._note("rcpt", *piece, *answers)
        return answers

    def data(self, message: Message) -> int:
        """The data; to those that are in."""
        transaction, server = self._transaction(), self.server
        assert transaction.isIn
        verdicts = {key: server.judge(key, message, server.now) for key in transaction.isIn}
        answer = server.procedure.conclude(transaction, message, verdicts)
        if server.exact:
            self._check(answer, message, verdicts)
        for key in answer.served:
            server.copies[key, message] += 1
        server.filed += answer.filed
        server.answers += 1
        self._note("data", answer.code)
        self.before, self.transaction = frozenset(transaction.away), None
        return answer.code

    def end(self, how: str) -> None:
        """RSET, QUIT or a close where data was due."""
        transaction = self._transaction()
        self.server.procedure.gaveUp(transaction, how)
        self.before, self.transaction = frozenset(), None

    def _transaction(self) -> Transaction:
        assert self.transaction is not None
        return self.transaction

    def _note(self, *what: object) -> None:
        self.server.log.append((self._transaction().path, self.client, *what))

    def _check(self, answer: Answer, message: Message, verdicts: Mapping[str, str]) -> None:
        """
        2xx is for those that accept this data, or have it; 5xx is for those that
        refuse it for good, and needs one that does.
        """
        accepts = {key for key, verdict in verdicts.items() if verdict == "A"}
        if not set(answer.served) <= accepts:
            raise Wrong(f"{answer} gives it to one that refuses: {verdicts}")
        if answer.code == 250:
            has = {key for key in verdicts if message.ident and self.server.copies[key, message]}
            if set(verdicts) - has - set(answer.served) - set(answer.filed):
                raise Wrong(f"{answer} loses a copy: {verdicts}")
        elif answer.served:
            raise Wrong(f"{answer} delivers what it refuses")
        if answer.code == 550 and ("R" not in verdicts.values() or "T" in verdicts.values()):
            raise Wrong(f"{answer} is not what was said: {verdicts}")
