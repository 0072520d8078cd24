"""
How often a password may be tried.  This is asked before a password is checked,
and whatever is allowed is counted at once: attempts that are under way at the
same time count like those that have failed.  A password that is right takes its
own attempt back.

Wrong passwords within an hour are counted for

  - one account from one address (an IPv6 address: its /64),
  - all accounts from one network (IPv4 /24, IPv6 /48),
  - one account from everywhere.

The first two end it for that address, or network.  An account that has logged in
from an address before is asked there, whatever others in the network have done.
The third refuses nothing: from then on, an address that the account has not
logged in from has C{NEW_ATTEMPTS} attempts an hour.  So guessing locks the user
out nowhere but at the guesser's own address.

A device that says the same wrong password again and again is not guessing: that
costs one attempt.  An account that is not there is counted like any other.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets

from cachetools import LRUCache
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from deferrals.errors import TooManyFailures
from deferrals.interfaces import ILimits
from deferrals.model.limits import Limits
from deferrals.model.networks import largerNetwork, neighbourhood
from deferrals.model.sasl import SaslError, saslprep

#: Wrong passwords count for so long, in seconds.
HOUR = 3600.0

#: An address is known for so long after the account has logged in from it.
KNOWN_SECONDS = 60 * 86400.0

#: What an address that is not known may try within an hour, while the account is
#: being guessed.
NEW_ATTEMPTS = 2

#: Attempts of one network that may wait for what others of it come to.
WAITING = 200

#: A wrong password that is said again is checked so often, in seconds; it may
#: have become right.
AGAIN_SECONDS = 60.0

_UNLIMITED = 1 << 60
_DAY = 86400.0

#: Wrong passwords that are remembered of one account and address.
_WRONG = 8


class Throttle:
    """
    See the module.

    @param limits: counts.
    @ivar settings: what is allowed.
    @ivar clock: timers.
    """

    def __init__(self, limits: ILimits, settings: Limits, clock: IReactorTime) -> None:
        self.settings = settings
        self.clock = clock
        self._limits = limits
        self._running: dict[str, int] = {}
        self._waiting: dict[str, list[Deferred[None]]] = {}
        self._secret = secrets.token_bytes(32)
        self._wrong: LRUCache[str, list[bytes]] = LRUCache(10_000)

    async def enter(self, credentials: ICredentials, address: str) -> LoginAttempt:
        """
        A client wants to have a password checked.

        @return: what has to be told the outcome.
        @raise TooManyFailures: it must not be checked.
        @raise UnauthorizedLogin: it need not be checked: it was wrong before.
        """
        attempt = LoginAttempt(self, credentials, address)
        if attempt.digest in self._wrong.get(attempt.pair, ()):
            if not await self._spend("auth-again", attempt.pair, 1, 1, AGAIN_SECONDS):
                raise UnauthorizedLogin()
            attempt.isCounted = False
        while attempt.isCounted and (limit := await self._reserve(attempt)):
            if attempt.network not in self._running:
                raise TooManyFailures(limit=limit)
            await self._wait(attempt.network)
        self._running[attempt.network] = self._running.get(attempt.network, 0) + 1
        return attempt

    async def _reserve(self, attempt: LoginAttempt) -> str:
        """
        Count an attempt as one that fails, if it may be made.

        @return: otherwise the limit that says no.
        """
        isKnown = not await self._spend("auth-known", attempt.pair, 0, 1, KNOWN_SECONDS)
        limit, most = "auth_address_failures", self.settings.auth_address_failures
        if not isKnown and not await self._spend(
            "auth-account", attempt.account, 0, self.settings.auth_account_failures
        ):
            limit, most = "auth_account_failures", min(most, NEW_ATTEMPTS)
        if not await self._spend("auth-address", attempt.pair, 1, most):
            return limit
        mostFromNetwork = _UNLIMITED if isKnown else self.settings.auth_network_failures
        if not await self._spend("auth-network", attempt.network, 1, mostFromNetwork):
            await self._spend("auth-address", attempt.pair, -1, most)
            return "auth_network_failures"
        await self._spend("auth-account", attempt.account, 1, _UNLIMITED)
        return ""

    async def takeBack(self, attempt: LoginAttempt) -> None:
        """
        An attempt does not count.
        """
        if attempt.isCounted:
            attempt.isCounted = False
            for limit, key in (
                ("auth-address", attempt.pair),
                ("auth-network", attempt.network),
                ("auth-account", attempt.account),
            ):
                await self._spend(limit, key, -1, _UNLIMITED)

    async def pardon(self, attempt: LoginAttempt) -> None:
        """
        A client has gone, and knows no more than before.  That is pardoned, but
        not any number of times: the check has cost time.
        """
        most = self.settings.auth_network_failures
        if await self._spend("auth-lost", attempt.network, 1, most):
            await self.takeBack(attempt)

    async def learn(self, attempt: LoginAttempt) -> None:
        """
        An account has logged in from an address.
        """
        self._wrong.pop(attempt.pair, None)
        if await self._spend("auth-today", attempt.pair, 1, 1, _DAY):
            await self._spend("auth-known", attempt.pair, 1, _UNLIMITED, KNOWN_SECONDS)

    def remember(self, attempt: LoginAttempt) -> None:
        """
        A password was wrong.
        """
        if attempt.digest:
            before = self._wrong.get(attempt.pair, [])
            others = [one for one in before if one != attempt.digest]
            self._wrong[attempt.pair] = [*others[1 - _WRONG :], attempt.digest]

    def ended(self, attempt: LoginAttempt) -> None:
        """
        An attempt is under way no longer.
        """
        count = self._running[attempt.network]
        if count > 1:
            self._running[attempt.network] = count - 1
        else:
            del self._running[attempt.network]
        for d in list(self._waiting.pop(attempt.network, [])):
            if not d.called:
                d.callback(None)

    def digest(self, account: str, password: bytes) -> bytes:
        """
        What is kept of a wrong password, in this process's memory.
        """
        said = account.encode("utf-8") + b"\0" + password
        return hmac.digest(self._secret, said, hashlib.sha256)

    def _wait(self, network: str) -> Deferred[None]:
        """
        @raise TooManyFailures: too many wait.
        """
        waiting = self._waiting.setdefault(network, [])
        if len(waiting) >= WAITING:
            raise TooManyFailures()
        d: Deferred[None] = Deferred(lambda d: waiting.remove(d))
        waiting.append(d)
        return d

    def _spend(
        self, limit: str, key: str, amount: int, most: int, seconds: float = HOUR
    ) -> Deferred[bool]:
        return self._limits.spend(limit, key, amount, most, seconds)


class LoginAttempt:
    """
    One attempt to log in, until its outcome is known.

    @ivar account: the account's name in one spelling.
    @ivar pair: the account at the client's address.
    @ivar network: the network of the client's address.
    @ivar digest: stands for the password; empty where there is none.
    @ivar isCounted: whether it counts as one that fails.
    """

    def __init__(self, throttle: Throttle, credentials: ICredentials, address: str) -> None:
        self._throttle = throttle
        self.account = accountKey(getattr(credentials, "username", b""))
        self.pair = f"{neighbourhood(address)} {self.account}"
        self.network = largerNetwork(address)
        password = getattr(credentials, "password", None)
        self.digest = b"" if password is None else throttle.digest(self.account, password)
        self.isCounted = True

    async def succeeded(self) -> None:
        """
        The password was right.
        """
        try:
            await self._throttle.learn(self)
            await self._throttle.takeBack(self)
        finally:
            self._throttle.ended(self)

    def failed(self) -> None:
        """
        The password was wrong.
        """
        self._throttle.remember(self)
        self._throttle.ended(self)

    async def unknown(self) -> None:
        """
        There is no outcome: it could not be checked.
        """
        try:
            await self._throttle.takeBack(self)
        finally:
            self._throttle.ended(self)

    async def lost(self) -> None:
        """
        The client has gone before the outcome was known.
        """
        try:
            await self._throttle.pardon(self)
        finally:
            self._throttle.ended(self)


def accountKey(name: bytes) -> str:
    """
    One spelling of a name, whatever a checker takes for the same: otherwise
    each spelling could be guessed anew.
    """
    text = name.decode("utf-8", "replace")
    with contextlib.suppress(SaslError):
        text = saslprep(text)
    text = text.casefold().strip()
    return text if len(text) <= 200 else hashlib.sha256(text.encode("utf-8")).hexdigest()
