"""
What dialogues cannot show: octets, lines, buffers, flow control.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.tcp import Connection
from twisted.mail import smtp
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import Reply
from deferrals.smtp.server.commandreader import MAX_COMMAND_OCTETS
from deferrals.smtp.server.pipeline import (
    LARGE_READ_OCTETS,
    MAX_AT_ONCE,
    MAX_BUFFER_OCTETS,
    READ_OCTETS,
)
from deferrals.smtp.server.session import Session
from tests.harness import GREETING, Bench


class LineTests(SynchronousTestCase):
    """
    Command lines.
    """

    def test_subclass(self) -> None:
        """The session is a twisted.mail.smtp.ESMTP."""
        self.assertTrue(issubclass(Session, smtp.ESMTP))

    def test_bareLF(self) -> None:
        """
        A line that ends with LF alone is refused at once, and the session is over:
        neither it nor what follows is executed (b3).
        """
        bench = Bench()
        bench.take()
        bench.send(b"EHLO me\nMAIL FROM:<a@b.example>\r\nNOOP\r\n")
        said = bench.take().splitlines()
        self.assertEqual([line[:9] for line in said], [b"500 5.5.2"])
        self.assertTrue(bench.closed)

    def test_bareLFBehindRecipients(self) -> None:
        """Recipients that are pending are answered before it."""
        bench = Bench()
        bench.envelope.verdicts["a@example.net"] = "pending"
        bench.say(*GREETING, "MAIL FROM:<a@b.example>")
        bench.send(b"RCPT TO:<a@example.net>\r\nRCPT TO:<postmaster@example.net>\n")
        self.assertEqual(bench.take(), b"")
        bench.envelope.decide("a@example.net", "accept")
        said = bench.take().splitlines()
        self.assertEqual([line[:9] for line in said], [b"250 2.1.5", b"500 5.5.2"])
        self.assertTrue(bench.closed)

    def test_bareLFBehindMuch(self) -> None:
        """The same behind a line that is too long, in any pieces."""
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
            self.assertEqual([line[:9] for line in said], [b"500 5.5.2"], step)
            self.assertTrue(bench.closed)

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
        """A client with more commands than are taken in one go waits while others are served."""
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


class ReadingTests(SynchronousTestCase):
    """
    How much is read at once.
    """

    def test_largeContent(self) -> None:
        """
        More of a content that has proved to be large, and of nothing else: what a client
        sends while it has to wait is kept.
        """
        bench, socket = Bench(), Socket(MAX_BUFFER_OCTETS)
        bench.say(*GREETING, "MAIL FROM:<a@client.example>", "RCPT TO:<user@example.net>", "DATA")
        bench.session.transport = socket
        line = b"x" * 998 + b"\r\n"
        bench.send(line * 200)
        self.assertEqual(socket.bufferSize, READ_OCTETS)
        bench.send(line * 100)
        self.assertEqual(socket.bufferSize, LARGE_READ_OCTETS)
        bench.send(b".\r\n")
        self.assertEqual(socket.bufferSize, READ_OCTETS)
