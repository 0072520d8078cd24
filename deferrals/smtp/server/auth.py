"""
AUTH (RFC 4954): PLAIN, LOGIN and SCRAM-SHA-256.

Whether a password is right is for the
L{Authenticator<deferrals.auth.authenticator.Authenticator>} to say.
Here is what is on the wire, and what a wrong password costs besides: time, doubled
with each further one from the same address, and after a few the connection.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.cred.credentials import ICredentials, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.deferreds import errorText, withDeadline
from deferrals.errors import PeerError, TooManyFailures
from deferrals.interfaces import IAuthenticator, IScramCredentials
from deferrals.logger import Logger
from deferrals.model.reply import (
    R235_AUTHENTICATED,
    R421_AUTH_FAILURES,
    R454_AUTH_NOT_NOW,
    R454_TOO_MANY_FAILURES,
    R501_AUTH_CANCELLED,
    R501_AUTH_SYNTAX,
    R501_SYNTAX,
    R502_NOT_HERE,
    R503_AUTHENTICATED,
    R504_NO_MECHANISM,
    R535_AUTH_FAILED,
    R538_NEEDS_TLS,
    Reply,
)
from deferrals.model.sasl import (
    SASLCredentials,
    SaslError,
    ScramExchange,
    ScramKeys,
    decode,
    parsePlain,
    signature,
)
from deferrals.smtp.server.base import SessionBase
from deferrals.smtp.server.commandreader import LineForm

_T = TypeVar("_T")
_A = TypeVar("_A")

#: One mechanism: takes the initial response, returns the user's name.
_Mechanism = Callable[[bytes | None], Awaitable[str]]

_log = Logger(namespace="deferrals.session")

#: RFC 4954 §4: the longest line of an exchange, without its CRLF.
MAX_AUTH_LINE_OCTETS = 12288

#: A client's answer within an exchange.
_ANSWER = LineForm(MAX_AUTH_LINE_OCTETS + 2, isText=False)


@implementer(IScramCredentials)
class ScramProof:
    """
    The proof that a client has sent.
    """

    def __init__(self, user: str, message: bytes, proof: bytes) -> None:
        self.username = user.encode("utf-8")
        self._message = message
        self._proof = proof

    def check(self, keys: ScramKeys) -> bool:
        return keys.prove(self._message, self._proof)


class AuthCommands:
    """
    See the module.

    @param session: whose client authenticates.
    """

    __slots__ = ("_awaited", "_exchange", "_failures", "_holding", "_session", "_state")

    def __init__(self, session: SessionBase) -> None:
        self._session = session
        self._state = session.state
        self._exchange: Deferred[None] | None = None
        self._awaited: Deferred[bytes] | None = None
        self._holding = False
        self._failures = 0

    def mechanisms(self) -> list[str]:
        """
        What can be used to authenticate now.
        """
        authenticator = self._session.backend.authenticator
        if authenticator is None or self._session.settings.authentication == "no":
            return []
        if self._state.tls is None and not self._session.settings.auth_without_tls:
            return []
        return list(authenticator.mechanisms)

    @property
    def inExchange(self) -> bool:
        """
        Whether the next line is the client's next answer.
        """
        return self._awaited is not None

    def do_AUTH(self, rest: str) -> None:
        """
        RFC 4954 §4.
        """
        word, blank, initial = rest.partition(" ")
        if not word:
            raise PeerError("no mechanism", R501_SYNTAX)
        if self._state.user is not None:
            raise PeerError("twice", R503_AUTHENTICATED)
        offered = self.mechanisms()
        if word.upper() not in offered:
            raise PeerError("not offered", self._notOffered())
        try:
            start = _initial(initial) if blank else None
        except SaslError:
            raise PeerError("not base 64", R501_AUTH_SYNTAX) from None
        mechanism = word.upper()
        exchange = Deferred.fromCoroutine(self._authenticate(mechanism, start))
        exchange.addErrback(self._brokenExchange, mechanism)
        self._exchange = exchange
        exchange.addCallback(lambda _: self._exchanged())

    def _notOffered(self) -> Reply:
        if (
            self._session.backend.authenticator is None
            or self._session.settings.authentication == "no"
        ):
            return R502_NOT_HERE
        if self._state.tls is None and not self._session.settings.auth_without_tls:
            return R538_NEEDS_TLS
        return R504_NO_MECHANISM

    async def _authenticate(self, mechanism: str, start: bytes | None) -> None:
        """
        One exchange, to its reply.
        """
        method: _Mechanism = getattr(self, f"_auth_{mechanism.replace('-', '_')}")
        try:
            self._state.user = await method(start)
        except PeerError as error:
            self._session.reply(error.reply)
        except SaslError:
            self._session.reply(R501_AUTH_SYNTAX)
        except UnauthorizedLogin as error:
            self._report(mechanism, "failed", str(error))
            await self._unauthorized()
        except TooManyFailures as error:
            self._report(mechanism, "not tried", str(error), error.limit)
            self._session.reply(R454_TOO_MANY_FAILURES)
            self._countFailure()
        else:
            self._report(mechanism, "accepted", self._state.user or "")
            self._state.identify()
            self._session.reply(R235_AUTHENTICATED)

    def _report(self, mechanism: str, outcome: str, user: str, limit: str = "") -> None:
        _log.tell(
            self._session.backend.status,
            "{client} authentication {outcome} for {user} by {mechanism}",
            event="authentication",
            client=self._state.address,
            outcome=outcome,
            user=user[:100],
            mechanism=mechanism,
            limit=limit,
        )

    async def _unauthorized(self) -> None:
        """
        Wrong.  It takes a while to say so.
        """
        seconds = self._session.backend.connectionLimits.failed(
            self._state.address, self._session.clock.seconds()
        )
        self._holdOn()
        await deferLater(self._session.clock, seconds)
        self._session.reply(R535_AUTH_FAILED)
        self._countFailure()

    def _countFailure(self) -> None:
        self._failures += 1
        if self._failures >= self._session.limits.auth_failures:
            self._session.overLimit("auth_failures")
            self._session.say(R421_AUTH_FAILURES)
            self._session.close()

    def _brokenExchange(self, failure: Failure, mechanism: str) -> None:
        """
        It is ours, not the client's, unless the client has gone.
        """
        if self._session.isLost:
            failure.trap(CancelledError)
            return
        _log.tell(
            self._session.backend.status,
            "{client}: cannot authenticate: {error}",
            event="authentication",
            level=LogLevel.error,
            client=self._state.address,
            outcome="not possible",
            user="",
            mechanism=mechanism,
            limit="",
            error=errorText(failure),
        )
        self._session.reply(R454_AUTH_NOT_NOW)

    def _exchanged(self) -> None:
        self._exchange = None
        self._letGo()

    # Mechanisms: each returns the user's name.

    async def _auth_PLAIN(self, start: bytes | None) -> str:
        if start is None:
            start = await self._ask(b"")
        return await self._check(parsePlain(start))

    async def _auth_LOGIN(self, start: bytes | None) -> str:
        if start is None:
            start = await self._ask(b"Username:")
        password = await self._ask(b"Password:")
        return await self._check(parsePlain(b"\0" + start + b"\0" + password))

    async def _auth_SCRAM_SHA_256(self, start: bytes | None) -> str:
        if start is None:
            start = await self._ask(b"")
        exchange = ScramExchange(start)
        _ownName(exchange.authorization, exchange.user)
        keys = await self._hold(self._authenticator.scramKeys, exchange.user.encode("utf-8"))
        final = await self._ask(exchange.challenge(keys, secrets.token_urlsafe(18)))
        message, proof = exchange.proof(final)
        credentials = ScramProof(exchange.user, message, proof)
        user = await self._login(credentials, exchange.user)
        empty = await self._ask(signature(keys, message))
        if empty:
            raise SaslError("nothing more to be said")
        return user

    @property
    def _authenticator(self) -> IAuthenticator:
        assert self._session.backend.authenticator is not None  # a mechanism was offered
        return self._session.backend.authenticator

    async def _check(self, login: SASLCredentials) -> str:
        _ownName(login.authorization, login.user)
        name, password = login.user.encode("utf-8"), login.password.encode("utf-8")
        return await self._login(UsernamePassword(name, password), login.user)

    async def _login(self, credentials: ICredentials, name: str) -> str:
        try:
            return await self._hold(self._try, credentials)
        except UnauthorizedLogin:
            raise UnauthorizedLogin(name) from None
        except TooManyFailures as error:
            raise TooManyFailures(name, error.limit) from None

    def _try(self, credentials: ICredentials) -> Deferred[str]:
        return self._authenticator.login(credentials, self._state.address)

    # Waiting: for the client, and for the authenticator.

    def _ask(self, challenge: bytes) -> Deferred[bytes]:
        """
        @return: a Deferred of what the client says to this.
        """
        self._session.reply(Reply(334, None, base64.b64encode(challenge).decode("ascii")))
        answer: Deferred[bytes] = Deferred()
        self._awaited = answer
        self._session.commands.form = _ANSWER
        self._letGo()
        return answer

    def _takeAwaited(self) -> Deferred[bytes]:
        answer, self._awaited = self._awaited, None
        self._session.commands.form = self._session.commandForm
        assert answer is not None
        self._holdOn()
        return answer

    def answerRefused(self, reply: Reply) -> None:
        """
        The client's next line within the exchange is no line, and ends it.
        """
        self._takeAwaited().errback(PeerError(reply.text, reply))

    def answerReceived(self, line: bytes) -> None:
        """
        The client's next line within the exchange, without its CRLF.
        """
        answer = self._takeAwaited()
        if line == b"*":
            return answer.errback(PeerError("cancelled", R501_AUTH_CANCELLED))
        try:
            said = decode(line)
        except SaslError as error:
            answer.errback(error)
        else:
            answer.callback(said)

    def _hold(self, function: Callable[[_A], Deferred[_T]], argument: _A) -> Deferred[_T]:
        """
        Take nothing from the client while the authenticator is at work.
        """
        d = withDeadline(self._session.clock, self._session.limits.auth_timeout, function, argument)
        if not d.called:
            self._holdOn()
        return d

    def _holdOn(self) -> None:
        if not self._holding:
            self._holding = True
            self._session.hold()

    def _letGo(self) -> None:
        if self._holding:
            self._holding = False
            self._session.resume()

    def clientGone(self) -> None:
        """
        The client has gone.
        """
        if self._exchange is not None:
            self._exchange.cancel()


def _initial(text: str) -> bytes:
    """
    An initial response (RFC 4954 §4): C{=} is an empty one.
    """
    return b"" if text == "=" else decode(text.encode("utf-8"))


def _ownName(authorization: str, user: str) -> None:
    """
    A user can act only as itself.

    @raise UnauthorizedLogin: the client asks for another one's authorization.
    """
    if authorization not in ("", user):
        raise UnauthorizedLogin(f"{user} for {authorization}")
