"""
The table C{dovecot}, with a Dovecot that is none; L{tests.integration.test_tables} has a
real one.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.errors import TableError
from deferrals.interfaces import ITable
from deferrals.model.json import JSON
from deferrals.model.settings import BadSetting
from deferrals.stages.tables import dovecot
from deferrals.stages.tables.dovecot import DovecotTable, DovecotTableSettings
from deferrals.testing import FakeServices, TableContract, tableKeys

GREETING = b"VERSION\t1\t1\nSPID\t4711\n"

SOCKET = "unix:/run/dovecot/auth-userdb"


class Transport(StringTransport):
    """
    It tells its protocol when it is closed.
    """

    protocol: Protocol

    def loseConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            self.protocol.connectionLost(Failure(ConnectionDone()))


@implementer(IStreamClientEndpoint)
class FakeDovecot:
    """
    Knows users, and says what a test wants besides.
    """

    def __init__(self, rows: dict[str, dict[str, JSON]]) -> None:
        self.rows = rows
        self.isThere = True
        self.answer: bytes | None = None
        self.transports: list[Transport] = []

    def connect(self, factory: IProtocolFactory) -> Deferred[Protocol]:
        if not self.isThere:
            return fail(ConnectionRefusedError())
        transport = Transport()
        protocol = factory.buildProtocol(None)
        assert isinstance(protocol, Protocol)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        self.transports.append(transport)
        said = self._said(transport.value()) if self.answer is None else self.answer
        protocol.dataReceived(GREETING + said)
        return succeed(protocol)

    def _said(self, question: bytes) -> bytes:
        version, asked, rest = question.split(b"\n")
        assert (version, rest) == (b"VERSION\t1\t0", b"")
        word, number, user, service = asked.split(b"\t")
        assert (word, number, service) == (b"USER", b"1", b"service=smtp")
        row = self.rows.get(user.decode())
        if row is None:
            return b"NOTFOUND\t1\n"
        fields = [f"{name}={value}".encode() for name, value in row.items()]
        return b"\t".join([b"USER", b"1", user, *fields]) + b"\n"


class DovecotTableTests(TableContract, SynchronousTestCase):
    """
    L{DovecotTable}.
    """

    def makeTable(self, rows: dict[str, dict[str, JSON]]) -> ITable:
        self.dovecot = FakeDovecot(rows)
        services = FakeServices(endpoints={SOCKET: self.dovecot})
        return DovecotTable(DovecotTableSettings("/run/dovecot/auth-userdb"), services)

    def breakTable(self, table: ITable) -> None:
        self.dovecot.isThere = False

    def said(self, answer: bytes) -> object:
        table = self.makeTable({})
        self.dovecot.answer = answer
        d = table.lookUp(tableKeys("a@example.net"))
        if not d.called:
            self.dovecot.transports[-1].loseConnection()
        return self.successResultOf(d.addErrback(lambda failure: failure.value))

    def test_row(self) -> None:
        """A row has the user's name as Dovecot has it, and its fields."""
        row = self.said(b"USER\t1\tanna\thome=/mail/anna\tnote=a\x01tb=c\tnopassword\n")
        self.assertEqual(
            row, {"login": "anna", "home": "/mail/anna", "note": "a\tb=c", "nopassword": ""}
        )
        self.assertTrue(self.dovecot.transports[-1].disconnecting)

    def test_noAnswer(self) -> None:
        """What is no answer is a failure, and ends the connection."""
        for answer, why in (
            (b"FAIL\t1\ttemp\n", "at the moment: temp"),
            (b"VERSION\t2\t0\n", "another version"),
            (b"", "closed the connection"),
            (b"NOTFOUND\t2\n", "closed the connection"),
            (b"x" * (dovecot.LINE_OCTETS + 1), "too long"),
            (b"SPID\t1\n" * 200, "without end"),
        ):
            error = self.said(answer)
            self.assertIsInstance(error, TableError)
            self.assertIn(why, str(error))
            self.assertTrue(self.dovecot.transports[-1].disconnecting)

    def test_wideIsNotAsked(self) -> None:
        """Dovecot is not asked about C{*@domain}."""
        table = self.makeTable({"*@example.net": {"value": 1}})
        self.assertIsNone(self.found(table, "a+b@example.net"))
        self.assertEqual(len(self.dovecot.transports), 2)

    def test_cancelled(self) -> None:
        """Who does not wait any longer leaves no connection."""
        table = self.makeTable({})
        self.dovecot.answer = b""
        d = table.lookUp(tableKeys("a@example.net"))
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertTrue(self.dovecot.transports[-1].disconnecting)

    @given(st.lists(st.binary(max_size=60), max_size=30))
    def test_nonsense(self, lines: list[bytes]) -> None:
        """Whatever is said instead of an answer: no row comes of it, and no error of ours."""
        answer = b"".join(line.replace(b"USER", b"").replace(b"NOT", b"") + b"\n" for line in lines)
        self.assertIsInstance(self.said(answer), TableError)

    def test_settings(self) -> None:
        """A socket that is no endpoint is told by its key."""
        for socket in ("nonsense:x", "tcp:1"):
            error = self.assertRaises(
                BadSetting, DovecotTable, DovecotTableSettings(socket), FakeServices()
            )
            self.assertEqual(error.key, "socket")

    def test_path(self) -> None:
        """A socket whose path has a colon is a path."""
        path = "/run/dovecot:2/auth-userdb"
        dovecot = FakeDovecot({})
        services = FakeServices(endpoints={r"unix:/run/dovecot\:2/auth-userdb": dovecot})
        self.assertIs(DovecotTable(DovecotTableSettings(path), services)._endpoint, dovecot)
