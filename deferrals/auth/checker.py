"""
A password file as a credentials checker: C{--auth passwd:FILE}.

Passwords are hashed in threads, not more than two at once, so that a client
that tries many takes no time from the others.  The file is read again when it
has changed.  For a name that is not in it a user's hash is computed all the
same, and the result dropped.

On an error (the file cannot be read, a line is none) the checker fails, and the
client is told to come again later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import attrs
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from deferrals.interfaces import IScramChecker, IScramCredentials, IScramShapes
from deferrals.model.passwords import Secrets, Strangers, formatLine, parseLine
from deferrals.model.sasl import SaslError, ScramKeys, saslprep
from deferrals.operatorfiles import OperatorFile, readText
from deferrals.threads import InThread, Threads

#: Passwords that are hashed at once.
AT_ONCE = 2


def readPasswords(path: str) -> dict[str, Secrets]:
    """
    All users of a file.  Blocks.

    @raise ValueError: it is none, or a line is none; the text says which one.
    @raise OSError: the file cannot be read.
    """
    return _usersIn(readText(path), path)


def _usersIn(text: str, path: str) -> dict[str, Secrets]:
    users = {}
    for number, line in enumerate(text.split("\n"), 1):
        try:
            found = parseLine(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: expected {error}") from None
        if found is not None:
            users[found[0]] = found[1]
    return users


@attrs.frozen
class _Users:
    """
    @ivar known: what is kept of each.
    @ivar strangers: what there is for all others.
    """

    known: dict[str, Secrets]
    strangers: Strangers

    def find(self, user: bytes) -> Secrets:
        """
        @return: what is kept of a user's password; empty where there is no
            such user.
        """
        try:
            return self.known.get(saslprep(user.decode("utf-8")), Secrets())
        except (SaslError, UnicodeDecodeError):
            return Secrets()


@implementer(ICredentialsChecker, IScramChecker, IScramShapes)
class PasswordFile:
    """
    See the module.

    @ivar path: the file, as L{deferrals.model.passwords} describes it; absolute.
    @param inThread: runs a function outside the reactor thread and returns a
        Deferred of its result.
    """

    credentialInterfaces: Sequence[type[Interface]] = (IUsernamePassword, IScramCredentials)

    def __init__(self, path: str, inThread: InThread) -> None:
        self.path = os.path.abspath(path)
        self._threads = Threads(inThread, AT_ONCE)
        self._file = OperatorFile(self.path, self._read)

    def requestAvatarId(self, credentials: object) -> Deferred[bytes | tuple[()]]:
        """
        See C{ICredentialsChecker}.
        """
        if IScramCredentials.providedBy(credentials):
            return self._threads.run(self._proved, credentials)
        login = IUsernamePassword(credentials)
        return self._threads.run(self._checked, login.username, login.password)

    def scramKeys(self, user: bytes) -> Deferred[ScramKeys | None]:
        return self._threads.run(lambda: self._file.now().find(user).scram)

    def scramShapes(self) -> Deferred[Sequence[tuple[int, int]]]:
        return self._threads.run(lambda: self._file.now().strangers.shapes)

    def stamp(self, user: str) -> Deferred[str]:
        """
        @return: a Deferred of what changes with a user's password; empty where there
            is no such user.
        """
        return self._threads.run(self._stampOf, user.encode("utf-8"))

    # In a thread.

    def _stampOf(self, user: bytes) -> str:
        found = self._file.now().find(user)
        if found == Secrets():
            return ""
        return hashlib.sha256(formatLine("-", found).encode("utf-8")).hexdigest()

    def _read(self, text: str) -> _Users:
        users = _usersIn(text, self.path)
        return _Users(users, Strangers(users))

    def _checked(self, user: bytes, password: bytes) -> bytes | tuple[()]:
        users = self._file.now()
        secrets = users.find(user)
        isKnown = secrets.cost is not None
        if not isKnown:
            secrets = users.strangers.secrets(user)
        isRight = secrets.check(password.decode("utf-8", "replace"))
        if not (isKnown and isRight):
            raise UnauthorizedLogin()
        return saslprep(user.decode("utf-8")).encode("utf-8")

    def _proved(self, credentials: IScramCredentials) -> bytes | tuple[()]:
        keys = self._file.now().find(credentials.username).scram
        if keys is None or not credentials.check(keys):
            raise UnauthorizedLogin()
        return credentials.username
