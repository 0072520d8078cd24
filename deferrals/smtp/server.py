"""
The server's side of an SMTP or LMTP session.

L{Session} has the commands, on the lower half in L{deferrals.smtp.pipeline};
verbs are found as C{do_VERB} and C{ext_KEYWORD}, EHLO lists C{extensions()}.
More traps of the base class, and how they are dealt with:

  - I{A late answer lands in the next transaction.}  An answer belongs to the
    L{Transaction} it was asked for; RSET and EHLO wait behind it, a lost
    connection cancels it.
  - I{Parameters are parsed and dropped.}  L{deferrals.model.extensions}.
  - I{One failure is a 550 for everybody.}  L{deferrals.smtp.postdata}.

This module decides nothing about mail.  On an error of the client it sends the
reply that the rules of L{deferrals.model} name; on one of ours, a 4xx.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from deferrals.errors import PeerError
from deferrals.model.envelope import Client, Envelope, Form, Recipient
from deferrals.model.extensions import parseMail, parseRcpt
from deferrals.model.reply import (
    R221_BYE,
    R250_OK,
    R250_SENDER,
    R252_VRFY,
    R354_GO_AHEAD,
    R421_SHUTDOWN,
    R421_TIMEOUT,
    R421_TOO_MANY_ERRORS,
    R451_LOCAL_ERROR,
    R451_SHUTDOWN,
    R500_BAD_LINE,
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
from deferrals.smtp.pipeline import PipelinedESMTP
from deferrals.smtp.postdata import PostData
from deferrals.smtp.settings import Intake, ListenerSettings
from deferrals.waiting import CancelledError, withDeadline

_log = Logger(namespace="deferrals.session")

_VERB = re.compile(rb"[A-Za-z]{1,16}")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HELO = re.compile(r"[A-Za-z0-9\u0080-\U0010ffff_.:\[\]\-]{1,255}")
_RECEIVED = re.compile(rb"^received[ \t]*:", re.I | re.M)


@attrs.frozen
class _Judged:
    """
    A recipient that the envelope has judged.

    @ivar began: when it was named.
    @ivar cohort: its cohort, unless it is refused.
    @ivar company: whom it may share a transaction with, where one is split.
    @ivar held: whether it has to wait for others of a remembered message.
    """

    recipient: Recipient
    verdict: EnvelopeVerdict
    began: float
    cohort: Hashable = None
    company: Hashable = None
    held: bool = False

    @property
    def isIn(self) -> bool:
        """
        Whether it can be in the transaction.
        """
        return not (self.held or isinstance(self.verdict, Refuse))


class Session(PipelinedESMTP):
    """
    One connection.

    @param settings: the listener's.
    @param intake: the house behind it.
    @param clock: timers, and the time of day.
    @param ended: called with this session when its connection is lost.
    """

    _shutdown = False
    _transaction: Transaction | None = None
    _postData: PostData | None = None
    _writer: Any = None
    _decoder: DataDecoder | None = None
    _veto: Reply | None = None
    _errors = 0
    _offered: frozenset[str] = frozenset()

    def __init__(
        self,
        settings: ListenerSettings,
        intake: Intake,
        clock: Any,
        ended: Callable[[Session], None] = lambda session: None,
    ) -> None:
        PipelinedESMTP.__init__(self, clock)
        self.host = settings.hostname
        self._settings = settings
        self._limits = settings.limits
        self._intake = intake
        self._ended = ended
        self._phase = Phase.START
        self._client = Client("")

    # The connection.

    def connectionMade(self) -> None:
        """
        Greet.
        """
        peer = self.transport.getPeer()
        address = getattr(peer, "host", "local")
        self._client = Client(address, getattr(peer, "port", 0), protocol="SMTP")
        PipelinedESMTP.connectionMade(self)
        self.setTimeout(self._limits.commandSeconds)
        self.reply(Reply(220, None, self.greeting().decode("ascii")))
        self.flush()

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
        What was not answered stays the sender's.
        """
        PipelinedESMTP.connectionLost(self, reason)
        if self._postData is not None:
            self._postData.clientGone()
            self._postData = None
        self._abort("the connection was lost")
        self._ended(self)

    def timeoutConnection(self) -> None:
        """
        The client was silent for too long (RFC 5321 §4.5.3.2).
        """
        self._abort("timeout")
        self.say(R421_TIMEOUT)
        self.close()

    def shutdown(self) -> None:
        """
        The server stops.  A transaction that is waiting for its answer gets
        it; everybody else is told 421 at once.
        """
        self._shutdown = True
        if not self._busy and self._reader is None and self._phase in (Phase.START, Phase.READY):
            self.say(R421_SHUTDOWN)
            self.close()

    def shutdownNow(self) -> None:
        """
        Time is up.
        """
        if self._postData is not None:
            self._postData.giveUp(R451_SHUTDOWN)
        if not self._closing:
            self._abort("the server is stopping")
            self.say(R421_SHUTDOWN)
            self.close()

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
                self.wait(pending)

    # What the lower half asks.

    def peerName(self) -> str:
        """
        See L{PipelinedESMTP.peerName}.
        """
        return self._client.address

    def wantsUTF8(self) -> bool:
        """
        See L{PipelinedESMTP.wantsUTF8}.
        """
        return self._transaction is not None and self._transaction.envelope.parameters.smtputf8

    def mayOverlap(self, line: bytes) -> bool:
        """
        RCPTs in a row are judged side by side.
        """
        return line[:4].upper() == b"RCPT"

    def congestion(self) -> Any:
        """
        A disk that is behind.
        """
        return self._writer if self._writer is not None and self._writer.congested else None

    def answered(self, reply: Reply) -> None:
        """
        Count errors.  What is refused in a transaction that has recipients
        does not count: mail for many recipients, some of them wrong, is honest.
        """
        if reply.isPermanent and not (self._transaction and self._transaction.candidates):
            self._errors += 1
            if self._errors == self._limits.errors:
                self._abort("too many errors")
                self.say(R421_TOO_MANY_ERRORS)
                self.close()

    def resumed(self) -> None:
        """
        The client's turn, unless the server is stopping.
        """
        self.setTimeout(self._limits.commandSeconds)
        if self._shutdown:
            self.say(R421_SHUTDOWN)
            self.close()

    def broken(self) -> None:
        """
        Forget the transaction.
        """
        self._abort("local error")

    # Greetings.

    def extensions(self) -> dict[bytes, list[bytes] | None]:
        """
        What EHLO and LHLO list (D-1, P-1, with what they require: D-2, P-2).
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

    def _greet(self, name: str, protocol: str) -> None:
        if not _HELO.fullmatch(name):
            raise PeerError("bad name", attrs.evolve(R501_SYNTAX, text="say your host's name"))
        self._abort("a new greeting")
        self._client = attrs.evolve(self._client, helo=name, protocol=protocol)
        extensions = () if protocol == "SMTP" else self.extensions()
        self._offered = frozenset(keyword.decode("ascii") for keyword in extensions)
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
        self.say(R221_BYE)
        self.close()

    # The transaction.

    def do_MAIL(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.2; D-1, P-1.
        """
        sender, parameters = parseMail(rest, self._offered)
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
        recipient = parseRcpt(rest, self._offered, envelope.parameters.smtputf8)
        began = self._clock.seconds()
        try:
            verdict = self._intake.envelope.judge(envelope, recipient)
        except Exception:
            verdict = fail()
        atOnce = not (self.hasSlots or self._transaction.undivided)
        if atOnce and not isinstance(verdict, Deferred):
            judged = self._judge(_checked(verdict), recipient, began)
            return self.reply(self._admit(judged))
        slot = self.slot()
        if not isinstance(verdict, Deferred):
            return self._judged(_checked(verdict), slot, recipient, began)
        self.setTimeout(None)
        seconds = self._limits.envelopeSeconds
        slot.pending = withDeadline(self._clock, seconds, lambda: verdict)
        slot.pending.addErrback(self._envelopeFailed, envelope)
        slot.pending.addCallback(_checked)
        slot.pending.addCallback(self._judged, slot, recipient, began)

    def _envelopeFailed(self, failure: Failure, envelope: Envelope) -> EnvelopeVerdict:
        if not failure.check(CancelledError):
            _log.error(
                "{transaction}: envelope stage failed: {error}",
                transaction=envelope.id,
                error=f"{failure.type.__name__}: {failure.getErrorMessage()}",
            )
        return Refuse(R451_LOCAL_ERROR)

    def _judged(self, verdict: Any, slot: Any, recipient: Recipient, began: float) -> None:
        judged = self._judge(verdict, recipient, began)
        self.ready(slot, lambda: self._admit(judged), judged)

    def _judge(self, verdict: EnvelopeVerdict, recipient: Recipient, began: float) -> _Judged:
        """
        What the envelope says of a recipient, and whose cohort it is in.
        """
        assert self._transaction is not None
        if isinstance(verdict, Refuse):
            return _Judged(recipient, verdict, began)
        recipient = recipient.routed(verdict.route)
        try:
            cohort = self._intake.content.cohort(recipient, verdict)
        except Exception:
            _log.failure("{transaction}: no cohort", transaction=self._transaction.envelope.id)
            return _Judged(recipient, Refuse(R451_LOCAL_ERROR), began)
        now = self._clock.seconds()
        company, held = self._intake.mixed.place(self._transaction, recipient, cohort, now)
        return _Judged(recipient, verdict, began, cohort, company, held)

    def maySettle(self, slots: Sequence[Any]) -> bool:
        """
        Where a transaction is to be split, recipients that came in one piece
        are answered together: the largest company leads.
        """
        transaction = self._transaction
        if transaction is None or not transaction.undivided:
            return True
        if any(slot.settle is None for slot in slots):
            return False
        judged = [slot.answer for slot in slots if slot.answer is not None]
        transaction.lead([one.company for one in judged if one.isIn])
        return True

    def _admit(self, judged: _Judged) -> Reply:
        """
        It is this recipient's turn to be answered.
        """
        transaction = self._transaction
        assert transaction is not None
        verdict = judged.verdict
        reply = transaction.admit(
            judged.recipient, verdict, judged.cohort, judged.company, judged.held
        )
        if transaction.candidates:
            self._phase = Phase.RECIPIENTS
        if not (reply.code < 400 and isinstance(verdict, Defer)):
            named = transaction.cohortName(-1) if reply.isPositive else ""
            seconds = self._clock.seconds() - judged.began
            journal.recipientVerdict(
                transaction.envelope, str(judged.recipient), "envelope", named, reply, seconds
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
        utf8 = transaction.envelope.parameters.smtputf8

        def send(replies: Sequence[Reply]) -> None:
            self.transport.write(b"".join(reply.encode(utf8) for reply in replies))

        def done() -> None:
            self._postData = None
            self.resume()

        self._postData = postData = PostData(
            transaction, self._limits, self._intake, self._clock, send, done
        )
        self.hold()
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
                len(transaction.sentAway),
                0 if writer is None else writer.size,
                why,
                self._clock.seconds() - transaction.envelope.received,
            )


def _checked(verdict: Any) -> EnvelopeVerdict:
    """
    An envelope stage's answer; a temporary refusal, where it is none.
    """
    if isinstance(verdict, Refuse) and verdict.reply.code >= 400:
        return verdict
    if isinstance(verdict, Accept | Defer) and verdict.route is not None:
        return verdict
    _log.error("{verdict} is no verdict on a recipient", verdict=repr(verdict))
    return Refuse(R451_LOCAL_ERROR)


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
