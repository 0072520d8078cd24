"""
Twisted's credentials checkers as one: they are asked in their order, and the
first to know the user's password counts.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from zope.interface import implementer, providedBy

from deferrals.auth.throttle import Throttle
from deferrals.deferreds import asDeferred, withDeadline
from deferrals.interfaces import IAuthenticator, IScramChecker, IScramCredentials, IScramShapes
from deferrals.model.passwords import indexOf
from deferrals.model.sasl import SCRAM_ITERATIONS, ScramKeys

#: What an authenticator can make use of.
CREDENTIALS = (IUsernamePassword, IScramCredentials)

#: What keys look like that C{deferrals passwd} writes.
_SHAPE = (SCRAM_ITERATIONS, 16)

#: How much of the time that a client waits a check may take: a check that is late
#: is our failure, and so has to end before the client is told.
_IN_TIME = 0.9


@implementer(IAuthenticator)
class Authenticator:
    """
    @ivar throttle: says whether a password may be tried; without one it may.
    @param secret: fires with octets that only this server knows, and knows again
        after a restart.
    @ivar mechanisms: the SASL mechanisms that can work, the best one first.
    """

    def __init__(
        self,
        checkers: Sequence[ICredentialsChecker],
        throttle: Throttle | None = None,
        secret: Callable[[], Deferred[bytes]] | None = None,
    ) -> None:
        self._checkers = checkers
        self.throttle = throttle
        self._scram = [IScramChecker(one) for one in checkers if IScramChecker.providedBy(one)]
        self._secret = secret
        self._own = secrets.token_bytes(32)
        self.mechanisms: list[str] = []
        if self._scram:
            self.mechanisms.append("SCRAM-SHA-256")
        if any(IUsernamePassword in checker.credentialInterfaces for checker in checkers):
            self.mechanisms += ["PLAIN", "LOGIN"]

    def login(self, credentials: ICredentials, address: str) -> Deferred[str]:
        if self.throttle is None:
            return Deferred.fromCoroutine(self._check(credentials))
        return Deferred.fromCoroutine(self._tried(self.throttle, credentials, address))

    async def _tried(self, throttle: Throttle, credentials: ICredentials, address: str) -> str:
        attempt = await throttle.enter(credentials, address)
        try:
            seconds = throttle.settings.auth_timeout * _IN_TIME
            name: str = await withDeadline(throttle.clock, seconds, self._check, credentials)
        except UnauthorizedLogin:
            attempt.failed()
            raise
        except CancelledError:
            await attempt.lost()
            raise
        except BaseException:
            await attempt.unknown()
            raise
        await attempt.succeeded()
        return name

    async def _check(self, credentials: ICredentials) -> str:
        wanted = set(providedBy(credentials))
        for checker in self._checkers:
            if not wanted.intersection(checker.credentialInterfaces):
                continue
            try:
                avatar = await maybeDeferred(checker.requestAvatarId, credentials)
            except UnauthorizedLogin:
                continue
            name = avatar.decode("utf-8") if isinstance(avatar, bytes) else avatar
            if name and isinstance(name, str):
                return name
        raise UnauthorizedLogin()

    def scramKeys(self, user: bytes) -> Deferred[ScramKeys]:
        """
        @return: a Deferred of the user's L{ScramKeys}.  For a name that no
            checker knows they are made up, always the same ones: an attacker
            cannot tell which users there are.
        """
        return Deferred.fromCoroutine(self._scramKeys(user))

    async def _scramKeys(self, user: bytes) -> ScramKeys:
        """
        Strangers and users are asked about in the same way: it takes as long.
        """
        found: ScramKeys | None = None
        shapes: list[tuple[int, int]] = []
        for checker in self._scram:
            keys: ScramKeys | None = await asDeferred(checker.scramKeys, user)
            found = found or keys
            if IScramShapes.providedBy(checker):
                shapes += await asDeferred(IScramShapes(checker).scramShapes)
        secret = self._own if self._secret is None else await self._secret()
        made = _madeUp(secret, user, sorted(shapes) or [_SHAPE])
        return found or made


def _madeUp(secret: bytes, user: bytes, shapes: Sequence[tuple[int, int]]) -> ScramKeys:
    """
    Keys for a name that no user has, always the same ones.
    """
    iterations, octets = shapes[indexOf(secret, user, len(shapes))]
    salt = hashlib.shake_256(hmac.digest(secret, b"salt " + user, hashlib.sha256)).digest(octets)
    stored = hmac.digest(secret, b"keys " + user, hashlib.sha256)
    return ScramKeys(iterations, salt, stored, stored)
