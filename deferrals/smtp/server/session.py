"""
The server's side of an SMTP or LMTP session.

L{Session} puts the parts of L{deferrals.smtp.server.base} together, and has what is in
none of them: the connection's life, greetings, commands without a transaction.
Verbs are found as C{do_VERB} and C{ext_VERB}, EHLO lists C{extensions()}.

This module decides nothing about mail.  On an error of the client it sends the
reply that the rules of L{deferrals.model} name; on one of ours, a 4xx.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import LogLevel
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from deferrals.errors import PeerError
from deferrals.logger import Logger
from deferrals.model.listener import ListenerSettings
from deferrals.model.mixed import End
from deferrals.model.networks import LOCAL, normalAddress
from deferrals.model.reply import (
    R221_BYE,
    R250_OK,
    R252_VRFY,
    R421_NO_DESCRIPTOR,
    R421_OTHER_PROTOCOL,
    R421_SHUTDOWN,
    R421_TIMEOUT,
    R421_TOO_MANY_COMMANDS,
    R421_TOO_MANY_ERRORS,
    R451_SHUTDOWN,
    R500_AUTH_LINE_TOO_LONG,
    R500_BARE_LF,
    R500_UNKNOWN_COMMAND,
    R501_SYNTAX,
    R502_NOT_HERE,
    R554_EARLY_TALKER,
    Reply,
)
from deferrals.model.transaction import Phase
from deferrals.smtp.server.auth import Authentication
from deferrals.smtp.server.commandline import parseLine
from deferrals.smtp.server.connectionlimits import LIMITS
from deferrals.smtp.server.data import Contents
from deferrals.smtp.server.descriptors import closeNow, isScarce
from deferrals.smtp.server.proxy import XCLIENT, Introduction
from deferrals.smtp.server.settings import Backend
from deferrals.smtp.server.starttls import Encryption

_T = TypeVar("_T")

_log = Logger(namespace="deferrals.session")

_HELO = re.compile(r"[A-Za-z0-9\u0080-\U0010ffff_.:\[\]\-]+")

#: So much of a client's name is kept: more than DNS has.
_MAX_NAME = 255

#: How long clients may take to read that the server stops, once their time is
#: up, in seconds.
FAREWELL_SECONDS = 2.0

#: Commands that are limited by what they do, and so not by their number.
_UNCOUNTED = frozenset({"RCPT", "BDAT"})


class Session(Introduction, Authentication, Encryption, Contents):
    """
    One connection.

    @param settings: the listener's.
    @param backend: what stands behind it.
    @param clock: timers, and the time of day.
    @param ended: called with this session when its connection is lost.
    """

    _shutdown = False
    _isGreeted = False
    _accepted = False
    _greeter: IDelayedCall | None = None
    _commands = 0
    _errors = 0

    def __init__(
        self,
        settings: ListenerSettings,
        backend: Backend,
        clock: IReactorTime,
        ended: Callable[[Session], None] = lambda session: None,
    ) -> None:
        super().__init__(settings, backend, clock)
        self._ended = ended

    def latestBackend(self) -> Backend:
        """
        See L{SessionBase.latestBackend}: a transaction ends with the stages
        that it began with, and the next one meets others.
        """
        return self.factory.backend if isinstance(self.factory, SessionFactory) else self._backend

    # The connection: accepted, introduced, encrypted, greeted.

    def connectionMade(self) -> None:
        """
        A client has connected.
        """
        self._idleSince = self._clock.seconds()
        peer = self.transport.getPeer()
        address = getattr(peer, "host", LOCAL)
        self.state.address = normalAddress(address) if ":" in address else address
        self.state.port = getattr(peer, "port", 0)
        self.connection = self.other = self.state.address
        super().connectionMade()
        socket: ITransport = self.transport
        if isinstance(socket, TLSMemoryBIOProtocol):
            socket = ITransport(socket.transport)
        if isScarce(socket):
            return self._noDescriptor()
        self._accepted = True
        refusal = self._backend.connectionLimits.opened()
        if refusal is not None:
            self._turnAway(refusal)
        elif self._settings.proxied:
            self.awaitHeader()
        else:
            self.introduced(b"")

    def introduced(self, rest: bytes) -> bytes:
        refusal = self.count()
        if refusal is None:
            self.lookUpName()
        self.state.identify()
        if refusal is not None:
            self._turnAway(refusal)
        elif self._settings.security == "implicit":
            self.encrypt()
            self._decrypt(rest)
            return b""
        elif self.isEncryptedOutside:
            self.awaitHandshake()
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

    def encrypted(self) -> None:
        if not self._isGreeted:
            self._welcome()

    def _noDescriptor(self) -> None:
        """
        The process has hardly a file descriptor left.
        """
        refusal = R421_NO_DESCRIPTOR
        self._sendAway(refusal)
        if self.isEncryptedOutside:
            return self.cutOff()
        farewell = b"" if self._beginsWithTLS else str(refusal).encode("ascii") + b"\r\n"
        closeNow(self.transport, farewell)

    def _sendAway(self, refusal: Reply) -> None:
        self._outcome = "turned_away"
        _log.tell(
            self._backend.status,
            "{client} turned away: {reply}",
            event="turned-away",
            client=self.state.address,
            reply=str(refusal),
            limit=LIMITS.get(refusal, ""),
        )

    @property
    def _beginsWithTLS(self) -> bool:
        return self._settings.security == "implicit" or self.isEncryptedOutside

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
        if not self._settings.greet_delay:
            return self._greet()
        self._reader = self._talksEarly
        self.setTimeout(None)
        self._greeter = self._clock.callLater(self._settings.greet_delay, self._greet)

    def _talksEarly(self, octets: bytes) -> bytes:
        self._outcome = "early_talker"
        _log.tell(
            self._backend.status,
            "{client} talks before the greeting",
            event="early-talker",
            client=self.state.address,
        )
        self._stopGreeter()
        self.say(R554_EARLY_TALKER)
        self.close()
        return b""

    def _stopGreeter(self) -> None:
        greeter, self._greeter = self._greeter, None
        if greeter is not None:
            greeter.cancel()

    def _greet(self) -> None:
        self._greeter = self._reader = None
        self._isGreeted = True
        self._idleSince = self._clock.seconds()
        self.setTimeout(self._limits.command_timeout)
        self.reply(Reply(220, None, self.greeting().decode("ascii")))
        self.flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        What was not answered stays the sender's.
        """
        super().connectionLost(reason)
        self._stopGreeter()
        self.exchangeLost()
        self.handshakeLost(reason)
        if self._postData is not None:
            self._postData.clientGone()
            self._postData = None
        self.nameUnwanted()
        self.abort("the connection was lost", End.CLOSE)
        if self._accepted:
            self.uncount()
            self._backend.connectionLimits.closed()
        self._tellEnd()
        self._ended(self)

    def _tellEnd(self) -> None:
        """
        For those who debug; what matters of it has a line of its own.
        """
        _log.tell(
            self._backend.status,
            "{client} has gone from {listener}: {outcome}",
            event="session",
            level=LogLevel.debug,
            client=self.state.address,
            listener=self._settings.name,
            outcome=self._outcome,
        )

    def timeoutConnection(self) -> None:
        """
        The client was silent for too long (RFC 5321 §4.5.3.2), or too slow.
        """
        self.overLimit(self._limitOfTime())
        if not self._isGreeted or self._handshaking:
            return self.cutOff()
        self.abort("timeout")
        self.say(R421_TIMEOUT)
        self.close()

    def _limitOfTime(self) -> str:
        """
        Which limit a client has met for whom it is too late.
        """
        if not self._isGreeted or self._handshaking:
            return "handshake_timeout"
        isSilent = self._silentUntil <= self._clock.seconds()
        if self._reader is not None:
            return "data_timeout" if isSilent else "data_rate"
        return "command_timeout" if isSilent else "idle_timeout"

    def shutdown(self) -> None:
        """
        The server stops.  A transaction that is under way may end; a client
        without one is told 421 at once.
        """
        self._shutdown = True
        if not self._isGreeted or self._handshaking:
            self.cutOff()
        elif not self._busy and self._reader is None:
            self._leaveIfStopping()

    def _leaveIfStopping(self) -> None:
        if self._shutdown and not self._closing and self.state.isIdle:
            self.say(R421_SHUTDOWN)
            self.close()

    def shutdownNow(self) -> None:
        """
        Time is up.
        """
        if self._postData is not None:
            self._postData.giveUp(R451_SHUTDOWN)
        if not self._closing:
            self.abort("the server is stopping")
            self.say(R421_SHUTDOWN)
            self.close()

    # Lines.

    def lineTooLong(self) -> None:
        if self.inExchange:
            self.answerRefused(R500_AUTH_LINE_TOO_LONG)
        else:
            self.overLimit("command_line")
            super().lineTooLong()

    def lineBroken(self) -> None:
        _log.info("{client} ends a line with LF alone", client=self.state.address)
        self.abort(R500_BARE_LF.text)
        super().lineBroken()

    def binaryReceived(self) -> None:
        _log.tell(
            self._backend.status,
            "{client} speaks another protocol",
            event="other-protocol",
            client=self.state.address,
        )
        self._enough(R421_OTHER_PROTOCOL)

    def lineReceived(self, line: bytes) -> None:
        """
        One command, without its CRLF; or an answer to a challenge.
        """
        if not self._settings.strict:
            line = line.rstrip(b"\r")  # of programs that put one in front of each LF
        if self.inExchange:
            return self.answerReceived(line)
        command = parseLine(line)
        if command is None:
            return self.binaryReceived()
        if isinstance(command, Reply):
            return self.reply(command)
        self._obey(*command)
        if self._shutdown:
            self._leaveIfStopping()

    def _obey(self, verb: str, rest: str) -> None:
        """
        Carry a command out, if it may come.
        """
        method: Callable[[str], Deferred[None] | None] | None
        method = getattr(self, f"do_{verb}", None) or getattr(self, f"ext_{verb}", None)
        if method is None:
            return self.reply(R500_UNKNOWN_COMMAND)
        # BDAT says itself why it may not come: its octets follow.
        refusal = None if verb == "BDAT" else self.state.refusal(verb)
        if refusal is not None:
            return self.reply(refusal)
        if verb not in _UNCOUNTED:
            self._commands += 1
            if self._commands > self._limits.commands:
                self.overLimit("commands")
                return self._enough(R421_TOO_MANY_COMMANDS)
        try:
            pending = method(rest)
        except PeerError as error:
            self.reply(error.reply)
        else:
            if pending is not None and not self._closing:
                self.wait(pending)

    def _enough(self, reply: Reply) -> None:
        self.abort(reply.text)
        self.say(reply)
        self.close()

    # What the lower half asks.

    def answered(self, reply: Reply) -> None:
        """
        Count errors.
        """
        if reply.isPermanent and not self.isHonest():
            self._errors += 1
            if self._errors == self._limits.errors:
                self.overLimit("errors")
                self._enough(R421_TOO_MANY_ERRORS)

    def resumed(self) -> None:
        """
        The client may go on, unless the server is stopping.
        """
        self.setTimeout(self._limits.command_timeout)
        self._leaveIfStopping()

    def broken(self) -> None:
        """
        Forget the transaction.
        """
        self.abort("local error")

    # Greetings.

    def extensions(self) -> dict[bytes, list[bytes] | None]:
        """
        What EHLO and LHLO list (D-1, P-1, with what they require: D-2, P-2).
        """
        limits = self._limits
        found: dict[bytes, list[bytes] | None] = {
            b"PIPELINING": None,  # D-2, P-2
            b"SIZE": [b"%d" % limits.message_size],
            b"8BITMIME": None,
            b"ENHANCEDSTATUSCODES": None,  # D-2, P-2
            b"SMTPUTF8": None,
            b"DSN": None,
            b"CHUNKING": None,
        }
        if self._backend.binary:
            found[b"BINARYMIME"] = None
        # RFC 9422; what holds in every transaction (P-13).
        recipients = min(limits.recipients, limits.extension_recipients)
        found[b"LIMITS"] = [b"RCPTMAX=%d" % recipients, b"MAILMAX=%d" % limits.transactions]
        if not self.state.isLMTP:
            found[b"PRDR"] = None  # P-1
            found[b"DEFERRALS"] = None  # D-1
            if self.state.client.address in self._settings.exdataNetworks:
                found[b"XEXDATA"] = None
        found.update(self._situation())
        for keyword in self._settings.withhold:
            found.pop(keyword.encode("ascii"), None)
        if b"CHUNKING" not in found:
            found.pop(b"BINARYMIME", None)  # RFC 3030 §3
        return found

    def _situation(self) -> dict[bytes, list[bytes] | None]:
        """
        What is offered now, and perhaps not in another moment.
        """
        found: dict[bytes, list[bytes] | None] = {}
        if self.offersTLS:
            found[b"STARTTLS"] = None
        if self.state.tls is not None:
            found[b"REQUIRETLS"] = None  # RFC 8689 §2
        mechanisms = self.mechanisms()
        if mechanisms:
            found[b"AUTH"] = [name.encode("ascii") for name in mechanisms]
        if self.offersXCLIENT:
            found[b"XCLIENT"] = [name.encode("ascii") for name in XCLIENT]
        return found

    def _hear(self, name: str, isExtended: bool) -> None:
        if not _HELO.fullmatch(name):
            raise PeerError("bad name", attrs.evolve(R501_SYNTAX, text="say your host's name"))
        self.abort("a new greeting", End.RSET)
        self.state.hello, self.state.isExtended = name[:_MAX_NAME], isExtended
        self.greeted()
        self.state.identify()
        extensions = self.extensions() if isExtended else ()
        self.state.offered = frozenset(keyword.decode("ascii") for keyword in extensions)
        self.state.phase = Phase.READY

    def do_HELO(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.1.
        """
        if self.state.isLMTP:
            return self.reply(R500_UNKNOWN_COMMAND)
        self._hear(rest, False)
        self.reply(Reply(250, None, self._settings.hostname))

    def do_EHLO(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.1.
        """
        if self.state.isLMTP:
            return self.reply(R500_UNKNOWN_COMMAND)
        self._introduce(rest)

    def do_LHLO(self, rest: str) -> None:
        """
        RFC 2033 §4.1.
        """
        if not self.state.isLMTP:
            return self.reply(R500_UNKNOWN_COMMAND)
        self._introduce(rest)

    def _introduce(self, name: str) -> None:
        self._hear(name, True)
        found = self.extensions().items()
        lines = [b" ".join([keyword, *(values or ())]).decode("ascii") for keyword, values in found]
        self.reply(Reply(250, None, "\n".join([self._settings.hostname, *lines])))

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

    def do_UNKNOWN(self, rest: str) -> None:
        """
        The base class's name for every other command: not a command itself.
        """
        self.reply(R500_UNKNOWN_COMMAND)

    def do_VRFY(self, rest: str) -> None:
        """
        RFC 5321 §3.5.3: a sender learns at RCPT TO whether a recipient is here.
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
        self.abort("RSET", End.RSET)
        self.reply(R250_OK)

    def do_QUIT(self, rest: str) -> None:
        """
        RFC 5321 §4.1.1.10.
        """
        if rest:
            raise PeerError("an argument", R501_SYNTAX)
        self.abort("QUIT", End.QUIT)
        self.say(R221_BYE)
        self.close()


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
