"""
The client's side of an SMTP or LMTP session.

One connection, any number of messages, one after the other.  Of the ways of
asking for each recipient's own answer the first is used that the server offers
(D-3).  Where it offers PIPELINING, envelope and DATA go out in one piece.

Ownership: until the final reply the message is the caller's (D-21), and nothing
that a block says is acted upon before it (P-10).  Nothing is tried again here.

Every wait has a deadline, after the data ten minutes for each reply (D-24).  A
server that breaks the protocol, or is late, loses the connection; the caller
gets a L{Result} all the same, in which the recipients that had no final answer
are temporarily refused.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IPullProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import PeerError
from deferrals.model.answers import Result, weigh
from deferrals.model.envelope import Form
from deferrals.model.reply import Reply
from deferrals.waiting import withDeadline

MAX_REPLY_LINE_OCTETS = 4096
MAX_REPLY_LINES = 500

_REPLY_LINE = re.compile(r"([2-5][0-9][0-9])(?:([ -])(.*))?", re.S)
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$)")
_PREFERENCE = (Form.DEFERRALS, Form.PRDR)
_R553_NO_SMTPUTF8 = Reply(553, "5.6.7", "the next server does not offer SMTPUTF8")


@attrs.frozen
class Timeouts:
    """
    Seconds for each reply (RFC 5321 §4.5.3.2).

    @ivar command: greeting, EHLO, MAIL, RCPT, RSET.
    @ivar data: the reply to DATA; and the longest time in which no octet of
        the message can be written.
    @ivar answer: each reply after the data (D-24).
    """

    command: float = 300.0
    data: float = 180.0
    answer: float = 600.0


@attrs.frozen
class Outgoing:
    """
    A message for one server.

    @ivar sender: the reverse path without brackets; empty for the null path.
    @ivar recipients: the forward paths without brackets.
    @ivar size: in octets.
    @ivar chunks: gives the message anew each time it is called: octets whose
        lines end with CRLF and nothing else.
    @ivar eightBit: whether there are octets above 127.
    @ivar parameters: further ones of MAIL FROM, each with its EHLO keyword; it
        is sent where the server offers that.
    @ivar recipientParameters: the same for RCPT TO, by index.
    """

    sender: str
    recipients: Sequence[str]
    size: int
    chunks: Callable[[], Iterator[bytes]]
    eightBit: bool = False
    parameters: Sequence[tuple[str, str]] = ()
    recipientParameters: Mapping[int, Sequence[tuple[str, str]]] = attrs.field(factory=dict)

    @property
    def needsUTF8(self) -> bool:
        """
        Whether an address needs SMTPUTF8.
        """
        return not all(address.isascii() for address in (self.sender, *self.recipients))


class _Replies:
    """
    Reply lines into replies (RFC 5321 §4.2).
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[Reply, list[str]]]:
        """
        @return: complete replies, each with its lines as they came.
        @raise PeerError: this is no reply.
        """
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > MAX_REPLY_LINE_OCTETS:
            raise PeerError("a reply line without end")
        found = []
        for line in lines:
            text = line.removesuffix(b"\r").decode("utf-8", "replace")
            match = _REPLY_LINE.fullmatch(text)
            if match is None or (self._lines and not text.startswith(self._lines[0][:3])):
                raise PeerError(f"not a reply line: {text[:100]!r}")
            self._lines.append(text)
            if len(self._lines) > MAX_REPLY_LINES:
                raise PeerError("a reply with too many lines")
            if match[2] != "-":
                lines_, self._lines = self._lines, []
                found.append((_reply(lines_), lines_))
        return found


def _reply(lines: list[str]) -> Reply:
    texts = [line[4:] for line in lines]
    enhanced = _ENHANCED.match(texts[0])
    if enhanced is None or enhanced[1][0] != lines[0][0]:
        return Reply(int(lines[0][:3]), None, "\n".join(texts))
    start = enhanced[1]
    texts = [text.removeprefix(start).removeprefix(" ") for text in texts]
    return Reply(int(lines[0][:3]), start, "\n".join(texts))


class Stuffing:
    """
    Dot-stuffing (RFC 5321 §4.5.2) of a message in chunks of any size.
    """

    def __init__(self) -> None:
        self._last = b"\r\n"

    def feed(self, chunk: bytes) -> bytes:
        """
        @return: the chunk as it goes over the wire.
        """
        if not chunk:
            return b""
        seam = self._last
        stuffed = (seam + chunk).replace(b"\r\n.", b"\r\n..")[len(seam) :]
        self._last = (seam + chunk)[-2:]
        return stuffed

    def end(self) -> bytes:
        """
        @return: what ends the message.
        """
        return b".\r\n" if self._last == b"\r\n" else b"\r\n.\r\n"


@implementer(IPullProducer)
class _DataProducer:
    """
    Writes a message as fast as the server reads it.
    """

    def __init__(
        self, transport: Any, chunks: Iterator[bytes], progress: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._chunks = chunks
        self._stuffing = Stuffing()
        self._progress = progress
        self.done: Deferred[None] = Deferred()

    def resumeProducing(self) -> None:
        """
        The next chunk.
        """
        self._progress()
        try:
            chunk = next(self._chunks, None)
        except Exception:
            self.stopProducing()
            return self.done.errback(Failure())
        if chunk is not None:
            return self._transport.write(self._stuffing.feed(chunk) or b"")
        self._transport.write(self._stuffing.end())
        self._transport.unregisterProducer()
        self.done.callback(None)
        return None

    def stopProducing(self) -> None:
        """
        The connection is gone.
        """
        self._transport.unregisterProducer()


class ClientSession(Protocol):
    """
    One connection to a server.

    @param clock: timers.
    @param hello: the name to give with EHLO or LHLO.
    @param lmtp: whether the server speaks LMTP.
    @param forms: the ways of asking for each recipient's answer that may be
        used.
    @param trace: called with C{"C"} or C{"S"} and each line of the dialogue,
        the message excepted.
    """

    def __init__(
        self,
        clock: Any,
        hello: str,
        lmtp: bool = False,
        forms: Sequence[Form] = _PREFERENCE,
        timeouts: Timeouts = Timeouts(),
        trace: Callable[[str, str], None] | None = None,
    ) -> None:
        self._clock = clock
        self._hello = hello
        self._lmtp = lmtp
        self._forms = forms
        self._timeouts = timeouts
        self._trace = trace or (lambda who, line: None)
        self._parser = _Replies()
        self._replies: deque[Reply] = deque()
        self._waiter: Deferred[Reply] | None = None
        self._lost: Failure | None = None
        self._gone: Deferred[None] = Deferred()
        self.capabilities: dict[str, list[str]] = {}

    # Connection and replies.

    def connectionMade(self) -> None:
        """
        What is written goes out at once: it is written in whole pieces.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        """
        Replies from the server.
        """
        try:
            found = self._parser.feed(data)
        except PeerError:
            self._broken(Failure())
            return
        for reply, lines in found:
            for line in lines:
                self._trace("S", line)
            if self._waiter is not None:
                waiter, self._waiter = self._waiter, None
                waiter.callback(reply)
            else:
                self._replies.append(reply)
            if len(self._replies) > MAX_REPLY_LINES:
                self._broken(Failure(PeerError("replies that nobody asked for")))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Whoever waits for a reply is told.
        """
        if self._lost is None:
            self._lost = Failure(PeerError(f"connection lost: {reason.getErrorMessage()}"))
        self._wake()
        gone, self._gone = self._gone, Deferred()
        gone.callback(None)

    def _broken(self, failure: Failure) -> None:
        """
        There is no sense in going on.
        """
        self._lost = failure
        self.transport.abortConnection()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and self._lost is not None:
            waiter, self._waiter = self._waiter, None
            waiter.errback(self._lost)

    @property
    def usable(self) -> bool:
        """
        Whether another message can be sent.
        """
        return self._lost is None

    def _expect(self, seconds: float) -> Deferred[Reply]:
        """
        The next reply.

        @return: a Deferred that fails with L{PeerError} when there is none in
            time; then the connection is given up.
        """

        def read() -> Any:
            if self._replies:
                return self._replies.popleft()
            if self._lost is not None:
                return self._lost
            self._waiter = Deferred(self._late)
            return self._waiter

        return withDeadline(self._clock, seconds, read)

    def _late(self, waiter: Deferred[Reply]) -> None:
        self._waiter = None
        failure = Failure(PeerError("no reply in time"))
        self._broken(failure)
        waiter.errback(failure)

    def _command(self, line: str) -> None:
        self._trace("C", line)
        self.transport.write(line.encode("utf-8") + b"\r\n")

    # Opening and closing.

    @inlineCallbacks
    def open(self) -> Any:
        """
        Read the greeting and introduce ourselves.

        @return: a Deferred that fails with L{PeerError} where the server does
            not want us.
        """
        reply = yield self._expect(self._timeouts.command)
        if reply.code != 220:
            raise self._refused("greeting", reply)
        yield self._introduce()

    @inlineCallbacks
    def _introduce(self) -> Any:
        self.capabilities = {}
        self._command(f"{'LHLO' if self._lmtp else 'EHLO'} {self._hello}")
        reply = yield self._expect(self._timeouts.command)
        if reply.isPermanent and not self._lmtp:
            self._command(f"HELO {self._hello}")
            reply = yield self._expect(self._timeouts.command)
        elif reply.isPositive:
            for line in reply.text.split("\n")[1:]:
                keyword, *words = line.split()
                self.capabilities[keyword.upper()] = words
        if not reply.isPositive:
            raise self._refused("EHLO", reply)

    def _refused(self, what: str, reply: Reply) -> PeerError:
        self.transport.loseConnection()
        error = PeerError(f"{what} was answered {reply}", reply)
        self._lost = Failure(error)
        return error

    @inlineCallbacks
    def quit(self) -> Any:
        """
        End the session politely.

        @return: a Deferred that fires when the connection is closed; it never
            fails.
        """
        if self._lost is None:
            gone = self._gone
            self._command("QUIT")
            try:
                yield self._expect(self._timeouts.command)
            except PeerError:
                return
            self.transport.loseConnection()
            yield gone

    # Messages.

    @inlineCallbacks
    def send(self, outgoing: Outgoing) -> Any:
        """
        Send one message.  The next one may be sent when this one's Deferred
        has fired, while the session is L{usable}.

        @return: a Deferred of a L{Result}; it never fails.
        """
        transaction = _Transaction(outgoing, self._form())
        try:
            if outgoing.needsUTF8 and "SMTPUTF8" not in self.capabilities:
                transaction.refuseAll(_R553_NO_SMTPUTF8)
            else:
                yield self._envelope(transaction)
                if transaction.begun:
                    yield self._content(transaction)
        except PeerError:
            if self._lost is None:
                self._broken(Failure())
        return transaction.result()

    def _form(self) -> Form:
        if self._lmtp:
            return Form.LMTP
        offered = [form for form in _PREFERENCE if form.name in self.capabilities]
        return next((form for form in offered if form in self._forms), Form.PLAIN)

    @inlineCallbacks
    def _envelope(self, transaction: _Transaction) -> Any:
        """
        MAIL, RCPT and DATA, up to the reply to DATA.
        """
        commands = transaction.commands(self.capabilities)
        pipelined = "PIPELINING" in self.capabilities
        if pipelined:
            for command in commands:
                self._trace("C", command)
            self.transport.write("".join(f"{c}\r\n" for c in commands).encode("utf-8"))
        for command in commands:
            if not pipelined:
                if not transaction.wants(command):
                    continue
                self._command(command)
            seconds = self._timeouts.data if command == "DATA" else self._timeouts.command
            transaction.answered(command, (yield self._expect(seconds)))
        if transaction.begun and not transaction.waiting:
            # DATA was answered 354 although nobody is there (RFC 2920 §3.1).
            self._command(".")
            yield self._expect(self._timeouts.answer)
            transaction.begun = False
        elif transaction.mailAccepted and not transaction.begun:
            self._command("RSET")
            yield self._expect(self._timeouts.command)

    @inlineCallbacks
    def _content(self, transaction: _Transaction) -> Any:
        """
        The message, and everything that is said about it.
        """
        yield self._write(transaction.outgoing.chunks())
        seconds = self._timeouts.answer
        if transaction.form is Form.LMTP:
            for index in transaction.waiting:
                transaction.block[index] = yield self._expect(seconds)
            return
        reply = yield self._expect(seconds)
        if reply.code == 353:
            listed = transaction.listed
            if not listed:
                raise PeerError("353 without a recipient to answer for")
            for index in listed:
                transaction.block[index] = yield self._expect(seconds)
                if transaction.block[index].isIntermediate:
                    raise PeerError("a recipient was answered 3xx")
            reply = yield self._expect(seconds)
        if reply.isIntermediate:
            raise PeerError(f"the final reply is {reply}")
        transaction.final = reply

    @inlineCallbacks
    def _write(self, chunks: Iterator[bytes]) -> Any:
        """
        Write the message; give up when the server does not take any of it for
        too long, or has hung up.
        """
        late = self._clock.callLater(
            self._timeouts.data,
            lambda: self._broken(Failure(PeerError("the server does not read"))),
        )
        producer = _DataProducer(self.transport, chunks, lambda: late.reset(self._timeouts.data))
        gone = self._gone
        written = producer.done
        gone.addCallback(lambda _: written.called or written.errback(self._lost))
        try:
            self.transport.registerProducer(producer, False)
            yield written
        except PeerError:
            raise
        except Exception:
            self._broken(Failure())
            raise PeerError("the message could not be read") from None
        finally:
            if late.active():
                late.cancel()


class _Transaction:
    """
    The state of one message on one connection.
    """

    def __init__(self, outgoing: Outgoing, form: Form) -> None:
        self.outgoing = outgoing
        self.form = form
        self.mailAccepted = False
        self.begun = False
        self.block: dict[int, Reply] = {}
        self.final: Reply | None = None
        self._envelope: list[Reply] = []
        self._refusal: Reply | None = None

    def refuseAll(self, reply: Reply) -> None:
        """
        Nothing can be sent: this is everybody's answer.
        """
        self._refusal = reply

    @property
    def waiting(self) -> list[int]:
        """
        The recipients that are in (2xx or 352).
        """
        return [i for i, reply in enumerate(self._envelope) if reply.code < 400]

    @property
    def listed(self) -> list[int]:
        """
        The recipients that a 353 has replies for (D-10, P-6).
        """
        if self.form is Form.DEFERRALS:
            return [i for i, reply in enumerate(self._envelope) if reply.code == 352]
        return self.waiting if self.form is Form.PRDR else []

    def commands(self, capabilities: Mapping[str, list[str]]) -> list[str]:
        """
        The envelope as commands, with the parameters that are offered.
        """
        mail = [f"MAIL FROM:<{self.outgoing.sender}>"]
        if "SIZE" in capabilities:
            mail.append(f"SIZE={self.outgoing.size}")
        if self.outgoing.eightBit and "8BITMIME" in capabilities:
            mail.append("BODY=8BITMIME")
        if self.outgoing.needsUTF8:
            mail.append("SMTPUTF8")
        mail += [text for keyword, text in self.outgoing.parameters if keyword in capabilities]
        if self.form in _PREFERENCE:
            mail.append(self.form.name)
        commands = [" ".join(mail)]
        for index, recipient in enumerate(self.outgoing.recipients):
            more = self.outgoing.recipientParameters.get(index, ())
            words = [text for keyword, text in more if keyword in capabilities]
            commands.append(" ".join([f"RCPT TO:<{recipient}>", *words]))
        return [*commands, "DATA"]

    def wants(self, command: str) -> bool:
        """
        Whether this command still makes sense, after the replies so far.
        """
        if command.startswith("MAIL"):
            return True
        return self.mailAccepted and (command != "DATA" or bool(self.waiting))

    def answered(self, command: str, reply: Reply) -> None:
        """
        The reply to one of L{commands}.
        """
        if command.startswith("MAIL"):
            self.mailAccepted = reply.isPositive
            if not reply.isPositive:
                self._refusal = reply
        elif command.startswith("RCPT"):
            if reply.isIntermediate and not (reply.code == 352 and self.form is Form.DEFERRALS):
                raise PeerError(f"RCPT TO was answered {reply}")
            self._envelope.append(reply)
        elif reply.code == 354:
            self.begun = True
        elif self.waiting:
            self.final = reply if reply.code >= 400 else None

    def result(self) -> Result:
        """
        What it all comes to.
        """
        recipients = self.outgoing.recipients
        if self._refusal is not None:
            refusal = [self._refusal] * len(recipients)
            return weigh(recipients, refusal, self.form, {}, self._refusal)
        missing = len(recipients) - len(self._envelope)
        envelope = [*self._envelope, *[_LOST] * missing]
        if self.form is Form.LMTP and self.final is not None:
            block = dict.fromkeys(self.waiting, self.final)
            return weigh(recipients, envelope, self.form, block, None)
        return weigh(recipients, envelope, self.form, self.block, self.final)


_LOST = Reply(451, "4.4.2", "the connection was lost before the recipient was answered")
