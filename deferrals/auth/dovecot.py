"""
Dovecot's users as a credentials checker: C{--auth dovecot:/run/dovecot/auth-client}.

Dovecot is asked over the socket that it has for other servers, in version 1 of
its protocol for authentication clients: lines, fields parted by tabs, many
requests side by side on one connection.  The connection is made when it is
needed, and made again when it was lost.

Dovecot is given passwords, as PLAIN and LOGIN bring them.  It keeps the keys for
SCRAM to itself.

Whatever cannot be asked, or does not answer in time, is an error, and no wrong
password: the client is told to come again later.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from deferrals.deferreds import Semaphore, SharedResult, withDeadline
from deferrals.errors import DeferralsError
from deferrals.model.dovecot import unescaped
from deferrals.tls import clientEndpoint, socketDescription

#: For one password, waiting and connecting included; in seconds.
ANSWER_SECONDS = 20.0

#: Until a new connection has said what it can do; in seconds.
GREETING_SECONDS = 5.0

#: A connection takes no more questions after so many seconds: as long as there is
#: one, a Dovecot that was told to stop or to reload answers as it did before.
CONNECTION_SECONDS = 60.0

#: Passwords that are asked about at once.
AT_ONCE = 100

#: The longest line that Dovecot may say, in octets.
LINE_OCTETS = 8192

#: Lines of the greeting.
GREETING_LINES = 200


class DovecotError(DeferralsError):
    """
    Dovecot cannot say whether a password is right.
    """


class DovecotConnection(LineOnlyReceiver):
    """
    One connection.

    @ivar greeted: fires with this when Dovecot has said what it can do.
    @ivar isOver: whether it takes no more questions.
    @ivar lost: fires when it has ended.
    @ivar heard: how many lines have come.
    """

    delimiter = b"\n"
    MAX_LENGTH = LINE_OCTETS

    def __init__(self) -> None:
        self.greeted: Deferred[DovecotConnection] = Deferred(lambda _: self._abort())
        self.lost: Deferred[None] = Deferred()
        self.isOver = False
        self.heard = 0
        self._isReady = False
        self._mechanisms: set[bytes] = set()
        self._number = 0
        self._pending: dict[bytes, Deferred[bytes]] = {}

    def connectionMade(self) -> None:
        """
        Introduce ourselves: by a number that no other connection has.
        """
        number = secrets.randbelow((1 << 31) - 1) + 1
        self._write(b"VERSION\t1\t1\nCPID\t%d\n" % number)

    def ask(self, user: bytes, password: bytes) -> Deferred[bytes]:
        """
        @return: a Deferred of the user's name, as Dovecot has it; fails with
            C{UnauthorizedLogin}, L{DovecotError}, or C{ConnectionLost} where
            there was no answer.  May be cancelled.
        """
        self._number = self._number % ((1 << 31) - 1) + 1
        number = b"%d" % self._number
        response = base64.b64encode(b"\0" + user + b"\0" + password)
        answer: Deferred[bytes] = Deferred(lambda _: self._forget(number))
        self._pending[number] = answer
        self._write(b"AUTH\t%s\tPLAIN\tservice=smtp\tsecured\tresp=%s\n" % (number, response))
        return answer

    def _forget(self, number: bytes) -> None:
        """
        An answer is not waited for any longer.
        """
        if self._pending.pop(number, None) is not None:
            self._write(b"CANCEL\t%s\n" % number)
            self._leave()

    def lineReceived(self, line: bytes) -> None:
        """
        One line, without its end.
        """
        self.heard += 1
        word, *fields = line.split(b"\t")
        if self._isReady:
            self._answered(word, fields)
        elif word == b"DONE":
            self._ready()
        elif word == b"VERSION" and fields[:1] != [b"1"]:
            self._refuse("speaks another version of its protocol")
        elif word == b"MECH" and fields:
            self._mechanisms.add(fields[0])
        elif self.heard > GREETING_LINES:
            self._refuse("greets without end")

    def _ready(self) -> None:
        if b"PLAIN" not in self._mechanisms:
            return self._refuse("does not have PLAIN among its auth_mechanisms")
        self._isReady = True
        self.greeted.callback(self)

    def _refuse(self, why: str) -> None:
        if not self.greeted.called:
            self.greeted.errback(DovecotError(f"Dovecot {why}"))
        self._abort()

    def _answered(self, word: bytes, fields: list[bytes]) -> None:
        """
        What is no answer to a question of ours is nothing.
        """
        if word not in (b"OK", b"FAIL", b"CONT") or not fields:
            return
        answer = self._pending.pop(fields[0], None)
        if answer is None:
            return
        said = dict(field.partition(b"=")[::2] for field in fields[1:])
        if word == b"OK":
            answer.callback(unescaped(said.get(b"user", b"")))
        elif word == b"CONT" or b"temp" in said:
            answer.errback(DovecotError("Dovecot cannot check passwords at the moment"))
        else:
            answer.errback(UnauthorizedLogin())
        self._leave()

    def retire(self) -> None:
        """
        It takes no more questions, and ends when all have been answered.
        """
        self.isOver = True
        self._leave()

    def _leave(self) -> None:
        if self.isOver and not self._pending:
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        What has no answer has none.
        """
        self.isOver = True
        self.lost.callback(None)
        pending, self._pending = self._pending, {}
        for answer in pending.values():
            answer.errback(ConnectionLost("Dovecot has closed the connection"))
        if not self.greeted.called:
            self.greeted.errback(DovecotError("Dovecot has closed the connection"))

    def _write(self, octets: bytes) -> None:
        if self.transport is not None:
            self.transport.write(octets)

    def _abort(self) -> None:
        self.isOver = True
        if ITCPTransport.providedBy(self.transport):
            self.transport.abortConnection()
        elif self.transport is not None:
            self.transport.loseConnection()

    def close(self) -> None:
        """
        End it, whatever is pending.
        """
        self._abort()


class _Connections(Factory):
    """
    Makes them.
    """

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> DovecotConnection:
        return DovecotConnection()


@implementer(ICredentialsChecker)
class DovecotChecker:
    """
    See the module.

    @param endpoint: of Dovecot's socket for authentication clients.
    @param clock: timers.
    """

    credentialInterfaces: Sequence[type[Interface]] = (IUsernamePassword,)

    def __init__(self, endpoint: IStreamClientEndpoint, clock: IReactorTime) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._slots = Semaphore(AT_ONCE)
        self._connecting: SharedResult[DovecotConnection] | None = None
        self._connection: DovecotConnection | None = None

    def requestAvatarId(self, credentials: object) -> Deferred[bytes | tuple[()]]:
        """
        See C{ICredentialsChecker}.
        """
        login = IUsernamePassword(credentials)
        d: Deferred[bytes | tuple[()]] = withDeadline(
            self._clock, ANSWER_SECONDS, self._check, login.username, login.password
        )
        return d

    async def _check(self, user: bytes, password: bytes) -> bytes:
        if b"\0" in user or b"\0" in password or not user:
            raise UnauthorizedLogin()
        await self._slots.acquire()
        try:
            name = await self._ask(user, password)
        finally:
            self._slots.release()
        if not _isName(name):
            raise DovecotError("Dovecot has a name for the user that is none")
        return name or user

    async def _ask(self, user: bytes, password: bytes) -> bytes:
        """
        A connection that was lost may have been an old one: it is asked once
        more.
        """
        try:
            return await self._askOnce(user, password)
        except (ConnectionLost, ConnectionDone):
            return await self._askOnce(user, password)

    async def _askOnce(self, user: bytes, password: bytes) -> bytes:
        connection = await self._connected()
        heard, began = connection.heard, self._clock.seconds()
        try:
            return await connection.ask(user, password)
        except CancelledError:
            waited = self._clock.seconds() - began
            if connection.heard == heard and waited >= ANSWER_SECONDS / 2:
                connection.close()  # it is dead; the next one asks on another
            raise

    async def _connected(self) -> DovecotConnection:
        """
        The connection that there is, or a new one.
        """
        if self._connection is not None and not self._connection.isOver:
            return self._connection
        connecting = self._connecting
        if connecting is None:
            d = withDeadline(self._clock, GREETING_SECONDS, self._connect)
            connecting = self._connecting = SharedResult(d)
            connecting.wait().addBoth(self._arrived)
        connection: DovecotConnection = await connecting.wait()
        return connection

    def _arrived(self, connection: DovecotConnection | Failure) -> None:
        self._connecting = None
        if isinstance(connection, DovecotConnection):
            self._connection = connection
            retire = self._clock.callLater(CONNECTION_SECONDS, connection.retire)
            connection.lost.addCallback(lambda _: retire.cancel() if retire.active() else None)

    async def _connect(self) -> DovecotConnection:
        connection = await self._endpoint.connect(_Connections())
        assert isinstance(connection, DovecotConnection)
        return await connection.greeted

    def close(self) -> None:
        """
        Let go of the connection.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _isName(name: bytes) -> bool:
    try:
        return name.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False


def makeChecker(argument: str, reactor: IReactorTime) -> DovecotChecker:
    """
    @param argument: a path, or the description of a Twisted client endpoint.
    @raise ValueError: it is none.
    """
    endpoint: IStreamClientEndpoint = clientEndpoint(reactor, socketDescription(argument))
    return DovecotChecker(endpoint, reactor)
