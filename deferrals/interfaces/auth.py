"""
Who may log in.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from deferrals.interfaces.message import MaybeAwaitable
from deferrals.model.sasl import ScramKeys


class IScramCredentials(ICredentials, Interface):
    """
    What a client that uses SCRAM-SHA-256 has instead of a password: a proof.
    """

    username: bytes = Attribute("The name that the client gives, octets of UTF-8.")

    def check(keys: ScramKeys) -> bool:
        """
        @param keys: L{ScramKeys<deferrals.model.sasl.ScramKeys>} of the user.
        @return: whether the proof was made with the password that belongs to
            them.
        """


class IAuthenticator(Interface):
    """
    Internal: all credentials checkers as one, for a session.
    """

    mechanisms: list[str] = Attribute("The SASL mechanisms that can work, the best one first.")

    def login(credentials: ICredentials, address: str) -> Deferred[str]:
        """
        @param address: the client's.
        @return: a Deferred of the user's name; fails with C{UnauthorizedLogin}
            where no checker knows them, and with
            L{TooManyFailures<deferrals.errors.TooManyFailures>} where they are
            not looked at.
        """

    def scramKeys(user: bytes) -> Deferred[ScramKeys]:
        """
        @param user: octets of UTF-8.
        @return: a Deferred of the user's keys.  An unknown user gets some, too,
            always the same: an attacker learns nothing.
        """


class IScramChecker(Interface):
    """
    A credentials checker that knows keys for SCRAM-SHA-256: it provides this
    beside C{ICredentialsChecker},
    and accepts L{IScramCredentials}.
    """

    def scramKeys(user: bytes) -> MaybeAwaitable[ScramKeys | None]:
        """
        @param user: octets of UTF-8.
        @return: L{ScramKeys<deferrals.model.sasl.ScramKeys>}, or C{None} where
            there are none.  May be a Deferred.
        """


class IScramShapes(Interface):
    """
    Internal: a L{IScramChecker} that says what its keys look like, so that those
    made up for strangers look the same.
    """

    def scramShapes() -> MaybeAwaitable[Sequence[tuple[int, int]]]:
        """
        @return: iterations and octets of salt of the keys of all users, in
            order.  May be a Deferred.
        """
