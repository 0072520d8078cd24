"""
The server's side of an SMTP or LMTP session.

L{Session} has the connection's life, and a handler for each kind of commands:
L{COMMANDS} says which one answers what.

This module decides nothing about mail.  On an error of the client it sends the
reply that the rules of L{deferrals.model} name; on one of ours, a 4xx.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import PeerError
from deferrals.logger import Logger
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import End
from deferrals.model.networks import LOCAL, normalAddress
from deferrals.model.reply import (
    R421_NO_DESCRIPTOR,
    R421_OTHER_PROTOCOL,
    R421_SHUTDOWN,
    R421_TIMEOUT,
    R421_TOO_MANY_COMMANDS,
    R421_TOO_MANY_ERRORS,
    R451_SHUTDOWN,
    R500_AUTH_LINE_TOO_LONG,
    R500_BARE_LF,
    R500_LINE_TOO_LONG,
    R500_UNKNOWN_COMMAND,
    R554_EARLY_TALKER,
    Reply,
)
from deferrals.smtp.server import maillog
from deferrals.smtp.server.auth import AuthCommands
from deferrals.smtp.server.base import SessionBase
from deferrals.smtp.server.clientname import ClientName
from deferrals.smtp.server.commandline import parseLine
from deferrals.smtp.server.connectionlimits import LIMITS
from deferrals.smtp.server.data import DataCommands
from deferrals.smtp.server.descriptors import closeNow, isScarce
from deferrals.smtp.server.envelope import MailCommands
from deferrals.smtp.server.greetings import GreetingCommands
from deferrals.smtp.server.proxy import ProxyCommands
from deferrals.smtp.server.replyqueue import Slot
from deferrals.smtp.server.settings import Backend
from deferrals.smtp.server.simple import SimpleCommands
from deferrals.smtp.server.starttls import TLSCommands

_T = TypeVar("_T")

_log = Logger(namespace="deferrals.session")

#: How long clients may take to read that the server stops, once their time is
#: up, in seconds.
FAREWELL_SECONDS = 2.0

#: Commands that are limited by what they do, and so not by their number.
_UNCOUNTED = frozenset({"RCPT", "BDAT"})


#: Which handler answers which command.
COMMANDS: dict[str, Callable[[Session, str], Deferred[None] | None]] = {
    "EHLO": lambda session, rest: session.greetings.do_EHLO(rest),
    "HELO": lambda session, rest: session.greetings.do_HELO(rest),
    "LHLO": lambda session, rest: session.greetings.do_LHLO(rest),
    "STARTTLS": lambda session, rest: session.tls.do_STARTTLS(rest),
    "AUTH": lambda session, rest: session.auth.do_AUTH(rest),
    "XCLIENT": lambda session, rest: session.proxy.do_XCLIENT(rest),
    "MAIL": lambda session, rest: session.mail.do_MAIL(rest),
    "RCPT": lambda session, rest: session.mail.do_RCPT(rest),
    "DATA": lambda session, rest: session.data.do_DATA(rest),
    "BDAT": lambda session, rest: session.data.do_BDAT(rest),
    "NOOP": lambda session, rest: session.simple.do_NOOP(rest),
    "HELP": lambda session, rest: session.simple.do_HELP(rest),
    "VRFY": lambda session, rest: session.simple.do_VRFY(rest),
    "EXPN": lambda session, rest: session.simple.do_EXPN(rest),
    "RSET": lambda session, rest: session.simple.do_RSET(rest),
    "QUIT": lambda session, rest: session.simple.do_QUIT(rest),
}


@implementer(IHandshakeListener)
class Session(SessionBase):
    """
    One connection.

    @param settings: the listener's.
    @param backend: what stands behind it.
    @param clock: timers, and the time of day.
    @param ended: called with this session when its connection is lost.
    @ivar name: the client's, in DNS.
    @ivar proxy: who the client is, where a front end says so.
    @ivar tls: encryption.
    @ivar auth: the client's user.
    @ivar simple: what needs no more than a reply.
    @ivar greetings: the client's own name, and what it is offered.
    @ivar mail: the envelope.
    @ivar data: the content.
    """

    name: ClientName
    proxy: ProxyCommands
    tls: TLSCommands
    auth: AuthCommands
    greetings: GreetingCommands
    mail: MailCommands
    data: DataCommands
    simple: SimpleCommands
    _shutdown = False
    _isGreeted = False
    _isCounted = False
    _isAdmitted = False
    _greeting: IDelayedCall | None = None
    _errors = 0
    _isForeign = False
    _lastRefusal: Reply | None = None

    def __init__(
        self,
        settings: ListenerSettings,
        backend: Backend,
        clock: IReactorTime,
        ended: Callable[[Session], None] = lambda session: None,
    ) -> None:
        super().__init__(settings, backend, clock)
        self._ended = ended
        self.name = ClientName(self)
        self.proxy = ProxyCommands(self, self.name, self._introduced)
        self.tls = TLSCommands(self, self._encrypted)
        self.auth = AuthCommands(self)
        self.greetings = GreetingCommands(self, self.tls, self.auth, self.proxy)
        self.mail = MailCommands(self)
        self.data = DataCommands(self, self.name)
        self.simple = SimpleCommands(self)

    def latestBackend(self) -> Backend:
        """
        See L{SessionBase.latestBackend}: a transaction ends with the stages
        that it began with, and the next one meets others.
        """
        return self.factory.backend if isinstance(self.factory, SessionFactory) else self.backend

    # The connection: accepted, introduced, encrypted, greeted.

    def connectionMade(self) -> None:
        """
        A client has connected.
        """
        self.state.idleSince = self.clock.seconds()
        peer = self.transport.getPeer()
        address = getattr(peer, "host", LOCAL)
        self.state.address = normalAddress(address) if ":" in address else address
        self.state.port = getattr(peer, "port", 0)
        self.proxy.connected(self.state.address)
        super().connectionMade()
        socket: ITransport = self.transport
        if isinstance(socket, TLSMemoryBIOProtocol):
            socket = ITransport(socket.transport)
        if isScarce(socket):
            return self._noDescriptor()
        refusal = self.backend.connectionLimits.opened()
        if isinstance(refusal, Deferred):
            self.waitFirst(refusal, self._opened)
        else:
            self._opened(refusal)

    def _opened(self, refusal: Reply | None) -> None:
        """
        @param refusal: why there is no room for one more connection.
        """
        self._isCounted = refusal is None
        if refusal is not None:
            self._turnAway(refusal)
        elif self.settings.proxied:
            self.proxy.awaitHeader()
        else:
            self._introduced(b"")

    def _introduced(self, rest: bytes) -> bytes:
        """
        It is known who the client is.

        @param rest: what it has sent so far.
        @return: what of that is still to be taken.
        """
        refusal = self.proxy.count()
        if not isinstance(refusal, Deferred):
            return self._admitted(refusal, rest)
        self.waitFirst(refusal, self._admittedLate)
        return rest

    def _admittedLate(self, refusal: Reply | None) -> None:
        rest = self._admitted(refusal, self.commands.octets())
        if rest:
            self.commands.giveBack(rest)

    def _admitted(self, refusal: Reply | None, rest: bytes) -> bytes:
        """
        @param refusal: why the client must go.
        """
        self._isAdmitted = refusal is None
        if refusal is None:
            self.name.lookUp()
        self.state.identify()
        if refusal is not None:
            self._turnAway(refusal)
        elif self.settings.security == "implicit":
            self.tls.encrypt()
            self._decrypt(rest)
            return b""
        elif self.tls.isOutside and self.state.tls is None:
            self.tls.awaitHandshake()
        else:
            self._welcome()
        return rest

    def _decrypt(self, octets: bytes) -> None:
        """
        Octets that came together with a PROXY header, in front of TLS.
        """
        tls = getattr(self.transport, "protocol", None)
        if octets and isinstance(tls, TLSMemoryBIOProtocol):
            tls.dataReceived(octets)

    def handshakeCompleted(self) -> None:
        """
        See C{IHandshakeListener}.
        """
        self.tls.completed()

    def _encrypted(self) -> None:
        if self._isAdmitted and not self._isGreeted:
            self._welcome()

    def _noDescriptor(self) -> None:
        """
        The process has hardly a file descriptor left.
        """
        refusal = R421_NO_DESCRIPTOR
        self._sendAway(refusal)
        if self.tls.isOutside:
            return self.cutOff()
        farewell = b"" if self._beginsWithTLS else str(refusal).encode("ascii") + b"\r\n"
        closeNow(self.transport, farewell)

    def _sendAway(self, refusal: Reply) -> None:
        self.state.outcome = "turned_away"
        _log.tell(
            self.backend.status,
            "{client} turned away: {reply}",
            event="turned-away",
            client=self.state.address,
            reply=str(refusal),
            limit=LIMITS.get(refusal, ""),
        )

    @property
    def _beginsWithTLS(self) -> bool:
        return self.settings.security == "implicit" or self.tls.isOutside

    def _turnAway(self, refusal: Reply) -> None:
        self._sendAway(refusal)
        if self._beginsWithTLS:
            self.cutOff()
        else:
            self.say(refusal)
            self.close()

    def _welcome(self) -> None:
        """
        Greet; or wait first, to see whether the client can wait for it.
        """
        if not self.settings.greet_delay:
            return self._greet()
        self.reader = self._talksEarly
        self.setTimeout(None)
        self._greeting = self.clock.callLater(self.settings.greet_delay, self._greet)

    def _talksEarly(self, octets: bytes) -> bytes:
        self.state.outcome = "early_talker"
        _log.tell(
            self.backend.status,
            "{client} talks before the greeting",
            event="early-talker",
            client=self.state.address,
        )
        self._stopGreeting()
        self.say(R554_EARLY_TALKER)
        self.close()
        return b""

    def _stopGreeting(self) -> None:
        greeting, self._greeting = self._greeting, None
        if greeting is not None:
            greeting.cancel()

    def _greet(self) -> None:
        self._greeting = self.reader = None
        self._isGreeted = True
        self.state.idleSince = self.clock.seconds()
        self.setTimeout(self.limits.command_timeout)
        self.reply(Reply(220, None, self.greeting().decode("ascii")))
        self.flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        What was not answered stays the sender's.
        """
        super().connectionLost(reason)
        self._stopGreeting()
        self.auth.clientGone()
        self.tls.clientGone(reason)
        self.data.clientGone()
        self.name.clientGone()
        self.abort("the connection was lost", End.CLOSE)
        self.proxy.uncount()
        if self._isCounted:
            self.backend.connectionLimits.closed()
        self._tellEnd()
        self._ended(self)

    def _tellEnd(self) -> None:
        """
        What came of it.  A session without mail leaves this line, unless it has
        left another one; one in which the client has said nothing is a probe, and
        only counted.
        """
        isUntold = self.state.outcome == "none" and not self._isForeign
        maillog.sessionEnd(
            self.backend.status,
            self.state.client,
            self.settings.name,
            self.state.outcome,
            self.state.commands,
            self._lastRefusal,
            isUntold and bool(self.state.commands or self._lastRefusal),
        )

    def timeoutConnection(self) -> None:
        """
        The client was silent for too long (RFC 5321 §4.5.3.2), or too slow.
        """
        self.overLimit(self._limitOfTime())
        if not self._isGreeted or self.tls.isHandshaking:
            return self.cutOff()
        self._enough(R421_TIMEOUT, "timeout")

    def _limitOfTime(self) -> str:
        """
        Which limit a client has met for whom it is too late.
        """
        if not self._isGreeted or self.tls.isHandshaking:
            return "handshake_timeout"
        isSilent = self._silentUntil <= self.clock.seconds()
        if self.reader is not None:
            return "data_timeout" if isSilent else "data_rate"
        return "command_timeout" if isSilent else "idle_timeout"

    def shutdown(self) -> None:
        """
        The server stops.  A transaction that is under way may end; a client
        without one is told 421 at once.
        """
        self._shutdown = True
        if not self._isGreeted or self.tls.isHandshaking:
            self.cutOff()
        elif not self._busy and self.reader is None:
            self._leaveIfStopping()

    def _leaveIfStopping(self) -> None:
        if self._shutdown and not self.isClosing and self.state.isIdle:
            self.say(R421_SHUTDOWN)
            self.close()

    def shutdownNow(self) -> None:
        """
        Time is up.
        """
        if self.data.postData is not None:
            self.data.postData.giveUp(R451_SHUTDOWN)
        if not self.isClosing:
            self.abort("the server is stopping")
            self.say(R421_SHUTDOWN)
            self.close()

    # Lines.

    def lineTooLong(self) -> None:
        if self.auth.inExchange:
            self.auth.answerRefused(R500_AUTH_LINE_TOO_LONG)
        else:
            self.overLimit("command_line")
            self.reply(self.mail.refusedLine(self.commands.dropped, R500_LINE_TOO_LONG))

    def lineBroken(self) -> None:
        _log.info("{client} ends a line with LF alone", client=self.state.address)
        said = self._referring(R500_BARE_LF)
        self.abort(R500_BARE_LF.text)
        self.say(said)
        self.close()

    def binaryReceived(self) -> None:
        self._isForeign = True
        _log.tell(
            self.backend.status,
            "{client} speaks another protocol",
            event="other-protocol",
            client=self.state.address,
        )
        self._enough(R421_OTHER_PROTOCOL)

    def lineReceived(self, line: bytes) -> None:
        """
        One command, without its CRLF; or an answer to a challenge.
        """
        if not self.settings.strict:
            line = line.rstrip(b"\r")  # of programs that put one in front of each LF
        if self.auth.inExchange:
            return self.auth.answerReceived(line)
        command = parseLine(line)
        if command is None:
            return self.binaryReceived()
        if isinstance(command, Reply):
            return self.reply(self.mail.refusedLine(line, command))
        self._obey(line, *command)
        if self._shutdown:
            self._leaveIfStopping()

    def _obey(self, line: bytes, verb: str, rest: str) -> None:
        """
        Carry a command out, if it may come.
        """
        command = COMMANDS.get(verb)
        if command is None:
            return self.reply(R500_UNKNOWN_COMMAND)
        # BDAT says itself why it may not come: its octets follow.
        refusal = None if verb == "BDAT" else self.state.refusal(verb)
        if refusal is not None:
            return self.reply(self.mail.refusedLine(line, refusal))
        if verb not in _UNCOUNTED:
            self.state.commands += 1
            if self.state.commands > self.limits.commands:
                self.overLimit("commands")
                return self._enough(R421_TOO_MANY_COMMANDS)
        try:
            pending = command(self, rest)
        except PeerError as error:
            self.reply(self.mail.refusedLine(line, error.reply))
        else:
            if pending is not None and not self.isClosing:
                self.wait(pending)

    def _enough(self, reply: Reply, why: str = "") -> None:
        said = self._referring(reply)
        self.abort(why or reply.text)
        if self.state.commands:
            self._lastRefusal = reply
        self.say(said)
        self.close()

    def _referring(self, reply: Reply) -> Reply:
        """
        @return: what the client is told, with the id of its transaction.
        """
        transaction = self.state.transaction
        return reply if transaction is None else reply.referring(transaction.envelope.reference)

    # What the lower half asks.

    def refused(self, reply: Reply) -> None:
        """
        Count errors.
        """
        self._lastRefusal = reply
        if reply.isPermanent and not self.mail.isHonest():
            self._errors += 1
            if self._errors == self.limits.errors:
                self.overLimit("errors")
                self._enough(R421_TOO_MANY_ERRORS)

    def resumed(self) -> None:
        """
        The client may go on, unless the server is stopping.
        """
        self.setTimeout(self.limits.command_timeout)
        self._leaveIfStopping()

    def broken(self) -> None:
        """
        Forget the transaction.
        """
        self.abort("local error")

    def abort(self, why: str, by: End | None = None) -> None:
        self.mail.abort(why, self.data.drop(), by)

    def latest(self) -> float:
        """
        Without a transaction a client may not stay for ever, whatever it says; with
        data, it must get on.
        """
        due = self.data.due()
        if due is not None:
            return due
        if self.state.transaction is not None:
            return super().latest()
        return self.state.idleSince + self.limits.idle_timeout

    def wanted(self) -> int | None:
        return self.data.wanted()

    def maySettle(self, slots: Sequence[Slot]) -> bool:
        return self.mail.maySettle(slots)

    def decongested(self) -> None:
        self.data.decongested()


class SessionFactory(ServerFactory):
    """
    Makes sessions for one listener, and ends them when the server stops.
    """

    noisy = False

    def __init__(self, settings: ListenerSettings, backend: Backend, clock: IReactorTime) -> None:
        self.settings = settings
        self.backend = backend
        self._clock = clock
        self.sessions: set[Session] = set()
        self._empty: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> Session:
        """
        With the settings and the backend of this moment: a reload changes the
        settings of the next session, and the backend of the next transaction.
        """
        session = Session(self.settings, self.backend, self._clock, self._ended)
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
        for seconds, act in (
            (graceSeconds, self._timeIsUp),
            (graceSeconds + FAREWELL_SECONDS, self._cutOff),
        ):
            timer = self._clock.callLater(seconds, act)
            done.addBoth(_cancel, timer)
        return done

    def _timeIsUp(self) -> None:
        for session in list(self.sessions):
            session.shutdownNow()

    def _cutOff(self) -> None:
        for session in list(self.sessions):
            session.cutOff()


def _cancel(result: _T, timer: IDelayedCall) -> _T:
    if timer.active():
        timer.cancel()
    return result
