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

from collections.abc import Callable, Sequence
from typing import TypeVar

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
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
    Reply,
)
from deferrals.smtp.nodelay import sendAtOnce
from deferrals.smtp.server.commandreader import CommandReader, Fault, LineForm
from deferrals.smtp.server.deadline import Deadline
from deferrals.smtp.server.replyqueue import ReplyQueue, Slot

_T = TypeVar("_T")

_log = Logger(namespace="deferrals.session")

_NEVER = float("inf")

#: How much is read from a client that has to wait.
MAX_BUFFER_OCTETS = 64 * 1024

#: RCPTs that are judged side by side; the next one waits.
MAX_SLOTS = 100

#: Commands that are taken from one client in one round.  Then other clients are
#: served, which would have to wait for as many as fit into a segment.
MAX_AT_ONCE = 100

#: How much is read from a client at once, as Twisted has it; and in a large content,
#: which takes an eighth less of the processor's time then.
READ_OCTETS = Connection.bufferSize
LARGE_READ_OCTETS = 256 * 1024

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
    @param form: what a command line looks like.
    @ivar deadline: when something is due: the client's next line, or our next reply.
    @ivar commands: what the client has sent.
    @ivar replies: what it is still to be told.
    @ivar reader: takes the client's octets instead of lines, and returns those that
        are not its.
    @ivar writer: where the content goes that the client sends, and perhaps too slowly;
        C{None} while it sends none.
    @ivar isClosing: whether nothing more is taken from the client.
    @ivar isLost: whether the client is gone.
    """

    noisy = False
    transport: ISessionTransport
    reader: Callable[[bytes], bytes] | None = None
    writer: IBodyWriter | None = None
    _running = False
    _busy = False
    isClosing = False
    isLost = False
    _writeBlocked = False
    _readPaused = False
    _readOctets = READ_OCTETS
    _inputEnded = False
    _silenceSeconds: float | None = None
    _silentUntil = 0.0
    _allowance = 0
    _nextRound: IDelayedCall | None = None
    _pending: Deferred[None] | None = None

    def __init__(self, clock: IReactorTime, form: LineForm) -> None:
        smtp.ESMTP.__init__(self)
        self.clock = clock
        self.deadline = Deadline(clock)
        self.commands = CommandReader(form)
        self.replies = ReplyQueue()

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

    def lineBroken(self) -> None:
        """
        A line has ended with LF alone: nothing behind it may be taken for a
        command.
        """
        raise NotImplementedError

    def lineTooLong(self) -> None:
        """
        A line over the limit has been dropped; C{commands} has its beginning.
        """
        raise NotImplementedError

    def binaryReceived(self) -> None:
        """
        The client sends what is no text.
        """
        raise NotImplementedError

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

    def maySettle(self, slots: Sequence[Slot]) -> bool:
        """
        Slots are about to be answered, the first ones of them at least.

        @param slots: all that there are: what came in one piece, as far as it
            has been taken.
        @return: C{False} where the others are to be waited for first.
        """
        return True

    def decongested(self) -> None:
        """
        The client's octets go on, after a while in which we were slow.
        """

    def refused(self, reply: Reply) -> None:
        """
        C{reply}, a 4xx or 5xx, has just been written, behind those that were to come
        first.
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
        TimeoutMixin's, at less cost.
        """
        previous, self._silenceSeconds = self._silenceSeconds, period
        if period is None:
            self.deadline.clear()
        else:
            self._silentUntil = self.clock.seconds() + period
            self.deadline.until(min(self._silentUntil, self.latest()), self._silent)
        return previous

    def resetTimeout(self) -> None:
        """
        The client has done something.
        """
        if self._silenceSeconds is not None:
            self._silentUntil = self.clock.seconds() + self._silenceSeconds

    def _silent(self) -> None:
        if self.writer is not None and self.writer.congested:
            self.resetTimeout()  # it is we who are slow
        due = min(self._silentUntil, self.latest())
        if due > self.clock.seconds():
            self.deadline.until(due, self._silent)
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
        self.isLost = True
        self.deadline.stop()
        self._end()

    def _end(self) -> None:
        """
        Nothing more is taken from the client, and nothing that is pending will
        be answered.
        """
        self.isClosing = True
        self.commands.clear()
        following, self._nextRound = self._nextRound, None
        if following is not None:
            following.cancel()
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
        self.replies.drop()

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
        if self.isClosing:
            return
        self._end()
        self.flush()
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        if not self.isLost:
            # A client that does not read must not keep the connection.
            self.deadline.until(self.clock.seconds() + LINGER_SECONDS, self._lingered)

    def _lingered(self) -> None:
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
        if self.isClosing:
            return
        self.commands.feed(data)
        self._advance()

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
            while self.replies.slots and self._settle():
                self._take()
        except Exception:
            _log.failure("{client}: session failed", client=self.peerName())
            self.broken()
            self.say(R421_LOCAL_ERROR)
            self.close()
        finally:
            self._running = False
        if self._allowance < MAX_AT_ONCE:
            self.resetTimeout()
        if not self.isClosing:
            self.flush()
            self._regulate()
            if self._inputEnded and not (
                self._busy
                or self.replies.slots
                or self._writeBlocked
                or self._nextRound is not None
            ):
                self.close()

    def _take(self) -> None:
        while not (self._busy or self.isClosing or self._writeBlocked):
            if self.reader is not None:
                octets = self.commands.octets(self.wanted())
                if not octets:
                    return
                rest = self.reader(octets)
                if rest:
                    self.commands.giveBack(rest)
                continue
            if not self._allowance:
                self._goOnLater()
                return
            if self.replies.slots and not self._isBeside():
                return
            line = self.commands.line()
            if line is None:
                return
            self._allowance -= 1
            if isinstance(line, bytes):
                self.lineReceived(line)
            else:
                self._noLine(line)

    def _isBeside(self) -> bool:
        """
        Whether the next command is carried out beside those that are pending: RCPTs in a
        row are.
        """
        return len(self.replies.slots) < MAX_SLOTS and self.commands.isNext(b"RCPT")

    def _goOnLater(self) -> None:
        """
        Other clients are served first.
        """
        if self.commands.waiting and self._nextRound is None:
            self._nextRound = self.clock.callLater(0, self._takeRound)

    def _takeRound(self) -> None:
        self._nextRound = None
        self._advance()

    def _noLine(self, fault: Fault) -> None:
        if fault is Fault.BARE_LF:
            self.lineBroken()
        elif fault is Fault.TOO_LONG:
            self.lineTooLong()
        else:
            self.binaryReceived()

    def wait(self, pending: Deferred[None]) -> None:
        """
        Take nothing more from the client until C{pending} fires.
        """
        self.hold()
        self._pending = pending
        pending.addErrback(self._commandFailed)
        pending.addCallback(lambda _: self.resume())

    def waitFirst(self, pending: Deferred[_T], then: Callable[[_T], object]) -> None:
        """
        Take nothing from the client before something is known that decides how its
        session goes on.

        @param pending: is cancelled when the connection ends.
        @param then: is called with its result.
        """
        self.hold()

        def known(result: _T) -> None:
            self._busy, self._pending = False, None
            then(result)
            self._advance()

        self._pending = pending.addCallbacks(known, _notWanted)

    def hold(self) -> None:
        """
        Take nothing more from the client until L{resume}.
        """
        self._busy = True
        self.setTimeout(None)

    def _commandFailed(self, failure: Failure) -> None:
        _log.failure("{client}: command failed", failure, client=self.peerName())
        if not self.isLost:
            self.reply(R451_LOCAL_ERROR)

    def resume(self) -> None:
        """
        The client may go on.
        """
        self._busy = False
        self._pending = None
        if self.isClosing:
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
        if not self.isClosing:
            self._advance()

    def stopProducing(self) -> None:
        """
        The connection is lost; L{connectionLost} does what is to be done.
        """

    def _regulate(self) -> None:
        """
        Read from the client, or do not; and how much at once.
        """
        isLarge = self.writer is not None and self.writer.size >= LARGE_READ_OCTETS
        self._readAtOnce(LARGE_READ_OCTETS if isLarge else READ_OCTETS)
        pause = self.commands.waiting > MAX_BUFFER_OCTETS
        if self.writer is not None and self.writer.congested:
            pause = True
            if not self._readPaused:
                self.writer.drained().addCallback(self._drained)
        if pause != self._readPaused and not self.isLost and not self._inputEnded:
            self._readPaused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _readAtOnce(self, octets: int) -> None:
        if octets != self._readOctets and isinstance(self.transport, Connection):
            self._readOctets = self.transport.bufferSize = octets

    def _drained(self, _: None) -> None:
        if not self.isLost:
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
        if self.replies.slots:
            self.replies.enqueue(Slot(lambda: reply))
        else:
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        self.replies.say(reply, self.wantsUTF8())
        if reply.code >= 400:
            self.refused(reply)

    def say(self, reply: Reply) -> None:
        """
        Say this now, whatever else was to be said.
        """
        if not self.isClosing:
            self.replies.say(reply, self.wantsUTF8())
            self.flush()

    def flush(self) -> None:
        """
        Hand what has been said to the transport.
        """
        octets = self.replies.take()
        if octets and not self.isLost:
            self._send(octets)

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
        if not self.maySettle(self.replies.slots):
            return False
        while not self.isClosing and (reply := self.replies.next()) is not None:
            self._answer(reply)
        if self.isClosing or self.replies.slots:
            return False
        self.resumed()
        return True

    def ready(self, slot: Slot, settle: Callable[[], Reply]) -> None:
        """
        The answer of a slot is there.

        @param settle: makes the reply; called when all replies before it have
            been written.
        """
        slot.settle = settle
        self._advance()


def _notWanted(failure: Failure) -> None:
    """
    The client has gone before it was known.
    """
    failure.trap(CancelledError)
