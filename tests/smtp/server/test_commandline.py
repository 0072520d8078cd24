"""
One command line.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from deferrals.model.reply import (
    R500_BAD_LINE,
    R500_NOT_UTF8,
    R500_UNKNOWN_COMMAND,
    R553_NOT_UTF8,
)
from deferrals.smtp.server.commandline import _parseAny, parseLine

#: What lines of mail, of other protocols and of neither are made of.
PIECES = st.sampled_from(
    [
        *(b"MAIL", b"rcpt", b"GET", b"post", b"x", b"SSH-2.0", b"HTTP/1.1", b"FROM:<a@b.example>"),
        *(b" ", b"  ", b"\t", b":", b"/", b"/1", b"<", b"\r", b"\x00", b"\x7f", b"\xc3\xa4"),
        *(b"\xff", b"-", b"0", b"abcdefghijklmnop"),
    ]
)


class ParseTests(SynchronousTestCase):
    """
    L{parseLine}.
    """

    def test_commands(self) -> None:
        """A verb in any case, and what stands behind it, without the blanks around it."""
        for line, wanted in (
            (b"data", ("DATA", "")),
            (b"DATA  \t", ("DATA", "")),
            (b" \tNOOP x", ("NOOP", "x")),
            (b"MAIL FROM:<a@b.example> SIZE=9 ", ("MAIL", "FROM:<a@b.example> SIZE=9")),
            (b"RCPT  TO:<a/b@c.example>", ("RCPT", "TO:<a/b@c.example>")),
            ("MAIL FROM:<j\u00f6rg@b.example>".encode(), ("MAIL", "FROM:<j\u00f6rg@b.example>")),
            (b"HELP GET", ("HELP", "GET")),
        ):
            self.assertEqual(parseLine(line), wanted)

    def test_refused(self) -> None:
        """What is no command is refused, and says why."""
        for line, wanted in (
            (b"", R500_UNKNOWN_COMMAND),
            (b"abcdefghijklmnopq", R500_UNKNOWN_COMMAND),
            (b"NO\x00OP", R500_BAD_LINE),
            (b"MAIL FROM:<a@b.example>\rRCPT", R500_BAD_LINE),
            (b"EHLO \xe4", R500_NOT_UTF8),
            (b"rcpt TO:<\xe4@b.example>", R553_NOT_UTF8),
        ):
            self.assertEqual(parseLine(line), wanted)

    def test_others(self) -> None:
        """Lines of other protocols are none of ours."""
        for line in (
            b"GET / HTTP/1.1",
            b"post",
            b"MKCOL /x HTTP/1.1",
            b"MAIL x HTTP/1.1",
            b"SSH-2.0-x",
            b"Subject: x",
            b"MAIL: x",
            b"MAIL : x",
            b"<mail>",
        ):
            self.assertIsNone(parseLine(line), line)

    @given(st.lists(PIECES, max_size=8).map(b"".join))
    def test_oneRule(self, line: bytes) -> None:
        """An ordinary line is read as any line is."""
        self.assertEqual(parseLine(line), _parseAny(line))
