"""
Dovecot's users, with a Dovecot that is none.
"""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import findCheckerFactory, makeChecker
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from deferrals.auth import dovecot
from deferrals.auth.dovecot import DovecotChecker, DovecotError

GREETING = (
    b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t12\nCUID\t1\n"
    b"COOKIE\t00112233445566778899aabbccddeeff\nDONE\n"
)


class Transport(StringTransport):
    """
    The other end is told at once that a connection is aborted.
    """

    protocol: Any = None

    def abortConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            self.protocol.connectionLost(Failure(ConnectionDone()))

    loseConnection = abortConnection


@implementer(IStreamClientEndpoint)
class Endpoint:
    """
    Dovecot's socket.

    @ivar greeting: what it says to each connection.
    @ivar isThere: whether connections can be made.
    """

    greeting = GREETING
    isThere = True

    def __init__(self) -> None:
        self.transports: list[Transport] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        if not self.isThere:
            return fail(ConnectionRefusedError())
        transport = Transport()
        transport.protocol = factory.buildProtocol(None)
        transport.protocol.makeConnection(transport)
        self.transports.append(transport)
        transport.protocol.dataReceived(self.greeting)
        d: Deferred[Any] = Deferred()
        d.callback(transport.protocol)
        return d


class DovecotTests(SynchronousTestCase):
    """
    L{DovecotChecker}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = Endpoint()
        self.checker = DovecotChecker(self.endpoint, self.clock)

    def login(self, user: str = "alice", password: str = "secret") -> Deferred[bytes]:
        return self.checker.requestAvatarId(UsernamePassword(user.encode(), password.encode()))

    def say(self, line: bytes) -> None:
        self.endpoint.transports[-1].protocol.dataReceived(line + b"\n")

    def heard(self) -> list[bytes]:
        """
        What was said on the latest connection, since the last time.
        """
        transport = self.endpoint.transports[-1]
        lines: list[bytes] = transport.value().split(b"\n")[:-1]
        transport.clear()
        return lines

    def test_right(self) -> None:
        """The greeting, a question, and the answer: the name is Dovecot's."""
        d = self.login("Alice@Example.net")
        version, client, question = self.heard()
        self.assertEqual(version, b"VERSION\t1\t1")
        self.assertRegex(client, rb"^CPID\t[0-9]+$")
        response = base64.b64encode(b"\0Alice@Example.net\0secret")
        self.assertEqual(question, b"AUTH\t1\tPLAIN\tservice=smtp\tsecured\tresp=" + response)
        self.say(b"OK\t1\tuser=alice@example.net\toriginal_user=Alice@Example.net")
        self.assertEqual(self.successResultOf(d), b"alice@example.net")
        self.checker.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_wrong(self) -> None:
        """Wrong, disabled and expired are no login; what is temporary is no wrong password."""
        for more in (b"", b"\tuser=alice", b"\tuser_disabled", b"\treason=no\tcode=pass_expired"):
            d = self.login()
            self.say(b"FAIL\t%d%s" % (self.checker._connection._number, more))
            self.failureResultOf(d, UnauthorizedLogin)
        for line in (b"FAIL\t%d\tuser=alice\ttemp", b"CONT\t%d\t"):
            d = self.login()
            self.say(line % self.checker._connection._number)
            self.failureResultOf(d, DovecotError)
        d = self.login()
        self.say(b"OK\t%d\tuser=a\x01nb" % self.checker._connection._number)
        self.failureResultOf(d, DovecotError)
        self.assertEqual(len(self.endpoint.transports), 1)

    def test_sideBySide(self) -> None:
        """Many on one connection, answered in any order; other lines are nothing."""
        first, second = self.login("a"), self.login("b")
        for line in (b"", b"OK", b"NOISE\t1", b"OK\t99\tuser=c", b"OK\t2\tuser=b", b"OK\t1"):
            self.say(line)
        self.assertEqual(self.successResultOf(second), b"b")
        self.assertEqual(self.successResultOf(first), b"a")
        self.assertEqual(len(self.endpoint.transports), 1)

    def test_nul(self) -> None:
        """A name or password that would be two is none."""
        for user, password in (("a\0b", "c"), ("a", "b\0c"), ("", "x")):
            self.failureResultOf(self.login(user, password), UnauthorizedLogin)
        self.assertEqual(self.endpoint.transports, [])

    def test_again(self) -> None:
        """After a lost connection there is another; a question that was lost is asked once more."""
        d = self.login()
        self.endpoint.transports[0].loseConnection()
        self.assertEqual(len(self.endpoint.transports), 2)
        self.say(b"OK\t1\tuser=alice")
        self.assertEqual(self.successResultOf(d), b"alice")
        self.endpoint.transports[1].loseConnection()
        d = self.login()
        self.assertEqual(len(self.endpoint.transports), 3)
        self.endpoint.transports[2].loseConnection()
        self.endpoint.transports[3].loseConnection()
        self.failureResultOf(d)
        self.assertEqual(len(self.endpoint.transports), 4)

    def test_old(self) -> None:
        """A connection is used for a minute, and closed when it has its last answer."""
        d = self.login()
        self.say(b"OK\t1\tuser=alice")
        self.successResultOf(d)
        self.clock.advance(59)
        waiting = self.login()
        self.assertEqual(len(self.endpoint.transports), 1)
        self.clock.advance(1)
        first = self.endpoint.transports[0]
        self.assertFalse(first.disconnecting)
        self.login().addErrback(lambda _: None)
        self.assertEqual(len(self.endpoint.transports), 2)
        first.protocol.dataReceived(b"OK\t2\tuser=alice\n")
        self.assertEqual(self.successResultOf(waiting), b"alice")
        self.assertTrue(first.disconnecting)
        self.assertFalse(self.endpoint.transports[1].disconnecting)

    def test_notThere(self) -> None:
        """Without Dovecot nothing is known; when it is there again it is asked."""
        self.endpoint.isThere = False
        for _ in range(3):
            self.failureResultOf(self.login(), ConnectionRefusedError)
        self.endpoint.isThere = True
        d = self.login()
        self.say(b"OK\t1\tuser=alice")
        self.assertEqual(self.successResultOf(d), b"alice")

    def test_greetings(self) -> None:
        """What is no such Dovecot is not given a password; no greeting is waited for long."""
        for greeting in (
            GREETING.replace(b"VERSION\t1", b"VERSION\t2"),
            GREETING.replace(b"MECH\tPLAIN", b"MECH\tOTHER"),
            b"x\n" * 300,
            b"x" * 10000,
            b"220 mx.example ESMTP\r\n",
            b"",
        ):
            self.endpoint.greeting = greeting
            d = self.login()
            self.clock.advance(5)
            self.failureResultOf(d)
            self.assertTrue(self.endpoint.transports[-1].disconnecting, greeting)
            self.assertEqual([line for line in self.heard() if line.startswith(b"AUTH")], [])
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late(self) -> None:
        """An answer has its time; a connection on which nothing comes is given up."""
        d = self.login()
        self.clock.advance(20)
        self.failureResultOf(d)
        self.assertTrue(self.endpoint.transports[0].disconnecting)
        d = self.login()
        self.say(b"OK\t1\tuser=alice")
        self.assertEqual(self.successResultOf(d), b"alice")

    def test_cancelled(self) -> None:
        """A client that has gone is not asked about any longer; the others' answers come."""
        first, second = self.login("a"), self.login("b")
        first.addErrback(lambda _: None)
        self.heard()
        first.cancel()
        self.assertEqual(self.heard(), [b"CANCEL\t1"])
        self.say(b"OK\t1\tuser=a")
        self.say(b"OK\t2\tuser=b")
        self.assertEqual(self.successResultOf(second), b"b")
        self.assertEqual(len(self.endpoint.transports), 1)

    def test_bounded(self) -> None:
        """So many are asked about at once; the others wait."""
        for number in range(dovecot.AT_ONCE + 50):
            self.login(f"user{number}").addErrback(lambda _: None)
        connection: Any = self.checker._connection
        self.assertEqual(len(connection._pending), dovecot.AT_ONCE)
        self.say(b"OK\t1\tuser=x")
        self.assertEqual(len(connection._pending), dovecot.AT_ONCE)
        self.clock.advance(20)
        self.assertEqual(len(connection._pending), 0)

    def test_close(self) -> None:
        """It can be let go of, more than once."""
        self.login().addErrback(lambda _: None)
        self.endpoint.isThere = False
        self.checker.close()
        self.checker.close()
        self.assertTrue(self.endpoint.transports[0].disconnecting)

    @given(st.lists(st.binary(max_size=60), max_size=30))
    def test_nonsense(self, lines: list[bytes]) -> None:
        """Whatever is said instead of answers: no login comes of it, and no error of ours."""
        self.setUp()
        d = self.login()
        for line in lines:
            if not line.startswith(b"OK\t1"):
                self.endpoint.transports[0].protocol.dataReceived(line.replace(b"OK", b"") + b"\n")
        self.clock.advance(30)
        self.failureResultOf(d)

    def test_plugin(self) -> None:
        """C{--auth dovecot:PATH} finds it; an endpoint that is none is told at once."""
        factory = findCheckerFactory("dovecot")
        self.assertEqual(factory.credentialInterfaces, DovecotChecker.credentialInterfaces)
        for argument in ("/run/dovecot/auth-client", "/with:colon", "tcp:127.0.0.1:1234"):
            self.assertIsInstance(makeChecker(f"dovecot:{argument}"), DovecotChecker)
        self.assertRaises(ValueError, makeChecker, "dovecot:run/dovecot")
