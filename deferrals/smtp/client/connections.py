"""
The connections to one server: made when they are needed, used again, and
closed when they are idle.

A connection is ready when the server has been introduced to, TLS is there as
far as it is wanted, and the user is authenticated.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IReactorThreads,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate
from twisted.internet.threads import deferToThreadPool

from deferrals.deferreds import CancelledError, Semaphore, TimeoutError, asDeferred, withDeadline
from deferrals.errors import HopError, PeerError
from deferrals.logger import Logger
from deferrals.model.outgoing import Hop, Login, Security
from deferrals.model.shortage import isOurs
from deferrals.operatorfiles import readSecret
from deferrals.smtp.client.auth import choose
from deferrals.smtp.client.session import ClientSession
from deferrals.threads import InThread
from deferrals.tls import Unverified, isTLS, trusted, verifying

_log = Logger(namespace="deferrals.hops")

#: How long a connection may take to come about, all addresses tried, in seconds.
CONNECT_SECONDS = 120.0

#: How long a server may take to say goodbye, in seconds.
GOODBYE_SECONDS = 5.0


class NoTLS(HopError):
    """
    There is no TLS with this server.
    """


@attrs.frozen
class Means:
    """
    What connections are made with.

    @ivar clock: timers.
    @ivar hello: the name to give.
    @ivar connect: makes a client endpoint of an endpoint string.
    @ivar inThread: runs what blocks.
    @ivar trace: is told each line of the dialogues; it may be missing.
    """

    clock: IReactorTime
    hello: str
    connect: Callable[[str], IStreamClientEndpoint]
    inThread: InThread
    trace: Callable[[str, str], None] | None = None


def threadsOf(reactor: IReactorTime) -> InThread:
    """
    What runs blocking work for a reactor: its threads; where it has none, the
    work is done at once.
    """
    if IReactorThreads.providedBy(reactor):
        return functools.partial(deferToThreadPool, reactor, reactor.getThreadPool())
    return asDeferred


class HopConnections:
    """
    The connections to one server.

    @param unused: called when there is no connection left, and no message that
        waits for one.
    @ivar hop: the server, and how to speak to it.
    """

    def __init__(self, hop: Hop, means: Means, unused: Callable[[], None]) -> None:
        self.hop = hop
        self._means = means
        self._unused = unused
        self._slots = Semaphore(hop.connections)
        self._idle: dict[ClientSession, IDelayedCall] = {}
        self._creator: IOpenSSLClientConnectionCreator | None = None
        self._closing = False

    def describe(self) -> dict[str, object]:
        """
        For the status.
        """
        return {
            "server": self.hop.name,
            "busy": self.hop.connections - self._slots.free,
            "idle": len(self._idle),
            "waiting": self._slots.waiting,
        }

    def close(self) -> list[Deferred[None]]:
        """
        Say goodbye on what is idle; what is in use is closed when it is given
        back.

        @return: a Deferred for each goodbye; none of them fails.
        """
        self._closing = True
        idle, self._idle = self._idle, {}
        for timer in idle.values():
            timer.cancel()
        return [self.end(session) for session in idle]

    def end(self, session: ClientSession) -> Deferred[None]:
        """
        Say goodbye, which is not waited for for long.

        @return: a Deferred that fires when the connection is closed.
        """
        d: Deferred[None] = withDeadline(self._means.clock, GOODBYE_SECONDS, session.quit)
        return d.addErrback(lambda failure: session.abort())

    def acquire(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when there may be one more connection;
            cancelling it gives up waiting.
        """
        return self._slots.acquire()

    def release(self) -> None:
        """
        The caller has no connection any longer.
        """
        self._slots.release()
        self._tidy()

    def _tidy(self) -> None:
        if not self._idle and self._slots.free == self.hop.connections:
            self._unused()

    async def take(self) -> tuple[ClientSession, bool]:
        """
        For callers that have L{acquire}d.

        @return: a session that is ready for a message, and whether it is a
            fresh one.
        @raise HopError: there is none to be had.
        """
        while self._idle:
            session, timer = self._idle.popitem()
            timer.cancel()
            if session.usable:
                return session, False
        try:
            return await self._open(self.hop.security), True
        except NoTLS as error:
            if self.hop.security != "opportunistic":
                raise
            _log.warn("{server}: {error}, so in clear", server=self.hop.name, error=str(error))
        return await self._open("none"), True

    def giveBack(self, session: ClientSession) -> None:
        """
        A session is not used any longer: keep it for a while, or end it.
        """
        if not session.usable:
            return
        if self._closing or self.isSpent(session):
            self.end(session)
            return
        self._idle[session] = self._means.clock.callLater(
            self.hop.idleSeconds, self._idleTooLong, session
        )

    def isSpent(self, session: ClientSession) -> bool:
        """
        Whether a session has had as many messages as it may have.
        """
        most = self.hop.messages
        return session.transactions >= min(most, session.limit("MAILMAX") or most)

    def _idleTooLong(self, session: ClientSession) -> None:
        del self._idle[session]
        self.end(session)
        self._tidy()

    def _dropped(self, session: ClientSession) -> None:
        """
        The connection is gone.
        """
        timer = self._idle.pop(session, None)
        if timer is not None:
            timer.cancel()
            self._tidy()

    def _named(self, problem: str) -> str:
        """
        What is wrong, behind the name of the server where it has one.
        """
        return f"{self.hop.name}: {problem}" if self.hop.name else problem

    async def _open(self, security: Security) -> ClientSession:
        hop = self.hop
        session = await self._connected()
        try:
            await session.open()
            if hop.notOurselves and session.serverName == self._means.hello.lower():
                raise HopError(self._named("the server calls itself as we do"), "4.4.6")
            await self._secure(session, security)
            if hop.login is not None:
                await self._authenticate(session, hop.login)
        except PeerError as error:
            session.abort()
            enhanced = "4.7.5" if session.distrusted else "4.4.2"
            raise HopError(self._named(str(error)), enhanced) from None
        except BaseException:
            session.abort()
            raise
        session.closed().addCallback(lambda _: self._dropped(session))
        return session

    async def _connected(self) -> ClientSession:
        """
        A connection on which nothing has been said.
        """
        hop, means = self.hop, self._means
        session = ClientSession(
            means.clock,
            means.hello,
            hop.lmtp,
            hop.forms,
            hop.timeouts,
            means.trace,
            hop.chunking,
        )
        factory = Factory.forProtocol(lambda: session)
        factory.noisy = False
        try:
            endpoint = means.connect(hop.endpoint)
            await withDeadline(means.clock, CONNECT_SECONDS, endpoint.connect, factory)
        except TimeoutError:
            raise HopError(self._named("no connection in time")) from None
        except CancelledError:
            raise
        except Exception as error:
            problem = self._named(f"no connection: {_words(error)}")
            raise HopError(problem, isOurs=isOurs(error)) from None
        return session

    async def _secure(self, session: ClientSession, security: Security) -> None:
        """
        TLS, as far as it is wanted and there.

        @raise NoTLS: it is wanted, and not there.
        """
        hop = self.hop
        if session.protected:  # the endpoint has seen to it
            session.verified = isTLS(hop.endpoint)
            if security == "verified" and not session.verified:
                problem = "an endpoint that does not verify the server"
                raise NoTLS(self._named(problem), "4.7.5")
            return
        if security == "none":
            return
        if "STARTTLS" not in session.capabilities:
            if security == "opportunistic":
                return
            raise NoTLS(self._named("STARTTLS is not offered"), "4.7.4")
        if self._creator is None:
            self._creator = await self._makeCreator()
        try:
            await session.secure(self._creator, security == "verified")
        except PeerError as error:
            if security == "opportunistic" and session.usable:
                return
            raise NoTLS(self._named(str(error)), "4.7.5") from None

    async def _makeCreator(self) -> IOpenSSLClientConnectionCreator:
        hop, inThread = self.hop, self._means.inThread
        if hop.security != "verified":
            return Unverified(hop.host)
        try:
            authorities = None if hop.ca is None else await inThread(_trusted, hop.ca)
            return await inThread(verifying, hop.host, authorities)
        except (OSError, ValueError) as error:
            raise HopError(self._named(_words(error)), "4.3.5") from None

    async def _authenticate(self, session: ClientSession, login: Login) -> None:
        inThread = self._means.inThread
        try:
            password = login.password
            if password is None:
                password = await inThread(readSecret, login.passwordFile or "")
            offered = session.capabilities.get("AUTH", [])
            nonce = secrets.token_urlsafe(24)
            mechanism = choose(offered, login.user, password, nonce, inThread)
        except (OSError, ValueError) as error:
            raise HopError(self._named(_words(error)), "4.7.0") from None
        if mechanism.revealsPassword and not session.isPrivate:
            raise HopError(self._named("a password is not sent in clear"), "4.7.11")
        await session.authenticate(mechanism)


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _trusted(path: str) -> list[Certificate]:
    return _trustedAt(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _trustedAt(path: str, changed: int) -> list[Certificate]:
    return trusted(path)
