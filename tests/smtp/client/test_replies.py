"""
Replies as they come from a server.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.errors import PeerError
from deferrals.model.reply import Reply
from deferrals.smtp.client.replies import (
    MAX_DIALOGUE_OCTETS,
    MAX_OWN_REPLY_OCTETS,
    MAX_RECIPIENT_OCTETS,
    MAX_REPLY_LINE_OCTETS,
    MAX_REPLY_LINES,
    MAX_REPLY_OCTETS,
    ReplyParser,
)

SAID = (
    b"220 mx ESMTP\r\n250-mx\r\n250-SIZE 100\r\n250 DSN\r\n"
    b"550-5.1.1 no such\r\n550 5.1.1 recipient\r\n354\r\n250 4.0.0 odd\r\n"
)
REPLIES = [
    Reply(220, None, "mx ESMTP"),
    Reply(250, None, "mx\nSIZE 100\nDSN"),
    Reply(550, "5.1.1", "no such\nrecipient"),
    Reply(354, None, ""),
    Reply(250, None, "4.0.0 odd"),
]


class ReplyParserTests(SynchronousTestCase):
    """
    L{ReplyParser}.
    """

    @given(st.lists(st.integers(1, 30), min_size=1))
    def test_pieces(self, sizes: list[int]) -> None:
        """Replies are the same in pieces of any size."""
        parser, found, position = ReplyParser(), [], 0
        while position < len(SAID):
            for size in sizes:
                found += parser.feed(SAID[position : position + size])
                position += size
        self.assertEqual([reply for reply, _ in found], REPLIES)
        self.assertFalse(parser.partial)

    def test_lines(self) -> None:
        """The lines are there as they came."""
        ((_, lines),) = ReplyParser().feed(b"250-a\r\n250 b\n")
        self.assertEqual(lines, ["250-a", "250 b"])

    def test_partial(self) -> None:
        """Half a line, or half a reply, is the beginning of one."""
        for data in (b"2", b"250-a\r\n"):
            parser = ReplyParser()
            self.assertEqual(list(parser.feed(data)), [])
            self.assertTrue(parser.partial)

    def test_nonsense(self) -> None:
        """What is no reply, changes its code on the way, or never ends."""
        for data in (
            b"hello\r\n",
            b"25 x\r\n",
            b"999 x\r\n",
            b"250-a\r\n251 b\r\n",
            b"\r\n",
            b"250-x\r\n" * (MAX_REPLY_LINES + 1),
            b"2" * (MAX_REPLY_LINE_OCTETS + 1),
            b"250 " + b"x" * MAX_REPLY_LINE_OCTETS + b"\r\n",
            (b"250-" + b"x" * 4000 + b"\r\n") * (MAX_REPLY_OCTETS // 4000 + 1),
        ):
            parser = ReplyParser()
            self.assertEqual(parser.feed(data), [])
            self.assertIsInstance(parser.error, PeerError)
            self.assertTrue(parser.partial)
            self.assertEqual(parser.feed(b"250 ok\r\n"), [], "it goes on")

            for size in (len(data), 1000, 1):
                self.assertRaises(PeerError, self.read, ReplyParser(), data, size)

    def read(self, parser: ReplyParser, data: bytes, size: int) -> list[Reply]:
        """Feed a parser in pieces."""
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        found = [reply for piece in pieces for reply, _ in parser.feed(piece)]
        if parser.error is not None:
            raise parser.error
        return found

    def test_extended(self) -> None:
        """A reply that has those of recipients may have more."""
        line = b"558-550 " + b"x" * 500 + b"\r\n"
        data = line * ((MAX_REPLY_OCTETS + MAX_OWN_REPLY_OCTETS * 10) // len(line) - 1)
        self.assertRaises(PeerError, self.read, ReplyParser(), data, 4000)
        parser = ReplyParser()
        parser.extend(10)
        self.assertEqual(len(self.read(parser, data + b"558 250 ok\r\n", 4000)), 1)
        parser.extend(0)
        self.assertRaises(PeerError, self.read, parser, data, 4000)

    def test_all(self) -> None:
        """All that is said about one message has a bound, which grows with its recipients."""
        reply = (b"550-" + b"x" * 4000 + b"\r\n") * 10 + b"550 x\r\n"
        for recipients in (0, 100):
            parser = ReplyParser()
            parser.renew(recipients)
            most = (MAX_DIALOGUE_OCTETS + MAX_RECIPIENT_OCTETS * recipients) // len(reply)
            self.assertEqual(len(self.read(parser, reply * most, 4000)), most)
            self.assertRaises(PeerError, self.read, parser, reply, 4000)
            parser.renew(recipients)
            self.assertEqual(len(self.read(ReplyParser(), reply, 4000)), 1)

    def test_behindReplies(self) -> None:
        """Replies that are complete are there, whatever follows them."""
        for garbage in (b"hello\r\n", b"250-a\r\n251 b\r\n", b"2" * (MAX_REPLY_LINE_OCTETS + 1)):
            parser = ReplyParser()
            found = parser.feed(SAID + garbage)
            self.assertEqual([reply for reply, _ in found], REPLIES)
            self.assertIsInstance(parser.error, PeerError)

    @given(st.binary(max_size=100))
    def test_anything(self, data: bytes) -> None:
        """Any octets are replies, or an error."""
        for reply, _ in ReplyParser().feed(data):
            self.assertTrue(200 <= reply.code < 600)
