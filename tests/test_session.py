"""
What dialogues cannot show: octets, buffers, flow control, shutting down.
Each regression against the base class is named by its row in the notes on it.
"""

from __future__ import annotations

import gc
import json
from typing import Any

import attrs
from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.tcp import Connection
from twisted.logger import capturedLogs
from twisted.mail import smtp
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.envelope import (
    envelopeFromJSON,
    envelopeToJSON,
    recipientFromJSON,
    recipientToJSON,
)
from deferrals.model.reply import Reply
from deferrals.model.verdict import ACCEPT
from deferrals.smtp.server.pipeline import MAX_AT_ONCE, MAX_BUFFER_OCTETS, MAX_COMMAND_OCTETS
from deferrals.smtp.server.session import FAREWELL_SECONDS, Session, SessionFactory
from tests.harness import GREETING, Bench, Transport


def message(local: bytes) -> bytes:
    """
    A session that sends one message, in one piece.
    """
    return (
        b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<%s@example.net>\r\n"
        b"DATA\r\ntext\r\n.\r\n" % local
    )


class LineTests(SynchronousTestCase):
    """
    Command lines.
    """

    def test_subclass(self) -> None:
        """The session is a twisted.mail.smtp.ESMTP."""
        self.assertTrue(issubclass(Session, smtp.ESMTP))

    def test_bareLF(self) -> None:
        """A line that ends with LF alone is refused, not executed (b3)."""
        bench = Bench()
        bench.take()
        bench.send(b"EHLO me\nMAIL FROM:<a@b.example>\r\nNOOP\r\n")
        said = bench.take().splitlines()
        self.assertEqual([line[:9] for line in said], [b"500 5.5.2", b"250 2.0.0"])

    def test_bareLFBehindMuch(self) -> None:
        """The same within and behind a line that is too long, in any pieces."""
        for step in (1, 7, 4096, 5000, 100000):
            bench = Bench()
            bench.say(*GREETING)
            data = (
                b"NOOP "
                + b"x" * 5000
                + b"\nMAIL FROM:<a@b.example>\n"
                + b"y" * 5000
                + b"\nRSET\r\n"
            )
            data += b"z" * 5000 + b"\r\nNOOP\r\n"
            for place in range(0, len(data), step):
                bench.send(data[place : place + step])
            said = bench.take().splitlines()
            self.assertEqual([line[:3] for line in said], [b"500", b"500", b"250"], step)

    def test_smallChunks(self) -> None:
        """Many chunks of one octet in one segment cost time in proportion to their number."""
        bench = Bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>")
        copied = 0

        class Counted(bytes):
            def __getitem__(self, key: Any) -> Any:
                nonlocal copied
                found = bytes.__getitem__(self, key)
                if isinstance(key, slice):
                    copied += len(found)
                    return Counted(found)
                return found

        data = Counted(b"BDAT 1\r\nx" * 6000)
        bench.send(data)
        self.assertEqual(bench.take().count(b"250 2.0.0 1 octets received\r\n"), 6000)
        self.assertLess(copied, 3 * len(data))

    def test_turns(self) -> None:
        """Who sends more commands than are taken in one go waits while it is others' turn."""
        bench = Bench({"commands": 10000})
        bench.say(*GREETING)
        answered: list[int] = []
        bench.transport.write = (  # type: ignore[method-assign]
            lambda data: answered.append(data.count(b"\r\n"))
        )
        bench.session.dataReceived(b"NOOP\r\n" * 250 + b"QUIT\r\n")
        self.assertEqual(answered, [100])
        bench.clock.advance(0)
        self.assertEqual(answered, [100, 100, 51])
        self.assertTrue(bench.closed)
        bench.lose()
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_lostBetweenTurns(self) -> None:
        """A client that goes meanwhile, or closes its sending side, leaves nothing behind."""
        for half in (False, True):
            bench = Bench()
            bench.say(*GREETING)
            bench.session.dataReceived(b"NOOP\r\n" * 150)
            bench.take()
            if half:
                bench.session.readConnectionLost()
                self.assertFalse(bench.closed)
                bench.clock.advance(0)
                self.assertEqual(bench.take().count(b"250 "), 50)
                self.assertTrue(bench.closed)
            bench.lose()
            self.assertEqual(bench.clock.getDelayedCalls(), [])

    def test_control(self) -> None:
        """CR, NUL and other control characters in a command are refused (b3)."""
        bench = Bench()
        bench.say(*GREETING)
        for line in (
            b"MAIL FROM:<a@b.example>\rRCPT TO:<x>\r\n",
            b"NO\0OP\r\n",
            b"EHLO a\x1bb\r\n",
        ):
            bench.send(line)
            self.assertTrue(bench.take().startswith(b"500 5.5.2"))

    def test_unknown(self) -> None:
        """No method of the base class is a command."""
        bench = Bench()
        bench.take()
        self.assertEqual(bench.say("UNKNOWN", "NOSUCH"), ["500 5.5.1 command not recognised"] * 2)

    def test_notUTF8(self) -> None:
        """Octets that are no UTF-8 are refused, and the connection stays (f1)."""
        bench = Bench()
        bench.take()
        bench.send(b"\xff\xfe\r\nEHLO \xe4\r\nNOOP\r\n")
        said = [line[:3] for line in bench.take().splitlines()]
        self.assertEqual(said, [b"500", b"500", b"250"])

    def test_tooLong(self) -> None:
        """A command line over the limit gets one 500, in whatever pieces it comes (b5)."""
        for step in (1, 100, 5000, 100000):
            bench = Bench()
            bench.take()
            data = b"NOOP " + b"x" * (3 * MAX_COMMAND_OCTETS) + b"\r\nNOOP\r\n"
            for place in range(0, len(data), step):
                bench.send(data[place : place + step])
            said = bench.take().splitlines()
            self.assertEqual([line[:3] for line in said], [b"500", b"250"])

    def test_longestLine(self) -> None:
        """A command line of just the limit is one."""
        bench = Bench()
        bench.take()
        bench.send(b"NOOP " + b"x" * (MAX_COMMAND_OCTETS - 7) + b"\r\n")
        self.assertEqual(bench.take(), b"250 2.0.0 ok\r\n")

    def test_manyInOneSegment(self) -> None:
        """A thousand commands in one segment get a thousand replies, in few writes (i1)."""
        bench = Bench()
        bench.take()
        writes: list[bytes] = []
        bench.transport.write = writes.append  # type: ignore[method-assign]
        bench.send(b"NOOP\r\n" * 1000)
        self.assertEqual(b"".join(writes), b"250 2.0.0 ok\r\n" * 1000)
        self.assertEqual(len(writes), 1000 // MAX_AT_ONCE)


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


class BufferTests(SynchronousTestCase):
    """
    Memory is bounded.
    """

    def waiting(self) -> Bench:
        bench = Bench()
        bench.envelope.verdicts["slow@example.net"] = "pending"
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<slow@example.net>")
        return bench

    def test_paused(self) -> None:
        """A client that goes on sending while it has to wait is not read from (i5)."""
        bench = self.waiting()
        bench.send(b"NOOP\r\n" * 100)
        self.assertEqual(bench.transport.producerState, "producing")
        bench.send(b"NOOP\r\n" * (MAX_BUFFER_OCTETS // 6))
        self.assertEqual(bench.transport.producerState, "paused")
        bench.envelope.decide("slow@example.net", "accept")
        bench.turns()
        self.assertEqual(bench.transport.producerState, "producing")
        self.assertEqual(bench.take().count(b"250 2.0.0 ok"), 100 + MAX_BUFFER_OCTETS // 6)

    def test_deafClient(self) -> None:
        """A client that does not read its replies is not listened to."""
        bench = Bench()
        bench.take()
        bench.session.pauseProducing()
        bench.send(b"NOOP\r\n" * 10)
        self.assertEqual(bench.take(), b"")
        bench.session.resumeProducing()
        self.assertEqual(bench.take().count(b"250"), 10)

    def test_manySlots(self) -> None:
        """More pipelined recipients than are judged side by side are answered, too."""
        bench = Bench()
        bench.say(*GREETING, "MAIL FROM:<a@b.example>")
        bench.envelope.verdicts["r0@example.net"] = "pending"
        bench.content.cohorts.update({f"r{n}@example.net": "all" for n in range(300)})
        bench.send(b"".join(b"RCPT TO:<r%d@example.net>\r\n" % n for n in range(300)))
        self.assertEqual(bench.take(), b"")
        bench.envelope.decide("r0@example.net", "defer")
        bench.turns()
        self.assertEqual(bench.take().count(b"250 2.1.5"), 300)


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

    def test_pendingVerdict(self) -> None:
        """A pending content verdict is cancelled, and nothing is delivered (h1, D-15)."""
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

    def test_lateCommit(self) -> None:
        """What becomes durable after the client has gone is abandoned (D-21)."""
        bench = Bench()
        bench.spool.slow = True
        bench.say(*GREETING, "MAIL FROM:<a@b.example>", "RCPT TO:<postmaster@example.net>", "DATA")
        bench.say("text", ".")
        bench.lose()
        bench.spool.go()
        self.assertEqual(bench.released, [])
        self.assertEqual(len(bench.spool.abandoned), 1)

    def test_releasedAfterFinal(self) -> None:
        """The message is released after the final reply was written, not before (D-20)."""
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
        """Who has no transaction is told 421 at once."""
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

    def test_graceIsOver(self) -> None:
        """Whose answer takes longer than the grace is refused for now (P-12)."""
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

    def test_452(self) -> None:
        """Those that wait too long get 452 4.3.1; nothing is lost (P-8)."""
        bench = Bench()
        sessions = []
        limits = bench.settings.limits
        for seconds in (50, 50, 40):
            limits = attrs.evolve(limits, replyDeadlineSeconds=seconds)
            settings = attrs.evolve(bench.settings, limits=limits)
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


class Socket(Connection):
    """
    A TCP transport without a socket.

    @ivar takes: how many octets it takes at once; L{None} when it is lost.
    @ivar sent: what it has taken.
    @ivar written: what it was given to write later.
    """

    connected = True

    def __init__(self, takes: int | None) -> None:
        FileDescriptor.__init__(self)
        self.takes = takes
        self.sent = b""
        self.written = b""

    def writeSomeData(self, data: bytes) -> Any:
        if self.takes is None:
            return CONNECTION_LOST
        self.sent += data[: self.takes]
        return min(self.takes, len(data))

    def write(self, data: bytes) -> None:
        self.written += data


class AtOnceTests(SynchronousTestCase):
    """
    A reply is written at once, where the socket takes it.
    """

    def reply(self, socket: Socket) -> tuple[bytes, bytes]:
        session = Bench().session
        session.transport = socket
        session.say(Reply(250, None, "ok"))
        return socket.sent, socket.written

    def test_idle(self) -> None:
        """As much as it takes; the rest waits until it can be written."""
        self.assertEqual(self.reply(Socket(100)), (b"250 ok\r\n", b""))
        self.assertEqual(self.reply(Socket(3)), (b"250", b" ok\r\n"))
        self.assertEqual(self.reply(Socket(0)), (b"", b"250 ok\r\n"))

    def test_lost(self) -> None:
        """A connection that is lost is found out where it always was."""
        self.assertEqual(self.reply(Socket(None)), (b"", b"250 ok\r\n"))

    def test_notNow(self) -> None:
        """Behind what waits already, under TLS, and at the end: in Twisted's own way."""
        for name, value in (
            ("dataBuffer", b"250 before\r\n"),
            ("_tempDataBuffer", [b"250 before\r\n"]),
            ("TLS", True),
            ("disconnecting", True),
            ("connected", False),
        ):
            socket = Socket(100)
            setattr(socket, name, value)
            self.assertEqual(self.reply(socket), (b"", b"250 ok\r\n"), name)
