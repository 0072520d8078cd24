"""
The lower half of a server's session: octets into commands, replies into octets,
each in its order.

L{PipelinedESMTP} is a C{twisted.mail.smtp.ESMTP} whose way of reading and
writing is replaced.  How the base class's traps are dealt with:

  - I{Replies overtake one another.}  Input is taken command by command, and not
    at all while a command's Deferred is pending.  Only commands that ask for a
    slot (RCPTs in a row) are carried out side by side; their replies leave in
    order, through slots (D-2).
  - I{The data phase is line by line, and executes the rest of a message with a
    long line.}  C{dataReceived} is our own: a reader takes the raw octets until
    it says that the message has ended.
  - I{Exceptions close the connection without a word.}  Whatever a command raises
    is logged and answered.

Memory: what a client sends while it has to wait stays in a buffer of at most
L{MAX_BUFFER_OCTETS}; over that, nothing is read from it.  A client that does
not read its replies is not listened to either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ITLSTransport,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection
from twisted.mail import smtp
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.interfaces import IBodyWriter
from deferrals.logger import Logger
from deferrals.model.reply import (
    R421_LOCAL_ERROR,
    R451_LOCAL_ERROR,
    R500_BARE_LF,
    R500_LINE_TOO_LONG,
    Reply,
)
from deferrals.smtp.nodelay import sendAtOnce

_log = Logger(namespace="deferrals.session")

_NEVER = float("inf")

#: The longest command line, CRLF included, unless a subclass says otherwise.
MAX_COMMAND_OCTETS = 4096

#: How much is read from a client that has to wait.
MAX_BUFFER_OCTETS = 64 * 1024

#: RCPTs that are judged side by side; the next one waits.
MAX_SLOTS = 100

#: Commands that are taken from one client in one round.  Then other clients are
#: served, which would have to wait for as many as fit into a segment.
MAX_AT_ONCE = 100

#: How long a client may take to read its last replies, in seconds.
LINGER_SECONDS = 30.0


class ISessionTransport(ITLSTransport, IConsumer, IPushProducer):
    """
    Internal: what a session asks of its connection.
    """

    def getHandle() -> SSL.Connection:
        """
        @return: the TLS connection, where there is one.
        """


@attrs.define(eq=False)
class Slot:
    """
    One reply in the order of replies.

    @ivar settle: makes the reply, once all before it have been written;
        C{None} while its answer is pending.
    @ivar pending: what is waited for.
    """

    settle: Callable[[], Reply] | None = None
    pending: Deferred[None] | None = None


def _isIdle(transport: Connection) -> bool:
    """
    Whether a transport can be written to, and has nothing left to write; not
    where TLS stands in between, and not where this version of Twisted keeps what
    waits in an attribute of another name.
    """
    usable = transport.connected and not (transport.disconnecting or transport.TLS)
    waiting = transport.dataBuffer or getattr(transport, "_tempDataBuffer", True)
    return bool(usable and not waiting)


@implementer(IHalfCloseableProtocol, IPushProducer)
class PipelinedESMTP(smtp.ESMTP):
    """
    One connection.  A subclass has the commands; see the methods under
    I{What a subclass says}.

    @param clock: timers, and the time of day.
    """

    noisy = False
    transport: ISessionTransport
    _buffer = b""
    _offset = 0
    _reader: Callable[[bytes], bytes] | None = None
    _skippingLine = False
    _running = False
    _busy = False
    _closing = False
    _lost = False
    _writeBlocked = False
    _readPaused = False
    _inputEnded = False
    _timer: IDelayedCall | None = None
    _silenceSeconds: float | None = None
    _deadline = 0.0
    _allowance = 0
    _nextRound: IDelayedCall | None = None
    _pending: Deferred[None] | None = None

    def __init__(self, clock: IReactorTime) -> None:
        smtp.ESMTP.__init__(self)
        self._clock = clock
        self._slots: deque[Slot] | None = None
        self._out: list[bytes] = []

    # What a subclass says.

    def peerName(self) -> str:
        """
        Who the client is, for the log.
        """
        raise NotImplementedError

    def lineReceived(self, line: bytes) -> None:
        """
        One line from the client, without its CRLF.
        """
        raise NotImplementedError

    def isForeign(self, octet: int) -> bool:
        """
        Whether a line that begins so is no command in any case: it may have no
        end.
        """
        return False

    def foreignReceived(self) -> None:
        """
        Such a line has begun.
        """

    def timeoutConnection(self) -> None:
        """
        The client was silent for too long.
        """
        raise NotImplementedError

    def wantsUTF8(self) -> bool:
        """
        Whether the client may be sent UTF-8 now (RFC 6531 §3.5).
        """
        return False

    def lineLimit(self) -> int:
        """
        The longest line that may come now, CRLF included, in octets.
        """
        return MAX_COMMAND_OCTETS

    def wanted(self) -> int | None:
        """
        How many octets the reader takes at most; C{None} where it must see to
        know.
        """
        return None

    def latest(self) -> float:
        """
        When the connection ends, whatever the client does until then; in
        seconds since the epoch.
        """
        return _NEVER

    def mayOverlap(self, line: bytes) -> bool:
        """
        Whether a command, of which C{line} is the beginning, may be taken
        although slots are pending.
        """
        return False

    def maySettle(self, slots: Sequence[Slot]) -> bool:
        """
        Slots are about to be answered, the first ones of them at least.

        @param slots: all that there are: what came in one piece, as far as it
            has been taken.
        @return: C{False} where the others are to be waited for first.
        """
        return True

    def congestion(self) -> IBodyWriter | None:
        """
        Where the client's octets go too slowly; C{None} where they do not.
        """
        return None

    def decongested(self) -> None:
        """
        The client's octets go on, after a while in which we were slow.
        """

    def answered(self, reply: Reply) -> None:
        """
        C{reply} has just been written, behind those that were to come first.
        """

    def resumed(self) -> None:
        """
        A command that waited is over: the client may go on.
        """

    def broken(self) -> None:
        """
        Something of ours has failed, and the connection is about to be closed.
        """

    # The connection.

    def setTimeout(self, period: float | None) -> float | None:
        """
        TimeoutMixin's, at less cost: one timer per connection, which compares
        with the deadline when it goes off.
        """
        previous, self._silenceSeconds = self._silenceSeconds, period
        if period is not None:
            self._deadline = self._clock.seconds() + period
            self._startTimer(min(self._deadline, self.latest()))
        return previous

    def resetTimeout(self) -> None:
        """
        The client has done something.
        """
        if self._silenceSeconds is not None:
            self._deadline = self._clock.seconds() + self._silenceSeconds

    def _startTimer(self, when: float) -> None:
        """
        Compare with the deadline not later than then.
        """
        if self._timer is not None:
            if self._timer.getTime() <= when:
                return
            self._stopTimer()
        self._timer = self._clock.callLater(max(0.0, when - self._clock.seconds()), self._timerOff)

    def _stopTimer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _timerOff(self) -> None:
        self._timer = None
        if self._silenceSeconds is None:
            return
        if self.congestion() is not None:
            self.resetTimeout()  # it is we who are slow
        deadline = min(self._deadline, self.latest())
        if deadline > self._clock.seconds():
            self._startTimer(deadline)
        else:
            self.timeoutConnection()

    def connectionMade(self) -> None:
        """
        Replies go out at once: they are written in whole pieces.
        """
        sendAtOnce(self.transport)
        self.transport.registerProducer(self, True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The client is gone: what is pending is cancelled.
        """
        self._lost = True
        self._stopTimer()
        self._end()

    def _end(self) -> None:
        """
        Nothing more is taken from the client, and nothing that is pending will
        be answered.
        """
        self._closing = True
        self._buffer = b""
        following, self._nextRound = self._nextRound, None
        if following is not None:
            following.cancel()
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
        slots, self._slots = self._slots, None
        for slot in slots or ():
            if slot.pending is not None:
                slot.pending.cancel()

    def readConnectionLost(self) -> None:
        """
        The client has closed its sending side.  That is no sign that it has
        gone (Exim does so behind its last message, and waits for the answer):
        what it has sent is answered, then the connection is closed.
        """
        self._inputEnded = True
        self._advance()

    def writeConnectionLost(self) -> None:
        """
        The client does not hear us: neither do we listen.
        """
        self.transport.loseConnection()

    def close(self) -> None:
        """
        Write what is written, then end the connection.
        """
        if self._closing:
            return
        self._end()
        self.flush()
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        if not self._lost:
            # A client that does not read must not keep the connection.
            self._stopTimer()
            self._timer = self._clock.callLater(LINGER_SECONDS, self._lingered)

    def _lingered(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    def cutOff(self) -> None:
        """
        End the connection at once, without a word.
        """
        self._end()
        self.transport.abortConnection()

    # Input.

    def dataReceived(self, data: bytes) -> None:
        """
        Octets from the wire, in pieces of any size.
        """
        if self._closing:
            return
        self._drop()
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    def _drop(self) -> None:
        """
        Forget what has been taken.
        """
        self._buffer, self._offset = self._buffer[self._offset :], 0

    def _advance(self) -> None:
        """
        Take commands and data as far as possible.
        """
        if self._running or self._nextRound is not None:
            return
        self._running = True
        self._allowance = MAX_AT_ONCE
        try:
            self._take()
            while self._settle():
                self._take()
        except Exception:
            _log.failure("{client}: session failed", client=self.peerName())
            self.broken()
            self.say(R421_LOCAL_ERROR)
            self.close()
        finally:
            self._running = False
        if not self._closing:
            if self._nextRound is None:
                self._drop()
            self.flush()
            self._regulate()
            if self._inputEnded and not (
                self._busy or self._slots or self._writeBlocked or self._nextRound is not None
            ):
                self.close()

    def _take(self) -> None:
        while self._offset < len(self._buffer) and not (
            self._busy or self._closing or self._writeBlocked
        ):
            if self._reader is not None:
                self._read(self._reader)
            elif not self._allowance:
                if self._nextRound is None:
                    self._nextRound = self._clock.callLater(0, self._takeRound)
                return
            elif not self._takeLine():
                return

    def _takeRound(self) -> None:
        self._nextRound = None
        self._advance()

    def _read(self, reader: Callable[[bytes], bytes]) -> None:
        """
        Hand octets to the reader.  Where it is known how many, no others: many
        small pieces in one segment are not copied again and again.
        """
        wanted = self.wanted()
        if wanted is None:
            octets, self._offset = self._buffer[self._offset :], 0
            self._buffer = reader(octets)
        else:
            octets = self._buffer[self._offset : self._offset + wanted]
            self._offset += len(octets)
            reader(octets)

    def _takeLine(self) -> bool:
        """
        Take one command line.

        @return: C{False} where there is none, or it has to wait.
        """
        buffer, start = self._buffer, self._offset
        if not (self._skippingLine or self._slots) and self.isForeign(buffer[start]):
            self.foreignReceived()
            return False
        end = buffer.find(b"\n", start) + 1
        if not end:
            if len(buffer) - start > self.lineLimit():
                self._skippingLine = True
                self._offset = len(buffer) - buffer.endswith(b"\r")
            return False
        line = buffer[start:end]
        isWhole = line.endswith(b"\r\n")
        if self._slots and (
            len(self._slots) >= MAX_SLOTS or not (isWhole and self.mayOverlap(line))
        ):
            return False
        self._offset = end
        self._allowance -= 1
        self.resetTimeout()
        skipping, self._skippingLine = self._skippingLine, False
        if not isWhole:
            # What follows belongs to this line, although some clients think
            # otherwise: it is no command, and the client waits for an answer.
            self.lineBroken()
        elif skipping or len(line) > self.lineLimit():
            self.lineTooLong()
        else:
            self.lineReceived(line[:-2])
        return True

    def lineBroken(self) -> None:
        """
        A line has ended with LF alone: nothing behind it may be taken for a
        command.
        """
        self.say(R500_BARE_LF)
        self.close()

    def lineTooLong(self) -> None:
        """
        A line over the limit has been dropped.
        """
        self.reply(R500_LINE_TOO_LONG)

    def wait(self, pending: Deferred[None]) -> None:
        """
        Take nothing more from the client until C{pending} fires.
        """
        self.hold()
        self._pending = pending
        pending.addErrback(self._commandFailed)
        pending.addCallback(lambda _: self.resume())

    def hold(self) -> None:
        """
        Take nothing more from the client until L{resume}.
        """
        self._busy = True
        self.setTimeout(None)

    def _commandFailed(self, failure: Failure) -> None:
        _log.failure("{client}: command failed", failure, client=self.peerName())
        if not self._lost:
            self.reply(R451_LOCAL_ERROR)

    def resume(self) -> None:
        """
        The client may go on.
        """
        self._busy = False
        self._pending = None
        if self._closing:
            return
        self.resumed()
        self._advance()

    # Flow control.  The transport tells us through pauseProducing when the
    # client does not read; we tell it through its own when we do not want more.

    def pauseProducing(self) -> None:
        """
        The client does not read its replies.
        """
        self._writeBlocked = True
        self._regulate()

    def resumeProducing(self) -> None:
        """
        The client has read them.
        """
        self._writeBlocked = False
        if not self._closing:
            self._advance()

    def stopProducing(self) -> None:
        """
        The connection is lost; L{connectionLost} does what is to be done.
        """

    def _regulate(self) -> None:
        """
        Read from the client, or do not.
        """
        congestion = self.congestion()
        pause = congestion is not None or len(self._buffer) - self._offset > MAX_BUFFER_OCTETS
        if congestion is not None and not self._readPaused:
            congestion.drained().addCallback(self._drained)
        if pause != self._readPaused and not self._lost and not self._inputEnded:
            self._readPaused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _drained(self, _: None) -> None:
        if not self._lost:
            self.resetTimeout()
            self.decongested()
            self._regulate()

    # Output.

    def sendCode(self, code: int, message: bytes = b"") -> None:
        """
        The base class's way of replying.
        """
        self.reply(Reply(code, None, message.decode("ascii", "replace")))

    def reply(self, reply: Reply) -> None:
        """
        Say this behind everything that is still to be said.
        """
        if self._slots:
            self._slots.append(Slot(lambda: reply))
        else:
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        self._write(reply)
        self.answered(reply)

    def _write(self, reply: Reply) -> None:
        self._out.append(reply.encode(self.wantsUTF8()))

    def say(self, reply: Reply) -> None:
        """
        Say this now, whatever else was to be said.
        """
        if not self._closing:
            self._write(reply)
            self.flush()

    def flush(self) -> None:
        """
        Hand what has been said to the transport.
        """
        if self._out and not self._lost:
            out, self._out = b"".join(self._out), []
            self._send(out)

    def _send(self, octets: bytes) -> None:
        """
        A socket that is not behind takes a reply at once.  Twisted would watch
        it for being writable first, write in the next turn, and stop watching:
        for four replies per message that is a quarter of a session's work.
        """
        transport = self.transport
        if isinstance(transport, Connection) and _isIdle(transport):
            sent = transport.writeSomeData(octets)
            if isinstance(sent, int):  # if it is lost, write() learns of it
                octets = octets[sent:]
        if octets:
            transport.write(octets)

    def _settle(self) -> bool:
        """
        Say what RCPTs are answered, as far as that is known, in their order.

        @return: whether nothing is pending any longer that was before.
        """
        if not self._slots or not self.maySettle(self._slots):
            return False
        while self._slots and not self._closing:
            settle = self._slots[0].settle
            if settle is None:
                return False
            self._slots.popleft()
            self._answer(settle())
        if self._closing:
            return False
        self._slots = None
        self.resumed()
        return True

    def enqueue(self, slot: Slot) -> None:
        """
        A command's answer comes later, and is written behind those before it.
        """
        if self._slots is None:
            self._slots = deque()
        self._slots.append(slot)

    @property
    def hasSlots(self) -> bool:
        """
        Whether replies are still to come before the next one.
        """
        return bool(self._slots)

    def ready(self, slot: Slot, settle: Callable[[], Reply]) -> None:
        """
        The answer of a slot is there.

        @param settle: makes the reply; called when all replies before it have
            been written.
        """
        slot.settle = settle
        self._advance()
