"""
One connection to an SMTP or LMTP server: commands and replies, how it begins (EHLO,
STARTTLS, AUTH) and ends.  What is said about messages is in
L{deferrals.smtp.client.session}.

Every wait has a deadline.  A server that breaks the protocol, says something unasked,
or is late, loses the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IConsumer,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IReactorTime,
    ISSLTransport,
    ISystemHandle,
    ITLSTransport,
    IUNIXTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.deferreds import TimeoutError, withDeadline
from deferrals.errors import PeerError
from deferrals.model.commands import checkLine, checkName
from deferrals.model.outgoing import Timeouts
from deferrals.model.reply import Reply, kept
from deferrals.model.sending import number
from deferrals.smtp.client.auth import Mechanism
from deferrals.smtp.client.replies import MAX_DIALOGUE_OCTETS, ReplyParser
from deferrals.smtp.nodelay import sendAtOnce
from deferrals.tls import WrongServer

#: Why a connection is given up that is not needed.
UNWANTED = "not waited for any longer"

#: A reply that is not waited for yet counts for so many octets at least.
_REPLY_OCTETS = 512


class IConnection(ITLSTransport, IConsumer, ISystemHandle):
    """
    What a session needs of its transport.
    """


@implementer(IHandshakeListener)
class Conversation(Protocol):
    """
    What is said over one connection.

    @param clock: timers.
    @param hello: the name to give with EHLO or LHLO.
    @param lmtp: whether the server speaks LMTP.
    @param trace: called with C{"C"} or C{"S"} and each line of the dialogue,
        the message and what is secret excepted.
    @raise ValueError: the name is none.
    @ivar capabilities: what EHLO or LHLO listed, by keyword.
    @ivar serverName: what the server calls itself.
    @ivar protected: whether the connection is encrypted.
    @ivar verified: whether, besides, the server is known to be the right one.
    @ivar distrusted: whether the connection was lost for want of TLS with the
        right server.
    @ivar without: keywords of what the server offers and is not to be used: it does
        not work there.
    """

    transport: IConnection  # from connectionMade on; nothing here is called before

    def __init__(
        self,
        clock: IReactorTime,
        hello: str,
        lmtp: bool,
        timeouts: Timeouts,
        trace: Callable[[str, str], None] | None,
    ) -> None:
        checkName(hello)
        self._clock = clock
        self._hello = hello
        self._lmtp = lmtp
        self._timeouts = timeouts
        self._trace = trace or (lambda side, line: None)
        self._parser = ReplyParser()
        self._replies: deque[Reply] = deque()
        self._ahead = 0
        self._waiter: Deferred[Reply] | None = None
        self._handshake: Deferred[None] | None = None
        self._lost: PeerError | None = None
        self._closed = False
        self._busy = True
        self._gone: list[Deferred[None]] = []
        self.capabilities: dict[str, list[str]] = {}
        self.serverName = ""
        self.protected = self.verified = self.distrusted = False
        self.without: frozenset[str] = frozenset()

    # Connection and replies.

    def connectionMade(self) -> None:
        """
        What is written goes out at once: it is written in whole pieces.
        """
        sendAtOnce(self.transport)
        self.protected = ISSLTransport.providedBy(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """
        Replies from the server.  All that came together are there before the
        first one is heard: what is too much is seen when that is answered.
        """
        if data and not self._busy:
            # What comes now would be taken for an answer to the next command.
            self._unasked()
            return
        parser = self._parser
        before = len(parser.unfinished)
        found = parser.feed(data)
        if len(parser.unfinished) > before:
            self._grew()
        for reply, lines in found:
            for line in lines:
                self._trace("S", line)
            self._came(reply)
        if self._waiter is not None and self._replies:
            waiter, self._waiter = self._waiter, None
            waiter.callback(self._taken())
        if self._parser is not parser:
            return  # sent in clear, behind the reply to STARTTLS
        if parser.error is not None:
            self._broken(parser.error)
        elif self._ahead > MAX_DIALOGUE_OCTETS:
            self._broken(PeerError("replies that were not asked for"))

    def _came(self, reply: Reply) -> None:
        """
        One more reply is there.
        """
        if reply.code == 421 and self._lost is None:
            # RFC 5321 §3.8: a server that says so closes the connection.
            self._lost = PeerError(f"the server closes: {kept(reply)}")
            self.transport.abortConnection()
        self._replies.append(reply)
        self._ahead += max(_REPLY_OCTETS, len(reply.text))

    def _grew(self) -> None:
        """
        There is one more line of a reply that has not come to its end.
        """

    def _taken(self) -> Reply:
        """
        The first of the replies that have come.
        """
        reply = self._replies.popleft()
        self._ahead -= max(_REPLY_OCTETS, len(reply.text))
        return reply

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        What waits for a reply fails.
        """
        self._closed = True
        self.distrusted = bool(reason.check(WrongServer, SSL.Error))
        if self._lost is None:
            what = "TLS" if self._handshake is not None else "connection lost"
            self._lost = PeerError(f"{what}: {_reason(reason)}")
        self._wake()
        gone, self._gone = self._gone, []
        for waiter in gone:
            waiter.callback(None)

    def closed(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when the connection is gone; at most one
            message may be under way before it does.
        """
        d: Deferred[None] = Deferred()
        if self._closed:
            d.callback(None)
        else:
            self._gone.append(d)
        return d

    def abort(self) -> None:
        """
        End the connection at once.
        """
        self._broken(PeerError(UNWANTED))

    def _broken(self, reason: PeerError) -> None:
        """
        The connection cannot be used any longer.
        """
        if self._lost is None:
            self._lost = reason
        self.transport.abortConnection()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        handshake, self._handshake = self._handshake, None
        for one in (waiter, handshake):
            if one is not None and self._lost is not None:
                one.errback(self._lost)

    @property
    def usable(self) -> bool:
        """
        Whether another message can be sent.
        """
        return self._lost is None

    @property
    def lost(self) -> str:
        """
        Why the connection was given up; empty, where it was not.
        """
        return "" if self._lost is None else str(self._lost)

    @property
    def isPrivate(self) -> bool:
        """
        Whether no one on the way can read what is sent: it is encrypted, or
        does not leave this machine.
        """
        if self.protected or IUNIXTransport.providedBy(self.transport):
            return True
        peer = self.transport.getPeer()
        return (
            isinstance(peer, IPv4Address | IPv6Address)
            and ip_address(peer.host.partition("%")[0]).is_loopback
        )

    def limit(self, name: str) -> int | None:
        """
        What the server has announced with LIMITS (RFC 9422): C{RCPTMAX},
        C{MAILMAX}, C{RCPTDOMAINMAX}.
        """
        return number(self.capabilities, "LIMITS", name)

    @property
    def offered(self) -> dict[str, list[str]]:
        """
        What the server offers and can be used.
        """
        if not self.without:
            return self.capabilities
        return {word: more for word, more in self.capabilities.items() if word not in self.without}

    async def _expect(self, seconds: float) -> Reply:
        """
        The next reply, as far as it is kept.
        """
        return kept(await self._whole(seconds))

    def _whole(self, seconds: float) -> Deferred[Reply]:
        """
        The next reply, with all that it says.

        @return: a Deferred that fails with L{PeerError} when there is none in
            time; then the connection is given up, and also where it is
            cancelled.
        """
        return withDeadline(self._clock, seconds, self._next).addErrback(self._late)

    def _next(self) -> Deferred[Reply]:
        """
        The next reply, however long it takes.
        """
        if self._replies:
            return succeed(self._taken())
        if self._lost is not None:
            return fail(self._lost)
        self._waiter = Deferred(self._unwanted)
        return self._waiter

    def _unwanted(self, waiter: Deferred[Reply] | Deferred[None]) -> None:
        """
        The reply, or the handshake, is not waited for any longer.
        """
        self._waiter = self._handshake = None
        self.abort()

    def _late(self, failure: Failure) -> Failure:
        if not failure.check(TimeoutError):
            return failure
        self._lost = PeerError("no reply in time")
        return Failure(self._lost)

    @property
    def _hasUnasked(self) -> bool:
        """
        Whether something has come that is no answer, once all answers have been heard.
        """
        return self._lost is None and bool(self._replies or self._parser.partial)

    def _command(self, line: str, shown: str | None = None) -> None:
        """
        @raise PeerError: what is there already would be taken for the answer.
        """
        if self._hasUnasked:
            raise self._unasked()
        checkLine(line)
        self._trace("C", line if shown is None else shown)
        self.transport.write(line.encode("utf-8") + b"\r\n")

    def _commands(self, commands: Sequence[str]) -> None:
        """
        All of them in one piece (RFC 2920).

        @raise PeerError: as L{_command}.
        """
        if self._hasUnasked:
            raise self._unasked()
        for command in commands:
            checkLine(command)
            self._trace("C", command)
        self.transport.write("".join(f"{c}\r\n" for c in commands).encode("utf-8"))

    def _settle(self) -> None:
        """
        A transaction is over: there is nothing more to hear.
        """
        self._busy = False
        if self._hasUnasked:
            self._unasked()

    def _unasked(self) -> PeerError:
        """
        The connection is not used any longer.
        """
        reason = PeerError("the server said something unasked")
        self._broken(reason)
        self._replies.clear()
        self._ahead = 0
        return reason

    # Opening and closing.

    async def open(self) -> None:
        """
        Read the greeting, and say EHLO.

        @raise PeerError: the server does not want us.
        """
        reply = await self._expect(self._timeouts.command)
        if reply.code != 220:
            raise self._refused("greeting", reply)
        await self._introduce()
        self._settle()

    async def _introduce(self) -> None:
        self.capabilities = {}
        self._command(f"{'LHLO' if self._lmtp else 'EHLO'} {self._hello}")
        reply = await self._whole(self._timeouts.command)
        if reply.isPermanent and not self._lmtp:
            self._command(f"HELO {self._hello}")
            reply = await self._whole(self._timeouts.command)
        elif reply.isPositive:
            for line in reply.text.split("\n")[1:]:
                keyword, *words = line.split() or [""]
                self.capabilities[keyword.upper()] = words
        if not reply.isPositive:
            raise self._refused("EHLO", reply)
        self.serverName = reply.text.partition("\n")[0].partition(" ")[0].lower()

    def _refused(self, what: str, reply: Reply) -> PeerError:
        self.transport.loseConnection()
        self._lost = PeerError(f"{what} was answered {kept(reply)}", kept(reply))
        return self._lost

    async def secure(self, creator: IOpenSSLClientConnectionCreator, verifies: bool) -> None:
        """
        STARTTLS (RFC 3207).  What the server has sent behind its reply, in
        clear, is thrown away: it may be an attacker's.

        @param creator: C{IOpenSSLClientConnectionCreator}.
        @param verifies: whether it refuses a server that is not the right one.
        @raise PeerError: there is no TLS.  It has the server's reply where the
            server has refused, and can be spoken to in clear; otherwise the
            connection is lost.
        """
        self._busy = True
        self._command("STARTTLS")
        reply = await self._expect(self._timeouts.command)
        if reply.code != 220:
            self._settle()
            raise PeerError(f"STARTTLS was answered {reply}", reply)
        self._parser = ReplyParser()
        self._replies.clear()
        self._ahead = 0
        handshake: Deferred[None] = Deferred(self._unwanted)
        self._handshake = handshake
        self.transport.startTLS(creator)
        d = withDeadline(self._clock, self._timeouts.command, lambda: handshake)
        await d.addErrback(self._late)
        self.protected, self.verified = True, verifies
        await self._introduce()
        self._settle()

    def handshakeCompleted(self) -> None:
        """
        The connection is protected.
        """
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.callback(None)

    async def authenticate(self, mechanism: Mechanism) -> None:
        """
        AUTH (RFC 4954).

        @raise PeerError: the server does not believe us, or cannot be believed.
        """
        self._busy = True
        try:
            self._command(f"AUTH {mechanism.start()}", f"AUTH {mechanism.name} ...")
            reply = await self._whole(self._timeouts.command)
            while reply.code == 334:
                self._command(await mechanism.respond(reply.text), "...")
                reply = await self._whole(self._timeouts.command)
            if not reply.isPositive:
                raise self._refused("AUTH", reply)
            mechanism.finish()
        except ValueError as error:
            reason = PeerError(f"AUTH {mechanism.name}: {error}")
            self._broken(reason)
            raise reason from None
        self._settle()

    async def quit(self) -> None:
        """
        End the session politely, and wait until the connection is closed.  It
        never fails.
        """
        self._busy = True
        if self._lost is None:
            gone = self.closed()
            try:
                self._command("QUIT")
                await self._expect(self._timeouts.command)
            except PeerError:
                return
            self.transport.loseConnection()
            await gone


def _reason(reason: Failure) -> str:
    """
    Why a connection was lost, in a line.
    """
    words = reason.getErrorMessage()
    errors = getattr(reason.value, "args", ())
    if errors and isinstance(errors[0], list):  # OpenSSL's: (library, function, reason)
        words = "; ".join(str(one[-1]) for one in errors[0] if one)
    return " ".join(words.split())[:200]
