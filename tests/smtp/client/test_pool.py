"""
The pool of connections to other servers, against servers without sockets.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from deferrals.errors import HopError
from deferrals.interfaces import INextHops
from deferrals.model.envelope import Form
from deferrals.model.outgoing import Hop, Login, Outgoing
from tests.hops import BODY, HopsCase, codes, outgoing
from tests.peer import EHLO, Peer
from tests.requirements import requirement


class PoolTests(HopsCase):
    """
    Connections are made, used again, limited and closed.
    """

    def test_interface(self) -> None:
        """It provides the interface."""
        self.assertTrue(verifyObject(INextHops, self.hops))

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
        """Whoever cancels ends the connection, and nobody waits for its place."""
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

    def test_close(self) -> None:
        """When the server stops, goodbye is said on what is idle."""
        self.sent(self.hop(), outgoing("b@x.example"))
        closed = self.hops.close()
        self.network.run()
        self.successResultOf(closed)
        self.assertEqual((self.peer.commands[-1], self.peer.sessions), ("QUIT", []))
        self.sent(self.hop(), outgoing("b@x.example"))
        self.network.run()
        self.assertEqual(self.peer.sessions, [])

    def test_ourselves(self) -> None:
        """A server that calls itself as we do is a loop."""
        self.network.peers["hop"] = Peer(name="MX.example.net")
        d = self.start(self.hop(notOurselves=True), outgoing("b@x.example"))
        self.assertEqual(self.failureResultOf(d, HopError).value.enhanced, "4.4.6")


class TransactionTests(HopsCase):
    """
    One message in as many transactions as the server wants.
    """

    @requirement("D-11")
    @requirement("P-11")
    def test_each(self) -> None:
        """Each recipient has its own answer, and the server its name."""
        self.peer.rcpt = {"b@x.example": "550 5.1.1 who", "c@x.example": "450 4.2.1 busy"}
        self.peer.block = {"e@x.example": "550 5.6.0 no"}
        sent = self.sent(
            self.hop(forms=(Form.PRDR,)), outgoing(*(f"{local}@x.example" for local in "abcde"))
        )
        self.assertEqual(codes(sent), [250, 550, 450, 250, 550])
        self.assertEqual((sent.host, sent.knowsDSN), ("hop.example", False))
        self.assertEqual(self.peer.delivered, ["a@x.example", "d@x.example"])

    def test_limits(self) -> None:
        """RCPTMAX, RCPTDOMAINMAX and MAILMAX are obeyed (RFC 9422)."""
        self.peer.keywords = ["PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=2 RCPTDOMAINMAX=1"]
        people = ["a@x.example", "b@x.example", "c@x.example", "d@y.example", "e@y.example"]
        self.assertEqual(codes(self.sent(self.hop(), outgoing(*people))), [250] * 5)
        self.assertEqual(self.rcpts(), ["ab", "c", "de"])
        self.assertEqual(self.peer.connections, 2)

    def test_recipients(self) -> None:
        """Our own limit, and that of another hop."""
        self.sent(self.hop(recipients=2), outgoing(*(f"{x}@x.example" for x in "abc")))
        self.assertEqual(self.rcpts(), ["ab", "c"])

    def test_putOff(self) -> None:
        """Who is sent away with 452 4.5.3 comes in the next transaction (RFC 5321 §4.5.3.1.10)."""
        self.peer.keywords = ["PIPELINING"]
        self.peer.rcpt = {
            "b@x.example": ["452 4.5.3 other rules"],
            "c@x.example": ["452 4.2.2 full"],
        }
        sent = self.sent(self.hop(), outgoing("a@x.example", "b@x.example", "c@x.example"))
        self.assertEqual(codes(sent), [250, 250, 452])
        self.assertEqual(self.rcpts(), ["abc", "b"])

    def test_putOffByAll(self) -> None:
        """But not when nobody was taken, or the server cannot take mail now."""
        self.peer.rcpt = {f"{x}@x.example": "452 4.5.3 no" for x in "ab"}
        self.sent(self.hop(), outgoing("a@x.example", "b@x.example"))
        self.assertEqual(self.rcpts(), ["ab"])
        self.peer.final = "451 4.3.0 later"
        sent = self.sent(self.hop(), outgoing("b@x.example", "c@x.example"))
        self.assertEqual(codes(sent), [452, 451])
        self.assertEqual(self.rcpts(), ["ab", "bc"])

    @requirement("D-21")
    def test_lostAfterFirst(self) -> None:
        """What was answered before the connection was lost stays answered."""
        self.peer.drop = lambda sender: 0 if len(self.peer.accepted) else None
        sent = self.sent(self.hop(recipients=1), outgoing("a@x.example", "b@x.example"))
        self.assertEqual(codes(sent), [250, 451])

    def test_lmtp(self) -> None:
        """LMTP: one reply each, over one connection (RFC 2033)."""
        self.peer = self.network.peers["hop"] = Peer("PIPELINING", lmtp=True)
        self.peer.block = {"b@x.example": "552 5.2.2 full", "c@x.example": "451 4.2.0 later"}
        for _ in range(2):
            sent = self.sent(self.hop(lmtp=True), outgoing(*(f"{x}@x.example" for x in "abc")))
            self.assertEqual(codes(sent), [250, 552, 451])
        self.assertEqual(self.peer.connections, 1)
        self.assertEqual(self.mails()[0], "MAIL FROM:<a@example.com>")

    def test_chunking(self) -> None:
        """Where CHUNKING is offered the message goes in one chunk, as it is (RFC 3030)."""
        self.peer.keywords = [*EHLO, "CHUNKING"]
        sent = self.sent(self.hop(), outgoing("a@x.example", "b@x.example"))
        self.assertEqual(codes(sent), [250, 250])
        self.assertIn(f"BDAT {len(BODY)} LAST", self.peer.commands)
        self.assertEqual(self.peer.accepted[0][2], BODY)
        self.sent(self.hop(chunking=False), outgoing("a@x.example"))
        self.assertEqual(self.peer.commands[-1], "DATA")

    def test_chunkForNobody(self) -> None:
        """No chunk is sent to nobody."""
        self.peer.keywords = [*EHLO, "CHUNKING"]
        self.peer.rcpt = {"a@x.example": "550 5.1.1 who"}
        self.assertEqual(codes(self.sent(self.hop(), outgoing("a@x.example"))), [550])
        self.assertEqual(self.peer.commands[-1], "RSET")

    def test_chunkOfAnotherSize(self) -> None:
        """A message that is not as long as it said ends the connection, and is not taken."""
        self.peer.keywords = ["CHUNKING"]
        for body in (b"short", BODY + b"long"):
            message = Outgoing("a@b.c", ["d@e.f"], len(BODY), lambda body=body: iter([body]))
            self.assertEqual(codes(self.sent(self.hop(), message)), [451])
        self.assertEqual(self.peer.accepted, [])
        self.assertEqual(self.peer.sessions, [])

    def test_needs(self) -> None:
        """What a message needs and the server does not offer is a refusal of our own."""
        for keywords, message, code in (
            (["8BITMIME"], {"eightBit": True}, 250),
            (["PIPELINING"], {"eightBit": True}, 554),
            (["8BITMIME", "SMTPUTF8"], {"utf8Header": True}, 250),
            (["8BITMIME"], {"utf8Header": True}, 553),
            (["8BITMIME", "CHUNKING", "BINARYMIME"], {"binary": True}, 250),
            (["8BITMIME", "CHUNKING"], {"binary": True}, 554),
            (["SIZE 19"], {}, 552),
            (["SIZE 20"], {}, 250),
            (["SIZE 0"], {}, 250),
            (["SIZE"], {}, 250),
            (["REQUIRETLS"], {"requireTLS": True}, 550),
        ):
            self.network.peers["hop"] = peer = Peer(*keywords)
            hop = Hop("hop", f"{keywords}", "hop.example")
            sent = self.sent(hop, outgoing("a@x.example", **message))
            self.assertEqual(codes(sent), [code], (keywords, message))
            self.assertEqual(bool(peer.accepted), code == 250)

    def test_parameters(self) -> None:
        """BODY, SMTPUTF8, DSN's parameters: as needed, and as offered (RFC 3461 §5.2)."""
        self.peer.keywords = ["8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "BINARYMIME"]
        dsn = {
            "parameters": [("DSN", "RET=HDRS"), ("OTHER", "X=1")],
            "recipientParameters": {1: [("DSN", "NOTIFY=NEVER")]},
        }
        self.sent(self.hop(), outgoing("a@x.example", "\u00e4@x.example", eightBit=True, **dsn))
        self.sent(self.hop(), outgoing("a@x.example", binary=True))
        self.assertEqual(
            [line for line in self.peer.commands if line[:4] in ("MAIL", "RCPT")],
            [
                "MAIL FROM:<a@example.com> BODY=8BITMIME SMTPUTF8 RET=HDRS",
                "RCPT TO:<a@x.example>",
                "RCPT TO:<\u00e4@x.example> NOTIFY=NEVER",
                "MAIL FROM:<a@example.com> BODY=BINARYMIME",
                "RCPT TO:<a@x.example>",
            ],
        )

    def test_earlyReply(self) -> None:
        """A server that answers in the middle of the message and hangs up has answered."""
        self.peer.override["DATA"] = "354 go\r\n552 5.3.4 too long"
        d = self.hops.send(self.hop(), outgoing("a@x.example"))
        self.network.run()
        self.assertEqual(codes(self.successResultOf(d)), [552])

    @requirement("D-21")
    def test_prematureAcceptance(self) -> None:
        """
        Nobody can have taken a message before its end: such an answer is none, and
        the message stays ours.
        """
        for chunking in (False, True):
            self.peer = self.network.peers["hop"] = Peer(*EHLO, *["CHUNKING"] * chunking)
            hop = self.hop(idleSeconds=1)
            if chunking:
                self.peer.rcpt["a@x.example"] = "250 2.1.5 ok\r\n250 2.6.0 taken"
            else:
                self.peer.override["DATA"] = "354 go\r\n250 2.6.0 taken"
            sent = self.sent(hop, outgoing("a@x.example"))
            self.assertEqual(codes(sent), [451])
            self.assertIn("before its end", sent.answers[0].reply.text)
            self.network.run()
            self.assertEqual(self.peer.sessions, [])

    def test_prematureLMTP(self) -> None:
        """The same for a recipient's reply under LMTP (RFC 2033 §4.2)."""
        self.peer = self.network.peers["hop"] = Peer("PIPELINING", lmtp=True)
        self.peer.override["DATA"] = "354 go\r\n250 2.1.5 taken"
        message = outgoing("a@x.example", "b@x.example")
        self.assertEqual(codes(self.sent(self.hop(lmtp=True), message)), [451, 451])


class AskTests(HopsCase):
    """
    Questions without a message.
    """

    def ask(self, recipient: str, **settings: Any) -> Any:
        d = self.hops.ask(self.hop(**settings), "", recipient)
        self.network.run()
        return d

    def test_ask(self) -> None:
        """MAIL, RCPT, RSET in one piece; never DATA; one connection for many questions."""
        self.peer.rcpt = {"b@x.example": "550 5.1.1 who"}
        for recipient, code in (("a@x.example", 250), ("b@x.example", 550)):
            mail, rcpt = self.successResultOf(self.ask(recipient))
            self.assertEqual((mail.code, rcpt.code), (250, code))
        self.assertEqual(self.peer.connections, 1)
        self.assertEqual(self.peer.commands[1:4], ["MAIL FROM:<>", "RCPT TO:<a@x.example>", "RSET"])
        self.assertNotIn("DATA", self.peer.commands)

    def test_notPipelined(self) -> None:
        """One after the other, where PIPELINING is not offered."""
        self.peer.keywords = ["SIZE"]
        self.successResultOf(self.ask("a@x.example"))

    def test_stale(self) -> None:
        """A connection that the server had closed is replaced."""
        self.successResultOf(self.ask("a@x.example"))
        self.peer.override["MAIL"] = "hang up"
        d = self.hops.ask(self.hop(), "", "a@x.example")
        self.clock.callLater(0, self.peer.override.clear)
        self.network.run()
        self.successResultOf(d)

    def test_none(self) -> None:
        """No answer is a HopError."""
        self.peer.override["RCPT"] = "hang up"
        self.failureResultOf(self.ask("a@x.example"), HopError)

    def test_needsUTF8(self) -> None:
        """
        An address that the server cannot be told (no SMTPUTF8) is refused
        without being asked about (RFC 6531 §3.2), also over a connection that
        has been used before.
        """
        for _ in range(3):
            mail, rcpt = self.successResultOf(self.ask("\u00e4@x.example"))
            self.assertEqual((mail.isPositive, rcpt.code, rcpt.enhanced), (True, 553, "5.6.7"))
        self.assertEqual(self.peer.connections, 1)
        self.assertEqual(self.peer.commands, ["EHLO mx.example.net"])
        self.peer.keywords.append("SMTPUTF8")
        self.clock.advance(31)
        self.network.run()
        self.successResultOf(self.ask("\u00e4@x.example"))
        self.assertIn("MAIL FROM:<> SMTPUTF8", self.peer.commands)


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
