"""
The server's side of an SMTP or LMTP session.

L{Session} is a L{twisted.mail.smtp.ESMTP}: verbs are found as C{do_VERB} and
C{ext_KEYWORD}, EHLO lists C{extensions()}, timers are TimeoutMixin's.  How the
base class's traps are dealt with:

  - I{Replies overtake one another.}  Input is taken command by command, and not
    at all while a command's Deferred is pending.  Only RCPTs in a row are judged
    side by side; their replies leave in order, through slots (D-2).
  - I{A late answer lands in the next transaction.}  An answer belongs to the
    L{Transaction} it was asked for; RSET and EHLO wait behind it, a lost
    connection cancels it.
  - I{The data phase is line by line, private, and executes the rest of a message
    with a long line.}  C{dataReceived} is our own: a reader takes the raw octets
    until it says that the message has ended.
  - I{Parameters are parsed and dropped.}  L{deferrals.model.extensions}.
  - I{One failure is a 550 for everybody.}  L{deferrals.smtp.postdata}.
  - I{Exceptions close the connection without a word.}  Whatever a command raises
    is logged and answered.

Memory: what a client sends while it has to wait stays in a buffer of at most
L{MAX_BUFFER_OCTETS}; over that, nothing is read from it.  A client that does
not read its replies is not listened to either.

This module decides nothing about mail.  On an error of the client it sends the
reply that the rules of L{deferrals.model} name; on one of ours, a 4xx.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ITCPTransport
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.mail import smtp
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import PeerError, StageError
from deferrals.model.envelope import Client, Envelope, Form, Recipient
from deferrals.model.extensions import parseMail, parseRcpt
from deferrals.model.reply import (
    R221_BYE,
    R250_OK,
    R250_SENDER,
    R252_VRFY,
    R354_GO_AHEAD,
    R421_LOCAL_ERROR,
    R421_SHUTDOWN,
    R421_TIMEOUT,
    R421_TOO_MANY_ERRORS,
    R451_LOCAL_ERROR,
    R500_BAD_LINE,
    R500_BARE_LF,
    R500_LINE_TOO_LONG,
    R500_UNKNOWN_COMMAND,
    R501_SYNTAX,
    R502_NOT_HERE,
    R550_BARE_NEWLINE,
    R552_HEADER_TOO_LARGE,
    R552_TOO_LARGE,
    R554_ROUTING_LOOP,
    Reply,
)
from deferrals.model.transaction import Phase, Transaction, outOfSequence
from deferrals.model.verdict import Accept, Defer, EnvelopeVerdict, Refuse
from deferrals.smtp import journal
from deferrals.smtp.data import DataDecoder, normalised
from deferrals.smtp.postdata import PostData
from deferrals.smtp.settings import Intake, ListenerSettings
from deferrals.waiting import CancelledError, withDeadline

_log = Logger(namespace="deferrals.session")

#: The longest command line, CRLF included.
MAX_COMMAND_OCTETS = 4096

#: How much is read from a client that has to wait.
MAX_BUFFER_OCTETS = 64 * 1024

#: RCPTs that are judged side by side; the next one waits.
MAX_SLOTS = 100

_VERB = re.compile(rb"[A-Za-z]{1,16}")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HELO = re.compile(r"[A-Za-z0-9\u0080-\U0010ffff_.:\[\]\-]{1,255}")
_RECEIVED = re.compile(rb"^received[ \t]*:", re.I | re.M)


@attrs.define(eq=False)
class _Slot:
    """
    The place of one reply in the order of replies.

    @ivar settle: makes the reply, once it is this slot's turn; L{None} while
        its answer is pending.
    """

    settle: Callable[[], Reply] | None
    pending: Deferred[Any] | None = None


@implementer(IHalfCloseableProtocol, IPushProducer)
class Session(smtp.ESMTP):
    """
    One connection.

    @param settings: the listener's.
    @param intake: the house behind it.
    @param clock: timers, and the time of day.
    @param ended: called with this session when its connection is lost.
    """

    noisy = False
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
    _shutdown = False
    _transaction: Transaction | None = None
    _postData: PostData | None = None
    _writer: Any = None
    _decoder: DataDecoder | None = None
    _veto: Reply | None = None
    _errors = 0

    def __init__(
        self,
        settings: ListenerSettings,
        intake: Intake,
        clock: Any,
        ended: Callable[[Session], None] = lambda session: None,
    ) -> None:
        smtp.ESMTP.__init__(self)
        self.host = settings.hostname
        self._settings = settings
        self._limits = settings.limits
        self._intake = intake
        self._clock = clock
        self._ended = ended
        self._phase = Phase.START
        self._client = Client("")
        self._slots: deque[_Slot] | None = None
        self._out: list[bytes] = []

    # The connection.

    def callLater(self, period: float, func: Callable[[], None]) -> Any:
        """
        TimeoutMixin's timers run on our clock.
        """
        return self._clock.callLater(period, func)

    def connectionMade(self) -> None:
        """
        Greet.
        """
        peer = self.transport.getPeer()
        address = getattr(peer, "host", "local")
        self._client = Client(address, getattr(peer, "port", 0), protocol="SMTP")
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self.setTimeout(self._limits.commandSeconds)
        self.reply(Reply(220, None, self.greeting().decode("ascii")))
        self._flush()

    def greeting(self) -> bytes:
        """
        The text behind 220.
        """
        return self.host + (b" LMTP" if self._isLMTP else b" ESMTP") + b" deferrals"

    @property
    def _isLMTP(self) -> bool:
        return self._settings.protocol == "lmtp"

    def connectionLost(self, reason: Failure) -> None:
        """
        Nobody is there any longer: everything that is pending is cancelled,
        and what was not answered stays the sender's.
        """
        self._lost = self._closing = True
        self.setTimeout(None)
        self._buffer = b""
        slots, self._slots = self._slots, None
        for slot in slots or ():
            if slot.pending is not None:
                slot.pending.cancel()
        if self._postData is not None:
            self._postData.clientGone()
            self._postData = None
        self._abort("the connection was lost")
        self._ended(self)

    def readConnectionLost(self) -> None:
        """
        The client has closed its sending side.  What it still waits for is
        answered 4xx (P-12).
        """
        if self._postData is not None:
            self._postData.clientLeaves()
        self._close()

    def writeConnectionLost(self) -> None:
        """
        The client does not hear us: neither do we listen.
        """
        self.transport.loseConnection()

    def timeoutConnection(self) -> None:
        """
        The client was silent for too long (RFC 5321 §4.5.3.2).
        """
        self._abort("timeout")
        self._say(R421_TIMEOUT)
        self._close()

    def shutdown(self) -> None:
        """
        The server stops.  A transaction that is waiting for its answer gets
        it; everybody else is told 421 at once.
        """
        self._shutdown = True
        if not self._busy and self._reader is None and self._phase in (Phase.START, Phase.READY):
            self._say(R421_SHUTDOWN)
            self._close()

    def shutdownNow(self) -> None:
        """
        Time is up.
        """
        if self._postData is not None:
            self._postData.clientLeaves()
        if not self._closing:
            self._abort("the server is stopping")
            self._say(R421_SHUTDOWN)
            self._close()

    def _close(self) -> None:
        """
        Write what is written, then end the connection.
        """
        if self._closing:
            return
        self._closing = True
        self._buffer = b""
        self._flush()
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    # Input.

    def dataReceived(self, data: bytes) -> None:
        """
        Octets from the wire, in pieces of any size.
        """
        if self._closing:
            return
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    def _advance(self) -> None:
        """
        Take commands and data as far as possible.
        """
        if self._running:
            return
        self._running = True
        try:
            self._take()
            while self._settle():
                self._take()
        except Exception:
            _log.failure("{client}: session failed", client=self._client.address)
            self._abort("local error")
            self._say(R421_LOCAL_ERROR)
            self._close()
        finally:
            self._running = False
        if not self._closing:
            self._buffer, self._offset = self._buffer[self._offset :], 0
            self._flush()
            self._regulate()

    def _take(self) -> None:
        while self._offset < len(self._buffer) and not (
            self._busy or self._closing or self._writeBlocked
        ):
            if self._reader is not None:
                octets, self._offset = self._buffer[self._offset :], 0
                self.resetTimeout()
                self._buffer = self._reader(octets)
            elif not self._takeLine():
                return

    def _takeLine(self) -> bool:
        """
        Take one command line.

        @return: L{False} where there is none, or it has to wait.
        """
        buffer, start = self._buffer, self._offset
        end = buffer.find(b"\n", start) + 1
        if not end:
            if len(buffer) - start > MAX_COMMAND_OCTETS:
                self._skippingLine = True
                self._offset = len(buffer)
            return False
        if self._slots and (
            len(self._slots) >= MAX_SLOTS or buffer[start : start + 4].upper() != b"RCPT"
        ):
            return False
        line = buffer[start:end]
        self._offset = end
        self.resetTimeout()
        if self._skippingLine or len(line) > MAX_COMMAND_OCTETS:
            self._skippingLine = False
            self.reply(R500_LINE_TOO_LONG)
        elif not line.endswith(b"\r\n"):
            self.reply(R500_BARE_LF)
        else:
            self.lineReceived(line[:-2])
        return True

    def lineReceived(self, line: bytes) -> None:
        """
        One command, without its CRLF.
        """
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            return self.reply(R500_BAD_LINE)
        if _CONTROL.search(line):
            return self.reply(R500_BAD_LINE)
        verb, _, rest = text.strip(" \t").partition(" ")
        method = self.lookupMethod(verb.encode()) if _VERB.fullmatch(verb.encode()) else None
        if method is None:
            return self.reply(R500_UNKNOWN_COMMAND)
        refusal = outOfSequence(verb.upper(), self._phase)
        if refusal is not None:
            return self.reply(refusal)
        try:
            pending = method(rest.strip(" \t"))
        except PeerError as error:
            self.reply(error.reply)
        else:
            if pending is not None and not self._closing:
                self._wait(pending)

    def _wait(self, pending: Deferred[Any]) -> None:
        """
        Take nothing more from the client until C{pending} fires.
        """
        self._busy = True
        self.setTimeout(None)
        pending.addErrback(self._commandFailed)
        pending.addCallback(self._resume)

    def _commandFailed(self, failure: Failure) -> None:
        _log.failure("{client}: command failed", failure, client=self._client.address)
        if not self._lost:
            self.reply(R451_LOCAL_ERROR)

    def _resume(self, _: Any) -> None:
        self._busy = False
        if self._closing:
            return
        self.setTimeout(self._limits.commandSeconds)
        if self._shutdown:
            self._say(R421_SHUTDOWN)
            self._close()
        else:
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
        congested = self._writer is not None and self._writer.congested
        pause = congested or len(self._buffer) > MAX_BUFFER_OCTETS
        if congested and not self._readPaused:
            self._writer.drained().addCallback(lambda _: self._lost or self._regulate())
        if pause != self._readPaused and not self._lost:
            self._readPaused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

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
            self._slots.append(_Slot(lambda: reply))
        else:
            self._answer(reply)

    def _answer(self, reply: Reply) -> None:
        """
        It is this reply's turn.  What is refused in a transaction that has
        recipients does not count as an error: mail for many recipients, some
        of them wrong, is honest.
        """
        self._write(reply)
        if reply.isPermanent and not (self._transaction and self._transaction.candidates):
            self._errors += 1
            if self._errors == self._limits.errors:
                self._abort("too many errors")
                self._say(R421_TOO_MANY_ERRORS)
                self._close()

    def _write(self, reply: Reply) -> None:
        utf8 = self._transaction is not None and self._transaction.envelope.parameters.smtputf8
        self._out.append(reply.encode(utf8))

    def _say(self, reply: Reply) -> None:
        """
        Say this now, whatever else was to be said.
        """
        if not self._closing:
            self._write(reply)
            self._flush()

    def _flush(self) -> None:
        if self._out and not self._lost:
            out, self._out = b"".join(self._out), []
            self.transport.write(out)

    def _settle(self) -> bool:
        """
        Say what RCPTs are answered, as far as that is known, in their order.

        @return: whether nothing is pending any longer that was before.
        """
        if not self._slots:
            return False
        while self._slots and not self._closing:
            settle = self._slots[0].settle
            if settle is None:
                return False
            self._slots.popleft()
            self._answer(settle())
        self._slots = None
        self.setTimeout(self._limits.commandSeconds)
        return True

    # Greetings.

    def extensions(self) -> dict[bytes, list[bytes] | None]:
        """
        What EHLO and LHLO list (D-1, P-1).
        """
        found: dict[bytes, list[bytes] | None] = {
            b"PIPELINING": None,
            b"SIZE": [b"%d" % self._limits.messageOctets],
            b"8BITMIME": None,
            b"ENHANCEDSTATUSCODES": None,
        }
        if not self._isLMTP:
            found[b"PRDR"] = None
            found[b"DEFERRALS"] = None
        return found

    def _offered(self) -> set[str]:
        """
        The keywords that this client may use: none after HELO.
        """
        if self._client.protocol == "SMTP":
            return set()
        return {keyword.decode("ascii") for keyword in self.extensions()}

    def _greet(self, name: str, protocol: str) -> None:
        if not _HELO.fullmatch(name):
            raise PeerError("bad name", attrs.evolve(R501_SYNTAX, text="say your host's name"))
        self._abort("a new greeting")
        self._client = attrs.evolve(self._client, helo=name, protocol=protocol)
        self._phase = Phase.READY

    def do_HELO(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.1.
        """
        if self._isLMTP:
            return self.reply(R500_UNKNOWN_COMMAND)
        self._greet(rest, "SMTP")
        self.reply(Reply(250, None, self._settings.hostname))

    def do_EHLO(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.1.
        """
        if self._isLMTP:
            return self.reply(R500_UNKNOWN_COMMAND)
        self._greet(rest, "ESMTP")
        self._introduce()

    def do_LHLO(self, rest: str) -> None:
        """
        RFC 2033 §4.1.
        """
        if not self._isLMTP:
            return self.reply(R500_UNKNOWN_COMMAND)
        self._greet(rest, "LMTP")
        self._introduce()

    def _introduce(self) -> None:
        lines = self.listExtensions().decode("ascii")
        self.reply(Reply(250, None, f"{self._settings.hostname}\n{lines}"))

    # Commands without a transaction.

    def do_NOOP(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.9.
        """
        self.reply(R250_OK)

    def do_HELP(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.8.
        """
        self.reply(
            Reply(214, "2.0.0", "RFC 5321; DEFERRALS and PRDR give each recipient an answer")
        )

    def do_VRFY(self, rest: str) -> None:
        """
        RFC 5321 §3.5.3: whether somebody is here is said to who sends mail.
        """
        if not rest:
            raise PeerError("no argument", R501_SYNTAX)
        self.reply(R252_VRFY)

    def do_EXPN(self, rest: str) -> None:
        """
        RFC 5321 §3.5.2.
        """
        self.reply(R502_NOT_HERE)

    def do_RSET(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.5.
        """
        if rest:
            raise PeerError("an argument", R501_SYNTAX)
        self._abort("RSET")
        self.reply(R250_OK)

    def do_QUIT(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.10.
        """
        if rest:
            raise PeerError("an argument", R501_SYNTAX)
        self._abort("QUIT")
        self._say(R221_BYE)
        self._close()

    # The transaction.

    def do_MAIL(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.2; D-1, P-1.
        """
        sender, parameters = parseMail(rest, self._offered())
        if parameters.size is not None and parameters.size > self._limits.messageOctets:
            raise PeerError("too large", R552_TOO_LARGE)
        now = self._clock.seconds()
        number = self._intake.ids.next(now)
        envelope = Envelope(number, now, self._client, sender, parameters, self._settings.name)
        form = Form.LMTP if self._isLMTP else parameters.form
        extended = form in (Form.DEFERRALS, Form.PRDR)
        limit = self._limits.extensionRecipients if extended else self._limits.recipients
        self._transaction = Transaction(envelope, form, self._settings.mixed, limit)
        self._phase = Phase.SENDER
        self.reply(R250_SENDER)

    def do_RCPT(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.3.  Judged at once; answered in order.
        """
        assert self._transaction is not None
        envelope = self._transaction.envelope
        recipient = parseRcpt(rest, self._offered(), envelope.parameters.smtputf8)
        slot = _Slot(None)
        if self._slots is None:
            self._slots = deque()
        self._slots.append(slot)
        d = withDeadline(
            self._clock,
            self._limits.envelopeSeconds,
            self._intake.envelope.judge,
            envelope,
            recipient,
        )
        slot.pending = d
        began = self._clock.seconds()
        if not d.called:
            self.setTimeout(None)
        d.addCallback(_checked)
        d.addErrback(self._envelopeFailed, envelope)
        d.addCallback(self._judged, slot, recipient, began)

    def _envelopeFailed(self, failure: Failure, envelope: Envelope) -> EnvelopeVerdict:
        if not failure.check(CancelledError):
            _log.error(
                "{transaction}: envelope stage failed: {error}",
                transaction=envelope.id,
                error=f"{failure.type.__name__}: {failure.getErrorMessage()}",
            )
        return Refuse(R451_LOCAL_ERROR)

    def _judged(self, verdict: Any, slot: _Slot, recipient: Recipient, began: float) -> None:
        slot.settle = lambda: self._admit(verdict, recipient, began)
        if self._slots and self._slots[0] is slot:
            self._advance()

    def _admit(self, verdict: Any, recipient: Recipient, began: float) -> Reply:
        """
        It is this recipient's turn to be answered.
        """
        transaction = self._transaction
        assert transaction is not None
        cohort = None
        if isinstance(verdict, Accept | Defer):
            recipient = attrs.evolve(recipient, route=verdict.route)
            try:
                cohort = self._intake.content.cohort(recipient, verdict)
            except Exception:
                _log.failure("{transaction}: no cohort", transaction=transaction.envelope.id)
                verdict = Refuse(R451_LOCAL_ERROR)
        reply = transaction.admit(recipient, verdict, cohort)
        if transaction.candidates:
            self._phase = Phase.RECIPIENTS
        if not (reply.code < 400 and isinstance(verdict, Defer)):
            named = transaction.cohortName(-1) if reply.isPositive else ""
            seconds = self._clock.seconds() - began
            journal.recipientVerdict(
                transaction.envelope, str(recipient), "envelope", named, reply, seconds
            )
        return reply

    def do_DATA(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.4.
        """
        if rest:
            raise PeerError("an argument", R501_SYNTAX)
        assert self._transaction is not None
        self._writer = self._intake.spool.newBody(self._transaction.envelope.transaction)
        self._decoder = DataDecoder()
        self._reader = self._readData
        self.setTimeout(self._limits.dataSeconds)
        self.reply(R354_GO_AHEAD)

    def _readData(self, octets: bytes) -> bytes:
        """
        @return: what stands behind the end of the message.
        """
        assert self._decoder is not None
        content, rest = self._decoder.feed(octets)
        if self._decoder.bare:
            if self._settings.bareNewlines == "normalise":
                content = normalised(content)
            else:
                self._forbid(R550_BARE_NEWLINE)
        self._receive(content)
        if rest is None:
            return b""
        self._reader = self._decoder = None
        self._endOfMessage()
        return rest

    def _receive(self, content: bytes) -> None:
        """
        The next octets of the message.  One that cannot be taken is read to
        its end and dropped.
        """
        if self._veto is not None:
            return
        if self._writer.size + len(content) > self._limits.messageOctets:
            return self._forbid(R552_TOO_LARGE)
        began = self._writer.size
        self._writer.write(content)
        if began <= self._limits.headerOctets < self._writer.size:
            head = self._writer.head[: self._limits.headerOctets]
            if b"\r\n\r\n" not in head and not head.startswith(b"\r\n"):
                self._forbid(R552_HEADER_TOO_LARGE)

    def _forbid(self, reply: Reply) -> None:
        if self._veto is None:
            self._veto = reply
            self._writer.abort()

    def _endOfMessage(self) -> None:
        """
        The data is complete: from here on the client waits for us.
        """
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        writer, self._writer = self._writer, None
        veto, self._veto = self._veto, None
        if veto is None and self._loops(writer.head):
            veto = R554_ROUTING_LOOP
            writer.abort()
        self._phase = Phase.READY
        answered: Deferred[None] = Deferred()
        utf8 = transaction.envelope.parameters.smtputf8

        def send(replies: Sequence[Reply]) -> None:
            self._out += [reply.encode(utf8) for reply in replies]
            self._flush()

        def done() -> None:
            self._postData = None
            answered.callback(None)

        self._postData = postData = PostData(
            transaction, self._limits, self._intake, self._clock, send, done
        )
        self._wait(answered)
        if veto is not None:
            postData.refuse(veto)
        else:
            postData.start(writer)

    def _loops(self, head: bytes) -> bool:
        header = head.partition(b"\r\n\r\n")[0]
        return len(_RECEIVED.findall(header)) > self._limits.hops

    def _abort(self, why: str) -> None:
        """
        Forget the transaction, if there is one.
        """
        transaction, self._transaction = self._transaction, None
        self._reader = self._decoder = self._veto = None
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()
        if self._phase is not Phase.START:
            self._phase = Phase.READY
        if transaction is not None:
            journal.transactionEnd(
                transaction.envelope,
                "aborted",
                len(transaction.candidates),
                0,
                transaction.sentAway,
                0 if writer is None else writer.size,
                why,
                self._clock.seconds() - transaction.envelope.received,
            )


def _checked(verdict: Any) -> EnvelopeVerdict:
    """
    @raise StageError: this is no envelope verdict on a recipient.
    """
    if isinstance(verdict, Refuse) and verdict.reply.code >= 400:
        return verdict
    if isinstance(verdict, Accept | Defer) and verdict.route is not None:
        return verdict
    raise StageError(f"{verdict!r} is no verdict")


class SessionFactory(ServerFactory):
    """
    Makes sessions for one listener, and ends them when the server stops.
    """

    noisy = False

    def __init__(self, settings: ListenerSettings, intake: Intake, clock: Any) -> None:
        self.settings = settings
        self.intake = intake
        self._clock = clock
        self.sessions: set[Session] = set()
        self._empty: Deferred[None] | None = None

    def buildProtocol(self, addr: Any) -> Session:
        """
        The settings and the house of this moment: a reload changes the next
        session, not the ones that are under way.
        """
        session = Session(self.settings, self.intake, self._clock, self._ended)
        session.factory = self
        self.sessions.add(session)
        return session

    def _ended(self, session: Session) -> None:
        self.sessions.discard(session)
        if not self.sessions and self._empty is not None:
            empty, self._empty = self._empty, None
            empty.callback(None)

    def shutdown(self, graceSeconds: float) -> Deferred[None]:
        """
        End all sessions: those that wait for an answer get it, within
        C{graceSeconds}.

        @return: a Deferred that fires when there are none left.
        """
        done: Deferred[None] = Deferred()
        self._empty = done
        for session in list(self.sessions):
            session.shutdown()
        if not self.sessions and self._empty is not None:
            self._empty = None
            done.callback(None)
            return done
        timer = self._clock.callLater(graceSeconds, self._timeIsUp)
        done.addBoth(lambda result: timer.active() and timer.cancel())
        return done

    def _timeIsUp(self) -> None:
        for session in list(self.sessions):
            session.shutdownNow()
            session.transport.abortConnection()
