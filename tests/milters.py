"""
Filters of the milter protocol that say what a test tells them to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.testing import FakeServices

#: What a filter says to go on, and what it says of itself: version, actions, steps.
GO_ON = b"c"

#: The answers to each step by its letter; to a macro, an abort and an end there are none.
SILENT = b"DAQK"


def packet(message: bytes) -> bytes:
    """
    A message as it is sent, its letter in front.
    """
    return struct.pack(">L", len(message)) + message


def negotiate(version: int = 6, actions: int = 0x11, steps: int = 0, rest: bytes = b"") -> bytes:
    """
    What a filter wants.
    """
    return b"O" + struct.pack(">LLL", version, actions, steps) + rest


class _PeerTransport(StringTransport):
    """
    @ivar isLost: whether either side has closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.isLost = False

    def loseConnection(self) -> None:
        self.isLost = True

    def abortConnection(self) -> None:
        self.isLost = True


class ScriptedSession:
    """
    One connection to a scripted filter.

    @ivar heard: what it was told: each message, its letter in front.
    """

    def __init__(self, script: ScriptedFilter, protocol: Any) -> None:
        self.heard: list[bytes] = []
        self.transport = _PeerTransport()
        self._script = script
        self._protocol = protocol
        self._octets = b""
        self._isTold = False
        protocol.makeConnection(self.transport)

    def move(self) -> bool:
        """
        Let what was sent arrive, and be answered.

        @return: whether anything has happened.
        """
        data = self.transport.value()
        self.transport.clear()
        self._octets += data
        moved = bool(data)
        while len(self._octets) >= 4:
            (size,) = struct.unpack(">L", self._octets[:4])
            if len(self._octets) < 4 + size:
                break
            message, self._octets = self._octets[4 : 4 + size], self._octets[4 + size :]
            self.heard.append(message)
            self.say(*self._script.answers(message, self))
        if self.transport.isLost and not self._isTold:
            self._isTold = True
            self._protocol.connectionLost(Failure(ConnectionDone()))
            return True
        return moved

    def say(self, *answers: bytes) -> None:
        """
        @param answers: messages, which arrive together; nothing, to close the connection;
            as it is, where it begins with C{"raw:"}.
        """
        if self.transport.isLost:
            return
        data = b"".join(
            one[4:] if one.startswith(b"raw:") else packet(one) for one in answers if one
        )
        if data:
            self._protocol.dataReceived(data)
        self.transport.isLost = self.transport.isLost or b"" in answers

    @property
    def letters(self) -> str:
        """
        The letters of all that it was told.
        """
        return b"".join(message[:1] for message in self.heard).decode()


@implementer(IStreamClientEndpoint)
class ScriptedFilter:
    """
    A filter, and the endpoint where it is reached.

    @ivar script: by letter: what it answers, each a message; or a function of the
        message.  What is not there goes on.
    @ivar isDead: whether no connection can be made.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.script: dict[str, Any] = {}
        self.negotiated = negotiate()
        self.sessions: list[ScriptedSession] = []
        self.isDead = False

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """See L{IStreamClientEndpoint}."""
        if self.isDead:
            return fail(ConnectionRefusedError("nothing listens"))
        protocol = protocolFactory.buildProtocol(None)
        self.sessions.append(ScriptedSession(self, protocol))
        return succeed(protocol)

    def answers(self, message: bytes, session: ScriptedSession) -> list[bytes]:
        """
        What it says to a message.
        """
        letter = message[:1].decode()
        found = self.script.get(letter)
        if isinstance(found, Callable):  # type: ignore[arg-type]
            found = found(message)
        if found is not None:
            return [found] if isinstance(found, bytes) else list(found)
        if letter == "O":
            return [self.negotiated]
        return [] if message[:1] in SILENT or self._isUnanswered(letter) else [GO_ON]

    def _isUnanswered(self, letter: str) -> bool:
        (steps,) = struct.unpack(">L", self.negotiated[9:13])
        bits = {"L": 0x80, "C": 0x1000, "H": 0x2000, "M": 0x4000, "R": 0x8000, "T": 0x10000}
        bits |= {"N": 0x40000, "B": 0x80000}
        return bool(steps & bits.get(letter, 0))

    def run(self) -> None:
        """
        Until nothing moves.
        """
        while sum(one.move() for one in self.sessions):
            pass

    @property
    def letters(self) -> list[str]:
        """
        What each session was told, in letters.
        """
        return [one.letters for one in self.sessions]


def milterServices(filters: Mapping[str, ScriptedFilter], clock: Clock) -> FakeServices:
    """
    Services whose endpoints are these filters.
    """
    return FakeServices(reactor=clock, endpoints=dict(filters))
