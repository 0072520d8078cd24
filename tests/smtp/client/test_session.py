"""
The client's side, against scripted servers and against our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import PeerError
from deferrals.model.answers import Result
from deferrals.model.envelope import Form
from deferrals.model.outgoing import Outgoing
from deferrals.model.reply import KEPT_OCTETS, Reply
from deferrals.model.verdict import ACCEPT, Refuse
from deferrals.smtp.client.replies import MAX_REPLY_LINES
from deferrals.smtp.client.session import ClientSession
from tests.harness import Bench
from tests.requirements import requirement

GREETING = "220 mx ESMTP"
EHLO = ["250-mx", "250-PIPELINING", "250-SIZE 100", "250-8BITMIME", "250-PRDR", "250 DEFERRALS"]


class Transport(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        while self.producer is not None:
            producer.resumeProducing()


class Scripted:
    """
    A session whose server says what a test tells it to.
    """

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.session = ClientSession(self.clock, "client.example.com", **settings)
        self.transport = Transport()
        self.session.makeConnection(self.transport)
        self.opened = Deferred.fromCoroutine(self.session.open())

    def say(self, *lines: str) -> list[str]:
        """
        @return: what the client said to that.
        """
        self.session.dataReceived("".join(line + "\r\n" for line in lines).encode())
        said = self.transport.value().decode()
        self.transport.clear()
        return said.splitlines()

    def send(self, *recipients: str, body: bytes = b"text\r\n", **more: Any) -> Any:
        def chunks() -> Iterator[bytes]:
            yield body

        outgoing = Outgoing("a@example.com", recipients, len(body), chunks, **more)
        self.result = Deferred.fromCoroutine(self.session.send(outgoing))
        said = self.transport.value().decode().splitlines()
        self.transport.clear()
        return said

    def lose(self) -> None:
        self.session.connectionLost(Failure(ConnectionDone()))


def codes(result: Result) -> list[int]:
    return [answer.reply.code for answer in result.answers]


class ClientTests(SynchronousTestCase):
    """
    L{ClientSession}.
    """

    def greeted(self, ehlo: list[str] = EHLO, **settings: Any) -> Scripted:
        server = Scripted(**settings)
        server.say(GREETING)
        server.say(*ehlo)
        self.successResultOf(server.opened)
        return server

    def test_pipelined(self) -> None:
        """The envelope and DATA go out in one piece, with the first extension offered."""
        server = self.greeted()
        self.assertEqual(
            server.send("b@example.net", "c@example.net"),
            [
                "MAIL FROM:<a@example.com> SIZE=6 DEFERRALS",
                "RCPT TO:<b@example.net>",
                "RCPT TO:<c@example.net>",
                "DATA",
            ],
        )

    def test_behindTheLastReply(self) -> None:
        """
        What comes in one piece with the last reply, and is too much, takes
        nothing away from it, and is no answer to the next message.
        """
        for more in ("250 2.0.0 ok", "hello", "250-half", "250-a\r\n251 b", "550 no"):
            server = self.greeted(["250-mx", "250 PIPELINING"])
            server.send("b@example.net")
            server.say("250 ok", "250 ok", "354 go")
            server.say("250 2.6.0 done", more)
            result = self.successResultOf(server.result)
            self.assertEqual((codes(result), result.final), ([250], Reply(250, "2.6.0", "done")))
            self.assertFalse(server.session.usable, more)
            self.assertTrue(server.transport.aborted, more)
            server.send("c@example.net")
            self.assertEqual(codes(self.successResultOf(server.result)), [451])

    def test_intermediate(self) -> None:
        """A 3xx to MAIL FROM, or for a recipient, refuses nothing for good."""
        server = self.greeted(["250-mx", "250 PIPELINING"])
        server.send("b@example.net")
        server.say("354 go", "250 ok", "354 go")
        self.assertEqual(codes(self.successResultOf(server.result)), [451])
        self.assertFalse(server.session.usable)
        server = self.greeted(["250-mx", "250 PIPELINING"], lmtp=True)
        server.send("b@example.net", "c@example.net", "d@example.net")
        server.say("250 ok", "250 ok", "250 ok", "250 ok", "354 go")
        server.say("250 ok", "354 go", "250 ok")
        self.assertEqual(codes(self.successResultOf(server.result)), [250, 451, 451])

    def test_behindReplies(self) -> None:
        """Recipients that have been answered keep their answers, whatever follows."""
        server = self.greeted(["250-mx", "250 PIPELINING"], lmtp=True)
        server.send("b@example.net", "c@example.net", "d@example.net")
        server.say("250 ok", "250 ok", "250 ok", "250 ok", "354 go")
        server.say("550 5.6.0 no", "250 2.0.0 ok", "hello")
        self.assertEqual(codes(self.successResultOf(server.result)), [550, 250, 451])
        self.assertFalse(server.session.usable)

    def test_answeredBeforeItsEnd(self) -> None:
        """A message that is taken in one piece with the 354 was not read; a refusal may be true."""
        for final, code in (("250 2.6.0 done", 451), ("554 5.0.0 no", 554)):
            server = self.greeted(["250-mx", "250 PIPELINING"])
            server.send("b@example.net")
            server.say("250 ok", "250 ok", "354 go", final)
            self.assertEqual(codes(self.successResultOf(server.result)), [code])

    @requirement("D-3")
    def test_forms(self) -> None:
        """DEFERRALS, else PRDR, else nothing; never what is not offered."""
        for ehlo, settings, wanted in (
            (EHLO, {}, " DEFERRALS"),
            (EHLO, {"forms": [Form.PRDR]}, " PRDR"),
            (EHLO, {"forms": []}, ""),
            (["250-mx", "250-PIPELINING", "250 PRDR"], {}, " PRDR"),
            (["250-mx", "250 PIPELINING"], {}, ""),
        ):
            server = self.greeted(ehlo, **settings)  # type: ignore[arg-type]
            mail = server.send("b@example.net")[0].replace(" SIZE=6", "")
            self.assertEqual(mail, "MAIL FROM:<a@example.com>" + wanted)

    @requirement("D-6")
    @requirement("D-11")
    def test_deferrals(self) -> None:
        """352, 353, a reply for each 352, a final one."""
        server = self.greeted()
        server.send("a@x.example", "b@x.example", "c@x.example", "d@x.example")
        data = server.say("250 ok", "250 ok", "352 later", "550 5.1.1 who", "352 later", "354 go")
        self.assertEqual(data, ["text", "."])
        server.say("353 wait", "550 5.6.0 <b@x.example> no")
        self.assertNoResult(server.result)
        server.say("250-2.1.5 one", "250 2.1.5 two")
        self.assertNoResult(server.result)
        server.say("250 2.6.0 done")
        result = self.successResultOf(server.result)
        self.assertEqual(codes(result), [250, 550, 550, 250])
        self.assertEqual(result.answers[3].reply, Reply(250, "2.1.5", "one\ntwo"))
        self.assertEqual((result.form, result.enumerated), (Form.DEFERRALS, True))
        self.assertTrue(server.session.usable)

    @requirement("P-3")
    @requirement("P-6")
    def test_prdr(self) -> None:
        """Under PRDR every 2xx'd recipient is enumerated."""
        server = self.greeted(forms=[Form.PRDR])
        server.send("a@x.example", "b@x.example", "c@x.example")
        server.say("250 ok", "250 ok", "550 5.1.1 who", "250 ok", "354 go")
        server.say("353 wait", "450 4.7.1 later", "250 2.1.5 ok", "250 2.6.0 done")
        self.assertEqual(codes(self.successResultOf(server.result)), [450, 550, 250])

    @requirement("D-9")
    @requirement("P-4")
    def test_global(self) -> None:
        """One reply for all."""
        for final, wanted in (("250 2.6.0 ok", 250), ("550 5.6.0 no", 550), ("451 4.3.0 no", 451)):
            server = self.greeted()
            server.send("a@x.example", "b@x.example")
            server.say("250 ok", "352 later", "352 later", "354 go")
            server.say(final)
            self.assertEqual(codes(self.successResultOf(server.result)), [wanted, wanted])

    @requirement("P-11")
    def test_finalOverrides(self) -> None:
        """A negative final reply overrides the block."""
        server = self.greeted()
        server.send("a@x.example", "b@x.example")
        server.say("250 ok", "352 later", "352 later", "354 go")
        server.say("353 wait", "250 2.1.5 ok", "550 5.6.0 no", "452 4.3.1 disk full")
        self.assertEqual(codes(self.successResultOf(server.result)), [452, 452])

    @requirement("D-21")
    @requirement("P-10")
    def test_lostAnywhere(self) -> None:
        """A connection lost before the final reply leaves the message ours."""
        replies = [
            "250 ok",
            "352 l",
            "550 5.1.1 who",
            "352 l",
            "354 go",
            "353 w",
            "250 2.1.5 o",
            "550 n",
        ]
        stream = "".join(reply + "\r\n" for reply in replies).encode() + b"250 2.6.0 do"
        for end in range(len(stream)):
            server = self.greeted()
            server.send("a@x.example", "b@x.example", "c@x.example")
            server.session.dataReceived(stream[:end])
            server.lose()
            result = self.successResultOf(server.result)
            self.assertEqual(result.accepted, [])
            self.assertTrue(all(a.temporary for a in (result.answers[0], result.answers[2])), end)
            self.assertFalse(server.session.usable)

    @requirement("D-24")
    def test_timeouts(self) -> None:
        """Ten minutes for each reply after the data; each resets the timer."""
        server = self.greeted()
        server.send("a@x.example", "b@x.example")
        server.say("250 ok", "352 l", "352 l", "354 go")
        for line in ("353 wait", "250 2.1.5 ok", "550 5.6.0 no"):
            server.clock.advance(599)
            server.say(line)
        self.assertNoResult(server.result)
        server.clock.advance(600)
        self.assertEqual(codes(self.successResultOf(server.result)), [451, 451])
        self.assertTrue(server.transport.aborted)

    def test_notPipelined(self) -> None:
        """Without PIPELINING, one command at a time, and none that makes no sense."""
        server = self.greeted(["250 mx"])
        self.assertEqual(server.send("a@x.example", "b@x.example"), ["MAIL FROM:<a@example.com>"])
        self.assertEqual(server.say("250 ok"), ["RCPT TO:<a@x.example>"])
        self.assertEqual(server.say("550 5.1.1 who"), ["RCPT TO:<b@x.example>"])
        self.assertEqual(server.say("450 4.2.1 busy"), ["RSET"])
        server.say("250 ok")
        self.assertEqual(codes(self.successResultOf(server.result)), [550, 450])

    def test_helo(self) -> None:
        """A server that does not know EHLO is greeted with HELO."""
        server = Scripted()
        self.assertEqual(server.say("220 old"), ["EHLO client.example.com"])
        self.assertEqual(server.say("502 no"), ["HELO client.example.com"])
        server.say("250 ok")
        self.successResultOf(server.opened)

    def test_notWelcome(self) -> None:
        """A server that does not want us is a PeerError with its reply."""
        server = Scripted()
        server.say("554 5.7.1 go away")
        error = self.failureResultOf(server.opened, PeerError).value
        self.assertEqual(error.reply, Reply(554, "5.7.1", "go away"))

    def test_mailRefused(self) -> None:
        """A refused sender is everybody's answer; the session stays in step."""
        server = self.greeted()
        server.send("a@x.example", "b@x.example")
        server.say("451 4.7.1 greylisted", "503 no", "503 no", "503 no")
        self.assertEqual(codes(self.successResultOf(server.result)), [451, 451])
        self.assertTrue(server.session.usable)
        self.assertEqual(server.send("c@x.example")[0][:4], "MAIL")

    def test_354ForNobody(self) -> None:
        """Refused recipients and a 354 all the same: an empty message ends it (RFC 2920)."""
        server = self.greeted()
        server.send("a@x.example")
        self.assertEqual(server.say("250 ok", "550 5.1.1 who", "354 go"), ["."])
        server.say("554 5.5.1 nobody")
        self.assertEqual(codes(self.successResultOf(server.result)), [550])

    def test_dataRefused(self) -> None:
        """A refused DATA is the answer of those who were in."""
        server = self.greeted()
        server.send("a@x.example", "b@x.example")
        said = server.say("250 ok", "250 ok", "550 5.1.1 who", "451 4.3.0 not now")
        self.assertEqual(said, ["RSET"])
        server.say("250 ok")
        self.assertEqual(codes(self.successResultOf(server.result)), [451, 550])

    def test_brokenServers(self) -> None:
        """A server that breaks the protocol loses the connection; the message is still ours."""
        begun = ["250 ok", "250 ok", "352 l", "354 go"]
        for lines in (
            ["nonsense"],
            ["250 ok", "352 l", "999 x"],
            ["250 ok", "353 l", "250 ok", "354 go"],
            [*begun, "353 w", "354 x"],
            [*begun, "353 w", "250 ok", "353 again"],
            [*begun, "352 what"],
            [*begun, "250-a", "251 b"],
            ["250 ok", "250 ok", "250 ok", "354 go", "353 w", "250 ok"],
            ["x" * 5000],
        ):
            server = self.greeted()
            server.send("a@x.example", "b@x.example")
            server.say(*lines)
            result = self.successResultOf(server.result)
            self.assertEqual(result.accepted, [], lines)
            self.assertTrue(all(answer.temporary for answer in result.answers), lines)
            self.assertFalse(server.session.usable, lines)

    @requirement("D-5")
    def test_tooMuch(self) -> None:
        """
        A reply that goes beyond its bounds ends the connection; who has an answer
        keeps it, in whatever pieces the replies come, and who has none may come again.
        """
        long = ["550-" + "x" * 3000] * 30
        for together in (True, False):
            server = self.greeted(["250-mx", "250 PIPELINING"])
            server.send("a@x.example", "b@x.example", "c@x.example")
            before = ["250 ok", "250 ok", "550 5.1.1 no such"]
            for lines in [[*before, *long]] if together else [before, long]:
                server.say(*lines)
            result = self.successResultOf(server.result)
            self.assertTrue(server.transport.aborted)
            self.assertEqual(codes(result), [451, 550, 451])
            self.assertEqual(result.answers[1].reply.enhanced, "5.1.1")
            self.assertIn("a reply too long", result.lost)

    def test_kept(self) -> None:
        """No more than so much of a reply is kept, without control characters."""
        long = "\r\n".join(["550-5.1.1 \x9b2J\x1b]0;" + "x" * 3000] * 5 + ["550 5.1.1 end"])
        server = self.greeted(["250-mx", "250 PIPELINING"])
        server.send("a@x.example", "b@x.example")
        server.say("250 ok", long, "250 ok", "354 go")
        server.say(long)
        for answer in self.successResultOf(server.result).answers:
            reply = answer.reply
            self.assertEqual((reply.code, reply.enhanced), (550, "5.1.1"))
            self.assertLessEqual(len(reply.text.encode()), KEPT_OCTETS)
            self.assertNotIn("\x9b", reply.text)
            self.assertNotIn("\x1b", reply.text)

    def test_neverAsked(self) -> None:
        """Replies that come while nothing is waited for do not pile up."""
        server = self.greeted(["250-mx", "250 PIPELINING"])
        server.transport.registerProducer = lambda *_: None  # type: ignore[method-assign]
        server.send("a@x.example")
        server.say("250 ok", "250 ok", "354 go")
        for _ in range(100):
            server.say("550-" + "x" * 4000, "550 no")
        self.assertTrue(server.transport.aborted)

    def test_352WithoutAsking(self) -> None:
        """A 352 that nobody asked for is broken."""
        server = self.greeted(forms=[])
        server.send("a@x.example")
        server.say("250 ok", "352 later")
        self.assertEqual(codes(self.successResultOf(server.result)), [451])

    def test_lmtp(self) -> None:
        """LMTP: LHLO, a reply for each, no final one (RFC 2033)."""
        server = Scripted(lmtp=True)
        self.assertEqual(server.say("220 x"), ["LHLO client.example.com"])
        server.say("250-x", "250 PIPELINING")
        server.send("a@x.example", "b@x.example", "c@x.example")
        server.say("250 ok", "250 ok", "550 5.1.1 who", "250 ok", "354 go")
        server.say("250 2.0.0 saved", "552 5.2.2 full")
        result = self.successResultOf(server.result)
        self.assertEqual(codes(result), [250, 550, 552])
        self.assertTrue(server.session.usable)

    def test_utf8(self) -> None:
        """A UTF-8 address needs a server that knows it: 553 5.6.7 otherwise."""
        server = self.greeted()
        self.assertEqual(server.send("\u00e4@x.example"), [])
        self.assertEqual(codes(self.successResultOf(server.result)), [553])

    def test_unreadable(self) -> None:
        """A message that cannot be read ends the connection, not the caller."""
        server = self.greeted()

        def chunks() -> Iterator[bytes]:
            yield b"text\r\n"
            raise OSError("gone")

        result = Deferred.fromCoroutine(
            server.session.send(Outgoing("a@b.c", ["d@e.f"], 5, chunks))
        )
        server.say("250 ok", "250 ok", "354 go")
        self.assertEqual(codes(self.successResultOf(result)), [451])
        self.assertTrue(server.transport.aborted)

    def test_quit(self) -> None:
        """Goodbye is said, and waited for."""
        server = self.greeted()
        gone = Deferred.fromCoroutine(server.session.quit())
        self.assertEqual(server.say(), ["QUIT"])
        server.say("221 bye")
        self.assertNoResult(gone)
        server.lose()
        self.successResultOf(gone)


class BothEndsTests(SynchronousTestCase):
    """
    Our client and our server, without a network in between.
    """

    def exchange(self, form: Form | None, *recipients: str) -> tuple[Bench, Result]:
        bench = Bench()
        bench.content.verdicts = {
            "fighter@example.net": Refuse(Reply(550, "5.6.0", "no")),
            "waiter@example.net": Refuse(Reply(450, "4.7.1", "later")),
            "lover@example.net": ACCEPT,
        }
        forms = [] if form is None else [form]
        session = ClientSession(bench.clock, "client.example.com", forms=forms)
        transport = Transport()
        session.makeConnection(transport)
        opened = Deferred.fromCoroutine(session.open())

        def pump() -> None:
            for _ in range(20):
                session.dataReceived(bench.take())
                data = transport.value()
                transport.clear()
                bench.send(data)

        pump()
        self.successResultOf(opened)
        body = b".dot\r\n..\r\n"
        outgoing = Outgoing("a@example.com", recipients, len(body), lambda: iter([body]))
        result = Deferred.fromCoroutine(session.send(outgoing))
        pump()
        return bench, self.successResultOf(result)

    def test_forms(self) -> None:
        """Each recipient has its own answer in both forms; the message arrives as it was."""
        everybody = (
            *("postmaster@example.net", "fighter@example.net", "old-user@example.net"),
            *("waiter@example.net", "lover@example.net"),
        )
        for form in (Form.DEFERRALS, Form.PRDR):
            bench, result = self.exchange(form, *everybody)
            self.assertEqual(codes(result), [250, 550, 550, 450, 250])
            self.assertEqual(bench.released, ["postmaster@example.net", "lover@example.net"])
            with bench.works[0].message.open() as file:
                self.assertEqual(file.read(), b".dot\r\n..\r\n")

    def test_plain(self) -> None:
        """A plain sender whose recipients differ is told to come again."""
        bench, result = self.exchange(None, "lover@example.net", "fighter@example.net")
        self.assertEqual(codes(result), [451, 451])
        self.assertEqual(bench.released, [])


XEXDATA = ["250-mx", "250-PIPELINING", "250 XEXDATA"]

ONE, TWO, THREE = "one@example.net", "two@example.net", "three@example.net"


class ExtendedTests(SynchronousTestCase):
    """
    L{ClientSession} where the server knows EXDATA.
    """

    def greeted(self, ehlo: list[str] = XEXDATA, **settings: object) -> Scripted:
        server = Scripted(**settings)
        server.say(GREETING)
        server.say(*ehlo)
        self.successResultOf(server.opened)
        return server

    def given(self, server: Scripted, *rcpt: str) -> list[str]:
        """
        Hand the message over to three recipients.

        @return: the envelope.
        """
        said = server.send(ONE, TWO, THREE)
        server.say("250 ok", *(rcpt or ["250 ok"] * 3), "354 go")
        return said

    def result(self, server: Scripted) -> Result:
        found: Result = self.successResultOf(server.result)
        return found

    def told(self, *lines: str, lost: bool = False, ehlo: list[str] = XEXDATA) -> list[int]:
        """
        @return: the codes that the three recipients have after this answer.
        """
        server = self.greeted(ehlo)
        self.given(server)
        server.say(*lines)
        if lost:
            server.lose()
        return [answer.reply.code for answer in self.result(server).answers]

    @requirement("X-1")
    @requirement("X-2")
    def test_asks(self) -> None:
        """Where nothing better is offered."""
        for ehlo, forms, wanted in (
            (["250-mx", "250-PIPELINING", "250 XEXDATA"], None, " EXDATA"),
            (["250-mx", "250-PIPELINING", "250 xexdata"], None, " EXDATA"),
            (["250-mx", "250-PIPELINING", "250-PRDR", "250 XEXDATA"], None, " PRDR"),
            (["250-mx", "250-PIPELINING", "250-XEXDATA", "250 DEFERRALS"], None, " DEFERRALS"),
            (["250-mx", "250-PIPELINING", "250-PRDR", "250 XEXDATA"], [Form.EXDATA], " EXDATA"),
            (["250-mx", "250-PIPELINING", "250 XEXDATA"], [Form.PRDR], ""),
            (["250-mx", "250-PIPELINING", "250 EXDATA"], None, ""),
        ):
            settings = {} if forms is None else {"forms": forms}
            said = self.given(self.greeted(ehlo, **settings))
            self.assertEqual(said[0], f"MAIL FROM:<a@example.com>{wanted}")

    @requirement("X-4")
    @requirement("X-5")
    @requirement("X-6")
    @requirement("X-7")
    def test_each(self) -> None:
        """Each recipient that got 2xx has its own reply, in their order."""
        server = self.greeted()
        self.given(server, "250 ok", "550 5.1.1 who?", "250 ok")
        server.say("558-450-4.7.1 not", "558-450 4.7.1 now", "558 250 2.1.5 fine")
        result = self.result(server)
        self.assertEqual(
            [answer.reply for answer in result.answers],
            [
                Reply(450, "4.7.1", "not\nnow"),
                Reply(550, "5.1.1", "who?"),
                Reply(250, "2.1.5", "fine"),
            ],
        )
        self.assertEqual(
            [answer.stage for answer in result.answers], ["recipient", "envelope", "recipient"]
        )
        self.assertTrue(result.enumerated)
        self.assertTrue(server.session.usable)

    @requirement("X-3")
    def test_unasked(self) -> None:
        """A 558 is read where it was announced, whatever was asked for."""
        for ehlo, forms in ((XEXDATA, []), (["250-mx", "250-PRDR", "250 XEXDATA"], [Form.PRDR])):
            server = self.greeted(ehlo, forms=forms)
            server.send(ONE, TWO)
            server.say("250 ok")
            server.say("250 ok")
            server.say("250 ok")
            server.say("354 go")
            server.say("558-550 5.7.1 no", "558 250 2.1.5 fine")
            self.assertEqual([a.reply.code for a in self.result(server).answers], [550, 250])

    @requirement("X-3")
    def test_unannounced(self) -> None:
        """Otherwise a 558 is a refusal like any other."""
        self.assertEqual(
            self.told("558-250 a", "558-250 b", "558 250 c", ehlo=["250-mx", "250 PIPELINING"]),
            [558, 558, 558],
        )

    @requirement("X-9")
    def test_plain(self) -> None:
        """Any other reply is everybody's."""
        self.assertEqual(self.told("250 ok"), [250, 250, 250])
        self.assertEqual(self.told("550 no"), [550, 550, 550])
        self.assertEqual(self.told("451 not now"), [451, 451, 451])

    @requirement("X-8")
    def test_tooFew(self) -> None:
        """Whole replies count, the others' is 451."""
        self.assertEqual(self.told("558-250 a", "558 550 b"), [250, 550, 451])
        self.assertEqual(self.told("558 250 a"), [250, 451, 451])
        self.assertEqual(self.told("558-550 a", "558-250-b", "558 250-b"), [550, 451, 451])
        self.assertEqual(self.told("558 no"), [451, 451, 451])
        self.assertEqual(self.told("558-250 a", "558-b", "558 550 c"), [250, 451, 451])
        self.assertEqual(self.told("558-250 a", "558-354 b", "558 550 c"), [250, 451, 451])

    @requirement("X-8")
    def test_brokenOff(self) -> None:
        """A connection that is lost in the middle: the same."""
        whole = ["558-250 a", "558-550-b", "558-550 b", "558-451 c"]
        for count, wanted in enumerate(
            ([451, 451, 451], [250, 451, 451], [250, 451, 451], [250, 550, 451], [250, 550, 451])
        ):
            self.assertEqual(self.told(*whole[:count], lost=True), wanted)

    @requirement("X-8")
    def test_brokenOffWithinALine(self) -> None:
        """Half a line is no reply."""
        server = self.greeted()
        self.given(server)
        server.session.dataReceived(b"558-250 a\r\n558-550 b\r\n558 250 c")
        server.lose()
        self.assertEqual([a.reply.code for a in self.result(server).answers], [250, 550, 451])

    @requirement("X-8")
    def test_anotherCode(self) -> None:
        """A line of another reply ends it."""
        self.assertEqual(self.told("558-250 a", "250 all of it"), [250, 451, 451])

    @requirement("X-12")
    def test_tooMany(self) -> None:
        """It does not say whose they are: nobody's."""
        self.assertEqual(self.told("558-250 a", "558-550 b", "558-250 c", "558 550 d"), [451] * 3)

    def test_beforeTheEnd(self) -> None:
        """A server cannot have taken what it has not read."""
        server = self.greeted()
        server.send(ONE, TWO)
        server.say("250 ok", "250 ok", "250 ok")
        server.transport.registerProducer = lambda producer, streaming: None
        server.say("354 go")
        server.say("558-250 a", "558 250 b")
        self.assertEqual([a.reply.code for a in self.result(server).answers], [451, 451])
        self.assertFalse(server.session.usable)

    @requirement("X-4")
    def test_notToData(self) -> None:
        """As the answer to DATA it is an ordinary refusal: nothing was sent yet."""
        server = self.greeted()
        server.send(ONE, TWO)
        server.say("250 ok", "250 ok", "250 ok", "558-250 a", "558 250 b")
        server.say("250 reset")
        self.assertEqual([a.reply.code for a in self.result(server).answers], [558, 558])

    @requirement("X-11")
    def test_patience(self) -> None:
        """Ten minutes for each recipient's reply, not for all of them."""
        server = self.greeted()
        self.given(server)
        for line in ("558-250 a", "558-550 b"):
            server.clock.advance(599)
            server.say(line)
        server.clock.advance(599)
        server.session.dataReceived(b"558 25")  # half a line is nothing new
        self.assertNoResult(server.result)
        server.clock.advance(1)
        self.assertEqual([a.reply.code for a in self.result(server).answers], [250, 550, 451])
        self.assertTrue(server.transport.aborted)

    def test_many(self) -> None:
        """As many lines as its recipients may need, and no more."""
        recipients = [f"r{number}@example.net" for number in range(1000)]
        for each in (1, 3):
            server = self.greeted()
            server.send(*recipients)
            server.say("250 ok", *["250 ok"] * 1000, "354 go")
            lines = ["558-550-no"] * (each - 1) + ["558-550 no"]
            server.say(*(lines * 999), *lines[:-1], "558 250 ok")
            codes = [answer.reply.code for answer in self.result(server).answers]
            self.assertEqual(codes, [550] * 999 + ([250] if each == 1 else [451]))
        server = self.greeted()
        server.send(ONE)
        server.say("250 ok", "250 ok", "354 go")
        server.say(*["558-550-no"] * (MAX_REPLY_LINES + 11))
        self.assertEqual([a.reply.code for a in self.result(server).answers], [451])
