"""
Connections without sockets to peers that know which of their words have arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.hopfaults.faults import Fault, Program, longest
from tests.peer import Wire

#: So much of a flood is read at most, in octets: more is memory without bound.
FLOOD_OCTETS = 4 << 20

_PIECE_OCTETS = 16 << 10

#: What ends a body in chunks fills no buffer.
_LAST_CHUNK = b"0\r\n\r\n"

#: So long it takes to read what was written, in seconds.
_READ_SECONDS = 0.01


class PeerWire(Wire):
    """
    One end of a connection.

    @ivar leaving: whether this end has given the connection up.
    @ivar isStreaming: whether the producer writes when it likes.
    @ivar isPaused: whether it waits until what it wrote is read.
    """

    leaving = isStreaming = isPaused = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.isStreaming, self.isPaused = streaming, False
        if streaming:
            self.producer = producer
        else:
            super().registerProducer(producer, streaming)

    def write(self, data: bytes) -> None:
        super().write(data)
        isFull = self.isStreaming and len(data) > len(_LAST_CHUNK)
        if isFull and self.producer is not None and not self.isPaused:
            self.isPaused = True
            self.producer.pauseProducing()

    def _flush(self) -> None:
        super()._flush()
        if self.isPaused:
            # The other end has the time to answer what it has read.
            self.clock.callLater(_READ_SECONDS, self._again)

    def _again(self) -> None:
        if self.isPaused and self.producer is not None:
            self.isPaused = False
            self.producer.resumeProducing()

    def writeSequence(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        self.leaving = True
        super().loseConnection()

    def abortConnection(self) -> None:
        self.leaving = True
        super().abortConnection()

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 25)

    getHost = getPeer

    def pauseProducing(self) -> None:
        """What has come is read."""

    resumeProducing = pauseProducing


def connected(clock: Clock, factory: Factory, session: Speaker) -> Any:
    """
    Connect a client to a session of a peer.

    @return: the client's protocol.
    """
    client = factory.buildProtocol(None)  # type: ignore[arg-type]
    here, there = PeerWire(clock), PeerWire(clock)
    here.protocol, here.other = client, there
    there.protocol, there.other = session, here
    assert client is not None
    client.makeConnection(here)  # type: ignore[arg-type]
    session.makeConnection(there)  # type: ignore[arg-type]
    return client


class Speaker(Protocol):
    """
    A session of a peer that says what its program wants.

    @ivar isConfused: whether it has said what cannot be matched with what it was
        asked: from then on nothing that it says is certain.
    @ivar isClosed: whether the connection is gone.
    @ivar isEach: whether each recipient has an answer to the data, and no other answer is
        one.
    @ivar flooded: octets of floods.
    """

    transport: PeerWire  # type: ignore[assignment]
    isEach = False

    def __init__(self, clock: Clock, program: Program) -> None:
        self.clock = clock
        self.program = program
        self.isConfused = self.isClosed = False
        self.isStuck = False
        self.flooded = 0
        self._queue: list[tuple[float, bytes, Callable[[], None] | None, bool]] = []
        self._isBusy = False

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.isClosed = True

    @property
    def isAwaited(self) -> bool:
        """
        Whether, behind the reply that is being said, the client waits for another one.
        """
        return True

    def tooMuch(self) -> None:
        """
        The client has a reply that is longer than any may be.
        """

    def unmatched(self, words: str) -> None:
        """
        The client has something that it has not asked for.
        """

    def fault(self, step: str) -> Fault | None:
        """
        What goes wrong now; nothing does any more once the peer is stuck.
        """
        return None if self.isStuck else self.program.at(step)

    def say(
        self,
        octets: bytes,
        arrived: Callable[[], None] | None = None,
        seconds: float = 0.0,
        closing: bool = False,
    ) -> None:
        """
        @param arrived: is called when the client has it all.
        """
        if self.isStuck:
            return
        size = self.program.octets or len(octets) or 1
        while len(octets) > size:
            self._queue.append((seconds, octets[:size], None, False))
            octets = octets[size:]
        self._queue.append((seconds, octets, arrived, closing))
        self._next()

    def hangUp(self) -> None:
        """
        Close, behind what is still to be said.
        """
        self.say(b"", closing=True)
        self.isStuck = True

    def _next(self) -> None:
        if self._isBusy or not self._queue or self.isClosed:
            return
        self._isBusy = True
        seconds, octets, arrived, closing = self._queue.pop(0)
        self.clock.callLater(seconds, self._write, octets, arrived, closing)

    def _write(self, octets: bytes, arrived: Callable[[], None] | None, closing: bool) -> None:
        self._isBusy = False
        if self.isClosed:
            return
        self.transport.write(octets)
        self.clock.callLater(0, self.delivered, octets)
        if arrived is not None:
            self.clock.callLater(0, self._arrived, arrived, self.transport.other.leaving)
        if closing:
            self.transport.loseConnection()
        else:
            self._next()

    def delivered(self, octets: bytes) -> None:
        """
        These have come to the client.
        """

    def _arrived(self, arrived: Callable[[], None], isDeaf: bool) -> None:
        if not isDeaf:
            arrived()

    def flood(self, piece: bytes) -> None:
        """
        Say something for as long as it is listened to.
        """
        self.isConfused = self.isStuck = True
        pieces = piece * (_PIECE_OCTETS // len(piece))

        def more() -> None:
            if not self.isClosed and self.flooded <= FLOOD_OCTETS:
                self.transport.write(pieces)
                self.flooded += len(pieces)
                self.clock.callLater(0, more)

        more()

    def answer(
        self,
        step: str,
        reply: str,
        then: Callable[[str], None],
        arrived: Callable[[str], None],
    ) -> None:
        """
        Answer as the program wants.

        @param reply: what there is to say where nothing goes wrong; lines that end
            with LF.
        @param then: is called at once with what is said; with nothing where that is
            no whole reply.
        @param arrived: is called with it when the client has it.
        """
        fault = self.fault(step)
        if fault is None:
            self._reply(reply, then, arrived)
        elif fault.kind in ("reply", "closing"):
            self._reply(f"{fault.code} {step}", then, arrived)
            if fault.kind == "closing" or fault.code.startswith("421"):
                self.hangUp()
        elif fault.kind == "twice" or (fault.kind == "early" and self.program.octets):
            # In small pieces there is no one segment.
            self._reply(reply, then, arrived)
            self.isConfused = True
            self.say(f"{fault.code} unasked\r\n".encode(), lambda: self.unmatched(fault.code))
        elif fault.kind == "early":
            then(reply)
            # The data is the question that comes next.
            self._early(reply, fault.code, arrived, step == "DATA")
        elif fault.kind == "split":
            octets = _lines(reply)
            place = fault.number % len(octets)
            then(reply)
            self.say(octets[:place])
            self.say(octets[place:], lambda: arrived(reply), 1.0)
        elif fault.kind in ("line", "lines", "octets"):
            isTooMuch = bool(fault.number % 2)
            last = reply.split("\n")[-1]
            then(reply)
            self.say(
                longest(last, fault.kind, int(isTooMuch)),
                self.tooMuch if isTooMuch else lambda: arrived(reply),
            )
        elif fault.kind == "slow":
            then(reply)
            octets = _lines(reply)
            seconds = (1.0, 7.0, 60.0)[fault.number % 3]
            for index in range(len(octets) - 1):
                self.say(octets[index : index + 1], seconds=seconds)
            self.say(octets[-1:], lambda: arrived(reply), seconds)
        elif fault.kind == "cut":
            then("")
            self.say(_lines(reply)[: min(fault.number, len(_lines(reply)) - 1)])
            self.hangUp()
        elif fault.kind == "garbage":
            self.isConfused = True
            then("")
            text = fault.garbage.decode("latin-1")
            self.say(fault.garbage, lambda: self.unmatched(text))
        elif fault.kind == "flood":
            then("")
            self.flood(fault.flood)
            self.unmatched(fault.flood.decode())
        else:
            then("")
            if fault.kind == "hang up":
                self.hangUp()
            self.isStuck = True

    def _early(self, reply: str, code: str, arrived: Callable[[str], None], isData: bool) -> None:
        """
        A reply, and in the same segment one that was not asked for: nothing is certain
        where it can be taken for the answer to something else.
        """
        isForAll = isData and self.isEach
        isMatched = isForAll or not (isData or self.isAwaited)
        self.isConfused = self.isConfused or not isMatched

        def both() -> None:
            arrived(reply)
            if isForAll:
                arrived(code)
            elif not isMatched:
                self.unmatched(code)

        self.say(_lines(reply) + f"{code} unasked\r\n".encode(), both)

    def _reply(
        self, reply: str, then: Callable[[str], None], arrived: Callable[[str], None]
    ) -> None:
        self.say(_lines(reply), lambda: arrived(reply))
        then(reply)


def _lines(reply: str) -> bytes:
    """
    A reply of one or more lines onto the wire.
    """
    *first, last = reply.split("\n")
    lines = [*(f"{line[:3]}-{line[4:]}" for line in first), last]
    return "".join(f"{line}\r\n" for line in lines).encode()
