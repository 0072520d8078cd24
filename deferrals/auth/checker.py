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

import os
from collections.abc import Sequence

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from deferrals.deferreds import InThread, Threads
from deferrals.interfaces import IScramChecker, IScramCredentials, IScramShapes
from deferrals.model.passwords import Secrets, Strangers, parseLine
from deferrals.model.sasl import SaslError, ScramKeys, saslprep

#: Passwords that are hashed at once.
AT_ONCE = 2


def readPasswords(path: str) -> dict[str, Secrets]:
    """
    All users of a file.  Blocks.

    @raise ValueError: a line is none; the text says which one.
    @raise OSError: the file cannot be read.
    """
    users = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                found = parseLine(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: expected {error}") from None
            if found is not None:
                users[found[0]] = found[1]
    return users


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
        self._users: dict[str, Secrets] = {}
        self._strangers = Strangers({})
        self._version: tuple[int, int, int] | None = None

    def requestAvatarId(self, credentials: object) -> Deferred[bytes | tuple[()]]:
        """
        See C{ICredentialsChecker}.
        """
        if IScramCredentials.providedBy(credentials):
            return self._threads.run(self._proved, credentials)
        login = IUsernamePassword(credentials)
        return self._threads.run(self._checked, login.username, login.password)

    def scramKeys(self, user: bytes) -> Deferred[ScramKeys | None]:
        return self._threads.run(lambda: self._find(user).scram)

    def scramShapes(self) -> Deferred[Sequence[tuple[int, int]]]:
        return self._threads.run(lambda: self._read().shapes)

    # In a thread.

    def _read(self) -> Strangers:
        """
        Read the file, if it is not known as it is.

        @return: what there is for strangers.
        """
        stat = os.stat(self.path)
        version = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if version != self._version:
            users = readPasswords(self.path)
            self._users, self._strangers, self._version = users, Strangers(users), version
        return self._strangers

    def _find(self, user: bytes) -> Secrets:
        """
        @return: what is kept of a user's password; empty where there is no
            such user.
        """
        self._read()
        try:
            return self._users.get(saslprep(user.decode("utf-8")), Secrets())
        except (SaslError, UnicodeDecodeError):
            return Secrets()

    def _checked(self, user: bytes, password: bytes) -> bytes | tuple[()]:
        secrets = self._find(user)
        isKnown = secrets.cost is not None
        if not isKnown:
            secrets = self._strangers.secrets(user)
        isRight = secrets.check(password.decode("utf-8", "replace"))
        if not (isKnown and isRight):
            raise UnauthorizedLogin()
        return saslprep(user.decode("utf-8")).encode("utf-8")

    def _proved(self, credentials: IScramCredentials) -> bytes | tuple[()]:
        keys = self._find(credentials.username).scram
        if keys is None or not credentials.check(keys):
            raise UnauthorizedLogin()
        return credentials.username
