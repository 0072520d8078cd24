"""
The connections to one server: made, used again, limited, secured and closed.
"""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectBindError,
    ConnectError,
    ConnectionRefusedError,
    NoRouteError,
)

from deferrals.errors import HopError
from deferrals.model.outgoing import Hop, Login
from tests.hops import HopsCase, codes, outgoing
from tests.peer import EHLO, Peer


class ConnectionTests(HopsCase):
    """
    Connections are made, used again, limited and closed.
    """

    def test_reused(self) -> None:
        """The next message goes over the same connection."""
        for _ in range(3):
            self.assertEqual(codes(self.sent(self.hop(), outgoing("b@x.example"))), [250])
        self.assertEqual(self.peer.connections, 1)
        self.assertEqual(len(self.peer.accepted), 3)

    def test_idle(self) -> None:
        """A connection that is idle for too long is closed politely, and forgotten."""
        self.sent(self.hop(idleSeconds=30), outgoing("b@x.example"))
        self.clock.advance(29)
        self.assertEqual(len(self.peer.sessions), 1)
        self.clock.advance(1)
        self.network.run()
        self.assertEqual((self.peer.commands[-1], self.peer.sessions), ("QUIT", []))
        self.assertEqual(self.hops.describe()["connections"], [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closedByServer(self) -> None:
        """A server that has closed an idle connection is connected to again."""
        self.sent(self.hop(), outgoing("b@x.example"))
        self.peer.sessions[0].transport.loseConnection()
        self.network.run()
        self.assertEqual(codes(self.sent(self.hop(), outgoing("b@x.example"))), [250])
        self.assertEqual(self.peer.connections, 2)

    def test_closedByServerUnnoticed(self) -> None:
        """Nor is anything lost when that shows only with the next MAIL FROM."""
        self.sent(self.hop(), outgoing("b@x.example"))
        self.peer.override["MAIL"] = "hang up"
        d = self.hops.send(self.hop(), outgoing("b@x.example"))
        self.clock.callLater(0, self.peer.override.clear)
        self.network.run()
        self.network.run()
        self.assertEqual(codes(self.successResultOf(d)), [250])
        self.assertEqual(len(self.peer.accepted), 2)

    def test_closedWith421(self) -> None:
        """
        Nor when it says 421 instead of taking another message (RFC 5321 §3.8):
        a fresh connection may have it at once.
        """
        self.sent(self.hop(), outgoing("b@x.example"))
        self.peer.override["MAIL"] = "421 4.7.0 too many messages on this connection"
        d = self.hops.send(self.hop(), outgoing("b@x.example"))
        self.clock.callLater(0, self.peer.override.clear)
        self.network.run()
        self.network.run()
        self.assertEqual(codes(self.successResultOf(d)), [250])
        self.peer.mail = "421 4.3.2 not today"
        self.sent(self.hop(), outgoing("b@x.example"))
        self.assertEqual(codes(self.sent(self.hop(), outgoing("b@x.example"))), [421])

    def test_spokenOutOfTurn(self) -> None:
        """What an idle connection says is never taken for an answer."""
        self.sent(self.hop(), outgoing("b@x.example"))
        self.peer.sessions[0].say("250 2.0.0 surprise")
        self.network.run()
        self.peer.rcpt["c@x.example"] = "550 5.1.1 who"
        self.assertEqual(codes(self.sent(self.hop(), outgoing("c@x.example"))), [550])
        self.assertEqual(self.peer.connections, 2)

    def test_421(self) -> None:
        """A server that says 421 is not spoken to any longer over that connection."""
        self.peer.rcpt["b@x.example"] = "421 4.3.2 shutting down"
        self.assertEqual(codes(self.sent(self.hop(), outgoing("b@x.example"))), [421])
        self.assertEqual(self.peer.sessions, [])
        del self.peer.rcpt["b@x.example"]
        self.assertEqual(codes(self.sent(self.hop(), outgoing("b@x.example"))), [250])

    def test_limit(self) -> None:
        """At most so many connections at once; the others wait for one."""
        self.peer.override["MAIL"] = "silence"
        hop = self.hop(connections=2)
        waiting = [self.start(hop, outgoing("b@x.example")) for _ in range(5)]
        self.assertEqual(self.peer.connections, 2)
        (line,) = self.hops.describe()["connections"]
        self.assertEqual((line["busy"], line["waiting"]), (2, 3))
        waiting[4].cancel()
        self.failureResultOf(waiting[4], CancelledError)
        self.peer.override.clear()
        for session in list(self.peer.sessions):
            session.transport.loseConnection()
        self.network.run()
        results = [self.successResultOf(d) for d in waiting[:4]]
        self.assertEqual([codes(sent) for sent in results], [[451], [451], [250], [250]])

    def test_messages(self) -> None:
        """After so many messages a connection is closed."""
        for _ in range(3):
            self.sent(self.hop(messages=2), outgoing("b@x.example"))
        self.assertEqual(self.peer.connections, 2)

    def test_cancelled(self) -> None:
        """A caller that cancels ends the connection, and none waits for its place."""
        self.peer.override["DATA"] = "silence"
        d = self.start(self.hop(connections=1), outgoing("b@x.example"))
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.network.run()
        self.assertEqual(self.peer.sessions, [])
        self.peer.override.clear()
        self.assertEqual(codes(self.sent(self.hop(connections=1), outgoing("c@x.example"))), [250])

    def test_cancelledWhileConnecting(self) -> None:
        """Also before there is a connection."""
        never: Deferred[Any] = Deferred()
        self.network.peers["hop"] = never
        d = self.start(self.hop(), outgoing("b@x.example"))
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(self.hops.describe()["connections"], [])

    def test_ours(self) -> None:
        """That there is no port, no descriptor, no network is not the server's fault."""
        for error, isOurs in (
            (ConnectBindError(errno.EADDRNOTAVAIL), True),
            (ConnectError(errno.EMFILE), True),
            (NoRouteError(errno.ENETUNREACH), True),
            (ConnectionRefusedError(errno.ECONNREFUSED), False),
        ):
            self.network.peers["hop"] = error
            failure = self.failureResultOf(
                self.start(self.hop(), outgoing("b@x.example")), HopError
            )
            self.assertEqual(failure.value.isOurs, isOurs, error)

    def test_noSession(self) -> None:
        """No connection, no welcome, no answer in time: HopError, and nothing is left."""
        for peer, seconds in (
            (ConnectionRefusedError("refused"), 0),
            (Deferred(), 120),
            (self._silent(), 300),
            (self._greeting("554 5.7.1 go away"), 0),
            (self._greeting("nonsense"), 0),
        ):
            self.network.peers["hop"] = peer
            d = self.start(self.hop(), outgoing("b@x.example"))
            self.clock.advance(seconds)
            self.network.run()
            self.failureResultOf(d, HopError)
            self.assertEqual(self.hops.describe()["connections"], [])
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def _greeting(self, text: str) -> Peer:
        peer = Peer()
        peer.greeting = text
        return peer

    def _silent(self) -> Peer:
        peer = Peer()
        peer.override["EHLO"] = "silence"
        return peer

    def test_ourselves(self) -> None:
        """A server that calls itself as we do is a loop."""
        self.network.peers["hop"] = Peer(name="MX.example.net")
        d = self.start(self.hop(notOurselves=True), outgoing("b@x.example"))
        self.assertEqual(self.failureResultOf(d, HopError).value.enhanced, "4.4.6")


class SecurityTests(HopsCase):
    """
    What is said to a server with which there is no TLS, or none that is
    verified.
    """

    def session(self, hop: Hop) -> list[str]:
        """
        @return: the verbs that the server has heard.
        """
        self.peer.commands.clear()
        d = self.start(hop, outgoing("b@x.example"))
        if hop.security == "opportunistic":
            self.assertEqual(codes(self.successResultOf(d)), [250])
        else:
            error = self.failureResultOf(d, HopError).value
            self.assertIn(error.enhanced, ("4.7.4", "4.7.5"), str(error))
        return [line.split()[0] for line in self.peer.commands]

    def test_clear(self) -> None:
        """
        Not offered, refused, or failing: mail goes in clear where the operator
        lets it, otherwise neither mail nor a password is said.
        """
        securities: tuple[Any, ...] = ("required", "verified")
        login = Login("me", "secret")
        hops = [self.hop(security=one, login=login, idleSeconds=1) for one in securities]
        clear = self.hop(security="opportunistic", idleSeconds=1)
        for offered, answer in ((False, ""), (True, "454 4.7.0 not now"), (True, "hang up")):
            self.peer.keywords = [*EHLO, "AUTH PLAIN", *["STARTTLS"] * offered]
            self.peer.override["STARTTLS"] = answer
            starts = ["STARTTLS"] * offered
            for hop in hops:
                self.assertEqual(self.session(hop), ["EHLO", *starts])
            again = ["EHLO"] if answer == "hang up" else []
            wanted = ["EHLO", *starts, *again, "MAIL", "RCPT", "DATA"]
            self.assertEqual(self.session(clear), wanted)
            self.clock.advance(1)
            self.network.run()
            self.assertEqual(self.peer.sessions, [])

    def test_unverifiedEndpoint(self) -> None:
        """An endpoint that is encrypted with whoever answers is not a verified one."""
        peer = self.peer = Peer("AUTH PLAIN")
        self.network.peers["ssl:hop:465"] = self.network.peers["tls:hop:465"] = peer
        login = Login("me", "secret")
        peer.override["AUTH"] = "235 2.7.0 welcome"
        hop = Hop("ssl:hop:465", "hop", "hop", security="verified", login=login)
        self.assertEqual(self.session(hop), ["EHLO"])
        hop = Hop("tls:hop:465", "hop", "hop", security="verified", login=login)
        d = self.start(hop, outgoing("b@x.example"))
        self.assertEqual(codes(self.successResultOf(d)), [250])
