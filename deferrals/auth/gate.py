"""
Twisted's credentials checkers as one: asked in turn, the first to know the
user's password counts.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import inlineCallbacks, maybeDeferred
from zope.interface import providedBy

from deferrals.interfaces import IScramChecker, IScramCredentials
from deferrals.model.sasl import SCRAM_ITERATIONS, ScramKeys

#: What a gate can make use of.
CREDENTIALS = (IUsernamePassword, IScramCredentials)


class Authenticator:
    """
    @ivar mechanisms: the SASL mechanisms that can work, the best one first.
    @param checkers: L{ICredentialsChecker<twisted.cred.checkers.ICredentialsChecker>}s.
    """

    def __init__(self, checkers: Sequence[Any]) -> None:
        self._checkers = checkers
        self._scram = [checker for checker in checkers if IScramChecker.providedBy(checker)]
        self._secret = secrets.token_bytes(32)
        self.mechanisms: list[str] = []
        if self._scram:
            self.mechanisms.append("SCRAM-SHA-256")
        if any(IUsernamePassword in checker.credentialInterfaces for checker in checkers):
            self.mechanisms += ["PLAIN", "LOGIN"]

    @inlineCallbacks
    def login(self, credentials: Any) -> Any:
        """
        @return: a Deferred of the user's name, text; fails with
            L{UnauthorizedLogin} where no checker knows them.
        """
        wanted = set(providedBy(credentials))
        for checker in self._checkers:
            if not wanted.intersection(checker.credentialInterfaces):
                continue
            try:
                avatar = yield maybeDeferred(checker.requestAvatarId, credentials)
            except UnauthorizedLogin:
                continue
            name = avatar.decode("utf-8") if isinstance(avatar, bytes) else avatar
            if name and isinstance(name, str):
                return name
        raise UnauthorizedLogin()

    @inlineCallbacks
    def scramKeys(self, user: bytes) -> Any:
        """
        @return: a Deferred of the user's L{ScramKeys}.  Somebody who is not
            there gets some, too, always the same: an attacker learns nothing.
        """
        for checker in self._scram:
            keys = yield maybeDeferred(checker.scramKeys, user)
            if keys is not None:
                return keys
        made = hmac.digest(self._secret, user, hashlib.sha256)
        return ScramKeys(SCRAM_ITERATIONS, made[:16], made, made)
