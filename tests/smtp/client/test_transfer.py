"""
One message to one server, in as many transactions as that takes.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from deferrals.model.envelope import Form
from deferrals.model.outgoing import Hop, Outgoing, Sent
from deferrals.model.reply import Reply
from deferrals.smtp.client import transfer
from tests.hops import BODY, HopsCase, codes, outgoing
from tests.peer import EHLO, Peer
from tests.requirements import requirement


class HeardTests(HopsCase):
    """
    Answers that stand before all of them are known.
    """

    def heard(self, *recipients: str, **hop: Any) -> tuple[Deferred[Any], dict[str, list[int]]]:
        """
        Send, as far as the server lets it go.

        @return: a Deferred of all answers, and the codes that have been heard.
        """
        codes: dict[str, list[int]] = {}

        def heard(index: int, sent: Sent) -> None:
            (answer,) = sent.answers
            self.assertEqual((answer.recipient, sent.host), (recipients[index], "peer.example"))
            codes.setdefault(answer.recipient[0], []).append(answer.reply.code)

        return self.start(self.hop(**hop), outgoing(*recipients), heard), codes

    def test_lmtp(self) -> None:
        """Each recipient's own one as soon as it is there (RFC 2033 §4.2)."""
        self.peer.lmtp = True
        self.peer.rcpt = {"d@x.example": "550 5.1.1 who"}
        self.peer.block = {"b@x.example": "552 5.2.2 full", "c@x.example": "silence"}
        d, codes = self.heard(*(f"{x}@x.example" for x in "abcd"), lmtp=True, forms=())
        self.assertEqual(codes, {"a": [250], "b": [552]})
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(codes, {"a": [250, 250], "b": [552, 552], "d": [550]})

    def test_transactions(self) -> None:
        """What the first transaction has come to, while the second is under way."""
        self.peer.rcpt = {"c@x.example": "silence"}
        d, codes = self.heard(*(f"{x}@x.example" for x in "abc"), recipients=2, forms=())
        self.assertEqual(codes, {"a": [250], "b": [250]})
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(codes, {"a": [250], "b": [250]})

    def test_putOff(self) -> None:
        """A recipient that comes again at once has no answer that stands."""
        self.peer.rcpt = {"b@x.example": ["452 4.5.3 one", "250 2.1.5 ok"]}
        d, codes = self.heard("a@x.example", "b@x.example", forms=())
        self.assertEqual(codes, {"a": [250], "b": [250]})
        self.assertEqual([one.reply.code for one in self.successResultOf(d).answers], [250, 250])

    def test_tooMany(self) -> None:
        """Too many recipients is for now, whatever the code (RFC 5321 §4.5.3.1.10)."""
        for reply in ("552 5.5.3 too many", "552 too many", "550 5.5.3 too many", "452 4.5.3 many"):
            self.setUp()
            self.peer.rcpt = {"b@x.example": [reply, "250 2.1.5 ok"]}
            sent = self.sent(self.hop(forms=()), outgoing("a@x.example", "b@x.example"))
            self.assertEqual(codes(sent), [250, 250])
            self.assertEqual(len(self.mails()), 2)

    def test_notTooMany(self) -> None:
        """A full mailbox is none of many, nor is what is said of the first one."""
        for place, reply, code in (
            ("b", "552 5.2.2 full", 552),
            ("a", "552 storage", 552),
            ("a", "552 5.5.3 too many", 452),
        ):
            self.setUp()
            self.peer.rcpt = {f"{place}@x.example": reply}
            sent = self.sent(self.hop(forms=()), outgoing("a@x.example", "b@x.example"))
            self.assertEqual(codes(sent)["ab".index(place)], code)

    @requirement("P-10")
    def test_block(self) -> None:
        """What a block says counts for nothing without the final reply; a refused RCPT does."""
        self.peer.keywords = ["PIPELINING", "PRDR"]
        self.peer.rcpt = {"c@x.example": "550 5.1.1 who"}
        lines = len("353 wait\r\n250 2.1.5 ok\r\n250 2.1.5 ok\r\n")
        self.peer.drop = lambda sender: lines
        self.peer.holds = True
        d, codes = self.heard(*(f"{x}@x.example" for x in "abc"))
        self.assertEqual(codes, {})
        d.cancel()
        self.failureResultOf(d, CancelledError)
        self.assertEqual(codes, {"c": [550]})


class TransactionTests(HopsCase):
    """
    One message in as many transactions as the server wants.
    """

    @requirement("D-11")
    @requirement("P-11")
    def test_each(self) -> None:
        """Each recipient has its own answer (D-11, P-11), and the server its name."""
        self.peer.rcpt = {"b@x.example": "550 5.1.1 who", "c@x.example": "450 4.2.1 busy"}
        self.peer.block = {"e@x.example": "550 5.6.0 no"}
        sent = self.sent(
            self.hop(forms=(Form.PRDR,)), outgoing(*(f"{local}@x.example" for local in "abcde"))
        )
        self.assertEqual(codes(sent), [250, 550, 450, 250, 550])
        self.assertEqual((sent.host, sent.knowsDSN), ("peer.example", False))
        self.assertTrue(all(answer.reply.byServer for answer in sent.answers))
        for (answer, details), own in zip(sent.each(), "a..de", strict=True):
            self.assertEqual((details.address, details.port), ("192.0.2.25", 25))
            final = None if own == "." else Reply(250, "2.6.0", "taken")
            self.assertEqual((details.final, answer.final), (final, final))
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
        """
        A recipient sent away with 452 4.5.3 comes in the next transaction (RFC 5321
        §4.5.3.1.10).
        """
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
        """What was answered before the connection was lost stays answered (D-21)."""
        self.peer.drop = lambda sender: 0 if len(self.peer.accepted) else None
        sent = self.sent(self.hop(recipients=1), outgoing("a@x.example", "b@x.example"))
        self.assertEqual(codes(sent), [250, 451])

    @requirement("D-21")
    def test_lostAtTheEnd(self) -> None:
        """
        What the server may have taken is not sent to it again at once, though it was an
        old connection that was lost.
        """
        self.assertEqual(codes(self.sent(self.hop(), outgoing("a@x.example"))), [250])
        self.peer.drop = lambda sender: 0
        self.assertEqual(codes(self.sent(self.hop(), outgoing("b@x.example"))), [451])
        self.assertEqual((self.rcpts(), self.peer.connections), (["a", "b"], 1))

    def test_notAsked(self) -> None:
        """A recipient that was not come to is tried again later."""
        self.patch(transfer, "MAX_TRANSACTIONS", 1)
        sent = self.sent(self.hop(recipients=1), outgoing("a@x.example", "b@x.example"))
        self.assertEqual((codes(sent), self.peer.delivered), ([250, 451], ["a@x.example"]))

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

    def test_bareNewline(self) -> None:
        """
        A text with a bare CR or LF is refused for good and given up before its
        end, with DATA and with BDAT; a binary one is what it is.
        """
        evil = b"hi\n.\r\nMAIL FROM:<evil@x.example>\r\n"
        for pieces in ([evil], [b"hi\r\n"] * 3 + [evil], [b"a\r", b"\n.\r", b"x"], [b"a\r"]):
            for keywords in (EHLO, (*EHLO, "CHUNKING")):
                self.setUp()
                self.peer.keywords = list(keywords)
                size = sum(map(len, pieces))
                message = Outgoing("", ["b@x.example"], size, lambda pieces=pieces: iter(pieces))
                self.assertEqual(codes(self.sent(self.hop(), message)), [554])
                self.network.run()
                self.assertEqual((self.peer.accepted, self.peer.sessions), ([], []))
                self.assertFalse(b"evil" in self.peer.octets)
                self.assertEqual(self.hops.describe()["misgivings"], [])
        self.setUp()
        self.peer.keywords = [*EHLO, "CHUNKING", "BINARYMIME"]
        message = Outgoing("", ["b@x.example"], len(evil), lambda: iter([evil]), binary=True)
        self.assertEqual(codes(self.sent(self.hop(), message)), [250])
        self.assertEqual(self.peer.accepted[0][2], evil)

    def test_wholeLines(self) -> None:
        """A CRLF that is cut in two by the pieces of the message is a line's end."""
        pieces = [b"a\r", b"\n", b".b\r\n", b"c\r", b"\n"]
        message = Outgoing("", ["b@x.example"], 10, lambda: iter(pieces))
        self.assertEqual(codes(self.sent(self.hop(), message)), [250])
        self.assertEqual(self.peer.accepted[0][2], b"a\r\n.b\r\nc\r\n")

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
        Nobody can have taken a message before its end: such an answer is none,
        and the message stays ours (D-21).
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
            self.assertIn("before its end", sent.details[0].cause)
            self.network.run()
            self.assertEqual(self.peer.sessions, [])

    def test_prematureLMTP(self) -> None:
        """The same for a recipient's reply under LMTP (RFC 2033 §4.2)."""
        self.peer = self.network.peers["hop"] = Peer("PIPELINING", lmtp=True)
        self.peer.override["DATA"] = "354 go\r\n250 2.1.5 taken"
        message = outgoing("a@x.example", "b@x.example")
        self.assertEqual(codes(self.sent(self.hop(lmtp=True), message)), [451, 451])


ONE, TWO, THREE = "one@example.net", "two@example.net", "three@example.net"


class ExtendedTests(HopsCase):
    """
    L{Transfer} to a server that speaks EXDATA.
    """

    def setUp(self) -> None:
        super().setUp()
        self.peer = self.network.peers["hop"] = Peer("PIPELINING", "XEXDATA")
        self.peer.block = {TWO: "550 5.7.1 no", THREE: "450 4.7.1 not now"}

    @requirement("X-7")
    def test_each(self) -> None:
        """Three recipients, three outcomes, one transaction."""
        sent = self.sent(self.hop(), outgoing(ONE, TWO, THREE))
        self.assertEqual(codes(sent), [250, 550, 450])
        self.assertEqual(self.peer.delivered, [ONE])
        self.assertEqual(self.mails(), ["MAIL FROM:<a@example.com> EXDATA"])

    @requirement("X-8")
    def test_everyCut(self) -> None:
        """
        Wherever the 558 breaks off: nobody is taken for delivered who is not,
        and nobody for refused who is delivered.
        """
        self.sent(self.hop(), outgoing(ONE, TWO, THREE))
        for cut in range(len(self.peer.answer)):
            self.setUp()
            self.peer.drop = lambda sender, cut=cut: cut
            found = codes(self.sent(self.hop(), outgoing(ONE, TWO, THREE)))
            self.assertIn(found[0], (250, 451), cut)
            self.assertIn(found[1], (550, 451), cut)
            self.assertEqual(found[0] == 250, ONE in self.peer.delivered, cut)

    @requirement("X-3")
    @requirement("X-8")
    @requirement("D-26")
    def test_downgrade(self) -> None:
        """
        Three in a row that are not complete, and it is not asked any longer; what
        it says unasked is read all the same.
        """
        self.peer.extra = ["558 250 2.1.5 who is that?"]
        message = outgoing(ONE, TWO)
        for _ in range(3):
            self.assertEqual(codes(self.sent(self.hop(), message)), [451, 451])
        self.peer.extra = []
        self.assertEqual(codes(self.sent(self.hop(), message)), [250, 550])
        asked = [line.endswith(" EXDATA") for line in self.mails()]
        self.assertEqual(asked, [True] * 3 + [False])
        (note,) = self.hops.describe()["misgivings"]
        self.assertEqual((note["server"], note["without"]), ("hop:25", "XEXDATA"))
