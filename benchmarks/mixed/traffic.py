"""
Messages, what their recipients say, and who sends them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from tests.mixed.senders import (
    Exim,
    OneThing,
    Queue,
    Repeats,
    Sender,
    Silent,
    Single,
    shuffled,
    subsets,
)
from tests.mixed.world import Client, Message, Server

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

#: When a message comes first.
START = 1000.0

_DOMAIN = "honest.example"


@attrs.frozen
class Shape:
    """
    Of the traffic.

    @ivar refused: share of the messages that all refuse.
    @ivar mixed: of those that some accept and some refuse.
    @ivar later: of those that one refuses for now, mostly for some hours.
    @ivar cohorts: of those whose recipients are of several cohorts; the others are
        judged for all at once.
    @ivar proved: of small senders' return paths that pass SPF.
    @ivar pools: the same of senders that use many addresses.
    @ivar together: of messages that come together with another one of their sender.
    """

    seed: int = 1
    refused: float = 0.08
    mixed: float = 0.04
    later: float = 0.03
    cohorts: float = 1.0
    proved: float = 0.7
    pools: float = 1.0
    together: float = 0.0


@attrs.frozen
class Says:
    """
    What one recipient says of one message: C{first} until C{until}, then C{last}.
    """

    first: str
    last: str
    until: float = 0.0

    def at(self, now: float) -> str:
        """A, R or T."""
        return self.first if now < self.until else self.last


Make = Callable[[random.Random], tuple[type[Sender], dict[str, Any]]]


@attrs.frozen
class Kind:
    """
    A kind of sender.

    @ivar share: how much of the traffic is its, in percent.
    @ivar make: the model, and its further arguments.
    @ivar waits: seconds from attempt to attempt.
    @ivar addresses: how many it uses.
    @ivar isQueue: whether it comes again by itself, and knows its recipients apart.
    """

    name: str
    share: float
    make: Make
    waits: Callable[[random.Random], Iterator[float]]
    addresses: int = 1
    isQueue: bool = True


def _every(
    *seconds: float, lifetime: float = 5 * DAY
) -> Callable[[random.Random], Iterator[float]]:
    """
    The last of the waits repeats; real ones vary a little.
    """

    def waits(rng: random.Random) -> Iterator[float]:
        left = lifetime
        for number in itertools.count():
            wait = seconds[min(number, len(seconds) - 1)]
            wait *= 1 + (rng.random() / 5 if wait > 1 else 0)
            left -= wait
            if left < 0:
                return
            yield wait

    return waits


def _growing(
    first: float, factor: float, most: float
) -> Callable[[random.Random], Iterator[float]]:
    waits = [first]
    while waits[-1] < most:
        waits.append(min(most, waits[-1] * factor))
    return _every(*waits)


def _calls(rng: random.Random) -> Iterator[float]:
    """
    A program is called again by a person who soon gives up, or by a job queue
    that does not.
    """
    times = rng.choices([1, 2, 4, 12], [25, 25, 25, 25])[0]
    waits = [MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR]
    return (waits[min(number, 5)] for number in range(times - 1))


def _is(kind: type[Sender], **options: Any) -> Make:
    return lambda rng: (kind, options)


def _pool(kind: type[Sender], pipelined: bool = True, parts: float = 0.0) -> Make:
    """
    @param parts: how often it cuts its attempts into parts.
    """

    def make(rng: random.Random) -> tuple[type[Sender], dict[str, Any]]:
        options: dict[str, Any] = {"pipelined": pipelined, "order": shuffled(rng)}
        return kind, {**options, **({"parts": subsets(rng)} if rng.random() < parts else {})}

    return make


def _exim(bdat: bool) -> Make:
    return lambda rng: (Exim, {"bdat": bdat, "received": rng.random() < 0.9})


def _program(kind: type[Sender], **options: Any) -> Make:
    """Half of them make a new Message-ID at each call."""
    return lambda rng: (
        kind,
        {"newIdent": rng.random() < 0.5, "declares": rng.random() < 0.5, **options},
    )


_postfix = _growing(5 * MINUTE, 2, 4000)
_exims = _every(
    *[15 * MINUTE] * 8, HOUR, 1.5 * HOUR, 2.25 * HOUR, 4 * HOUR, 6 * HOUR, lifetime=4 * DAY
)
_late: dict[str, Any] = {"pipelined": False}

KINDS = [
    Kind(
        "Exchange Online",
        22,
        _pool(Queue, parts=0.2),
        _every(15 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, lifetime=DAY),
        30,
    ),
    Kind(
        "Gmail",
        16,
        _pool(Queue),
        _every(5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, lifetime=2 * DAY),
        30,
    ),
    Kind(
        "SES and the like",
        8,
        _pool(Queue, pipelined=False, parts=0.3),
        _every(5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, lifetime=14 * HOUR),
        30,
    ),
    Kind("Postfix, one name", 14, _is(Queue), _postfix),
    Kind(
        "Postfix, two names for us",
        6,
        _is(Queue),
        _every(0.001, 300, 0.001, 600, 0.001, 1200, 0.001, 2400, 0.001, 4000),
    ),
    Kind("sendmail", 5, _is(Queue), _every(30 * MINUTE)),
    Kind("OpenSMTPD", 3, _is(Queue, **_late), _every(400, 1600, 3600, 6400, 10000, 4 * HOUR)),
    Kind("other queues", 6, _is(Queue, **_late), _every(15 * MINUTE, 30 * MINUTE, HOUR)),
    Kind("Exim without PRDR, BDAT", 3, _exim(True), _exims),
    Kind("Exim without PRDR, DATA", 2, _exim(False), _exims),
    Kind("one recipient at a time", 2, _is(Single), _every(7 * MINUTE, 20 * MINUTE, HOUR)),
    Kind(
        "nullmailer",
        1,
        _is(OneThing, how="quit", **_late),
        _growing(MINUTE, 2, DAY),
        isQueue=False,
    ),
    Kind("gives up, close", 3, _program(OneThing, how="close", **_late), _calls, isQueue=False),
    Kind("gives up, QUIT", 2, _program(OneThing, how="quit", **_late), _calls, isQueue=False),
    Kind("gives up, RSET", 1, _program(OneThing, how="rset", **_late), _calls, isQueue=False),
    Kind(
        "names all, gives up",
        1,
        _program(OneThing, namesAll=True, **_late),
        _calls,
        isQueue=False,
    ),
    Kind("goes on, all again", 2, _program(Repeats, **_late), _calls, isQueue=False),
    Kind("goes on, tells each", 1.5, _program(Queue, **_late), _calls, isQueue=False),
    Kind("goes on, silent", 1.5, _program(Silent, **_late), _calls, isQueue=False),
]


@attrs.define
class Mail:
    """
    One message and its sender.

    @ivar cohorts: the number of each recipient's.
    @ivar times: when it came.
    @ivar arrived: when each recipient that has it had its first copy.
    """

    kind: Kind
    sender: Sender
    says: Mapping[str, Says]
    cohorts: Mapping[str, int]
    waits: Iterator[float]
    times: list[float] = attrs.field(factory=list)
    arrived: dict[str, float] = attrs.field(factory=dict)

    def copies(self, server: Server, key: str) -> int:
        """Of this message, however often it got a new Message-ID."""
        digest = self.sender.message.digest
        return sum(
            count
            for (who, text), count in server.copies.items()
            if (who, text.digest) == (key, digest)
        )

    def note(self, server: Server) -> None:
        """An attempt is over."""
        for key in self.says.keys() - self.arrived.keys():
            if self.copies(server, key):
                self.arrived[key] = server.now

    @property
    def isOrdinary(self) -> bool:
        """Whether all accept."""
        return all(one.last == "A" and not one.until for one in self.says.values())

    @property
    def isMixed(self) -> bool:
        """Whether they differ, at first or later."""
        said = {(one.first, one.last, one.until) for one in self.says.values()}
        return len(said) > 1


def mails(number: int, shape: Shape) -> list[Mail]:
    """
    One message, or two at once of one sender; the same for the same numbers.
    """
    rng = random.Random(f"{shape.seed} {number}")
    kind = rng.choices(KINDS, [kind.share for kind in KINDS])[0]
    proved = rng.random() < (shape.pools if kind.addresses > 1 else shape.proved)
    path = f"{'aligned' if proved else 'friend'}@{_DOMAIN}"
    clients = [
        Client(
            f"198.{18 + number % 2}.{rng.randrange(256)}.{rng.randrange(1, 255)}", _DOMAIN * proved
        )
        for _ in range(kind.addresses)
    ]
    count = 2 if rng.random() < shape.together else 1
    return [_mail(rng, shape, kind, f"{number}.{n}", path, clients) for n in range(count)]


def _mail(
    rng: random.Random, shape: Shape, kind: Kind, name: str, path: str, clients: Sequence[Client]
) -> Mail:
    keys = [f"r{n}@example.net" for n in range(rng.choice([2, 2, 2, 3, 3, 4, 5, 6]))]
    isOneCohort = rng.random() >= shape.cohorts
    says = _says(rng, shape, keys, isOneCohort)
    size = rng.randrange(1500, 40000)
    message = Message(f"<{name}@{_DOMAIN}>", f"body {name}", size)
    model, options = kind.make(random.Random(rng.random()))
    sender = model(keys, message, path=lambda attempt: path, clients=clients, **options)
    cohorts = {key: 0 if isOneCohort else n for n, key in enumerate(keys)}
    return Mail(kind, sender, says, cohorts, kind.waits(rng))


def _says(
    rng: random.Random, shape: Shape, keys: Sequence[str], isOneCohort: bool
) -> dict[str, Says]:
    what = rng.random()
    accepts, refuses = Says("A", "A"), Says("R", "R")
    says = dict.fromkeys(keys, accepts)
    if what < shape.refused:
        return dict.fromkeys(keys, refuses)
    if isOneCohort or what >= shape.refused + shape.mixed + shape.later:
        return says
    most = 1 if rng.random() < 0.7 else len(keys) - 1
    some = rng.sample(keys, rng.randrange(1, 1 + most))
    if what < shape.refused + shape.mixed:
        return {**says, **dict.fromkeys(some, refuses)}
    if len(some) > 1 and rng.random() < 0.6:
        says.update(dict.fromkeys(some[1:], refuses))
    until = START + _laterSeconds(rng)
    return {**says, some[0]: Says("T", rng.choice("AAAAR"), until)}


def _laterSeconds(rng: random.Random) -> float:
    """
    How long it is refused for now: mostly some hours.
    """
    kind = rng.random()
    if kind < 0.15:
        return rng.uniform(2 * MINUTE, 30 * MINUTE)
    return rng.uniform(HOUR, 8 * HOUR) if kind < 0.9 else rng.uniform(DAY, 6 * DAY)
