"""
What dialogues cannot show: lost connections, shutting down, overload.
Each regression against the base class is named by its row in the notes on it.
"""

from __future__ import annotations

import gc
import json

import attrs
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.envelope import (
    envelopeFromJSON,
    envelopeToJSON,
    recipientFromJSON,
    recipientToJSON,
)
from deferrals.model.verdict import ACCEPT
from deferrals.smtp.server.session import FAREWELL_SECONDS, Session, SessionFactory
from tests.harness import GREETING, Bench, Transport
from tests.requirements import requirement


def message(local: bytes) -> bytes:
    """
    A session that sends one message, in one piece.
    """
    return (
        b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<%s@example.net>\r\n"
        b"DATA\r\ntext\r\n.\r\n" % local
    )


class EnvelopeTests(SynchronousTestCase):
    """
    What is handed to the spool.
    """

    def test_parameters(self) -> None:
        """Every parameter is kept with the message, or with its recipient (RFC 3461, RFC 6531)."""
        bench = Bench()
        bench.say(
            *GREETING,
            "MAIL FROM:<j\u00f6rg@example.com> SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=a+2Bb SIZE=9",
            "RCPT TO:<postmaster@example.net> NOTIFY=DELAY,FAILURE ORCPT=rfc822;x+2By@example.org",
            *("DATA", "text", "."),
        )
        work = bench.works[0]
        kept = envelopeFromJSON(json.loads(json.dumps(envelopeToJSON(work.envelope))), 1, 2)
        asked = kept.parameters
        self.assertEqual((asked.ret, asked.envid, asked.size), ("HDRS", "a+b", 9))
        self.assertEqual((asked.smtputf8, asked.body), (True, "8BITMIME"))
        self.assertEqual(kept.client.protocol, "UTF8SMTP")
        said = json.loads(json.dumps(recipientToJSON(work.addressees[0].recipient)))
        recipient = recipientFromJSON(said, "box")
        self.assertEqual(recipient.notify, {"DELAY", "FAILURE"})
        self.assertEqual(recipient.orcpt, "rfc822;x+y@example.org")


class LostTests(SynchronousTestCase):
    """
    The connection is lost.
    """

    def test_pendingRecipient(self) -> None:
        """A pending envelope verdict is cancelled (h1)."""
        bench = Bench()
        bench.envelope.verdicts["slow@example.net"] = "pending"
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<slow@example.net>")
        bench.lose()
        self.assertEqual(bench.envelope.cancelled, ["slow@example.net"])

    @requirement("D-15")
    def test_pendingVerdict(self) -> None:
        """A pending content verdict is cancelled, and nothing is delivered (h1)."""
        bench = Bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<one@example.net>", "DATA")
        bench.say("text", ".")
        bench.lose()
        self.assertEqual(bench.content.cancelled, ["one@example.net"])
        self.assertEqual(bench.released, [])
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_inData(self) -> None:
        """Half a message is forgotten."""
        bench = Bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA")
        bench.say("text")
        bench.lose()
        self.assertEqual(bench.released, [])
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    @requirement("D-21")
    def test_lateCommit(self) -> None:
        """What becomes durable after the client has gone is abandoned."""
        bench = Bench()
        bench.spool.slow = True
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA")
        bench.say("text", ".")
        bench.lose()
        bench.spool.go()
        self.assertEqual(bench.released, [])
        self.assertEqual(len(bench.spool.abandoned), 1)

    @requirement("D-20")
    def test_releasedAfterFinal(self) -> None:
        """The message is released after the final reply was written, not before."""
        bench = Bench()
        order: list[str] = []
        release, write = bench.backend.release, bench.transport.write
        object.__setattr__(
            bench.backend, "release", lambda work: (order.append("release"), release(work))
        )

        def watch(data: bytes) -> None:
            order.append(data[:3].decode())
            write(data)

        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA")
        bench.transport.write = watch  # type: ignore[method-assign]
        bench.say("text", ".")
        self.assertEqual(order, ["250", "release"])


class ShutdownTests(SynchronousTestCase):
    """
    The server stops.
    """

    def factory(self) -> tuple[Bench, SessionFactory, Session, Transport]:
        bench = Bench()
        factory = SessionFactory(bench.settings, bench.backend, bench.clock)
        session, transport = factory.buildProtocol(None), Transport()
        session.makeConnection(transport)
        transport.clear()
        return bench, factory, session, transport

    def test_idle(self) -> None:
        """A client without a transaction is told 421 at once."""
        _, factory, session, transport = self.factory()
        done = factory.shutdown(10)
        self.assertTrue(transport.value().startswith(b"421 4.3.2"))
        self.assertTrue(transport.disconnecting)
        self.assertNoResult(done)
        session.connectionLost(None)  # type: ignore[arg-type]
        self.successResultOf(done)

    def test_answered(self) -> None:
        """A transaction that waits for its answer gets it, then 421."""
        bench, factory, session, transport = self.factory()
        session.dataReceived(message(b"one"))
        transport.clear()
        factory.shutdown(10)
        self.assertEqual(transport.value(), b"")
        bench.content.decide("one@example.net", ACCEPT)
        self.assertEqual([line[:3] for line in transport.value().splitlines()], [b"250", b"421"])
        self.assertEqual(bench.released, ["one@example.net"])

    @requirement("P-12")
    def test_graceIsOver(self) -> None:
        """A message whose answer takes longer than the grace is refused for now."""
        bench, factory, session, transport = self.factory()
        session.dataReceived(message(b"one"))
        transport.clear()
        factory.shutdown(10)
        bench.clock.advance(10)
        self.assertEqual([line[:3] for line in transport.value().splitlines()], [b"451", b"421"])
        self.assertEqual(bench.released, [])
        self.assertFalse(transport.aborted, "the client has not read it yet")
        bench.clock.advance(FAREWELL_SECONDS)
        self.assertTrue(transport.aborted)


class FullTests(SynchronousTestCase):
    """
    As many recipients as there may be.
    """

    def test_notAsked(self) -> None:
        """The envelope is not asked about one more: a client could ask for ever."""
        bench = Bench({"recipients": 1})
        bench.envelope.verdicts["slow@example.net"] = "pending"
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>")
        said = bench.say("RCPT TO:<slow@example.net>", "RCPT TO:<old-user@example.net>")
        self.assertEqual([line[:9] for line in said], ["452 4.5.3"] * 2)
        self.assertEqual(bench.envelope.pending, {})


class GivenUpTests(SynchronousTestCase):
    """
    We end the connection while recipients are pending.
    """

    def check(self, bench: Bench) -> None:
        """
        The pending recipient is given up, and leaves nothing behind.
        """
        self.assertTrue(bench.closed)
        self.assertEqual(bench.envelope.cancelled, ["slow@example.net"])
        bench.lose()
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def pending(self, **limits: int) -> Bench:
        bench = Bench(limits)
        bench.envelope.verdicts["slow@example.net"] = "pending"
        bench.say(*GREETING, "MAIL FROM:<a@b.example> PRDR")
        return bench

    def test_errors(self) -> None:
        """A refusal before it is one too many: 421, and no word on the others."""
        bench = self.pending(errors=1)
        bench.envelope.verdicts["first@example.net"] = "pending"
        bench.say("RCPT TO:<first@example.net>", "RCPT TO:<slow@example.net>")
        bench.envelope.decide("first@example.net", "old-user")
        said = bench.take().splitlines()
        self.assertEqual([line[:3] for line in said], [b"550", b"421"])
        self.check(bench)

    def test_shutdown(self) -> None:
        """The server has no more time."""
        bench = self.pending()
        bench.say("RCPT TO:<slow@example.net>")
        bench.session.shutdownNow()
        self.assertEqual(bench.take()[:9], b"421 4.3.2")
        self.check(bench)


class OverloadTests(SynchronousTestCase):
    """
    More messages than may be judged at once (the bench allows two).
    """

    @requirement("P-8")
    def test_452(self) -> None:
        """Those that wait too long get 452 4.3.1; nothing is lost."""
        bench = Bench()
        sessions = []
        for seconds in (50, 50, 40):
            settings = attrs.evolve(bench.settings, reply_deadline=seconds)
            session, transport = Session(settings, bench.backend, bench.clock), Transport()
            session.makeConnection(transport)
            session.dataReceived(message(b"r"))
            transport.clear()
            sessions.append(transport)
        self.assertEqual(len(bench.content.asked), 2)
        bench.clock.advance(50)
        self.assertEqual(
            [transport.value()[:9] for transport in sessions],
            [b"451 4.3.0", b"451 4.3.0", b"452 4.3.1"],
        )

    def test_next(self) -> None:
        """When one is done, the next one is judged."""
        bench = Bench()
        transports = []
        for number in range(3):
            session, transport = Session(bench.settings, bench.backend, bench.clock), Transport()
            session.makeConnection(transport)
            session.dataReceived(message(b"r%d" % number))
            transport.clear()
            transports.append(transport)
        bench.content.decide("r0@example.net", ACCEPT)
        self.assertEqual(len(bench.content.asked), 3)
        bench.content.decide("r2@example.net", ACCEPT)
        bench.content.decide("r1@example.net", ACCEPT)
        self.assertTrue(all(t.value().startswith(b"250 2.6.0") for t in transports))


class ClockTests(SynchronousTestCase):
    """
    Timers go by one clock, the time of day by another.
    """

    def test_duration(self) -> None:
        """How long a transaction took says the clock that nobody sets."""
        bench = Bench()
        bench.clock.timeOfDay = lambda: 4e9
        with capturedLogs() as events:
            bench.send(b"EHLO c\r\nMAIL FROM:<a@b.example>\r\n")
            bench.clock.advance(2)
            bench.send(b"RCPT TO:<postmaster@example.net>\r\nDATA\r\ntext\r\n.\r\n")
            bench.send(b"MAIL FROM:<a@b.example>\r\n")
            bench.clock.advance(3)
            bench.send(b"RSET\r\n")
        took = [one["milliseconds"] for one in events if one.get("event") == "transaction"]
        self.assertEqual(took, [2000.0, 3000.0])
        self.assertEqual(bench.works[0].envelope.received, 4e9)


class OtherProtocolTests(SynchronousTestCase):
    """
    Clients that speak something else, with mail in it.
    """

    MAIL = (
        b"HELO evil\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<postmaster@example.net>\r\n"
        b"DATA\r\ntext\r\n.\r\n"
    )

    def cutOff(self, first: bytes, **settings: object) -> None:
        for step in (1, 7, 10000):
            bench = Bench(**settings)
            bench.take()
            sent = first + self.MAIL
            with capturedLogs() as logs:
                for place in range(0, len(sent), step):
                    bench.send(sent[place : place + step])
            said = bench.take().splitlines()
            self.assertEqual([line[:9] for line in said], [b"421 4.7.0"], (first, step))
            self.assertTrue(bench.closed)
            self.assertEqual(bench.works, [])
            counted = bench.status.counted("connections", "other protocols")
            self.assertEqual(counted, 1)
            formats = [event["log_format"] for event in logs if "log_format" in event]
            self.assertIn("{client} speaks another protocol", formats)

    def test_text(self) -> None:
        """The first line of HTTP and its relatives, and of SSH."""
        for first in (
            b"POST / HTTP/1.1\r\nHost: mx.example.net:25\r\nContent-Length: 90\r\n\r\n",
            b"GET /\r\n",
            b"get / HTTP/1.0\r\n",
            b"HEAD / HTTP/1.1\r\n",
            b"PUT /x HTTP/1.1\r\n",
            b"OPTIONS * HTTP/1.1\r\n",
            b"CONNECT mx.example.net:25 HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"MKCOL /x HTTP/1.1\r\n",
            b"REGISTER sip:mx.example.net SIP/2.0\r\n",
            b"DESCRIBE rtsp://mx.example.net RTSP/1.0\r\n",
            b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"M-SEARCH * HTTP/1.1\r\n",
            b" POST / HTTP/1.1\r\n",
            b"Host: mx.example.net\r\n",
            b"User-Agent : x\r\n",
            b"EHLO: c\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b'{"id": 1}\r\n',
            b".\r\n",
            b"220 mx.example.net ESMTP\r\n",
        ):
            self.cutOff(first)
            self.cutOff(first, protocol="lmtp")

    def test_carriageReturns(self) -> None:
        """CRs in front of a line's end are a part of it, as the servers around have it."""
        for ends in (b"\r\r\n", b"\r\r\r\n"):
            lines = (b"EHLO c", b"MAIL FROM:<a@b.example>", b"NOOP", b"AUTH PLAIN", b"*")
            for strict in (False, True):
                bench = Bench(strict=strict, auth="offered", auth_without_tls=True)
                bench.take()
                bench.send(b"".join(line + ends for line in lines))
                said = [line[:3] for line in bench.take().splitlines() if line[3:4] == b" "]
                wanted = [b"500"] * 4 if strict else [b"250", b"250", b"250", b"503"]
                self.assertEqual(said, [*wanted, b"421"])
            bench = Bench()
            bench.send(b"EHLO c\rNOOP\r\n")
            self.assertIn(b"500 5.5.2", bench.take())

    def test_octets(self) -> None:
        """TLS and RDP, which end no line."""
        for first in (
            b"\x16\x03\x01\x02\x00\x01",
            b"\x80\x2e\x01\x00\x02",
            b"\x03\x00\x00\x13\x0e",
        ):
            self.cutOff(first)

    def test_withinSession(self) -> None:
        """Behind a greeting, too; a transaction ends with it."""
        for first in (b"POST / HTTP/1.1\r\n", b"\x16\x03\x01"):
            bench = Bench()
            bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>")
            bench.send(first + b"DATA\r\ntext\r\n.\r\n")
            self.assertEqual(bench.take()[:9], b"421 4.7.0")
            self.assertTrue(bench.closed)

    def test_text_of_ours(self) -> None:
        """In a message it is text, and what only looks like it is a command."""
        bench = Bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>")
        bench.send(b"DATA\r\nGET / HTTP/1.1\r\n\x16\x03\r\nSSH-2.0\r\n.\r\nGETTING\r\nHELP GET\r\n")
        said = [line[:3] for line in bench.take().splitlines()]
        self.assertEqual(said, [b"354", b"250", b"500", b"214"])


class UTF8Tests(SynchronousTestCase):
    """
    Command lines that are not UTF-8.
    """

    def test_latin1(self) -> None:
        """It is said what is wrong with it: with the address, or with the line."""
        bench = Bench()
        bench.say(*GREETING)
        for line, expected in (
            (b"MAIL FROM:<m\xfcller@example.org>", b"553 5.6.7 the address is not UTF-8"),
            (b"MAIL FROM:<a@example.org>", b"250 2.1.0"),
            (b"RCPT TO:<m\xfcller@example.net>", b"553 5.6.7 the address is not UTF-8"),
            (b"NOOP m\xfcller", b"500 5.5.2 the command line is not UTF-8"),
        ):
            bench.send(line + b"\r\n")
            self.assertTrue(bench.take().startswith(expected), line)
