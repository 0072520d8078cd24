"""
Models of senders: what they name in a transaction, what they make of the
replies, what they come back with.  The kinds are those of C{docs/senders.md}.

    Queue     keeps a 452 apart from what is said of the message: Postfix,
              sendmail, OpenSMTPD, Exchange, Gmail; programs that bring the
              refused again
    Exim      takes a 4xx or 5xx behind the data for all that it named
    Single    one recipient in a transaction: qmail, VERP mailers
    OneThing  gives up the whole message at a 452: nullmailer, libraries
    Repeats   goes on, says that it failed, brings all again: PHPMailer
    Silent    goes on, and never names the refused again: Django
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence

import attrs

from tests.mixed.world import Client, Connection, Message, Server, Wrong

CLIENT = Client(spf="honest.example")


@attrs.define
class Sender:
    """
    One message's way.

    @ivar recipients: to whom.
    @ivar message: the text.
    @ivar path: the return path at the n-th attempt.
    @ivar clients: the hosts that it comes from, in turn.
    @ivar pipelined: whether the envelope comes in one piece.
    @ivar declares: whether MAIL says SIZE.
    @ivar order: brings those that it wants to name into its order.
    @ivar newIdent: whether each attempt makes a new Message-ID.
    @ivar told: C{"2"}, C{"5"}, or C{"-"} (dropped) for each recipient that has
        its end.
    @ivar named: in how many attempts each was named.
    @ivar ended: at which time each had its end.
    @ivar attempts: how many there were.
    """

    recipients: Sequence[str]
    message: Message = Message("<1@honest.example>", "body")
    path: Callable[[int], str] = lambda attempt: "friend@honest.example"
    clients: Sequence[Client] = (CLIENT,)
    pipelined: bool = True
    declares: bool = True
    order: Callable[[list[str]], list[str]] = list
    newIdent: bool = False
    received: bool = False
    told: dict[str, str] = attrs.field(factory=dict)
    ended: dict[str, float] = attrs.field(factory=dict)
    named: Counter[str] = attrs.field(factory=Counter)
    attempts: int = 0

    @property
    def pending(self) -> list[str]:
        """Those that have no end yet."""
        return [key for key in self.recipients if key not in self.told]

    @property
    def text(self) -> Message:
        """The message, as this attempt sends it."""
        if not self.newIdent:
            return self.message
        return attrs.evolve(self.message, ident=f"{self.message.ident}{self.attempts}")

    def come(self, server: Server) -> None:
        """
        One attempt.
        """
        self.attempts += 1
        wanted = self.order(self.wanted())
        if wanted:
            self.attempt(server, wanted)

    def wanted(self) -> list[str]:
        """Who is named at this attempt."""
        return self.pending

    def attempt(self, server: Server, wanted: list[str]) -> None:
        """One attempt to C{wanted}."""
        self.transaction(self.connect(server), server, wanted)

    def connect(self, server: Server) -> Connection:
        """A connection from the host whose turn it is."""
        return server.connect(self.clients[self.attempts % len(self.clients)])

    def transaction(
        self, connection: Connection, server: Server, wanted: list[str], bdat: bool = False
    ) -> tuple[int, list[str]]:
        """
        @return: what the data was answered (0: none was sent), and who was sent
            away.
        """
        isIn = self.envelope(connection, wanted, bdat)
        inside = [key for key in wanted if isIn[key]]
        away = [key for key in wanted if not isIn[key]]
        if not inside:
            connection.end("quit")
            return 0, away
        code = connection.data(self.text)
        self.conclude(server, code, inside, away)
        return code, away

    def envelope(self, connection: Connection, wanted: list[str], bdat: bool) -> dict[str, bool]:
        """MAIL and RCPTs."""
        size = self.message.size if self.declares else None
        connection.mail(self.path(self.attempts), size, bdat, self.received)
        self.named.update(wanted)
        pieces = [wanted] if self.pipelined else [[key] for key in wanted]
        answers = [answer for piece in pieces for answer in connection.rcpt(piece)]
        return dict(zip(wanted, answers, strict=True))

    def conclude(self, server: Server, code: int, inside: list[str], away: list[str]) -> None:
        """What is made of the reply to the data."""
        if code == 550:
            self.check(server, inside)
        if code != 451:
            self.tell(server, inside, str(code)[0])

    def check(self, server: Server, refused: Sequence[str]) -> None:
        """Who is told that it refuses must do so, also where it has the message."""
        for key in refused:
            if server.exact and server.judge(key, self.text, server.now) != "R":
                raise Wrong(f"{key} is refused with others, and would not refuse")

    def tell(self, server: Server, keys: Sequence[str], what: str) -> None:
        """These have their end."""
        for key in keys:
            if key not in self.told:
                self.told[key] = what
                self.ended[key] = server.now


@attrs.define
class Queue(Sender):
    """See the module.  C{parts} cuts an attempt into transactions."""

    parts: Callable[[list[str]], list[list[str]]] = lambda wanted: [wanted]

    def attempt(self, server: Server, wanted: list[str]) -> None:
        """Each part by itself, on a connection of its own."""
        for part in self.parts(wanted):
            self.transaction(self.connect(server), server, part)


@attrs.define
class Exim(Sender):
    """See the module.  C{bdat}: CHUNKING is used."""

    bdat: bool = False

    def attempt(self, server: Server, wanted: list[str]) -> None:
        """The refused come in the next transaction, over DATA."""
        connection = self.connect(server)
        while wanted:
            code, away = self.transaction(connection, server, wanted, self.bdat)
            wanted = away if code == 250 and not self.bdat else []

    def conclude(self, server: Server, code: int, inside: list[str], away: list[str]) -> None:
        """A refusal is for all."""
        if code == 550:
            self.check(server, [*inside, *away])
            self.tell(server, [*inside, *away], "5")
        elif code == 250:
            self.tell(server, inside, "2")


@attrs.define
class Single(Sender):
    """See the module."""

    def attempt(self, server: Server, wanted: list[str]) -> None:
        """One after the other."""
        for key in wanted:
            self.transaction(self.connect(server), server, [key])


@attrs.define
class OneThing(Sender):
    """
    See the module.

    @ivar how: C{rset}, C{quit} or C{close}.
    @ivar namesAll: whether it names all before it gives up.
    """

    how: str = "rset"
    namesAll: bool = False

    def wanted(self) -> list[str]:
        """All, until it is over."""
        return list(self.recipients) if self.pending else []

    def transaction(
        self, connection: Connection, server: Server, wanted: list[str], bdat: bool = False
    ) -> tuple[int, list[str]]:
        """A 452 ends it."""
        size = self.message.size if self.declares else None
        connection.mail(self.path(self.attempts), size)
        self.named.update(wanted)
        away = []
        for piece in [wanted] if self.pipelined else [[key] for key in wanted]:
            answers = connection.rcpt(piece)
            away += [key for key, isIn in zip(piece, answers, strict=True) if not isIn]
            if away and not self.namesAll:
                break
        if away:
            connection.end(self.how)
            return 0, away
        code = connection.data(self.text)
        self.conclude(server, code, wanted, away)
        return code, away

    def check(self, server: Server, refused: Sequence[str]) -> None:
        """It takes one answer for all."""


@attrs.define
class Repeats(Sender):
    """See the module.  C{done}: who has had a 250 so far."""

    done: set[str] = attrs.field(factory=set)

    def wanted(self) -> list[str]:
        """All, until all went well in one attempt, or a refusal ends it."""
        return list(self.recipients) if self.pending else []

    def conclude(self, server: Server, code: int, inside: list[str], away: list[str]) -> None:
        """One that was put off is an error of the whole."""
        if code == 250:
            self.done.update(inside)
            if not away:
                self.tell(server, inside, "2")
        elif code == 550:
            self.tell(server, inside, "5")
            self.tell(server, sorted(self.done), "2")
            self.tell(server, away, "-")


@attrs.define
class Silent(Sender):
    """See the module."""

    def conclude(self, server: Server, code: int, inside: list[str], away: list[str]) -> None:
        """Who was sent away is dropped once the message was taken."""
        if code != 451:
            self.tell(server, inside, str(code)[0])
            self.tell(server, away, "-")


def shuffled(rng: random.Random) -> Callable[[list[str]], list[str]]:
    """
    An order that is another one at each attempt.
    """
    return lambda keys: rng.sample(keys, len(keys))


def subsets(rng: random.Random) -> Callable[[list[str]], list[list[str]]]:
    """
    All of them, in one or more transactions.
    """

    def cut(keys: list[str]) -> list[list[str]]:
        keys = rng.sample(keys, len(keys))
        places = sorted({0, len(keys), *(rng.randrange(len(keys) + 1) for _ in range(2))})
        return [keys[a:b] for a, b in itertools.pairwise(places)]

    return cut


@attrs.define
class Stranger:
    """
    A client that forges names, sees all replies, and does whatever comes.
    """

    client: Client
    rng: random.Random
    recipients: Sequence[str]
    path: str = "friend@honest.example"
    size: int | None = None

    def come(self, server: Server) -> None:
        """Some transactions."""
        for number in range(self.rng.randrange(1, 4)):
            connection = server.connect(self.client)
            connection.mail(self.path, self.size)
            wanted = self.rng.sample(
                self.recipients, self.rng.randrange(1, 1 + len(self.recipients))
            )
            pieces = [wanted] if self.rng.random() < 0.5 else [[key] for key in wanted]
            answers = [answer for piece in pieces for answer in connection.rcpt(piece)]
            if any(answers) and self.rng.random() < 0.6:
                connection.data(Message(f"<{self.rng.random()}>", f"evil {number}"))
            else:
                connection.end(self.rng.choice(["rset", "quit", "close"]))


def bring(
    server: Server, senders: Sequence[Sender], attempts: int, between: Sequence[Stranger] = ()
) -> None:
    """
    Let senders come, one after the other, with strangers between them, until
    all have their end or have come so often.
    """
    for _ in range(attempts):
        for sender in senders:
            for stranger in between:
                stranger.come(server)
            sender.come(server)
            server.now += 300
        if not any(sender.pending for sender in senders):
            return
