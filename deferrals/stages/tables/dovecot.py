"""
The table C{dovecot}: the users of a Dovecot, as its C{userdb} has them.

Dovecot is asked over its socket C{auth-userdb}, in version 1 of the protocol that its
own programs speak there.  Each question has a connection of its own.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from deferrals.errors import TableError
from deferrals.interfaces import IServices, ITable
from deferrals.model.dovecot import escaped, unescaped
from deferrals.model.settings import BadSetting
from deferrals.model.tablekeys import TableKeys, TableRow
from deferrals.tls import socketDescription

#: The longest line that Dovecot may say, in octets; and how many there may be.
LINE_OCTETS = 65536
LINES = 100


@attrs.frozen
class DovecotTableSettings:
    """
    @ivar socket: Dovecot's socket: a path whose last name ends in C{auth-userdb}, or the
        description of a Twisted client endpoint.
    """

    socket: str


@implementer(ITable)
class DovecotTable:
    """
    See the module.  Dovecot has no C{*@domain}: its own configuration says what is for
    all.

    @param services: L{IServices<deferrals.interfaces.IServices>}.
    """

    def __init__(self, settings: DovecotTableSettings, services: IServices) -> None:
        description = socketDescription(settings.socket, services.baseDir)
        try:
            self._endpoint = services.connect(description)
        except ValueError as error:
            raise BadSetting("socket", str(error)) from None

    def lookUp(self, keys: TableKeys) -> Deferred[TableRow | None]:
        return Deferred.fromCoroutine(self._lookUp(keys))

    async def _lookUp(self, keys: TableKeys) -> TableRow | None:
        for one in keys.inTurn():
            row = None if one.local == "*" else await self._ask(one.address)
            if row is not None:
                return row
        return None

    async def _ask(self, user: str) -> TableRow | None:
        question = await self._endpoint.connect(_Questions(user.encode()))
        assert isinstance(question, DovecotQuestion)
        return await question.answer


class DovecotQuestion(LineOnlyReceiver):
    """
    A connection for one question.

    @ivar answer: fires with the row, or with C{None} where Dovecot has no such user.
        May be cancelled.
    """

    delimiter = b"\n"
    MAX_LENGTH = LINE_OCTETS

    def __init__(self, user: bytes) -> None:
        self.answer: Deferred[TableRow | None] = Deferred(self._cancelled)
        self._user = user
        self._heard = 0

    def connectionMade(self) -> None:
        assert self.transport is not None
        user = escaped(self._user)
        self.transport.write(b"VERSION\t1\t0\nUSER\t1\t%s\tservice=smtp\n" % user)

    def lineReceived(self, line: bytes) -> None:
        """
        One line, without its end.
        """
        word, *fields = line.split(b"\t")
        self._heard += 1
        if word == b"VERSION" and fields[:1] != [b"1"]:
            self._fail("Dovecot speaks another version of its protocol")
        elif word == b"USER" and fields[:1] == [b"1"]:
            self._answered(rowOf(fields[1:]))
        elif word == b"NOTFOUND" and fields[:1] == [b"1"]:
            self._answered(None)
        elif word == b"FAIL" and fields[:1] == [b"1"]:
            reason = b" ".join(fields[1:]).decode("utf-8", "replace")
            self._fail(f"Dovecot cannot look up users at the moment: {reason}")
        elif self._heard > LINES:
            self._fail("Dovecot says something else without end")

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        A line that Dovecot does not say.
        """
        self._fail("Dovecot says a line that is too long")

    def _cancelled(self, answer: Deferred[TableRow | None]) -> None:
        answer.errback(CancelledError())
        self._leave()

    def _answered(self, row: TableRow | None) -> None:
        if not self.answer.called:
            self.answer.callback(row)
        self._leave()

    def _fail(self, why: str) -> None:
        if not self.answer.called:
            self.answer.errback(TableError(why))
        self._leave()

    def _leave(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        What has no answer has none.
        """
        if not self.answer.called:
            self.answer.errback(TableError("Dovecot has closed the connection"))


class _Questions(Factory):
    """
    Makes one.
    """

    noisy = False

    def __init__(self, user: bytes) -> None:
        self._user = user

    def buildProtocol(self, addr: IAddress | None) -> DovecotQuestion:
        return DovecotQuestion(self._user)


def rowOf(fields: list[bytes]) -> TableRow:
    """
    @param fields: the user's name as Dovecot has it, which becomes C{login}; then
        C{name=value}.
    """
    row = {"login": unescaped(fields[0]).decode("utf-8", "replace")} if fields else {}
    for field in fields[1:]:
        name, _, value = unescaped(field).decode("utf-8", "replace").partition("=")
        row[name] = value
    return row
